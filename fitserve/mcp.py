"""`fitserve mcp`: the API as tools of the Model Context Protocol. Needs the extra `mcp`.

Answers are compact JSON, shortened to fit a model's context; errors say what is wrong and how to fix it. Over stdio the
key comes from the environment; over HTTP each request brings its own, and this process has none.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from fitserve import __version__
from fitserve.client import Client, WaitedTooLong
from fitserve.client.connection import is_this_machine
from fitserve.client.errors import render
from fitserve.client.runs import Run
from fitserve.client.trained import standings_of
from fitserve.errors import BadInput, FitserveError, Forbidden, Unauthenticated

MAX_CHARACTERS = 6_000  # in an answer
MAX_ROWS = 200  # in one prediction request
MAX_ITEMS = 20  # in a list of an answer
MAX_WAIT = 300.0  # seconds
INSTRUCTIONS = """Train neural networks on tables and serve their predictions. The usual way: upload_table, then \
profile_table to choose a target, check_spec, train, wait, evaluate and findings; apply_finding starts a better run, \
compare tells whether it was; predict asks the model, promote chooses which version answers. Column and argument names \
of layers and optimizers are Keras's. What a spec leaves out is chosen well, so begin with dataset and target alone."""

RunId = Annotated[str, Field(description="A run's id, such as run_01...")]
DatasetRef = Annotated[str, Field(description="A dataset's name (its newest version), name@version, or id")]
Spec = Annotated[
    dict[str, Any] | None,
    Field(
        description="Further parts of the spec: features, split, ensemble, search, calibrate, decision, task; see "
        "GET /api/v1/schemas/spec"
    ),
]
Layers = Annotated[
    list[Any] | None,
    Field(
        description='Layers, as [{"Dense": {"units": 64, "activation": "relu"}}, {"Dropout": 0.2}]; left out: chosen'
    ),
]
Training = Annotated[
    dict[str, Any] | None,
    Field(
        description='As {"epochs": 100, "optimizer": {"Adam": {"learning_rate": 0.01}}, "seed": 0}; left out: chosen'
    ),
]
Target = Annotated[str | list[str], Field(description="The column to predict, or several")]


class Tools:
    """The tools on one server. `may_read_files`: whether the caller may name files of this machine."""

    def __init__(self, client: Callable[[Context], Client], may_read_files: bool) -> None:
        self._client = client
        self._may_read_files = may_read_files

    def upload_table(
        self,
        ctx: Context,
        name: Annotated[str, Field(description="Name of the dataset: lower case letters, digits, . _ -")],
        csv: Annotated[str | None, Field(description="The table as CSV text with a header")] = None,
        path: Annotated[str | None, Field(description="Or a file, such as CSV or Parquet; perhaps .gz")] = None,
        sample: Annotated[str | None, Field(description="Or a built-in table, such as circle, iris, diabetes")] = None,
    ) -> str:
        """Make a dataset of CSV text, a file of this machine, or a built-in table. Give exactly one of the three.

        The answer has the columns with the kinds that were inferred, and what was decided while the table was read.
        """
        if sum(one is not None for one in (csv, path, sample)) != 1:
            raise BadInput("Give exactly one of csv, path and sample.")
        if path is not None and not self._may_read_files:
            raise BadInput("This server does not read files of its machine.", fix="Send the table as csv text.")
        datasets = self._client(ctx).datasets
        if sample is not None:
            dataset = datasets.sample(sample, name)
        else:
            dataset = datasets.upload(Path(path).expanduser() if path is not None else str(csv).encode(), name)
        columns = {column.name: column.kind for column in dataset.columns}
        notices = [notice.model_dump(mode="json") for notice in dataset.notices]
        return answer({"dataset": dataset.ref, "rows": dataset.rows, "columns": columns, "notices": notices})

    def list_all(
        self,
        ctx: Context,
        what: Literal["datasets", "runs", "models", "samples"],
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> str:
        """List datasets, runs or models, the newest first; or the built-in tables (samples)."""
        client = self._client(ctx)
        if what == "datasets":
            return answer([{"dataset": one.ref, "rows": one.rows} for one in client.datasets.list(limit)])
        if what == "runs":
            return answer([_run(one) for one in client.runs.list(limit=limit)])
        if what == "samples":
            samples = client.datasets.samples()
            return answer([{"sample": one.sample, "task": one.task, "target": one.target} for one in samples])
        return answer([one.name for one in client.models.list(limit)])

    def profile_table(self, ctx: Context, dataset: DatasetRef, target: str | None = None) -> str:
        """Describe the columns of a dataset: kinds, missing values, ranges, most frequent values.

        With a target, also how strongly each column relates to it, and columns that give it away.
        """
        profiled = self._client(ctx).datasets.get(dataset)
        profile = profiled.profile()
        columns = {name: _column(facts) for name, facts in profile.columns.items()}
        value: dict[str, Any] = {"dataset": profiled.ref, "rows": profiled.rows, "columns": columns}
        if target is not None:
            related = profiled.relations(target)[:MAX_ITEMS]
            value["relations"] = [
                {"column": one.column, "strength": one.strength, "warning": one.warning} for one in related
            ]
        return answer(value)

    def check_spec(
        self,
        ctx: Context,
        dataset: DatasetRef,
        target: Target,
        network: Layers = None,
        training: Training = None,
        spec: Spec = None,
    ) -> str:
        """Check a spec without training: its layers and parameters, what it costs, warnings, what was chosen."""
        parts = _parts(dataset, target, network, training, spec)
        checked = self._client(ctx).runs.validate(parts)
        resolved = checked.resolved
        layers = [row.model_dump(mode="json", exclude_none=True) for row in checked.summary]
        return answer(
            {
                "valid": True,
                "target": resolved["target"],
                "features": [feature["column"] for feature in resolved["features"]],
                "layers": layers,
                "estimates": checked.estimates.model_dump(mode="json", exclude_none=True),
                "warnings": [one.model_dump(mode="json", exclude_none=True) for one in checked.warnings],
            }
        )

    def train(
        self,
        ctx: Context,
        dataset: DatasetRef,
        target: Target,
        network: Layers = None,
        training: Training = None,
        model: Annotated[str | None, Field(description="Name to serve it under; left out: not served")] = None,
        spec: Spec = None,
    ) -> str:
        """Start a run, which trains a network to predict the target. It returns at once: follow it with `wait`."""
        parts = _parts(dataset, target, network, training, spec)
        run = self._client(ctx).runs.create(parts, model=model)
        return answer({**_run(run), "next": f"wait(run={run.id!r})"})

    def wait(
        self,
        ctx: Context,
        run: RunId,
        seconds: Annotated[float, Field(ge=0, le=MAX_WAIT, description="At most; 0: how is it now")] = 60.0,
    ) -> str:
        """Wait for the end of a run, and return its state, its scores, or its error with the fix.

        Where it is still running, the answer says how far it is; call it again.
        """
        handle = self._client(ctx).runs.get(run)
        with suppress(WaitedTooLong):
            handle.wait(seconds, check=False)
        return answer(_run(handle))

    def cancel(self, ctx: Context, run: RunId) -> str:
        """Stop a run. What it has trained so far is not served."""
        return answer(_run(self._client(ctx).runs.get(run).cancel()))

    def findings(self, ctx: Context, run: RunId) -> str:
        """Diagnose a run: what went wrong or could be better, the evidence, and the JSON Patch of the spec for it."""
        findings = self._client(ctx).runs.get(run).findings()
        fields = {"n", "severity", "title", "sentence", "answer"}
        items = [{**one.model_dump(mode="json", include=fields), "patch": _short(one.patch)} for one in findings]
        return answer({"run": run, "findings": items[:MAX_ITEMS]})

    def apply_finding(
        self, ctx: Context, run: RunId, n: Annotated[int, Field(ge=1, description="The finding's number")]
    ) -> str:
        """Start a new run with the change that a finding proposes. Follow it with `wait`, then `compare` both."""
        child = self._client(ctx).runs.get(run).apply_finding(n)
        return answer({"run": child.id, "state": child.state, "parent": run, "next": f"wait(run={child.id!r})"})

    def evaluate(self, ctx: Context, run: RunId) -> str:
        """Return a run's figures on held-out rows, beside those of trivial, linear and boosted-tree models.

        Also the confusion matrix, the columns that matter most, and where training stopped helping.
        """
        handle = self._client(ctx).runs.get(run)
        evaluation = handle.evaluation()
        figures = (evaluation.test if evaluation.part == "test" else evaluation.validation) or {}
        value: dict[str, Any] = {"run": run, "judged on": f"{evaluation.part} rows"}
        value["models"] = {
            target: {one.title: one.figures for one in rows} for target, rows in standings_of(evaluation).items()
        }
        value["confusion"] = {
            target: {"labels": own["labels"], "rows are actual": own["confusion"]}
            for target, own in figures.items()
            if "confusion" in own and len(own["labels"]) <= 12
        }
        for name, ask in (("importance", handle.importance), ("complexity", handle.complexity)):
            with suppress(FitserveError):  # runs with several targets, or without a record, have none
                value[name] = _insight(name, ask())
        return answer(value)

    def compare(self, ctx: Context, runs: Annotated[list[str], Field(min_length=2, max_length=10)]) -> str:
        """Compare runs: their scores on held-out rows, and where their specs differ."""
        handles = [self._client(ctx).runs.get(run) for run in runs]
        rows = [{**_run(run), "validation": run.scores("validation"), "test": run.scores("test")} for run in handles]
        specs = [_flat(run.resolved) for run in handles]
        differing = {
            path: [spec.get(path) for spec in specs]
            for path in dict.fromkeys(path for spec in specs for path in spec)
            if len({json.dumps(spec.get(path), sort_keys=True) for spec in specs}) > 1
        }
        return answer({"runs": rows, "differences of the specs, in this order": differing})

    def show_model(self, ctx: Context, model: str) -> str:
        """Show a model: which version answers, its labels, and its versions with their scores; its inputs."""
        client = self._client(ctx)
        detail = client.models.get(model)
        newest = [
            {"version": one.version, "run": one.run_id, "scores": one.metrics, "retired": one.retired_at is not None}
            for one in detail.versions[:MAX_ITEMS]
        ]
        value: dict[str, Any] = {"model": model, "serving": detail.serving, "versions": newest}
        value["labels"] = {one.label: one.version for one in detail.labels}
        with suppress(FitserveError):
            signature = client.models.signature(model)
            value["inputs"] = {one["name"]: one["datatype"] for one in signature["inputs"]}
        return answer(value)

    def predict(
        self,
        ctx: Context,
        model: str,
        rows: Annotated[
            list[dict[str, Any]], Field(min_length=1, max_length=MAX_ROWS, description="Each a mapping of columns")
        ],
        version: int | None = None,
        interval: Annotated[
            float | None, Field(gt=0, lt=1, description="Add the interval, or set of labels, that holds this share")
        ] = None,
    ) -> str:
        """Predict rows with a model: the label with each label's score, or the number, for each row."""
        models = self._client(ctx).models
        answers = None
        for ask in (models.classify, models.regress):
            try:
                answers = ask(model, rows, version=version, interval=interval)
                break
            except BadInput as error:
                if "no output to" not in error.detail:  # to classify, or to regress
                    raise
        if answers is None:
            answers = models.predict(model, rows, version=version, interval=interval)
        shown = answers.rows
        if answers.items and isinstance(answers.items[0], Mapping) and ask == models.classify:
            shown = [{"label": label, **row} for label, row in zip(answers.labels, shown, strict=True)]
        value = {"model": model, "version": answers.version, "predictions": shown}
        return answer({**value, "warnings": answers.warnings[:MAX_ITEMS]})

    def promote(
        self,
        ctx: Context,
        model: str,
        version: Annotated[int, Field(ge=1)],
        label: Annotated[str, Field(description="champion answers requests that name no version")] = "champion",
        weight: Annotated[float | None, Field(ge=0, le=1, description="Share of the traffic, for a canary")] = None,
    ) -> str:
        """Point a label at a version of a model: live traffic moves within seconds. The answer says how to go back."""
        moved = self._client(ctx).models.promote(model, version, label, weight=weight)
        value: dict[str, Any] = {"model": model, "label": label, "version": moved.version, "weight": moved.weight}
        if moved.previous is not None:
            value["go back"] = f"promote(model={model!r}, version={moved.previous}, label={label!r})"
        return answer(value)


# The tools in working order, with their effects on the server.
READS = ToolAnnotations(read_only_hint=True)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False)
MOVES = ToolAnnotations(read_only_hint=False, destructive_hint=True)
TOOLS = {
    "upload_table": ADDS,
    "list_all": READS,
    "profile_table": READS,
    "check_spec": READS,
    "train": ADDS,
    "wait": READS,
    "cancel": MOVES,
    "evaluate": READS,
    "findings": READS,
    "apply_finding": ADDS,
    "compare": READS,
    "predict": READS,
    "show_model": READS,
    "promote": MOVES,
}


def make_server(base_url: str | None = None, *, over_http: bool = False) -> MCPServer:
    """Return a server of all tools for the fitserve at `base_url`."""
    server: MCPServer = MCPServer("fitserve", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING")
    client = functools.partial(_client_of_request, base_url) if over_http else _local_client(base_url)
    tools = Tools(client, may_read_files=not over_http)
    for name, effect in TOOLS.items():
        server.add_tool(_with_fixes(getattr(tools, name)), annotations=effect, structured_output=False)
    return server


def run_stdio(base_url: str | None) -> None:
    """Serve one client on standard input and output, until it closes them."""
    make_server(base_url).run("stdio")


def make_http_app(base_url: str | None, host: str) -> Any:
    """Return the ASGI application of streamable HTTP at `/mcp`, whose clients have an API key each.

    On a loopback `host` it checks the headers `Host` and `Origin`.
    """
    return make_server(base_url, over_http=True).streamable_http_app(stateless_http=True, host=host)


def check_exposure(base_url: str | None, host: str) -> None:
    """Raise Forbidden if this address is reachable from other machines and the server behind it asks for no key.

    That server answers requests of its own machine alone, and ours would be such. Raises Unreachable.
    """
    if is_this_machine(f"http://[{host}]" if ":" in host else f"http://{host}"):
        return
    with suppress(Unauthenticated), Client(base_url, "nobody.nothing") as client:
        client._connection.get("/api/v1/session")
        raise Forbidden(
            f"{host} is reachable from other machines, and the server asks for no API key.",
            received=host,
            expected="a loopback address",
            fix="Turn keys on: FITSERVE_AUTH=true.",
        )


def _local_client(base_url: str | None) -> Callable[[Context], Client]:
    """Return a client with the environment's key, made on first use, so that tools can be listed without a server."""

    @functools.cache
    def client() -> Client:
        return Client(base_url)

    return lambda ctx: client()


def _client_of_request(base_url: str | None, ctx: Context) -> Client:
    """Return a client with the key of this request. Raises Unauthenticated."""
    scheme, _, key = (ctx.headers or {}).get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated(
            "This request has no API key.",
            fix="Have the MCP client send the header `Authorization: Bearer KEY`; `fitserve keys create` makes one.",
        )
    return _client_of_key(base_url, key.strip())


@functools.lru_cache(maxsize=64)
def _client_of_key(base_url: str | None, key: str) -> Client:
    return Client(base_url, key)


def _with_fixes(tool: Callable[..., str]) -> Callable[..., str]:
    """Turn the client's errors into tool errors that say where, what was received, what was expected, and the fix."""

    @functools.wraps(tool)
    def call(*args: Any, **kwargs: Any) -> str:
        try:
            return tool(*args, **kwargs)
        except FitserveError as error:
            raise ToolError(_cut(render(error))) from error

    return call


def answer(value: Any) -> str:
    """Return a value as compact JSON: empty values left out, numbers to five digits, cut to MAX_CHARACTERS."""
    return _cut(json.dumps(_compact(value), ensure_ascii=False, separators=(",", ":"), default=str))


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}... ({len(text) - MAX_CHARACTERS:,} more characters; ask for less)"


def _compact(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        compacted = {name: _compact(one) for name, one in value.items()}
        return {name: one for name, one in compacted.items() if one is not None and one != [] and one != {}}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_compact(one) for one in value]
    return value


def _parts(dataset: str, target: Any, network: Any, training: Any, spec: Mapping[str, Any] | None) -> dict[str, Any]:
    parts = {"dataset": dataset, "target": target, "network": network, "training": training}
    return {**(spec or {}), **{name: value for name, value in parts.items() if value is not None}}


def _run(run: Run) -> dict[str, Any]:
    """Return a run's essentials: its state, progress, and scores or error."""
    value: dict[str, Any] = {"run": run.id, "state": run.state, "model": run.model, "version": run.version}
    if not run.ended:
        value["phase"] = getattr(run, "phase", None)
        progress = getattr(run, "progress", None)
        if progress is not None:
            value["progress"] = {"epoch": progress.epoch, "of": progress.epochs, "share": progress.share}
    if run.error:
        value["error"] = {name: run.error.get(name) for name in ("cause", "detail", "fix")}
    return {**value, "scores": run.scores() or run.scores("validation")}


def _column(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a column's profile in one line: the quartiles of numbers, else the most frequent values."""
    value = {"kind": facts["kind"], "missing": facts.get("missing") or None, "distinct": facts.get("distinct")}
    quantiles = facts.get("quantiles") or {}
    if facts["kind"] == "numeric" and quantiles:
        value["quartiles"] = [quantiles.get(at) for at in ("0.0", "0.25", "0.5", "0.75", "1.0")]
    elif facts["kind"] != "ignored":
        top = (facts.get("top") or [])[:5]
        value["top"] = {str(one["value"])[:40]: one["count"] for one in top}
    return value


def _short(patch: Any) -> Any:
    """Return a patch, or only its paths if it is long: `apply_finding` needs only the finding's number."""
    if len(json.dumps(patch)) <= 600:
        return patch
    return [f"{one.get('op')} {one.get('path')}" for one in patch]


def _insight(name: str, body: Any) -> Any:
    if name == "importance":
        return {one["column"]: one["importance"] for one in body.items[:10]}
    return {"verdict": body.verdict, "sentence": body.sentence, "kept_epoch": body.kept_epoch}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return a spec's leaves, keyed by path."""
    if isinstance(value, Mapping) and value:
        return {leaf: one for name, part in value.items() for leaf, one in _flat(part, f"{path}/{name}").items()}
    if isinstance(value, list) and value:
        return {leaf: one for n, part in enumerate(value) for leaf, one in _flat(part, f"{path}/{n}").items()}
    return {path: value}
