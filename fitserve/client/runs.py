"""Runs: submit, wait, watch, analyse."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field

from fitserve.client import transfers
from fitserve.client.connection import Handle, Query, Resource, local, pause
from fitserve.client.dataframes import plain
from fitserve.client.errors import RunEnded, WaitedTooLong
from fitserve.client.events import follow
from fitserve.client.history import History, card
from fitserve.client.models import wait_until_served
from fitserve.client.weights import Weights
from fitserve.errors import BadInput, FitserveError, TooLarge
from fitserve.states import TERMINAL
from fitserve.wire.insight import (
    Applied,
    Complexity,
    Evaluation,
    Explanation,
    Fairness,
    FindingInfo,
    Findings,
    Hardest,
    Importance,
    LayerSeries,
    Lineage,
    RuleInfo,
    Slices,
    SurfaceInfo,
)
from fitserve.wire.runs import (
    MOST_CHANGED,
    BulkOutcome,
    EpochInfo,
    EventInfo,
    Progress,
    QueuePlace,
    Reproduction,
    RunSummary,
    TrialInfo,
    Validation,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

S = TypeVar("S", bound=BaseModel)

_PATH = "/api/v1/runs"
_FIRST_POLL, _LONGEST_POLL = 0.05, 1.0  # seconds between two requests of `wait`
SERVED_WITHIN = 10.0  # seconds that `wait` gives the prediction service to load a new version
SILENCE = 600.0  # seconds that `events` tries to reconnect to a server that is away


class Run(RunSummary, Handle):
    """A run, as the server last described it; `refresh()` updates it.

    What a list leaves out (`spec`, `resolved`, `estimates`, `progress`, ...) is empty until then.
    """

    spec: dict[str, Any] = Field(default_factory=dict)
    resolved: dict[str, Any] = Field(default_factory=dict)
    estimates: dict[str, Any] = Field(default_factory=dict)
    spent_attempts: int = 0
    checkpoint_epoch: int | None = None
    queue: QueuePlace | None = None
    progress: Progress | None = None
    reproduction: Reproduction | None = None

    @property
    def version(self) -> int | None:
        """The version of `model` that the run produced."""
        return (self.result or {}).get("version")

    @property
    def dataset(self) -> str:
        """The dataset that it trains on or has imported, as name@version if that is known."""
        reference = self.resolved.get("dataset")
        made = (self.result or {}).get("dataset")
        return str(reference["ref"]) if isinstance(reference, dict) else str(self.dataset_id or made or "")

    @property
    def ended(self) -> bool:
        """Whether it has succeeded, failed or been cancelled."""
        return self.state in TERMINAL

    @local
    def scores(self, part: str = "test") -> dict[str, float]:
        """Return its scores on the `train`, `validation` or `test` rows: accuracy, or r2, mae and rmse.

        With several targets, each figure's name begins with its target's. Empty while it trains.
        """
        by_target = ((self.result or {}).get("evaluation") or {}).get(part) or {}
        several = len(by_target) > 1
        return {
            f"{target}.{name}" if several else name: value
            for target, figures in by_target.items()
            for name, value in figures.items()
            if isinstance(value, float | int)
        }

    def refresh(self) -> Run:
        """Request it again and update this object."""
        return self._update(self._connection.get(f"{_PATH}/{self.id}"))

    def wait(self, timeout: float | None = None, *, check: bool = True) -> Run:
        """Wait until the run ends and, if it trains a model, until the prediction service has the new version.

        Raises RunEnded if it failed or was cancelled (unless `check` is false), WaitedTooLong after `timeout` seconds;
        the run then continues.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seconds = _FIRST_POLL
        while not self.ended:
            left = _LONGEST_POLL if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise WaitedTooLong(f"The run {self.id} is {self.state} after {timeout:g} seconds; it continues.")
            pause(min(seconds, left))
            seconds = min(_LONGEST_POLL, seconds * 1.5)
            self.refresh()
        if check and self.state != "succeeded":
            raise run_ended(self)
        if self.model and self.version:
            wait_until_served(self._connection, self.model, self.version, SERVED_WITHIN)
        return self

    def events(
        self,
        after: int = 0,
        *,
        silence: float = SILENCE,
        on_lost: Callable[[FitserveError], None] | None = None,
    ) -> Iterator[EventInfo]:
        """Yield its events as they happen, from the one after `after`, until its end.

        After a lost connection it resumes after the last event, trying for `silence` seconds; `on_lost` is called at
        each loss. No event is missed or repeated.
        """
        yield from follow(
            self._connection,
            f"{_PATH}/{self.id}/events",
            after=str(after) if after else "",
            read=lambda event: EventInfo.model_validate_json(event.data),
            is_last=lambda event: event.type == "state" and event.data.get("state") in TERMINAL,
            silence=silence,
            on_lost=on_lost,
        )

    def epochs(self, trial: int | None = None) -> Iterator[EpochInfo]:
        """Yield its epochs so far, by trial and epoch."""
        path = f"{_PATH}/{self.id}/epochs"
        yield from self._connection.pages(path, EpochInfo.model_validate, {"trial": trial})

    def trials(self) -> Sequence[TrialInfo]:
        """Return the trials of a search so far, in the order in which they started."""
        return list(self._connection.pages(f"{_PATH}/{self.id}/trials", TrialInfo.model_validate))

    def best_spec(self) -> dict[str, Any]:
        """Return the spec of a search's best trial, ready to submit. Raises BadInput before the search has ended."""
        result = self.result or {}
        if "best_spec" not in result:
            raise BadInput("The run has no best trial.", received=self.state, fix="Wait for the end of a search.")
        return self.trial_spec(int(result["best_trial"]))

    def trial_spec(self, trial: int) -> dict[str, Any]:
        """Return the spec of trial `trial` (from 0) of a search, ready to submit. Raises NotFound."""
        return dict(self._connection.get(f"{_PATH}/{self.id}/trials/{trial}/spec"))

    def history(self) -> History:
        """Return its epochs as flat rows, to tabulate or plot."""
        return History(
            [{"trial": one.trial, "epoch": one.epoch, "seconds": one.seconds, **one.logs} for one in self.epochs()]
        )

    def plot(self) -> Figure:
        """Plot its curves, a panel for each figure. Raises ImportError without matplotlib."""
        return self.history().plot(f"{self.model or self.id}: {self.state}")

    def cancel(self) -> Run:
        """Cancel the run: a queued run ends at once, a running one within seconds."""
        return self._update(self._connection.send("POST", f"{_PATH}/{self.id}/cancel").json())

    def share(self, shared: bool = True) -> Run:
        """Let other owners read the run, its epochs, events and insight; or stop sharing. Raises Forbidden."""
        answer = self._connection.send("PATCH", f"{_PATH}/{self.id}", json={"shared": shared})
        return self._update(answer.json())

    def annotate(self, *, name: str | None = None, tags: Sequence[str] | None = None, notes: str | None = None) -> Run:
        """Change its name, all of its tags, or its notes. Omitted ones stay; "" removes a name or notes."""
        values = {"name": name, "notes": notes}
        body: dict[str, Any] = {key: value or None for key, value in values.items() if value is not None}
        if tags is not None:
            body["tags"] = list(tags)
        return self._update(self._connection.send("PATCH", f"{_PATH}/{self.id}", json=body).json())

    def delete(self) -> None:
        """Delete the run and its history. Raises Conflict if it has not ended, or a model's version comes from it."""
        self._connection.send("DELETE", f"{_PATH}/{self.id}")

    def retry(self) -> Run:
        """Start a new run of the same spec after a failure."""
        return self.bind(self._post_once(f"{self.id}/retry"), self._connection)

    def reproduce(self) -> Run:
        """Start a new run that must train bit for bit the same, and names the first epoch that differs."""
        return self.bind(self._post_once(f"{self.id}/reproduce"), self._connection)

    def _post_once(self, path: str, query: Query | None = None, body: Any = None) -> Any:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        more = {} if body is None else {"json": body}
        return self._connection.send("POST", f"{_PATH}/{path}", query=query or {}, headers=headers, **more).json()

    # Insight

    def findings(self) -> Sequence[FindingInfo]:
        """Return what went wrong and what would fix it, most severe first; also while it trains."""
        return self._insight("findings", Findings).items

    def apply_finding(self, n: int, *, seeds: int | None = None) -> Applied:
        """Start a child run of its spec with the change that finding `n` (from 1) proposes.

        `seeds` trains parent and child with that many seeds, for `lineage` to compare. Raises BadInput if the finding
        proposes no change.
        """
        return Applied.model_validate(self._post_once(f"{self.id}/findings/{n}/apply", {"seeds": seeds}))

    def fork(
        self,
        epoch: int,
        *,
        learning_rate: float | None = None,
        optimizer: str | Mapping[str, Any] | None = None,
        epochs: int | None = None,
        trial: int | None = None,
    ) -> Run:
        """Start a run that trains like this one up to `epoch`, then with another learning rate or optimizer.

        `epochs` is the new run's total; left out: as many as this one's, or as many again from its last epoch. `trial`
        (from 0) is the restart to continue; left out: the kept one. All members of an ensemble continue. Raises
        BadInput for an epoch that was not trained, and for a search, an ablation or a check.

        Example:
            >>> run.fork(20, learning_rate=0.0005).wait().plot()
            >>> run.fork(40, optimizer={"SGD": {"learning_rate": 0.01, "momentum": 0.9}}, epochs=120)
        """
        values = {"learning_rate": learning_rate, "optimizer": optimizer, "epochs": epochs, "trial": trial}
        body = {"epoch": epoch, **{name: value for name, value in values.items() if value is not None}}
        return self.bind(self._post_once(f"{self.id}/fork", body=body), self._connection)

    def evaluation(self) -> Evaluation:
        """Return its scores on unseen rows, beside trivial, linear and tree baselines, with intervals."""
        return self._insight("evaluation", Evaluation)

    def complexity(self) -> Complexity:
        """Return the model complexity graph: training and validation loss, where validation turned, the verdict."""
        return self._insight("complexity", Complexity)

    def importance(self, target: str | None = None) -> Importance:
        """Return how much each column matters: the rise of the loss when its values are permuted."""
        return self._insight("importance", Importance, {"target": target})

    def hardest(self, target: str | None = None) -> Hardest:
        """Return the rows with the largest loss, and rows that are probably mislabelled."""
        return self._insight("hardest", Hardest, {"target": target})

    def slices(self, target: str | None = None, *, column: str | None = None) -> Slices:
        """Return figures by category and range of each column, or of one, and the slices that it predicts worst."""
        return self._insight("slices", Slices, {"target": target, "column": column})

    def fairness(self) -> Fairness:
        """Return rates and errors by group of the columns that the spec protects."""
        return self._insight("fairness", Fairness)

    def surface(self, x: str | None = None, y: str | None = None) -> SurfaceInfo:
        """Return its predictions over two columns, the others at their median."""
        return self._insight("surface", SurfaceInfo, {"x": x, "y": y})

    def layers(self, trial: int | None = None, *, after: int = 0) -> LayerSeries:
        """Return the layers' statistics by epoch: weights, gradients, updates, dead and saturated units."""
        return self._insight("layers", LayerSeries, {"trial": trial, "after": after})

    def draw(self, /, kind: str, path: str | PathLike[str], **query: str | int | None) -> Path:
        """Write a plot that the server draws to `path`: a file that ends in .png or .svg, or a folder.

        `kind` is complexity, layers, histograms, confusion, roc, pr, calibration, predicted, residuals, importance,
        surface or units; `query` holds the API's further parameters, such as `x` and `y` of a surface.
        """
        form = "png" if Path(path).is_dir() else Path(path).suffix.removeprefix(".") or "png"
        source = f"{_PATH}/{self.id}/plots/{kind}.{form}"
        return transfers.download(self._connection, source, path, f"{self.id}-{kind}.png", query=query)

    def lineage(self) -> Lineage:
        """Return its ancestors and descendants, and which changes helped."""
        return self._insight("lineage", Lineage)

    def explain(self, row: Mapping[str, Any], *, target: str | None = None, label: str | None = None) -> Explanation:
        """Explain its prediction for one row by integrated gradients, which sum to the change in output."""
        body = {"row": plain(row), "target": target, "label": label}
        answer = self._connection.send("POST", f"{_PATH}/{self.id}/explain", json=body)
        return Explanation.model_validate(answer.json())

    def _insight(self, part: str, shape: type[S], query: Query | None = None) -> S:
        return shape.model_validate(self._connection.get(f"{_PATH}/{self.id}/{part}", query))

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.state}>"

    def _repr_html_(self) -> str:
        values = {"state": self.state, "model": self.model, "dataset": self.dataset, "created": self.created_at}
        return card(f"Run {self.id}", {**values, "error": (self.error or {}).get("detail")})


def run_ended(run: Run) -> RunEnded:
    """Return the error of a run that ended without success."""
    problem = run.error or {}
    detail = f"The run {run.id} was cancelled." if run.state == "cancelled" else f"The run {run.id} failed."
    message = f"{detail} {problem.get('detail', '')}".strip()
    return RunEnded(message, fix=problem.get("fix"), state=run.state, run=run.id)


class Runs(Resource):
    """`client.runs`."""

    def create(
        self,
        spec: Any = None,
        /,
        *,
        priority: int = 0,
        idempotency_key: str | None = None,
        weights: bool = False,
        **parts: Any,
    ) -> Run:
        """Submit a spec: a mapping, a file's path, YAML text, or its parts as keywords, which take precedence.

        `network` may be a Keras model: its configuration is sent and, with `weights`, also its weights as arrays, from
        which the run starts; `initial_weights={"freeze": [...]}` names those that are not trained. The request carries
        an Idempotency-Key, so a retry after a lost connection starts no second run. A higher `priority` (-100 to 100)
        goes first.

        Raises BadInput with a pointer to each problem, NotFound for the dataset, TooMany for a quota.

        Example:
            >>> client.runs.create("spec.yaml", training={"epochs": 50})
            >>> client.runs.create(dataset="admissions", target="admit", network=keras_model, model="admissions")
        """
        if weights:
            parts = {**parts, "initial_weights": self._upload_weights(parts)}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        query = {"priority": priority or None}
        answer = self._connection.send("POST", _PATH, json=spec_of(spec, parts), headers=headers, query=query)
        return Run.bind(answer.json(), self._connection)

    def _upload_weights(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Upload the weights of the network, a Keras model. Return `initial_weights`. Raises BadInput."""
        network, begins = parts.get("network"), parts.get("initial_weights") or {}
        if not isinstance(begins, Mapping) or {"run", "model", "upload"} & begins.keys():
            raise BadInput("weights=True sends those of the network.", fix="Leave weights, or the source, out.")
        return {**begins, "upload": Weights(self._connection).upload(network).id}

    def validate(self, spec: Any = None, /, **parts: Any) -> Validation:
        """Check a spec as `create` does, without queuing a run. Return the resolved spec, the layers, the estimates."""
        answer = self._connection.send("POST", _PATH, json=spec_of(spec, parts), query={"validate_only": True})
        return Validation.model_validate(answer.json())

    def get(self, run_id: str) -> Run:
        """Return a run. Raises NotFound."""
        return Run.bind(self._connection.get(f"{_PATH}/{run_id}"), self._connection)

    def get_many(self, runs: Sequence[str]) -> Sequence[Run]:
        """Return up to 100 runs, without those that do not exist or that the key cannot read.

        Sends one request, or several if the specs and results are too large for one.
        """
        ids = list(dict.fromkeys(runs))  # without duplicates, which several answers would repeat
        try:
            answer = self._connection.send("GET", "/api/v1/run-details", query={"run": ids})
        except TooLarge:
            half = len(ids) // 2
            if not half:
                raise
            return [*self.get_many(ids[:half]), *self.get_many(ids[half:])]
        return [Run.bind(item, self._connection) for item in answer.json()]

    def rules(self) -> Iterator[RuleInfo]:
        """Yield the rules that diagnose runs: what each examines, its threshold, and the threshold's source."""
        yield from self._connection.pages("/api/v1/findings/rules", RuleInfo.model_validate)

    def list(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        tags: Sequence[str] = (),
        search: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Run]:
        """Yield runs, newest first; `search`: words in their names, notes, tags, models, datasets and targets."""
        connection = self._connection
        query: Query = {"state": state, "model": model, "dataset": dataset, "q": search, "tag": [*tags]}
        yield from connection.pages(_PATH, lambda item: Run.bind(item, connection), query, limit)

    def ids(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        tags: Sequence[str] = (),
        search: str | None = None,
    ) -> Iterator[str]:
        """Yield the ids of the runs that `list` yields, ten thousand a request: for `bulk`."""
        query: Query = {"state": state, "model": model, "dataset": dataset, "q": search, "tag": [*tags]}
        yield from self._connection.pages("/api/v1/run-ids", str, query)

    def tags(self) -> Iterator[str]:
        """Yield the tags of runs, by name."""
        yield from self._connection.pages("/api/v1/run-tags", str)

    def bulk(self, action: str, runs: Sequence[Run | str], *, tag: str | None = None) -> BulkOutcome:
        """Cancel, delete, tag or untag runs, a thousand per request. Return what changed, and refusals.

        Calling it again after an error changes the rest; completed changes remain.
        """
        ids = list(dict.fromkeys(run if isinstance(run, str) else run.id for run in runs))
        whole = BulkOutcome(done=[], refused=[])
        for index in range(0, len(ids), MOST_CHANGED):
            body = {"action": action, "runs": ids[index : index + MOST_CHANGED], "tag": tag}
            part = BulkOutcome.model_validate(self._connection.send("POST", f"{_PATH}/bulk", json=body).json())
            whole = BulkOutcome(done=[*whole.done, *part.done], refused=[*whole.refused, *part.refused])
        return whole


def spec_of(spec: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec from a mapping, a file, YAML or JSON text, or parts, which take precedence.

    `network` may be a Keras model: its configuration is sent. A dataset may be an object that `client.datasets`
    returned. Raises BadInput, Malformed.
    """
    body = {**_spec_body(spec), **{name: value for name, value in parts.items() if value is not None}}
    if "network" in body:
        body["network"] = _network(body["network"])
    reference = getattr(body.get("dataset"), "ref", None)
    if reference is not None:
        body["dataset"] = reference
    result: dict[str, Any] = plain(body)
    return result


def _spec_body(spec: Any) -> dict[str, Any]:
    received = spec
    if spec is None:
        return {}
    if isinstance(spec, Mapping):
        return dict(spec)
    if isinstance(spec, str | PathLike):
        from fitserve.spec.decode import decode

        if isinstance(spec, str) and "\n" in spec:
            text, name = spec.encode(), ""
        else:
            text, name = _read(Path(spec)), str(spec)
        kind = "application/json" if name.endswith(".json") or text.lstrip()[:1] == b"{" else "application/yaml"
        received = decode(text, kind)
        if isinstance(received, dict):
            return received
    elif hasattr(spec, "to_json"):  # a fitserve.spec.Spec
        return dict(spec.to_json())
    raise BadInput("This is not a spec.", received=type(received).__name__, expected="a mapping, a file, or YAML text")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", received=str(path)) from None


def _network(network: Any) -> Any:
    """Return a Keras model's configuration (`to_json()`); anything else unchanged."""
    if isinstance(network, str) and network.lstrip().startswith("{"):
        return json.loads(network)
    to_json = getattr(network, "to_json", None)
    return json.loads(to_json()) if callable(to_json) else network
