"""Bodies that are read by column get the same answers, warnings and refusals as any JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder
from fitserve.errors import BadInput, Malformed, TooLarge
from fitserve.spec.feature import Feature
from services.predict.catalog.columns import Columns, InputRows
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.protocols import json_parts
from services.predict.protocols.tfserving import predict_body
from services.predict.protocols.tfserving import rest as tfserving
from tests.predict.toy_registry import ToyModel, mixed, numeric, wide

CELLS = st.sampled_from(
    [640, 640.0, 3.2, 1e9, -0.0, 1 << 60, 1, 1.0, 2, "Rom", "Ürzig", "Oslo", "", "3", "x", True, False, None, [2], "NA"]
)


def loaded(toy: ToyModel) -> LoadedModel:
    return LoadedModel("toy", 1, None, "0" * 64, toy.manifest, toy.onnx)


MODELS = [loaded(mixed()), loaded(numeric()), loaded(wide())]


def outcome(model: LoadedModel, rows: InputRows) -> Any:
    try:
        prediction = model.predict(model.columns.without_unused_columns(rows))
    except BadInput as error:
        return [problem.as_dict() for problem in error.problems]
    return {name: value.tobytes() for name, value in prediction.outputs.items()}, prediction.flat_warnings(1000)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("model", MODELS, ids=["mixed", "numbers", "wide"])
def test_rows_are_read_by_column_as_any_json_is(model: LoadedModel, data: st.DataObject) -> None:
    names = model.columns.names
    usual = [640, 3.2, 1, "Rom"] if len(names) == 4 else [data.draw(st.sampled_from([0.5, 1]))] * len(names)
    rows: list[Any] = []
    for _ in range(data.draw(st.sampled_from([1, 20]))):
        row = list(usual)
        for place in data.draw(st.lists(st.integers(0, len(names) - 1), max_size=2)):
            row[place] = data.draw(CELLS)
        form = data.draw(st.sampled_from(["named", "named", "positional", "partly"]))
        named = dict(zip(names, row, strict=True))
        if form == "partly":
            named.pop(data.draw(st.sampled_from(names)))
        rows.append(row if form == "positional" else named)
    # Blanks make the body a large one, which is read in parts.
    blanks = data.draw(st.sampled_from([0, 0, predict_body.LARGE_BODY_BYTES]))
    body = (json.dumps({"instances": rows}) + " " * blanks).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_parts, "PART_BYTES", 100)
        patch.setattr(json_parts, "MANY_VALUES", data.draw(st.sampled_from([0, 500_000])))
        patch.setattr(predict_body, "PART_ELEMENTS", 7)
        read, by_row, level = predict_body.read_predict(model, body)
    assert (by_row, level) == (True, None)
    with np.errstate(all="ignore"):
        assert outcome(model, read) == outcome(model, InputRows(predict_body._instances(model, rows)))


def test_usual_bodies_are_read_by_column() -> None:
    row = {"gre": 640, "gpa": 3.2, "rank": 1, "city": "Rom"}
    odd = [{"gre": None, "gpa": 1e9, "rank": 9, "city": None}, list(row.values()), {"gpa": 3.2}]
    rows, _, level = predict_body.read_predict(
        MODELS[0], json.dumps({"instances": [row, *odd], "interval": 0.9}).encode()
    )
    assert level == 0.9
    assert rows.columns is not None
    assert rows.values[1] == (None, 1e9, 9, None)
    assert rows.values[3] == (None, 3.2, None, None)
    assert rows.sampled(3) == [rows.values[0], rows.values[3]]


def test_a_shadow_of_other_columns_reads_what_the_champion_was_asked() -> None:
    champion, shadow, _ = MODELS
    names = champion.columns.names
    rows = InputRows.by_column(names, [[640, None], [3.2, 3.3], [1, 2], ["Rom", "Bern"]])
    with pytest.raises(BadInput, match="there is no column 'gre'"):
        shadow.predict(shadow.columns.without_unused_columns(rows))
    turned = InputRows.by_column(names[::-1], list(rows.columns or [])[::-1])
    assert outcome(champion, turned) == outcome(champion, rows)


def test_large_bodies_are_counted_before_they_are_read_and_name_the_row() -> None:
    def refuse(rows: int) -> None:
        if rows > 5000:
            raise TooLarge("The request has too many rows.")

    def body(last: Any, rows: int) -> bytes:
        return json.dumps({"instances": [[640, 3.2, 1, "Rom" * 20]] * rows + [last]}).encode()

    with pytest.raises(Malformed, match=r"instances\[4500\] is neither"):
        predict_body.read_predict(MODELS[0], body(3, 4500), refuse)
    with pytest.raises(TooLarge):
        predict_body.read_predict(MODELS[0], body(3, 5000), refuse)
    with pytest.raises(Malformed, match="truncated"):
        predict_body.read_predict(MODELS[0], body(3, 4500)[:-1], refuse)


def test_large_bodies_that_name_the_signature_are_read_as_all_others() -> None:
    """TensorFlow Serving's own examples name it."""

    def body(rows: int, signature: Any) -> bytes:
        listed = [{"gre": 640, "gpa": 3.2, "rank": 1, "city": "Rom" * 20}] * rows
        return json.dumps({"signature_name": signature, "instances": listed}).encode()

    assert len(body(4000, "")) > predict_body.LARGE_BODY_BYTES
    for signature in ("serving_default", "", None):
        rows, by_row, level = predict_body.read_predict(MODELS[0], body(4000, signature))
        assert (rows.count, by_row, level) == (4000, True, None)
        assert rows.columns is not None
    for signature in ("other", 5):
        with pytest.raises(Malformed, match=f'signature key "{signature}" not found'):
            predict_body.read_predict(MODELS[0], body(4000, signature))
    with pytest.raises(TooLarge):
        predict_body.read_predict(MODELS[0], body(4000, "serving_default"), at_most(3999))


def at_most(most: int) -> Callable[[int], None]:
    def check(rows: int) -> None:
        if rows > most:
            raise TooLarge("The request has too many rows.")

    return check


@pytest.mark.parametrize(
    "value",
    [
        {"examples": [{"gre": 640, "city": "Rom"}, {"gre": None}] * 9, "context": {"gpa": [3.2], "city": "Bern"}},
        {"examples": [{"city": {"b64": "Um9t"}}], "signature_name": "admit"},
        {"examples": [{}], "context": None, "signature_name": None},
        {"examples": [{"gre": 640}] * 8 + [[640]]},
        {"examples": []},
        {"examples": {}},
        {"examples": [{"gre": 640}], "context": []},
        {"examples": [{"gre": 640}], "other": 1},
        {"examples": [{"city": {"b64": "?"}}]},
        {"examples": [{"gre": float("nan")}]},
        [],
    ],
)
def test_large_bodies_of_examples_are_read_as_small_ones(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(body: bytes) -> Any:
        try:
            rows, signature = tfserving.read_examples(MODELS[0], body)
        except Malformed as error:
            return error.detail
        return repr(rows.values), signature

    monkeypatch.setattr(json_parts, "PART_BYTES", 100)
    monkeypatch.setattr(json_parts, "MANY_VALUES", 0)
    body = json.dumps(value).encode()
    assert outcome(body + b" " * predict_body.LARGE_BODY_BYTES) == outcome(body)


def test_many_examples_are_counted_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "MANY_VALUES", 5000)
    body = json.dumps({"examples": [{"city": "Rom" * 20}] * 5000 + [5]}).encode()
    with pytest.raises(TooLarge):
        tfserving.read_examples(MODELS[0], body, at_most(5000))
    with pytest.raises(Malformed):
        tfserving.read_examples(MODELS[0], body, at_most(5001))


@pytest.mark.parametrize("body", [{"instances": [{"b64": 0.5}]}, {"inputs": {"b64": [0.5]}}, {"inputs": {"b64": 0.5}}])
@pytest.mark.parametrize("signature", [{}, {"signature_name": "serving_default"}], ids=["plain", "signature"])
def test_a_column_may_have_the_name_of_coded_text(body: Any, signature: Any) -> None:
    model: Any = SimpleNamespace(columns=only_column("b64"))
    rows, _, _ = predict_body.read_predict(model, json.dumps(body | signature).encode())
    assert [list(row.values()) if isinstance(row, dict) else list(row) for row in rows.values] == [[0.5]]


def only_column(name: str) -> Columns:
    table = pa.table({name: [-1.0, 1.0]})
    column = ColumnFacts(name=name, kind="numeric", storage="float64", rows=2, distinct=2, min=-1, max=1)
    facts = DatasetFacts(name="toy", version=1, sha256="0" * 64, rows=2, columns=(column,))
    return Columns({"encoder": Encoder.fit([Feature(column=name)], table, facts).to_json()})
