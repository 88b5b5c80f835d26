"""The encoder: rows and tables give bit-identical numbers, learnt from training rows only, with a known width."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder
from fitserve.encoding import Encoding
from fitserve.encoding.hashing import hash_bin, siphash24
from fitserve.encoding.text import tokenize
from fitserve.errors import BadInput
from fitserve.parsing import ColumnFormat
from fitserve.spec.feature import Defaults, Feature, default_features, encoded_inputs, resolve_features

NOON = datetime(2024, 2, 29, 12)
CELLS: dict[str, tuple[pa.DataType, str, str, st.SearchStrategy[Any]]] = {
    "n": (pa.float64(), "numeric", "float64", st.floats(-1e9, 1e9)),
    "i": (pa.int64(), "numeric", "int64", st.integers(-1000, 1000)),
    "c": (pa.string(), "categorical", "string", st.sampled_from(["x", "y", "é", "北京", "z z"])),
    "b": (pa.bool_(), "boolean", "bool", st.booleans()),
    "yn": (pa.string(), "boolean", "string", st.sampled_from(["yes", "no"])),
    "t": (pa.string(), "text", "string", st.text(max_size=20).filter(bool)),
    "d": (
        pa.timestamp("us"),
        "datetime",
        "timestamp",
        st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)),
    ),
}
ENCODINGS_OF: dict[str, list[Any]] = {
    "n": [
        *("standardize", "min_max", "log", "pass_through", {"standardize": {"indicator": True, "missing": "median"}}),
        *("robust", {"robust": {"indicator": True}}, {"piecewise_linear": {"bins": 6}}, "quantile", "periodic"),
        {"piecewise_linear": {"bins": 3, "indicator": True}},
        {"quantile": {"quantiles": 5, "indicator": True}},
        {"periodic": {"frequencies": 2, "indicator": True}},
    ],
    "i": [
        *("standardize", "one_hot", "index", {"hashing": {"bins": 7}}, "robust", {"piecewise_linear": {"bins": 4}}),
        *(["robust", {"piecewise_linear": {"bins": 5, "indicator": False}}], ["one_hot", "standardize", "quantile"]),
    ],
    "c": ["one_hot", "index", {"hashing": {"bins": 5, "output": "index"}}, {"one_hot": {"max_categories": 2}}],
    "b": ["boolean", "one_hot", {"boolean": {"indicator": True}}],
    "yn": ["boolean", "index"],
    "t": [
        {"multi_hot": {"max_tokens": 8}},
        {"counts": {"max_tokens": 8}},
        {"tf_idf": {"max_tokens": 8}},
        {"sequence": {"max_tokens": 8, "length": 5}},
        {"multi_hot": {"max_tokens": 9, "tokens": "character"}},
    ],
    "d": [
        "cyclic",
        "standardize",
        ["cyclic", {"piecewise_linear": {"bins": 9}}, "robust"],
        {"cyclic": {"parts": ["day_of_month", "time_of_year", "weekday", "time_of_day"]}},
    ],
}


def facts_for(table: pa.Table) -> DatasetFacts:
    columns = []
    for name in table.column_names:
        _, kind, storage, _ = CELLS[name]
        column = table.column(name)
        distinct = column.drop_null().unique().to_pylist()
        labels = {"b": ("false", "true"), "yn": ("no", "yes")}.get(name)
        columns.append(
            ColumnFacts.model_validate(
                {
                    "name": name,
                    "kind": kind,
                    "storage": storage,
                    "rows": table.num_rows,
                    "missing": column.null_count,
                    "distinct": len(distinct),
                    "labels": labels,
                    "min": 0.0,
                    "max": 1e9,
                    "max_tokens": 5,
                }
            )
        )
    return DatasetFacts(name="t", version=1, sha256="", rows=table.num_rows, columns=tuple(columns))


@st.composite
def cases(draw: st.DrawFn) -> tuple[pa.Table, list[Feature]]:
    names = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4, unique=True))
    rows = draw(st.integers(2, 12))
    columns = {}
    for name in names:
        arrow, _, _, values = CELLS[name]
        columns[name] = pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), arrow)
    features = [
        Feature.model_validate(
            {"column": name, "encoding": draw(st.sampled_from(ENCODINGS_OF[name])), "input": f"in_{name}"}
        )
        for name in names
    ]
    return pa.table(columns), features


def rows_of(table: pa.Table, encoder: Encoder) -> list[list[Any]]:
    cells = [table.column(name).to_pylist() for name in encoder.names]
    cells = [[v.isoformat() if isinstance(v, datetime) else v for v in column] for column in cells]
    return [list(row) for row in zip(*cells, strict=True)]


@settings(max_examples=150, deadline=None)
@given(case=cases(), seed=st.integers(0, 100))
def test_rows_and_tables_are_encoded_alike_to_the_bit(case: tuple[pa.Table, list[Feature]], seed: int) -> None:
    table, features = case
    facts = facts_for(table)
    training = np.random.default_rng(seed).permutation(table.num_rows)[: max(1, table.num_rows // 2)]
    fitted = Encoder.fit(features, table.take(training), facts)
    encoder = Encoder.from_json(json.loads(json.dumps(fitted.to_json())))
    assert encoder == fitted
    bulk = encoder.encode(table)
    rows = rows_of(table, encoder)
    together, warnings = encoder.encode_rows(rows)
    one_by_one = [encoder.encode_rows([dict(zip(encoder.names, row, strict=True))])[0] for row in rows]
    assert len(warnings) == len(rows)
    for one in encoded_inputs(features, facts):
        assert bulk[one.name].shape == (table.num_rows, *one.shape)
        assert bulk[one.name].dtype == one.dtype
        assert bulk[one.name].tobytes() == together[one.name].tobytes()
        assert bulk[one.name].tobytes() == np.concatenate([row[one.name] for row in one_by_one]).tobytes()
        assert one.cardinality is None or bulk[one.name].max() < one.cardinality


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_a_resolved_feature_is_a_fixed_point(case: tuple[pa.Table, list[Feature]]) -> None:
    table, features = case
    facts = facts_for(table)
    for feature in features:
        for resolved in resolve_features(feature, facts.column(feature.column)):
            again = Feature.model_validate(json.loads(resolved.model_dump_json()))
            assert resolve_features(again, facts.column(feature.column)) == [resolved]


def fitted_on(name: str, values: list[Any], encoding: Any, **facts: Any) -> Encoder:
    table = pa.table({name: pa.array(values, CELLS[name][0])})
    known = facts_for(table)
    known = known.model_copy(update={"columns": (known.columns[0].model_copy(update=facts),)})
    return Encoder.fit([Feature.model_validate({"column": name, "encoding": encoding})], table, known)


def test_encodings_compute_what_their_names_say() -> None:
    assert fitted_on("n", [1.0, 3.0], "standardize").encode_rows([[1.0]])[0]["features"].tolist() == [[-1.0]]
    assert fitted_on("n", [1.0, 3.0], "min_max").encode_rows([[2.0]])[0]["features"].tolist() == [[0.5]]
    log = fitted_on("n", [0.0, 3.0], "log").encode_rows([[0.0]])[0]["features"][0, 0]
    assert log == np.float32((0 - math.log(4) / 2) / (math.log(4) / 2))
    assert fitted_on("n", [5.0, 5.0], "standardize").encode_rows([[5.0]])[0]["features"].tolist() == [[0.0]]
    hot = fitted_on("c", ["x", "y", None], "one_hot", missing=1)
    assert hot.encode_rows([["x"], ["q"], [None]])[0]["features"].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    cyclic = fitted_on("d", [NOON], {"cyclic": {"parts": ["time_of_day", "weekday", "day_of_month"]}})
    found = cyclic.encode_rows([[NOON.isoformat()], [NOON.timestamp() + 0.0]])[0]["features"]
    thursday, last = 2 * math.pi * 3 / 7, 2 * math.pi * 28 / 31
    expected = [0, -1, math.sin(thursday), math.cos(thursday), math.sin(last), math.cos(last)]
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_day_of_month_is_the_calendars() -> None:
    days = [datetime(1899, 12, 25) + timedelta(days=at) for at in range(0, 80_000, 13)]
    encoder = fitted_on("d", [NOON], {"cyclic": {"parts": ["day_of_month"]}})
    found = encoder.encode(pa.table({"d": pa.array(days, pa.timestamp("us"))}))["features"]
    angles = np.array([2 * np.pi * (day.day - 1) / 31 for day in days])
    assert np.allclose(found, np.stack([np.sin(angles), np.cos(angles)], axis=1), atol=1e-6)


def test_warnings_and_refusals_name_row_and_column() -> None:
    encoder = fitted_on("c", ["x", "y"], "one_hot")
    _, warned = encoder.encode_rows([["x"], ["q"], [None]])
    assert [[note.code for note in notes] for notes in warned] == [[], ["unknown_category"], ["missing_value"]]
    strict = fitted_on("c", ["x", "y"], {"one_hot": {"unknown": "refuse", "missing": "refuse"}})
    with pytest.raises(BadInput) as caught:
        strict.encode_rows([["x"], ["q"], [None]])
    assert [(p.row, p.column, p.received) for p in caught.value.problems] == [(2, "c", "q"), (3, "c", None)]
    numbers = fitted_on("n", [1.0, 2.0], "standardize")
    assert numbers.encode_rows([[9.0]])[1][0][0].code == "out_of_range"
    for bad in ("one", "1,5", True, [1], {}, 10**400, float("inf")):
        with pytest.raises(BadInput) as caught:
            numbers.encode_rows([[1.5], [bad]])
        assert (caught.value.problems[0].row, caught.value.problems[0].column) == (2, "n")


def test_rows_of_the_wrong_shape_are_refused() -> None:
    encoder = fitted_on("n", [1.0, 2.0], "standardize")
    for bad in ([1.0, 2.0], {"m": 1.0}, {"n": 1.0, "m": 2.0}):
        with pytest.raises(BadInput):
            encoder.encode_rows([bad])
    assert encoder.encode_rows([1.5])[0]["features"].shape == (1, 1)
    assert encoder.encode_rows([{}])[1][0][0].code == "missing_value"


def test_fit_reads_training_rows_alone() -> None:
    table = pa.table({"n": [0.0, 2.0, 1e6], "c": ["x", "y", "z"]})
    facts = facts_for(table)
    features = [Feature(column="n"), Feature(column="c")]
    encoder = Encoder.fit(features, table.slice(0, 2), facts)
    assert encoder.columns[0].fitted["center"] == 1.0
    assert encoder.columns[1].fitted["labels"] == ["x", "y"]
    assert encoder.encode(table)["features"].shape == (3, 1 + 4)  # z has a place, and is unknown


def test_defaults_follow_the_kind() -> None:
    facts = ColumnFacts(name="c", kind="categorical", storage="string", rows=10_000, distinct=5_000)
    assert encodings_of(default_features(facts)) == ["hashing"]
    assert encodings_of(default_features(facts, Defaults(1))) == ["index"]
    assert default_features(facts.model_copy(update={"kind": "ignored"})) == []
    assert default_features(facts.model_copy(update={"missing": 10_000})) == []
    few = facts.model_copy(update={"distinct": 100})
    assert encodings_of(default_features(few)) == encodings_of(default_features(few, Defaults(1))) == ["one_hot"]


def encodings_of(features: list[Feature]) -> list[str]:
    return [feature.encoding.type for feature in features if isinstance(feature.encoding, Encoding)]


@pytest.mark.parametrize(
    ("rows", "distinct", "columns", "bins"),
    [(10_000, 5_000, 3, 32), (10_000, 5, 3, 4), (800, 700, 3, 10), (10_000, 5_000, 48, 4), (10_000, 5_000, 97, None)],
)
def test_bins_of_a_numeric_column_follow_rows_values_and_columns(
    rows: int, distinct: int, columns: int, bins: int | None
) -> None:
    facts = ColumnFacts(name="n", kind="numeric", storage="float64", rows=rows, distinct=distinct, missing=1)
    features = default_features(facts, Defaults(columns))
    assert encodings_of(features) == ["robust"] + ["piecewise_linear"] * (bins is not None)
    assert encoded_inputs(features, DatasetFacts(name="d", version=1, sha256="", rows=rows, columns=(facts,)))[
        0
    ].shape == (2 + (bins or 0),)
    assert encodings_of(default_features(facts)) == ["standardize"]


def test_robust_is_bounded_and_piecewise_linear_fills_the_bins_below() -> None:
    values = [*range(1, 101), None]
    encoder = fitted_on("n", values, ["robust", {"piecewise_linear": {"bins": 4, "indicator": False}}], distinct=100)
    found, warnings = encoder.encode_rows([[50.5], [1], [100.0], [1e300], [None], [-5.0]])
    robust, pieces = found["features"][:, :2], found["features"][:, 2:]
    assert robust[:3, 0] == pytest.approx([0, -1 / math.sqrt(1 + 1 / 9), 1 / math.sqrt(1 + 1 / 9)], abs=1e-6)
    assert robust[3:].tolist() == [[3, 0], [0, 1], robust[5].tolist()]
    assert pieces[0] == pytest.approx([1, 1, 0.02, 0], abs=0.03)
    assert pieces[1:].tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert [[note.code for note in notes] for notes in warnings] == [[], [], [], ["out_of_range"], [], ["out_of_range"]]


def test_bins_tell_the_few_other_numbers_of_a_column_of_zeros_apart() -> None:
    values = [0.0] * 900 + [float(value) for value in range(1, 101)]
    encoder = fitted_on("n", values, {"piecewise_linear": {"bins": 8}}, distinct=101)
    edges = encoder.columns[0].fitted["edges"]
    assert len(edges) == 9
    assert sum(edge > 0 for edge in edges) == 8
    found = encoder.encode_rows([[0.0], [5.0], [20.0], [90.0]])[0]["features"].sum(axis=1)
    assert 0 == found[0] < found[1] < found[2] < found[3]


@pytest.mark.parametrize(
    "values",
    [[1.7e308, -1.7e308, 0.0], [-1.7e308, *range(9), 1.7e308], [0.0] * 9 + [5e-324], [3.0, 3.0], [None, None]],
    ids=str,
)
@pytest.mark.parametrize("encoding", ["robust", {"piecewise_linear": {"bins": 4}}, "quantile", "periodic"], ids=str)
def test_encodings_of_extreme_columns_are_finite(values: list[Any], encoding: Any) -> None:
    encoder = fitted_on("n", values, encoding)
    rows = [[1.7e308], [-1.7e308], [0.0], [5e-324], [None]]
    found, _ = encoder.encode_rows(rows)
    table = encoder.encode(pa.table({"n": pa.array([row[0] for row in rows], pa.float64())}))
    assert np.isfinite(found["features"]).all()
    assert found["features"].tobytes() == table["features"].tobytes()


def test_a_column_of_several_encodings_is_one_column_of_a_row() -> None:
    encoder = fitted_on("i", [1, 2, 3, 3], ["one_hot", "robust", "index"])
    assert encoder.names == ("i",)
    assert [one.name for one in encoder.inputs] == ["features", "i"]
    assert encoder.to_json()["format"] == 2
    by_place, by_name = encoder.encode_rows([[3]])[0], encoder.encode_rows([{"i": 3}])[0]
    assert by_place["i"].tolist() == by_name["i"].tolist() == [[4]]
    assert encoder.leading[0].datatype == "FP64"
    assert [note.code for note in encoder.encode_rows([[9]])[1][0]] == ["unknown_category", "out_of_range"]
    assert encoder.encode_rows([{}])[1] == [[]]  # the index of a missing value tells it
    assert encoder.baseline_row({}) == [2.5]


@pytest.mark.parametrize("encodings", [["robust", "piecewise_linear"], ["robust"], ["quantile", "standardize", "log"]])
def test_the_fast_path_of_numbers_gives_the_same_bits(encodings: list[str]) -> None:
    random = np.random.default_rng(0)
    table = pa.table({"n": random.normal(size=800), "i": random.integers(-9, 9, 800)})
    features = [Feature.model_validate({name: encodings}) for name in table.column_names]
    facts = facts_for(table)
    encoder = Encoder.fit(features, table, facts)
    plain = encoder.plain_numbers
    assert plain is not None
    values = np.stack([table.column(name).to_numpy().astype(float) for name in encoder.names], axis=1)
    expected = encoder.encode(table)["features"]
    assert plain.encode(values).tobytes() == expected.tobytes()
    few = plain.encode_few(values[:20].ravel().tolist())
    assert few is not None
    assert few.tobytes() == expected[:20].tobytes()
    assert plain.encode_few([math.nan, 0.0]) is None
    assert plain.encode_few([1e9, 0.0]) is None


@pytest.mark.parametrize("encodings", [["standardize"], ["robust", "piecewise_linear"], ["one_hot"]])
def test_a_number_that_stands_for_a_missing_value_is_one_in_every_row(encodings: list[str]) -> None:
    table = pa.table({"i": [1, 2, None, 4, 5] * 20})
    facts = facts_for(table)
    column = facts.columns[0].model_copy(update={"format": ColumnFormat(decimal=".", also_missing=("-9",))})
    features = [Feature.model_validate({"i": encodings})]
    encoder = Encoder.fit(features, table, facts.model_copy(update={"columns": (column,)}))
    encoder = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    expected, _ = encoder.encode_rows([[None], [4]])
    for number in (-9, -9.0, "-9", "-9.0"):
        assert encoder.encode_rows([[number], [4]])[0]["features"].tobytes() == expected["features"].tobytes()
    by_column = encoder.encode_columns([np.array([-9.0, 4.0])])[0]
    assert by_column["features"].tobytes() == expected["features"].tobytes()
    assert encoder.encode(pa.table({"i": [-9, 4]}))["features"].tobytes() == expected["features"].tobytes()


def test_hashes_and_tokens_are_those_of_keras() -> None:
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    assert siphash24(bytes(range(15)), key) == 0xA129CA6149BE45E5  # the paper's test vector
    words = ["", "a", "hello world", "北京", "x" * 20, "12345678"]
    assert [hash_bin(word, 64, (133, 137)) for word in words] == [0, 33, 42, 35, 40, 6]  # keras.layers.Hashing 3.15
    assert tokenize("Hello, WORLD's É é\u00a0x", "whitespace") == ["hello", "worlds", "É", "é\u00a0x"]
    assert tokenize("北京 A京!", "character") == ["北", "京", " ", "a", "京"]
