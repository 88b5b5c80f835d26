"""Models: ask them, and say which version answers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field

from fitserve.client.connection import Connection, Handle, Resource, ask, ask_json, bind, find_predict, pages
from fitserve.client.dataframes import rows_of
from fitserve.client.downloads import save
from fitserve.client.effects import Answer, Call, Listing, M, Operation, Sleep, listing, operation
from fitserve.client.history import card, grid
from fitserve.client.live_models import Live
from fitserve.client.predictions import Predictions, predictions_of
from fitserve.client.upload_body import Progress
from fitserve.errors import BadInput, FitserveError, NotFound
from fitserve.wire.models import LabelInfo, ModelInfo, VersionInfo
from fitserve.wire.runs import RunInfo

_PATH = "/api/v1/models"
FILE_TIMEOUT = 300.0  # seconds without a byte
_LOOK = 0.05  # seconds between two looks at whether a version is served
_SETTLED = ("AVAILABLE", "END", "START")  # START: loaded when it is asked for


class Model(ModelInfo, Handle[M]):
    """A model, as the server last told it. What a list leaves out (`serving`, `versions`, `labels`) is empty then."""

    serving: int | None = None
    versions: Sequence[VersionInfo] = Field(default=())
    labels: Sequence[LabelInfo] = Field(default=())

    @operation
    def refresh(self) -> Operation[Model[M]]:
        """Asks for it again, with its versions and labels."""
        self._update((yield from ask_json(self._connection, "GET", f"{_PATH}/{_segment(self.name)}")))
        return self

    def __repr__(self) -> str:
        return f"<Model {self.name}" + (f": version {self.serving} answers>" if self.serving else ">")

    def _repr_html_(self) -> str:
        rows = [{"version": v.version, "run": v.run_id, "created": v.created_at} for v in self.versions]
        labels = {label.label: f"version {label.version}" for label in self.labels}
        return card(f"Model {self.name}", {"answers": self.serving, **labels}, grid(rows) if rows else "")


class Models(Resource[M], Live[M]):
    """`client.models`."""

    @operation
    def get(self, model: str) -> Operation[Model[M]]:
        """A model with its versions, newest first, and its labels. Raises NotFound."""
        return bind(Model, (yield from ask_json(self._connection, "GET", _control(model))), self._connection)

    @listing
    def list(self, limit: int | None = None) -> Listing[Model[M]]:
        """Models by name."""
        connection = self._connection
        yield from pages(connection, _PATH, {}, lambda item: bind(Model, item, connection), limit)

    @operation
    def promote(
        self,
        model: str,
        version: int,
        label: str = "champion",
        *,
        epoch: int | None = None,
        weight: float | None = None,
        shadow: bool | None = None,
    ) -> Operation[LabelInfo]:
        """Points a label at a version, at once. The champion answers all who name no version.

        `weight` gives another label that share of them (a canary); `shadow` gives it a copy that is only measured;
        `epoch` takes a kept epoch of the version's run instead of its best. Raises NotFound, Conflict, BadInput.
        """
        body = {"version": version, "epoch": epoch, "weight": weight, "shadow": shadow}
        said = {name: value for name, value in body.items() if value is not None}
        call = Call.with_json("PUT", f"{_control(model)}/labels/{_segment(label)}", said)
        return LabelInfo.model_validate((yield from ask(self._connection, call)).json())

    @operation
    def rollback(self, model: str, label: str = "champion") -> Operation[LabelInfo]:
        """Points a label back at the version that it named before. Raises Conflict where there is none."""
        call = Call.with_json("POST", f"{_control(model)}/rollback", {"label": label}, repeatable=False)
        return LabelInfo.model_validate((yield from ask(self._connection, call)).json())

    @operation
    def remove_label(self, model: str, label: str) -> Operation[None]:
        """Forgets a label. Raises NotFound."""
        yield from ask(self._connection, Call("DELETE", f"{_control(model)}/labels/{_segment(label)}"))

    @operation
    def retire(self, model: str, version: int) -> Operation[VersionInfo]:
        """Takes a version out of service for good. Raises Conflict while a label names it."""
        found = yield from ask_json(self._connection, "DELETE", f"{_control(model)}/versions/{version}")
        return VersionInfo.model_validate(found)

    @operation
    def change(self, model: str, *, shared: bool | None = None, loaded: bool | None = None) -> Operation[Model[M]]:
        """Shares it with other owners, or holds it in memory or not."""
        said = {name: value for name, value in (("shared", shared), ("loaded", loaded)) if value is not None}
        answer = yield from ask(self._connection, Call.with_json("PATCH", _control(model), said))
        return bind(Model, answer.json(), self._connection)

    @operation
    def delete(self, model: str) -> Operation[None]:
        """Forgets a model; its runs stay."""
        yield from ask(self._connection, Call("DELETE", _control(model)))

    @operation
    def manifest(self, model: str, version: int) -> Operation[dict[str, Any]]:
        """What a version's artifact is made of: encoders, signature, receipt, parity, the resolved spec."""
        path = f"{_control(model)}/versions/{version}/manifest"
        found: dict[str, Any] = yield from ask_json(self._connection, "GET", path)
        return found

    @operation
    def download(
        self,
        model: str,
        version: int,
        path: str | PathLike[str],
        kind: str = "keras",
        *,
        progress: Progress | None = None,
    ) -> Operation[Path]:
        """Writes `model.keras` (which takes raw columns in plain Keras) or `model.onnx` (the serving graph).

        The bytes are checked against their SHA-256 before the file appears. `path` is a file, or a folder.
        Raises NotFound.
        """
        call = Call("GET", f"{_control(model)}/versions/{version}/files/{_segment(kind)}", timeout=FILE_TIMEOUT)
        target = Path(path)
        if target.is_dir():
            target /= f"{model}-{version}.{kind}"
        yield from save(self._connection, call, target, progress)
        return target

    @operation
    def predict(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        id: str | None = None,
    ) -> Operation[Predictions]:
        """What the network says of each row, as numbers: one for each unit of its output.

        Args:
            model: its name; without `version` and `label`, its champion answers, else its newest version.
            rows: a pandas or polars frame; an array (rows, columns); a list of mappings or of lists.
            id: of your choosing; the answer is kept under it until `feedback` tells the truth.

        Raises BadInput naming row and column, NotFound, Forbidden.

        Example:
            >>> client.models.predict("admissions", [{"gre": 700, "gpa": 3.9, "rank": 1}])[0]
            [0.81]
        """
        path = _path(model, version, label) + ":predict"
        headers = {"X-Prediction-ID": id} if id is not None else {}
        answer, url = yield from _post(self._connection, path, {"instances": _some(rows)}, headers)
        return predictions_of(model, url, answer, answer.json()["predictions"])

    @operation
    def classify(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        output: str | None = None,
    ) -> Operation[Predictions]:
        """Each label's score, for each row; `.labels` are the likeliest. `output` is needed where there are several."""
        items, answer, url = yield from _examples(self._connection, "classify", model, rows, version, label, output)
        return predictions_of(model, url, answer, [dict(pairs) for pairs in items])

    @operation
    def regress(
        self,
        model: str,
        rows: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        output: str | None = None,
    ) -> Operation[Predictions]:
        """One number for each row, in the target's own units. `output` is needed where there are several."""
        items, answer, url = yield from _examples(self._connection, "regress", model, rows, version, label, output)
        return predictions_of(model, url, answer, items)

    @operation
    def explain(
        self, model: str, rows: Any, *, version: int | None = None, label: str | None = None
    ) -> Operation[dict[str, Any]]:
        """How much each column contributed to each answer, against a typical row (Shapley values)."""
        path = _path(model, version, label) + ":explain"
        answer, _ = yield from _post(self._connection, path, {"instances": _some(rows)})
        found: dict[str, Any] = answer.json()
        return found

    @operation
    def predict_dataset(
        self, model: str, dataset: str, *, version: int | None = None, label: str | None = None, name: str | None = None
    ) -> Operation[RunInfo]:
        """Predicts a whole dataset on the workers, as a run of kind `prediction`; `name` is the new dataset's.

        Look after it by `client.runs.get(run.id).wait()`; its `result` names the dataset that it made.
        """
        body = {"dataset": dataset, "version": version, "label": label, "name": name}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        call = Call.with_json("POST", f"{_control(model)}/predictions", body, headers=headers)
        return RunInfo.model_validate((yield from ask(self._connection, call)).json())

    @operation
    def status(self, model: str) -> Operation[dict[str, str]]:
        """The state of each version in the prediction service: AVAILABLE, LOADING, START (loads when asked), END."""
        return (yield from _status(self._connection, _path(model)))

    @operation
    def signature(self, model: str, *, version: int | None = None) -> Operation[dict[str, Any]]:
        """Its inputs and outputs, as the Open Inference Protocol describes them."""
        yield from find_predict(self._connection)
        path = f"/v2/models/{_segment(model)}" + (f"/versions/{version}" if version else "")
        answer = yield from ask(self._connection, Call("GET", path, service="predict"))
        found: dict[str, Any] = answer.json()
        return found


def _control(model: str) -> str:
    return f"{_PATH}/{_segment(model)}"


def _path(model: str, version: int | None = None, label: str | None = None) -> str:
    if version is not None and label is not None:
        raise BadInput("A version and a label are two choices.", received=[version, label], expected="one of them")
    path = f"/v1/models/{_segment(model)}"
    if version is not None:
        return f"{path}/versions/{version}"
    return f"{path}/labels/{_segment(label)}" if label is not None else path


def _segment(name: str) -> str:
    return quote(name, safe="")


def _some(rows: Any) -> list[Any]:
    found = rows_of(rows)
    if not found:
        raise BadInput("There are no rows.", expected="at least one row")
    return found


def _post(
    connection: Connection, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Operation[tuple[Answer, str]]:
    """The answer and the URL that it came from. A prediction changes nothing, so it may be asked again."""
    yield from find_predict(connection)
    call = Call.with_json("POST", path, body, service="predict", headers=headers or {})
    answer = yield from ask(connection, call)
    return answer, connection.address.url(call)


def _examples(
    connection: Connection,
    verb: str,
    model: str,
    rows: Any,
    version: int | None,
    label: str | None,
    output: str | None,
) -> Operation[tuple[list[Any], Answer, str]]:
    """Classify and regress take rows as objects alone."""
    found = _some(rows)
    if not isinstance(found[0], dict):
        raise BadInput(f"{verb} needs rows with names.", received=found[0], expected="mappings of column to value")
    body = {"examples": found} | ({"signature_name": output} if output else {})
    answer, url = yield from _post(connection, f"{_path(model, version, label)}:{verb}", body)
    return answer.json()["results"], answer, url


def _status(connection: Connection, path: str) -> Operation[dict[str, str]]:
    yield from find_predict(connection)
    answer = yield from ask(connection, Call("GET", path, service="predict"))
    return {item["version"]: item["state"] for item in answer.json()["model_version_status"]}


def until_served(connection: Connection, model: str, version: int, seconds: float) -> Operation[None]:
    """Waits until the prediction service, which polls the registry, knows a version; not longer than that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = (yield from _status(connection, _path(model))).get(str(version))
            if state in _SETTLED:
                return
        except NotFound:
            pass
        except FitserveError:
            return  # away, or this key may not ask it: then it cannot be waited for
        yield Sleep(_LOOK)
