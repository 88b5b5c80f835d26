"""The ONNX form of every supported encoding computes what the encoder computes, on raw columns with gaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from onnx import TensorProto, helper

from fitserve.artifacts import onnx_session
from fitserve.encoder import Encoder
from fitserve.exports import FORMATS
from fitserve.spec.feature import Feature
from tests.encoding.test_encoder import facts_for
from tests.encoding.test_keras_encoding import CASES, table
from tests.predict.toy_registry import THREE, mixed
from workers.trainer.export import mlflow_model
from workers.trainer.export.export import raw_values
from workers.trainer.export.keras_encoding import input_names
from workers.trainer.export.raw_graph import RawEncoding, with_preprocessing

pytestmark = pytest.mark.tensorflow
HELD = FORMATS["onnx-raw"].encodings or frozenset()


def name_of(encoding: Any) -> str:
    return encoding if isinstance(encoding, str) else str(next(iter(encoding)))


def identity_of(encoder: Encoder) -> onnx.ModelProto:
    """Return a serving graph that answers its inputs."""
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    inputs = [helper.make_tensor_value_info(o.name, types[o.dtype], ["n", *o.shape]) for o in encoder.inputs]
    outputs = [helper.make_tensor_value_info(f"y_{o.name}", types[o.dtype], ["n", *o.shape]) for o in encoder.inputs]
    nodes = [helper.make_node("Identity", [o.name], [f"y_{o.name}"]) for o in encoder.inputs]
    graph = helper.make_graph(nodes, "identity", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_every_encoding_that_it_holds_has_an_onnx_half() -> None:
    assert set(RawEncoding.by_name) == HELD


@pytest.mark.parametrize(
    ("name", "encoding"), [case for case in CASES if name_of(case[1]) in HELD], ids=lambda case: str(case)
)
def test_onnx_computes_the_same(name: str, encoding: Any) -> None:
    whole: pa.Table = table().select([name])
    feature = Feature.model_validate({"column": name, "encoding": encoding})
    encoder = Encoder.fit([feature], whole.slice(0, 30), facts_for(whole))
    model = with_preprocessing(identity_of(encoder), encoder, input_names(encoder.columns))
    session = onnx_session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    computed = dict(zip(names, session.run(names, raw_values(encoder, whole)), strict=True))
    for one, expected in encoder.encode(whole).items():
        assert computed[f"y_{one}"].dtype == expected.dtype
        np.testing.assert_allclose(computed[f"y_{one}"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outputs", [None, THREE], ids=["one", "three"])
def test_an_mlflow_model_reads_rows_as_the_service_does(tmp_path: Path, outputs: Any) -> None:
    toy = mixed(outputs)
    mlflow_model.write(tmp_path, onnx.load_from_string(toy.onnx), toy.encoder, 3)
    rows = [
        {"gre": 700, "gpa": 3, "rank": 1, "city": "Rom"},
        {"gre": None, "gpa": 3.1, "rank": "3", "city": "nowhere"},
        {"gre": "500.5", "gpa": float("nan"), "rank": 4.0, "city": None},
    ]
    plain = [{**row, "gre": None if row["gre"] is None else float(row["gre"])} for row in rows]
    expected = toy.answer(plain)
    for name, answer in mlflow_model.predictor(tmp_path, pd.DataFrame(rows))({}).items():
        np.testing.assert_allclose(answer, expected[name], rtol=1e-6, atol=1e-7)
    described = yaml.safe_load((tmp_path / "MLmodel").read_text())
    loaded = described["flavors"]["python_function"]
    assert (tmp_path / loaded["code"] / f"{loaded['loader_module']}.py").exists()
    named = [column["name"] for column in json.loads(described["signature"]["inputs"])]
    assert named == ["gre", "gpa", "rank", "city"]
    for row, says in (({"gre": "much"}, "'much' cannot be read"), ({}, "no column")):
        with pytest.raises(ValueError, match=says):
            mlflow_model.predictor(tmp_path, pd.DataFrame([{**row, "gpa": 1, "rank": 1, "city": ""}]))({})
