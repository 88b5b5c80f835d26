"""Models: ask them, and say which version answers."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from fitserve.client.connection import Connection, Resource, ask, find_predict
from fitserve.client.effects import Answer, Call, M, Operation, Sleep, operation
from fitserve.client.frames import rows_of
from fitserve.client.predictions import Predictions, predictions_of
from fitserve.errors import BadInput, FitserveError, NotFound

_LOOK = 0.05  # seconds between two looks at whether a version is served
_SETTLED = ("AVAILABLE", "END", "START")  # START: loaded when it is asked for


class Models(Resource[M]):
    """`client.models`."""

    @operation
    def predict(
        self, model: str, rows: Any, *, version: int | None = None, label: str | None = None
    ) -> Operation[Predictions]:
        """What the network says of each row, as numbers: one for each unit of its output.

        Args:
            model: its name; without `version` and `label`, its champion answers, else its newest version.
            rows: a pandas or polars frame; an array (rows, columns); a list of mappings or of lists.

        Raises BadInput naming row and column, NotFound, Forbidden.

        Example:
            >>> client.models.predict("admissions", [{"gre": 700, "gpa": 3.9, "rank": 1}])[0]
            [0.81]
        """
        path = _path(model, version, label) + ":predict"
        answer, url = yield from _post(self._connection, path, {"instances": _some(rows)})
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


def _post(connection: Connection, path: str, body: dict[str, Any]) -> Operation[tuple[Answer, str]]:
    """The answer and the URL that it came from. A prediction changes nothing, so it may be asked again."""
    yield from find_predict(connection)
    call = Call.with_json("POST", path, body, service="predict")
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
