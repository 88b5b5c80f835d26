"""An exported script encodes every column as the encoder does, to the bit, on raw columns with gaps and new labels."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from fitserve.encoder import Encoder
from fitserve.errors import BadInput
from fitserve.exports import FORMATS, check
from fitserve.spec.feature import Feature
from tests.encoding.test_encoder import facts_for
from tests.encoding.test_keras_encoding import CASES, table
from workers.trainer.export.plain_code import variable_of
from workers.trainer.export.plain_encoding import CALLS, functions_for, inputs
from workers.trainer.export.plain_templates import HEAD

pytestmark = pytest.mark.tensorflow


def test_every_encoding_that_it_holds_is_in_code() -> None:
    assert set(CALLS) == FORMATS["code"].encodings


@pytest.mark.parametrize(("ensemble", "noise"), [(None, []), ({"members": 2}, ["/network/2/GaussianNoise"])])
def test_what_a_script_would_draw_otherwise_is_refused_by_name(ensemble: Any, noise: list[str]) -> None:
    layers = [
        {"GRU": {"units": 3, "dropout": 0.1}},
        {"Bidirectional": {"layer": {"LSTM": {"units": 2, "recurrent_dropout": 0.2}}}},
        {"GaussianNoise": {"stddev": 0.1}},
        {"Dropout": {"rate": 0.1}},
    ]
    training = {"restarts": 1, "loss": {}}
    spec = {"training": training, "target": [{"task": "binary"}], "network": layers, "ensemble": ensemble}
    with pytest.raises(BadInput) as caught:
        check("code", {"encoder": {"columns": []}, "spec": spec})
    inside = ["/network/0/GRU/dropout", "/network/1/Bidirectional/recurrent_dropout"]
    assert [problem.pointer for problem in caught.value.problems] == [*inside, *noise]


def test_columns_that_a_signature_cannot_tell_apart_are_refused_by_name() -> None:
    columns = [{"name": name} for name in ("Price (USD)", "Price [EUR]", "Price [USD]", "1st", "a")]
    check("saved-model", {"encoder": {"columns": [columns[0], columns[0], *columns[3:]]}})
    with pytest.raises(BadInput, match=r"both the column 'Price \(USD\)' and the column 'Price \[USD\]'"):
        check("saved-model", {"encoder": {"columns": columns}})


def encoded_by_code(encoder: Encoder, whole: pa.Table, folder: Path) -> dict[str, np.ndarray]:
    """Run the script's lines, on the table as pandas reads it."""
    path = folder / "data.parquet"
    pq.write_table(whole, path)
    calls = "\n".join(inputs(encoder, whole.schema))
    (read,) = re.findall(r"^data = .*", HEAD, re.MULTILINE)
    known: dict[str, Any] = {
        "os": SimpleNamespace(environ={"DATA": path}),
        "keras": keras,
        "np": np,
        "pd": pd,
        "tf": tf,
    }
    exec(f"{read}\n{functions_for(calls)}\n\n{calls}", known)
    computed: dict[str, np.ndarray] = known["inputs"]
    return computed


def assert_same(encoder: Encoder, whole: pa.Table, folder: Path) -> None:
    computed = encoded_by_code(encoder, whole, folder)
    for name, expected in encoder.encode(whole).items():
        assert computed[name].dtype == expected.dtype
        np.testing.assert_array_equal(computed[name], expected)


@pytest.mark.parametrize(("name", "encoding"), CASES, ids=str)
def test_code_computes_the_same(name: str, encoding: Any, tmp_path: Path) -> None:
    whole: pa.Table = table().select([name])
    feature = Feature.model_validate({"column": name, "encoding": encoding})
    assert_same(Encoder.fit([feature], whole.slice(0, 30), facts_for(whole)), whole, tmp_path)


# Types of a table, and the column of `facts_for` whose kind they are given.
VALUES: dict[str, tuple[str, pa.DataType, list[Any], list[Any]]] = {
    "days": ("d", pa.date32(), [date(1912, 4, 15), None, date(2024, 2, 29)], ["cyclic", "standardize", "quantile"]),
    "moments elsewhere": (
        "d",
        pa.timestamp("ms", "Europe/Berlin"),
        [datetime(1960, 3, 1, 23, 59), None, datetime(2024, 7, 1)],
        [{"cyclic": {"parts": ["day_of_month", "time_of_day"]}}, "robust", {"piecewise_linear": {"bins": 3}}],
    ),
    "decimals": ("n", pa.decimal128(9, 3), [Decimal("1.5"), None, Decimal("-2.25")], ["standardize", "log"]),
    "decimals as labels": ("c", pa.decimal128(9, 3), [Decimal("1.5"), None, Decimal(3)], ["one_hot", "index"]),
    "times as labels": ("c", pa.timestamp("us"), [datetime(2024, 7, 1, 5), None, datetime(1999, 1, 2)], ["one_hot"]),
    "floats as labels": ("c", pa.float64(), [1.0, None, 2.5], [{"hashing": {"bins": 9}}, "index"]),
    "truths as labels": ("c", pa.bool_(), [True, None, False], [{"hashing": {"bins": 9}}, "one_hot"]),
    "numbers as texts": ("t", pa.int64(), [12, None, 7], [{"counts": {"max_tokens": 4}}]),
    "empty texts": ("t", pa.string(), ["a b", "", None], [{"tf_idf": {"max_tokens": 5}}]),
    "empty labels": ("c", pa.string(), ["a", "", None], ["one_hot", "index"]),
    "nothing": ("c", pa.string(), [None, None, None], ["one_hot"]),
    "labels that are code": (
        "c",
        pa.string(),
        ["'+exit(1)+\"\\", "two\nlines # %% x", "\u2028\x85\x0b{0}%s", "a" * 60 + " b" * 60, "end\\", "nul\0"],
        ["one_hot", "index", {"hashing": {"bins": 9}}],
    ),
    "texts that are code": ("t", pa.string(), ["'+exit(1)+\" \\", "two\nlines\u2028\x85", None], [{"counts": {}}]),
    "no texts": ("t", pa.string(), [None, None, None], ["counts", "tf_idf", "sequence"]),
    "large whole numbers as labels": ("c", pa.int64(), [2**53 + 1, 2**53, -(2**63)], ["one_hot", "index"]),
    "long decimals as labels": (
        "c",
        pa.decimal128(38, 4),
        [Decimal(1234567890123456789012345678901234), Decimal("1234567890123456789012345678901.2346"), None],
        ["one_hot", "index"],
    ),
    "constant": ("n", pa.float64(), [3.0, 3.0, 3.0], ["quantile", "standardize", {"piecewise_linear": {"bins": 2}}]),
}


@pytest.mark.parametrize("values", VALUES)
def test_code_reads_every_type(values: str, tmp_path: Path) -> None:
    name, kind, cells, encodings = VALUES[values]
    whole = pa.table({name: pa.array(cells * 3, kind)})
    for encoding in encodings:
        feature = Feature.model_validate({"column": name, "encoding": encoding})
        assert_same(Encoder.fit([feature], whole, facts_for(whole)), whole, tmp_path)


def test_layers_are_variables_that_hide_nothing() -> None:
    names = ["len", "SEED", "class", "area m\u00b2", "1st", "a b", "a-b", "\ufb01", "fi", "\u540d", "2\u00bd", ""]
    variables: list[str] = []
    for name in names:
        variables.append(variable_of(name, variables))
    expected = ["len_", "SEED_", "class_", "area_m2", "_1st", "a_b", "a_b_", "fi", "fi_", "\u540d", "_21_2", "_"]
    assert variables == expected
    exec("\n".join(f"{variable} = 0" for variable in variables), {})
