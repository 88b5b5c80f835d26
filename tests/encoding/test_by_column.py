"""Encoding by the row plan, by column and by value gives the same numbers, warnings and refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder
from fitserve.encoding import ENCODINGS
from fitserve.encoding.row_plan import rows_of as rows_of_input
from fitserve.errors import BadInput
from fitserve.spec.feature import Feature
from tests.encoding.test_encoder import CELLS, ENCODINGS_OF, cases, facts_for, rows_of
from tests.predict.toy_registry import pixel_encoder

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, "", " ", "?", "NA", "x", "z z", "é", "new", "True", "yes", "no", True, False, 0, 1, -0.0, 1.0, 7, "7"),
        *("1e3", "3,5", "-0", 1e9 + 1, -1e300, 1e308, 1 << 70, 10**400, math.nan, math.inf, -math.inf, 5e-324),
        *("2024-02-29T12:00:00", "29.2.2024", 1709208000, 1709208000000, "a a b", "A, b! a", "北京 x"),
        *([], [1], [1, 2], {"b64": "eA=="}, {}, [[]]),
    ]
)


def outcome(encode: Any) -> Any:
    """Arrays as bytes with their warnings, or the problems."""
    try:
        arrays, warnings = encode()
    except BadInput as error:
        return [problem.as_dict() for problem in error.problems]
    said = [[warning.to_json() for warning in row] for row in warnings]
    return {name: value.tobytes() for name, value in arrays.items()}, repr(said)


def value_by_value(encoder: Encoder, rows: list[Any]) -> tuple[dict[str, np.ndarray], list[list[Any]]]:
    """Encode with `encode_value` alone: the definition. Raises BadInput."""
    arrays = {one.name: np.zeros((len(rows), *one.shape), one.dtype) for one in encoder.inputs}
    warnings: list[list[Any]] = [[] for _ in rows]
    problems = []
    for at, row in enumerate(rows):
        try:
            for value, column in zip(encoder.positional(row, at + 1), encoder.raw_columns, strict=True):
                warnings[at] += column.encode_value(value, arrays, at)
        except BadInput as error:
            problems.extend(error.problems)
    if problems:
        raise BadInput(problems[0].detail, problems=problems[:20])
    return arrays, warnings


@settings(max_examples=100, deadline=None)
@given(case=cases(), data=st.data())
def test_columns_are_read_as_rows_are_to_the_bit(case: tuple[pa.Table, list[Feature]], data: st.DataObject) -> None:
    table, features = case
    encoder = Encoder.fit(features, table, facts_for(table))
    of_column = {name: cell[3] for name, cell in CELLS.items()} | {"d": st.just("2001-05-17T01:02:03")}
    cells = [st.one_of(of_column[name], ODD) for name in encoder.names]
    usual = st.sampled_from(rows_of(table, encoder))
    positional = data.draw(st.lists(st.one_of(usual, st.tuples(*cells).map(list)), min_size=6, max_size=30))
    named: list[Any] = [dict(zip(encoder.names, row, strict=True)) for row in positional]
    for row in data.draw(st.lists(st.sampled_from(named), max_size=2)):
        row.pop(data.draw(st.sampled_from(encoder.names)), None)
    with np.errstate(all="ignore"):
        for rows in (positional, named, [*named[1:], positional[0]]):
            one_by_one = outcome(lambda rows=rows: value_by_value(encoder, rows))
            assert outcome(lambda rows=rows: encoder.encode_one_by_one(rows)) == one_by_one
            assert outcome(lambda rows=rows: encoder.encode_rows(rows)) == one_by_one
            columns = encoder.columns_of(rows)
            assert columns is not None
            assert outcome(lambda columns=columns: encoder.encode_columns(columns)) == one_by_one


def test_every_encoding_is_in_the_cases() -> None:
    named = {
        one if isinstance(one, str) else next(iter(one))
        for several in ENCODINGS_OF.values()
        for choice in several
        for one in (choice if isinstance(choice, list) else [choice])
    }
    assert named == set(ENCODINGS)


def test_warnings_are_counted_at_once_and_made_when_read() -> None:
    table = pa.table({"n": [1.1, 2.0, 3.3] * 3, "c": ["x", "y", "x"] * 3})
    encoder = Encoder.fit([Feature(column="n"), Feature(column="c")], table, facts_for(table))
    rows = [[2.0, "x"]] * 1000 + [[9.0, "q"], [None, "x"]]
    _, warnings = encoder.encode_rows(rows)
    assert warnings.codes == {"out_of_range": 1, "unknown_category": 1, "missing_value": 1}
    assert [(row, warning.code) for row, warning in warnings.first(2)] == [
        (1000, "out_of_range"),
        (1000, "unknown_category"),
    ]
    assert warnings.total == 3
    assert warnings.warned_rows().tolist() == [1000, 1001]


def test_a_training_bound_as_float32_is_no_warning() -> None:
    low, high = 0.1, 1 / 3 + 1e-9
    table = pa.table({"n": [low, 0.2, high]})
    encoder = Encoder.fit([Feature(column="n")], table, facts_for(table))
    single = [float(np.float32(low)), float(np.float32(high))]
    assert min(single[0] - low, high - single[1]) < 0 or single[0] > low
    assert not encoder.encode_rows([[value] for value in (*single, low, high)])[1].codes
    assert encoder.encode_rows([[high + 1e-3]])[1].codes


@pytest.mark.parametrize("odd", [False, True])
def test_a_matrix_is_written_into_kept_memory_to_the_bit(odd: bool) -> None:
    names = [f"pixel{place}" for place in range(200)]
    table = pa.table({name: pa.array([0, 1 if odd and name == "pixel7" else 255], pa.int64()) for name in names})
    columns = []
    for name in names:
        top = max(table[name].to_pylist())
        kind = {"kind": "boolean", "labels": ("0", "1")} if top == 1 else {"kind": "numeric"}
        known = {"name": name, "storage": "int64", "rows": 2, "distinct": 2, "min": 0, "max": top}
        columns.append(ColumnFacts.model_validate(known | kind))
    facts = DatasetFacts(name="image", version=1, sha256="0" * 64, rows=2, columns=tuple(columns))
    encoder = Encoder.fit([Feature(column=name) for name in names], table, facts)
    plain = encoder.plain_numbers
    assert plain is not None
    assert bool(plain.odd) == odd
    values = np.array([table[name].to_pylist() for name in names], np.float64).T
    kept = np.full((len(values), plain.width), 7, np.float32)
    assert plain.write_clean(values, kept, rows_of_input(kept))
    expected = plain.encode(values)
    assert expected is not None
    assert kept.tobytes() == expected.tobytes()
    values[1, 5] = 1e9
    assert not plain.write_clean(values, kept, rows_of_input(kept))


def test_an_odd_column_among_a_few_numbers_is_read_as_a_label() -> None:
    """A table of 20 numbers and a flag: its single rows are written in plain Python."""
    encoder = pixel_encoder(20, flag=7)
    assert encoder.plain_numbers is not None
    assert encoder.plain_numbers.odd
    for value in (0, 1, 1.0, 5, 0.5, 1e15, 1e16, 1e300):
        row = [1.0] * 7 + [value] + [1.0] * 12
        assert outcome(lambda row=row: encoder.encode_rows([row])) == outcome(
            lambda row=row: value_by_value(encoder, [row])
        )
