"""Initial inputs: plain ones of each kind, and those that once broke something (`REGRESSIONS`)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import save

from services.predict.protocols.proto import inference_pb2, tensorflow_serving_pb2
from tests.spec.table import FEATURES

_TABLES = (
    "a,b,c\n1,2.5,x\n3,4.5,y\n5,NA,z\n",
    "a;b\n1,5;2\n2,5;3\n3,5;4\n",
    'a,b\n"x ""y""",1\n"multi\nline",2\n',
    "a\tb\n1\t2020-01-01\n2\t2020-02-01T10:00:00Z\n",
    "1,2,3\n4,5,6\n",
    "a, b, c\n1, 2, 3\n4, 5, 6\n",
    "name,name,\n1,2,3\n",
    "a,b\r\n1,true\r\n2,false\r\n",
    "a|b\n1.000,5|x\n",
)
_LINES = ('{"a": 1, "b": "x"}\n{"a": 2.5, "b": null}\n', '[{"a": 1}, {"a": [1, 2]}, {"b": true}]')
_SPECS: tuple[dict[str, Any], ...] = (
    {"dataset": "table", "target": "price", "network": [{"Dense": {"units": 4, "activation": "relu"}}, "Flatten"]},
    {
        "dataset": "table@1",
        "target": ["yes", "price"],
        "features": FEATURES,
        "network": [{"Dense": 3, "name": "left", "inputs": "features"}, {"Dropout": 0.2}],
        "training": {
            "optimizer": {"SGD": {"learning_rate": {"CosineDecay": {"initial_learning_rate": 0.1, "decay_steps": 5}}}},
            "loss": "auto",
            "metrics": ["accuracy"],
            "epochs": 5,
            "batch_size": "full",
            "early_stopping": {"monitor": "val_loss", "patience": 3},
            "restarts": 2,
        },
        "model": "m",
    },
    {
        "dataset": "table",
        "target": {"columns": ["tag_a", "tag_b"], "task": "multilabel"},
        "features": ["words"],
        "split": {"validation": 0.2, "test": 0.1},
        "network": [{"Embedding": 4}, {"LSTM": {"units": 3, "return_sequences": False}}],
    },
)
_YAML = (
    "dataset: table\ntarget: colour\nnetwork:\n  - Dense: {units: 8, activation: relu}\n  - Dropout: 0.1\n"
    "training:\n  optimizer: {Adam: {learning_rate: 0.01}}\n  epochs: 3\n",
    "&a [*a, !!python/object:x {}, <<: 1, 0x10, .inf, 1e999]\n",
)
_ROW = {f"x{place}": place / 2 for place in range(6)}
_PREDICT: tuple[tuple[int, Any], ...] = (
    (0, {"instances": [[1, 2, 3, 4, 5, 6], [0.5] * 6]}),
    (0, {"instances": [_ROW], "signature_name": "serving_default"}),
    (1, {"instances": [{"gre": 600, "gpa": 3.5, "rank": 2, "city": "Rom"}, {"gre": None, "city": {"b64": "Um9t"}}]}),
    (2, {"inputs": {"gre": [600, 700], "gpa": [3.1, 3.2], "rank": ["1", "9"], "city": ["Bern", None]}}),
    (4, {"context": {"rank": 1}, "examples": [{"gre": 600, "gpa": 3.5}], "signature_name": "admit"}),
)
_TENSOR = {"name": "features", "shape": [2, 6], "datatype": "FP64", "data": [1.5] * 12}
_INFER: tuple[tuple[int, Any], ...] = (
    (0, {"id": "1", "inputs": [_TENSOR], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}),
    (1, {"inputs": [{"name": "gre", "shape": [1, 1], "datatype": "INT64", "data": [[600]]}]}),
    (
        2,
        {
            "inputs": [{"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Rom", ""]}],
            "parameters": {"binary_data_output": True},
        },
    ),
)


def _binary_infer() -> bytes:
    """Return a body with a binary tensor; its second byte is a quarter of its JSON's length."""
    tensor = {"name": "gre", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [tensor]}).encode()
    head += b" " * (-len(head) % 4)
    return bytes([4, len(head) // 4]) + head + b"\0\0\x80?"


def _messages() -> tuple[bytes, bytes]:
    infer = inference_pb2.ModelInferRequest(model_name="toy", id="1")
    tensor = infer.inputs.add(name="features", datatype="FP32", shape=[1, 6])
    tensor.contents.fp32_contents.extend([1.0] * 6)
    predict = tensorflow_serving_pb2.PredictRequest()
    predict.model_spec.name = "toy"
    proto = predict.inputs["x0"]
    proto.dtype = 1
    proto.tensor_shape.dim.add(size=1)
    proto.float_val.append(1.0)
    return bytes([6]) + infer.SerializeToString(), bytes([9]) + predict.SerializeToString()


def _json_seed(number: int, value: Any) -> bytes:
    return bytes([number]) + json.dumps(value).encode()


_CSV_ROWS = (bytes([6]) + b"x0,x1\n1,2\n", bytes([7]) + b'gre,city\n600,"Rom"\n,\n')
_OIP_MESSAGE, _TFSERVING_MESSAGE = _messages()

SEEDS: dict[str, list[bytes]] = {
    "sniffer": [bytes([128 + at % 5]) + text.encode() for at, text in enumerate(_TABLES)],
    "spec": [_json_seed(0, one) for one in _SPECS] + [b"\1" + text.encode() for text in _YAML],
    "tfserving": [*(_json_seed(number, body) for number, body in _PREDICT), *_CSV_ROWS, _TFSERVING_MESSAGE],
    "oip": [*(_json_seed(number, body) for number, body in _INFER), _binary_infer(), _OIP_MESSAGE],
    "table": [bytes([at % 5]) + text.encode() for at, text in enumerate(_TABLES)]
    + [bytes([5 + at]) + text.encode() for at, text in enumerate(_LINES)],
    "weights": [
        save({"dense/0": np.ones((2, 3), np.float32), "dense/1": np.zeros(3, np.float16)}),
        save({"a/0": np.zeros((0, 4))}, {"made": "elsewhere"}),
    ],
}

# Inputs that fuzzing found to break a target, by target and by what went wrong.
REGRESSIONS: dict[str, dict[str, bytes]] = {name: {} for name in SEEDS}
