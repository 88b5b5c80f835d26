"""Runs: submit, wait, watch, look into."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fitserve.client.connection import Handle, Resource, ask, ask_json, bind, gather, pages
from fitserve.client.effects import Call, Listing, M, Operation, Sleep, listing, operation
from fitserve.client.errors import RunEnded, WaitedTooLong
from fitserve.client.events import follow
from fitserve.client.history import History, card
from fitserve.client.insight import Insight
from fitserve.client.models import until_served
from fitserve.client.specs import spec_of
from fitserve.errors import FitserveError
from fitserve.states import TERMINAL
from fitserve.wire.insight import RuleInfo
from fitserve.wire.runs import EpochInfo, EventInfo, Progress, QueuePlace, Reproduction, RunSummary, Validation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PATH = "/api/v1/runs"
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0  # seconds between two looks of `wait`
SERVED_WITHIN = 10.0  # seconds that `wait` gives the prediction service to learn of a new version
SILENCE = 600.0  # seconds that `events` tries to come back to a server that is away


class Run(RunSummary, Handle[M], Insight[M]):
    """A run, as the server last told it; `refresh()` asks again.

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
        """The version of `model` that it became."""
        return (self.result or {}).get("version")

    @property
    def dataset(self) -> str:
        """What it trains on, as name@version where that is known."""
        reference = self.resolved.get("dataset")
        return str(reference["ref"]) if isinstance(reference, dict) else self.dataset_id

    @property
    def ended(self) -> bool:
        """Whether it has succeeded, failed or was cancelled."""
        return self.state in TERMINAL

    def scores(self, part: str = "test") -> dict[str, float]:
        """What it reached on the `train`, `validation` or `test` rows: accuracy, or r2, mae and rmse.

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

    @operation
    def refresh(self) -> Operation[Run[M]]:
        """Asks for it again; this object takes over the answer."""
        yield from _refresh(self)
        return self

    @operation
    def wait(self, timeout: float | None = None, *, check: bool = True) -> Operation[Run[M]]:
        """Waits for its end; of a model, until the prediction service knows the new version too.

        Raises RunEnded where it failed or was cancelled (unless `check` is false), WaitedTooLong after `timeout`
        seconds; the run goes on then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while not self.ended:
            left = _LONGEST_LOOK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise WaitedTooLong(f"The run {self.id} is {self.state} after {timeout:g} seconds; it goes on.")
            yield Sleep(min(pause, left))
            pause = min(_LONGEST_LOOK, pause * 1.5)
            yield from _refresh(self)
        if check and self.state != "succeeded":
            raise ended(self)
        if self.model and self.version:
            yield from until_served(self._connection, self.model, self.version, SERVED_WITHIN)
        return self

    @listing
    def events(
        self,
        after: int = 0,
        *,
        silence: float = SILENCE,
        on_lost: Callable[[FitserveError], None] | None = None,
    ) -> Listing[EventInfo]:
        """Its events as they happen, from the one after `after`, until its end.

        A lost connection is made again after the last event seen, for `silence` seconds of trying; `on_lost` is
        told of each loss. Nothing is missed and nothing comes twice.
        """
        call = Call("GET", f"{_PATH}/{self.id}/events", {"cursor": after or None})
        yield from follow(
            call,
            after=str(after) if after else "",
            read=lambda event: EventInfo.model_validate_json(event.data),
            ended=lambda event: event.type == "state" and event.data.get("state") in TERMINAL,
            patience=self._connection.patience,
            silence=silence,
            on_lost=on_lost,
        )

    @listing
    def epochs(self, trial: int | None = None) -> Listing[EpochInfo]:
        """Its epochs so far, by trial and epoch."""
        yield from _epochs(self, trial)

    @operation
    def history(self) -> Operation[History]:
        """Its epochs as flat rows: for a frame, for a plot."""
        return (yield from _history(self))

    @operation
    def plot(self) -> Operation[Figure]:
        """Its curves, a panel a figure; shown by a notebook. Raises ImportError where matplotlib is not installed."""
        history = yield from _history(self)
        return history.plot(f"{self.model or self.id}: {self.state}")

    @operation
    def cancel(self) -> Operation[Run[M]]:
        """Asks for its end; a queued run ends at once, a running one within seconds."""
        answer = yield from ask(self._connection, Call("POST", f"{_PATH}/{self.id}/cancel"))
        self._update(answer.json())
        return self

    @operation
    def share(self, shared: bool = True) -> Operation[Run[M]]:
        """Lets other owners look at it, its epochs, events and insight; or no longer. Raises Forbidden."""
        call = Call.with_json("PATCH", f"{_PATH}/{self.id}", {"shared": shared})
        self._update((yield from ask(self._connection, call)).json())
        return self

    @operation
    def retry(self) -> Operation[Run[M]]:
        """A new run of the same spec, after a failure."""
        return (yield from _child(self, "retry"))

    @operation
    def reproduce(self) -> Operation[Run[M]]:
        """A new run that trains the same to the letter, and names the first epoch that differs."""
        return (yield from _child(self, "reproduce"))

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.state}>"

    def _repr_html_(self) -> str:
        values = {"state": self.state, "model": self.model, "dataset": self.dataset, "created": self.created_at}
        return card(f"Run {self.id}", {**values, "error": (self.error or {}).get("detail")})


def ended(run: Run[Any]) -> RunEnded:
    """The error of a run that ended without success."""
    said = run.error or {}
    detail = f"The run {run.id} was cancelled." if run.state == "cancelled" else f"The run {run.id} failed."
    return RunEnded(f"{detail} {said.get('detail', '')}".strip(), fix=said.get("fix"), state=run.state, run=run.id)


def _refresh(run: Run[Any]) -> Operation[None]:
    run._update((yield from ask_json(run._connection, "GET", f"{_PATH}/{run.id}")))


def _child(run: Run[M], action: str) -> Operation[Run[M]]:
    call = Call("POST", f"{_PATH}/{run.id}/{action}", headers={"Idempotency-Key": str(uuid.uuid4())})
    answer = yield from ask(run._connection, call)
    return bind(Run, answer.json(), run._connection)


def _epochs(run: Run[Any], trial: int | None = None) -> Listing[EpochInfo]:
    yield from pages(run._connection, f"{_PATH}/{run.id}/epochs", {"trial": trial}, EpochInfo.model_validate)


def _history(run: Run[Any]) -> Operation[History]:
    found = yield from gather(_epochs(run))
    return History([{"trial": one.trial, "epoch": one.epoch, "seconds": one.seconds, **one.logs} for one in found])


class Runs(Resource[M]):
    """`client.runs`."""

    @operation
    def create(
        self, spec: Any = None, /, *, priority: int = 0, idempotency_key: str | None = None, **parts: Any
    ) -> Operation[Run[M]]:
        """Submits a spec: a mapping, a file's path, YAML text, or its parts as keywords, which overrule.

        `network` may be a Keras model; its configuration is sent. The request carries an Idempotency-Key, so that
        asking again after a lost connection makes no second run. A higher `priority` (-100 to 100) goes first.

        Raises BadInput with a pointer to each problem, NotFound for the dataset, TooMany for a quota.

        Example:
            >>> client.runs.create("spec.yaml", training={"epochs": 50})
            >>> client.runs.create(dataset="admissions", target="admit", network=keras_model, model="admissions")
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        query = {"priority": priority or None}
        call = Call.with_json("POST", _PATH, spec_of(spec, parts), headers=headers, query=query)
        answer = yield from ask(self._connection, call)
        return bind(Run, answer.json(), self._connection)

    @operation
    def validate(self, spec: Any = None, /, **parts: Any) -> Operation[Validation]:
        """Checks a spec as `create` does, and queues nothing: the resolved spec, the layers' table, the estimates."""
        call = Call.with_json("POST", _PATH, spec_of(spec, parts), query={"validate_only": True})
        answer = yield from ask(self._connection, call)
        return Validation.model_validate(answer.json())

    @operation
    def get(self, run_id: str) -> Operation[Run[M]]:
        """A run. Raises NotFound."""
        return bind(Run, (yield from ask_json(self._connection, "GET", f"{_PATH}/{run_id}")), self._connection)

    @listing
    def rules(self) -> Listing[RuleInfo]:
        """The rules that runs are diagnosed by: what each looks at, its threshold, where that is from."""
        yield from pages(self._connection, "/api/v1/findings/rules", {}, RuleInfo.model_validate)

    @listing
    def list(self, *, state: str | None = None, model: str | None = None, limit: int | None = None) -> Listing[Run[M]]:
        """Runs, the newest first."""
        connection = self._connection
        query = {"state": state, "model": model}
        yield from pages(connection, _PATH, query, lambda item: bind(Run, item, connection), limit)
