"""Models: predict, choose which version answers, and watch how well it does."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx2
from pydantic import Field

from fitserve.client import transfers
from fitserve.client.connection import Connection, Handle, Resource, pause
from fitserve.client.dataframes import plain, rows_of
from fitserve.client.errors import RunEnded, WaitedTooLong
from fitserve.client.history import card, grid
from fitserve.client.predictions import Predictions, predictions_of
from fitserve.client.upload_body import Progress
from fitserve.errors import BadInput, FitserveError, NotFound
from fitserve.states import TERMINAL
from fitserve.wire.decisions import DecisionDetail
from fitserve.wire.insight import Fairness
from fitserve.wire.models import (
    DriftReport,
    ExportInfo,
    FeedbackAnswer,
    LabelInfo,
    ModelInfo,
    Sharing,
    Traffic,
    VersionInfo,
)
from fitserve.wire.operations import ModelHistory
from fitserve.wire.runs import RunInfo

_SUFFIXES = {"weights": "safetensors"}  # file suffixes by kind, if they differ from the kind
FILE_TIMEOUT = 300.0  # seconds without a byte
_EXPORT_POLL = 0.3  # seconds between two requests for an export's state
_POLL = 0.05  # seconds between two requests for a version's state
_SETTLED = ("AVAILABLE", "END", "START")  # START: loaded at the first request


class Model(ModelInfo, Handle):
    """A model, as the server last described it. In lists, `serving`, `versions` and `labels` are empty."""

    serving: int | None = None
    versions: Sequence[VersionInfo] = Field(default=())
    labels: Sequence[LabelInfo] = Field(default=())

    def refresh(self) -> Model:
        """Request it again, with its versions and labels, and update this object."""
        return self._update(self._connection.get(model_path(self.name)))

    def __repr__(self) -> str:
        return f"<Model {self.name}" + (f": version {self.serving} answers>" if self.serving else ">")

    def _repr_html_(self) -> str:
        rows = [{"version": v.version, "run": v.run_id, "created": v.created_at} for v in self.versions]
        labels = {label.label: f"version {label.version}" for label in self.labels}
        return card(f"Model {self.name}", {"answers": self.serving, **labels}, grid(rows) if rows else "")


class Models(Resource):
    """`client.models`."""

    def get(self, model: str) -> Model:
        """Return a model with its versions, newest first, and its labels. Raises NotFound."""
        return Model.bind(self._connection.get(model_path(model)), self._connection)

    def promote(
        self,
        model: str,
        version: int,
        label: str = "champion",
        *,
        epoch: int | None = None,
        weight: float | None = None,
        shadow: bool | None = None,
    ) -> LabelInfo:
        """Point a label at a version, at once. The champion answers requests that name no version.

        `weight` gives a label other than the champion that share of them (a canary); `shadow` gives it a copy that is
        only measured; `epoch` takes a kept epoch of the version's run instead of its best. Raises NotFound, Conflict,
        BadInput.
        """
        body = {"version": version, "epoch": epoch, "weight": weight, "shadow": shadow}
        path = model_path(model, "labels", label)
        return LabelInfo.model_validate(self._connection.send("PUT", path, json=_without_none(body)).json())

    def rollback(self, model: str, label: str = "champion") -> LabelInfo:
        """Point a label back at its previous version. Raises Conflict where there is none."""
        path, body = model_path(model, "rollback"), {"label": label}
        return LabelInfo.model_validate(self._connection.send("POST", path, json=body, repeatable=False).json())

    def remove_label(self, model: str, label: str) -> None:
        """Remove a label. Raises NotFound."""
        self._connection.send("DELETE", model_path(model, "labels", label))

    def retire(self, model: str, version: int) -> VersionInfo:
        """Take a version out of service permanently. Raises Conflict while a label names it."""
        answer = self._connection.send("DELETE", model_path(model, "versions", version))
        return VersionInfo.model_validate(answer.json())

    def decision(self, model: str, version: int) -> DecisionDetail:
        """Return how labels follow from probabilities, and what thresholds would do. Raises NotFound."""
        return DecisionDetail.model_validate(self._connection.get(model_path(model, "versions", version, "decision")))

    def decide(self, model: str, version: int, **decision: Any) -> DecisionDetail:
        """Change a version's decision without training; it takes effect once the prediction service has polled.

        Args:
            decision: as in a spec: `maximize="f1"`, `cost={"false_positive": 1, "false_negative": 5}`,
                `recall_at_least=0.9`, `precision_at_least=0.9` or `threshold=0.3`; `label`, `output`, `abstain`.
                Left out: return to the decisions of the training.

        Raises BadInput (also if no threshold meets the condition), Conflict, NotFound.
        """
        path = model_path(model, "versions", version, "decision")
        body = _without_none(decision)
        answer = self._connection.send("PUT", path, json=body) if body else self._connection.send("DELETE", path)
        return DecisionDetail.model_validate(answer.json())

    def fairness(self, model: str, version: int) -> Fairness:
        """Return rates and errors by group of the protected columns, as the decision in force answers them."""
        return Fairness.model_validate(self._connection.get(model_path(model, "versions", version, "fairness")))

    def change(
        self,
        model: str,
        *,
        shared: bool | None = None,
        sharing: Sharing | None = None,
        open_feedback: bool | None = None,
        loaded: bool | None = None,
    ) -> Model:
        """Share a model with other owners, or set whether it stays loaded in memory.

        Args:
            sharing: what other owners may do: `ask` for predictions (the default), `inspect`, `download`.
            open_feedback: whether ground truth that other owners post counts in its live figures.
        """
        body = _without_none({"shared": shared, "sharing": sharing, "open_feedback": open_feedback, "loaded": loaded})
        return Model.bind(self._connection.send("PATCH", model_path(model), json=body).json(), self._connection)

    def delete(self, model: str) -> None:
        """Delete a model; its runs stay."""
        self._connection.send("DELETE", model_path(model))

    def manifest(self, model: str, version: int) -> dict[str, Any]:
        """Return a version's manifest: encoders, signature, receipt, parity, the resolved spec."""
        manifest: dict[str, Any] = self._connection.get(model_path(model, "versions", version, "manifest"))
        return manifest

    def download(
        self,
        model: str,
        version: int,
        path: str | PathLike[str],
        kind: str = "keras",
        *,
        progress: Progress | None = None,
    ) -> Path:
        """Write `model.keras` (which takes raw columns in plain Keras), `model.onnx` (the serving graph), or `weights`.

        The bytes are checked against their SHA-256 before the file appears. `path` is a file, or a folder.
        Raises NotFound.
        """
        source, name = (
            model_path(model, "versions", version, "files", kind),
            f"{model}-{version}.{_SUFFIXES.get(kind, kind)}",
        )
        return transfers.download(self._connection, source, path, name, progress, timeout=FILE_TIMEOUT)

    def card(self, model: str, version: int, format: Literal["markdown", "html"] = "markdown") -> str:
        """Return a version's model card: data, figures with intervals, calibration, slices, lineage, drift, spec."""
        path, query = model_path(model, "versions", version, "card"), {"format": format}
        return self._connection.send("GET", path, query=query).content.decode()

    def exports(self, model: str, version: int) -> Sequence[ExportInfo]:
        """Return the exports of a version: state, size, and the largest difference from what is served."""
        listed = self._connection.get(model_path(model, "versions", version, "exports"))
        return [ExportInfo.model_validate(one) for one in listed]

    def export(
        self,
        model: str,
        version: int,
        path: str | PathLike[str],
        format: str,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Have a worker export a version to another format, wait for it, and write it to `path`, a file or a folder.

        `onnx-raw` is ONNX with the preprocessing inside, `mlflow` a zipped MLflow model, `saved-model` a zipped
        SavedModel for TensorFlow Serving; all take raw columns. `code` is a script and a notebook in plain Keras that
        reach the run's losses. An existing export is reused. Raises BadInput naming what a format cannot hold, RunEnded
        if the export differs from what is served, WaitedTooLong.
        """
        source = model_path(model, "versions", version, "exports")
        body = self._connection.send("POST", source, json={"format": format}, repeatable=False).json()
        run = RunInfo.model_validate(body)
        deadline = None if timeout is None else time.monotonic() + timeout
        while run.state not in TERMINAL:
            if deadline is not None and time.monotonic() > deadline:
                raise WaitedTooLong(f"The export {run.id} is {run.state} after {timeout:g} seconds; it continues.")
            pause(_EXPORT_POLL)
            run = RunInfo.model_validate(self._connection.get(f"/api/v1/runs/{run.id}"))
        if run.state != "succeeded":
            problem = run.error or {}
            detail = f"The export {run.id} {run.state}. {problem.get('detail', '')}".strip()
            raise RunEnded(detail, state=run.state, run=run.id)
        suffix = ".onnx" if format == "onnx-raw" else ".zip"
        name = f"{model}-{version}-{format}{suffix}"
        return transfers.download(self._connection, f"{source}/{format}", path, name, progress, timeout=FILE_TIMEOUT)

    def predict(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        id: str | None = None,
        interval: float | Literal[False] | None = None,
    ) -> Predictions:
        """Return the network's output for each row: a number for each unit; with `interval`, a mapping of outputs.

        Args:
            model: its name; without `version` and `label`, its champion answers, else its newest version.
            rows: a pandas or polars frame; an array (rows, columns); a list of mappings or of lists.
            id: an id of your choice; the predictions are stored under it until `feedback` posts their ground truth.
            interval: the share of rows, such as 0.9, whose true value should lie between `{output}_low` and
                `{output}_high`, or whose label should be in `{output}_set`. Left out: the level of the version's spec,
                if any; False: none.

        Raises BadInput naming row and column, NotFound, Forbidden.

        Example:
            >>> client.models.predict("admissions", [{"gre": 700, "gpa": 3.9, "rank": 1}])[0]
            [0.81]
        """
        body: dict[str, Any] = {"instances": _non_empty(rows)}
        if interval is not None:
            body["interval"] = interval
        headers = {"X-Prediction-ID": id} if id is not None else {}
        answer = self._ask(_served_path(model, version, label) + ":predict", body, headers)
        return predictions_of(model, answer, answer.json()["predictions"])

    def classify(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        output: str | None = None,
        interval: float | Literal[False] | None = None,
    ) -> Predictions:
        """Return each label's score, for each row. `output` selects one of several.

        `interval` is as in `predict`; sets are in `.bounds`. `.labels` are the decided labels, None where the decision
        abstains; without a decision in force, the likeliest labels.
        """
        answer = self._ask_by_name("classify", model, rows, version, label, output, interval)
        body = answer.json()
        predictions = predictions_of(model, answer, [dict(pairs) for pairs in body.pop("results")])
        return replace(predictions, decisions=body.pop("decisions", None), bounds=body)

    def regress(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        output: str | None = None,
        interval: float | Literal[False] | None = None,
    ) -> Predictions:
        """Return one number for each row, in the target's own units. `output` selects one of several.

        `interval` is as in `predict`; its ends are in `.bounds`.
        """
        answer = self._ask_by_name("regress", model, rows, version, label, output, interval)
        body = answer.json()
        return replace(predictions_of(model, answer, body.pop("results")), bounds=body)

    def explain(self, model: str, rows: Any, *, version: int | None = None, label: str | None = None) -> dict[str, Any]:
        """Return how much each column contributed to each prediction, against a typical row (Shapley values)."""
        path = _served_path(model, version, label) + ":explain"
        explanations: dict[str, Any] = self._ask(path, {"instances": _non_empty(rows)}).json()
        return explanations

    def predict_dataset(
        self,
        model: str,
        dataset: str,
        *,
        version: int | None = None,
        label: str | None = None,
        name: str | None = None,
        interval: float | Literal[False] | None = None,
        destination: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
    ) -> RunInfo:
        """Predict a whole dataset on the workers, as a run of kind `prediction`; `name` is the new dataset's.

        `destination` writes the predictions elsewhere: `{"sql": {"connection", "table", "if_exists"}}`, or `s3`, `gs`
        or `az` with `{"connection", "path", "if_exists"}`. `columns` are the dataset's columns to write beside the
        predictions; left out, all of them.

        With `interval`, a share of rows, the interval or the set of labels is written as well. Left out, the level of
        the version's spec applies, if it has one; False asks for none.

        Wait for it with `client.runs.get(run.id).wait()`; its `result` names the new dataset, or what was written.
        """
        body: dict[str, Any] = {"dataset": dataset, "version": version, "label": label, "name": name}
        body |= {} if interval is None else {"interval": interval}
        body |= {} if destination is None else {"destination": dict(destination)}
        body |= {} if columns is None else {"columns": list(columns)}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = self._connection.send("POST", model_path(model, "predictions"), json=body, headers=headers)
        return RunInfo.model_validate(answer.json())

    def status(self, model: str) -> dict[str, str]:
        """Return each version's state in the prediction service.

        AVAILABLE, LOADING, START (loaded at the first request), or END.
        """
        return _version_states(self._connection, model)

    def signature(self, model: str, *, version: int | None = None) -> dict[str, Any]:
        """Return its inputs and outputs, as the Open Inference Protocol describes them."""
        self._connection.find_predict()
        path = f"/v2/models/{_segment(model)}" + (f"/versions/{version}" if version else "")
        signature: dict[str, Any] = self._connection.send("GET", path, service="predict").json()
        return signature

    def drift(self, model: str, *, version: int | None = None, label: str | None = None) -> DriftReport:
        """Return how far the inputs have moved from the training rows, over a sliding window. Raises NotFound."""
        query = {"version": version, "label": label}
        return DriftReport.model_validate(self._connection.get(model_path(model, "drift"), query))

    def traffic(self, model: str) -> Traffic:
        """Return each version's cumulative requests and latencies; two answers' difference gives rates."""
        return Traffic.model_validate(self._connection.get(model_path(model, "traffic")))

    def history(self, model: str, window: Literal["hour", "day"] = "hour") -> ModelHistory:
        """Return a model's requests, errors, latencies and drift of the last hour or day, and its last fault."""
        return ModelHistory.model_validate(self._connection.get(model_path(model, "history"), {"window": window}))

    def feedback(self, model: str, items: Sequence[Mapping[str, Any]]) -> FeedbackAnswer:
        """Post ground truth; `drift` then reports the live accuracy of the version that predicted it.

        Each item has an `id` (the row's `X-Prediction-ID`, or an id of your own) and the `truth`; with an id of your
        own also the `predicted` value and the `version` that predicted it. Posted twice, an item counts once.
        """
        body = {"items": [plain(item) for item in items]}
        return FeedbackAnswer.model_validate(
            self._connection.send("POST", model_path(model, "feedback"), json=body).json()
        )

    def list(self, limit: int | None = None) -> Iterator[Model]:
        """Yield models by name."""
        connection = self._connection
        yield from connection.pages(model_path(), lambda item: Model.bind(item, connection), limit=limit)

    def _ask(self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> httpx2.Response:
        self._connection.find_predict()  # a prediction changes nothing, so it may be sent again
        return self._connection.send("POST", path, json=body, service="predict", headers=headers or {})

    def _ask_by_name(
        self,
        verb: str,
        model: str,
        rows: Any,
        version: int | None,
        label: str | None,
        output: str | None,
        interval: float | None,
    ) -> httpx2.Response:
        """Classify or regress; both take rows only as objects."""
        examples = _non_empty(rows)
        if not isinstance(examples[0], dict):
            raise BadInput(
                f"{verb} needs rows with names.", received=examples[0], expected="mappings of column to value"
            )
        body = {"examples": examples} | ({"signature_name": output} if output else {})
        headers = {} if interval is None else {"X-Interval": "none" if interval is False else str(interval)}
        return self._ask(f"{_served_path(model, version, label)}:{verb}", body, headers)


def _segment(name: str | int) -> str:
    return quote(str(name), safe="")


def model_path(*segments: str | int) -> str:
    return "/".join(["/api/v1/models", *map(_segment, segments)])


def _served_path(model: str, version: int | None = None, label: str | None = None) -> str:
    """Return a model's path in the prediction service."""
    if version is not None and label is not None:
        raise BadInput("A version and a label exclude each other.", received=[version, label], expected="one of them")
    path = f"/v1/models/{_segment(model)}"
    if version is not None:
        return f"{path}/versions/{version}"
    return f"{path}/labels/{_segment(label)}" if label is not None else path


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _non_empty(data: Any) -> list[Any]:
    rows = rows_of(data)
    if not rows:
        raise BadInput("There are no rows.", expected="at least one row")
    return rows


def _version_states(connection: Connection, model: str) -> dict[str, str]:
    connection.find_predict()
    answer = connection.send("GET", _served_path(model), service="predict").json()
    return {item["version"]: item["state"] for item in answer["model_version_status"]}


def wait_until_served(connection: Connection, model: str, version: int, seconds: float) -> None:
    """Wait until the prediction service, which polls the registry, serves a version; give up after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if _version_states(connection, model).get(str(version)) in _SETTLED:
                return
        except NotFound:
            pass
        except FitserveError:
            return  # the service is unavailable, or this key may not use it, so waiting would not help
        pause(_POLL)
