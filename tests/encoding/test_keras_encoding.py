"""The Keras half of every encoding computes what the encoder computes, on raw columns with gaps and new labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest

from fitserve.encoder import Encoder
from fitserve.encoding import ENCODINGS
from fitserve.spec.feature import Feature
from tests.encoding.test_encoder import CELLS, ENCODINGS_OF, facts_for
from workers.trainer.export.export import raw_values
from workers.trainer.export.keras_encoding import KerasEncoding, encoded, raw_inputs

pytestmark = pytest.mark.tensorflow
CASES = [(name, encoding) for name, encodings in ENCODINGS_OF.items() for encoding in encodings]


def table(rows: int = 40) -> pa.Table:
    """Every third value is missing; some labels and tokens are in the last rows alone."""
    random = np.random.default_rng(0)
    values: dict[str, list[Any]] = {
        "n": (random.normal(size=rows) * 1e4).tolist(),
        "i": random.integers(-9, 9, rows).tolist(),
        "c": [*random.choice(["x", "é", "z z"], rows - 2), "new", "北京"],
        "b": (random.random(rows) < 0.5).tolist(),
        "yn": random.choice(["yes", "no"], rows).tolist(),
        "t": [
            *(" ".join(random.choice(["Good", "bad,", "ugly!", "the"], 4)) for _ in range(rows - 2)),
            "北京 A!",
            "the",
        ],
        "d": [int(seconds) for seconds in random.uniform(-3e15, 4e15, rows)],
    }
    gaps = {
        name: [None if at % 3 == 0 else value for at, value in enumerate(column)] for name, column in values.items()
    }
    return pa.table({name: pa.array(column, CELLS[name][0]) for name, column in gaps.items()})


def test_every_encoding_has_a_keras_half() -> None:
    assert set(KerasEncoding.by_name) == set(ENCODINGS)


@pytest.mark.parametrize(("name", "encoding"), CASES, ids=str)
def test_keras_computes_the_same(name: str, encoding: Any) -> None:
    whole = table().select([name])
    feature = Feature.model_validate({"column": name, "encoding": encoding})
    encoder = Encoder.fit([feature], whole.slice(0, 30), facts_for(whole))
    compare(encoder, whole)


def test_columns_of_one_input_stand_where_the_encoder_has_them() -> None:
    whole = table()
    dense = [
        "log",
        "one_hot",
        {"hashing": {"bins": 5}},
        {"boolean": {"indicator": True}},
        "boolean",
        "counts",
        "cyclic",
    ]
    features = [
        Feature.model_validate({"column": name, "encoding": encoding})
        for name, encoding in zip(whole.column_names, dense, strict=True)
    ]
    compare(Encoder.fit(features, whole.slice(0, 30), facts_for(whole)), whole)


def compare(encoder: Encoder, rows: pa.Table) -> None:
    raw = raw_inputs(encoder.columns)
    model = keras.Model({tensor.name: tensor for tensor in raw.values()}, encoded(encoder, raw))
    values = {name: keras.ops.convert_to_tensor(value) for name, value in raw_values(encoder, rows).items()}
    computed, expected = model(values, training=False), encoder.encode(rows)
    assert set(computed) == set(expected)
    for name, array in expected.items():
        assert computed[name].dtype == array.dtype
        np.testing.assert_allclose(computed[name].numpy(), array, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "encoding"), [("t", "multi_hot"), ("t", "tf_idf"), ("t", "sequence"), ("c", "one_hot"), ("c", "index")]
)
def test_training_rows_may_have_no_token_and_no_label(name: str, encoding: str) -> None:
    whole = pa.table({name: pa.array([None] * 20 + ["a word two words", "b"])})
    feature = Feature.model_validate({"column": name, "encoding": encoding})
    compare(Encoder.fit([feature], whole.slice(0, 20), facts_for(whole)), whole)


@pytest.mark.parametrize("encoding", ["robust", {"piecewise_linear": {"bins": 6}}, "quantile", "periodic"], ids=str)
def test_small_spreads_on_large_offsets_are_kept(encoding: Any) -> None:
    values = np.random.default_rng(0).uniform(1.7e9, 1.7e9 + 1e-1, 40)
    whole = pa.table({"n": pa.array(values)})
    feature = Feature.model_validate({"column": "n", "encoding": encoding})
    compare(Encoder.fit([feature], whole, facts_for(whole)), whole)
