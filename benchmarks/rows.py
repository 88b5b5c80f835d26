"""Processor time of a request's rows in addition to the network: part of `make bench-serving`.

Requests are decoded, predicted and encoded as the protocols do it, without HTTP. The sides of a ratio alternate, and
the least time of each is taken, since what else runs on the machine only adds.

    python -m benchmarks.rows        the figures alone, as one JSON object, after training the Titanic's default model
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.default_models import DATA, default_model
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.protocols.oip import inference as oip
from services.predict.protocols.tfserving import rest as tfserving
from services.predict.protocols.tfserving.predict_body import read_predict
from tests.predict.toy_registry import ToyModel, mixed, numeric, pixel_encoder

ROWS, ROUNDS = 1000, 60
MANY = 20  # repetitions of work that is too short for the clock


def loaded(toy: ToyModel) -> LoadedModel:
    return LoadedModel("toy", 1, None, "0" * 64, toy.manifest, toy.onnx)


def least_seconds(*sides: Callable[[], Any]) -> list[float]:
    """Return the least processor time of each side, alternating."""
    least = [float("inf")] * len(sides)
    for _ in range(ROUNDS):
        for place, side in enumerate(sides):
            started = time.process_time()
            side()
            least[place] = min(least[place], time.process_time() - started)
    return least


def several(side: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that repeats short work MANY times."""

    def run() -> None:
        for _ in range(MANY):
            side()

    return run


def binary_request(values: Any, output: str = "y") -> tuple[bytes, int]:
    """Return the body of a request of one binary tensor, and the length of its JSON."""
    data = values.astype("<f4").tobytes()
    tensor = {"name": "instances", "shape": list(values.shape), "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": len(data)}
    asked = {"name": output, "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [asked]}).encode()
    return head + data, len(head)


def image() -> ToyModel:
    """Return a convolution over 28 x 28 pixels, of which one is black or white in all training rows: a boolean."""
    random = np.random.default_rng(0)
    weights = {"k": random.normal(0, 0.3, (8, 1, 3, 3)), "w": random.normal(0, 0.03, (1352, 10)), "b": np.zeros(10)}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    constants.append(numpy_helper.from_array(np.array([-1, 1, 28, 28], np.int64), "shape"))
    nodes = [
        helper.make_node("Reshape", ["features", "shape"], ["x"]),
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["z"]),
        helper.make_node("Softmax", ["z"], ["digit"]),
    ]
    made = helper.make_graph(
        nodes,
        "image",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 784])],
        [helper.make_tensor_value_info("digit", TensorProto.FLOAT, ["batch", 10])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    outputs = [{"name": "digit", "task": "multiclass", "labels": [str(one) for one in range(10)], "units": 10}]
    return ToyModel(pixel_encoder(784, flag=12), model.SerializeToString(), outputs)


def figures() -> dict[str, float]:
    """Return `mixed_1000_us_cell`, `warned_ratio`, `oip_binary_1000`, `mnist_ratio` and `mnist_binary_ratio`."""
    model = loaded(mixed())
    cities = ["Rom", "Bern", None, "Ürzig"]
    rows = [{"gre": 640 + at % 100, "gpa": 3.2, "rank": 1 + at % 4, "city": cities[at % 4]} for at in range(ROWS)]
    body = json.dumps({"instances": rows}).encode()

    def predict_mixed() -> None:
        given, by_row, _ = read_predict(model, body)
        tfserving.write_predict(model.predict(model.columns.without_unused_columns(given)), by_row)

    plain = loaded(numeric())
    values = np.random.default_rng(0).uniform(-99, 99, (ROWS, 6)).astype(np.float32)
    outside = values.copy()
    outside[7, 2] = 1e4
    clean, warned = binary_request(values), binary_request(outside)

    def infer(request: tuple[bytes, int]) -> Callable[[], Any]:
        def run() -> Any:
            decoded = oip.read_infer(plain, *request)
            return oip.write_infer(plain.predict(decoded.rows), decoded, {})

        return run

    def bare() -> Any:
        x = ((values.astype(np.float64) - 0.5) / 2.0).astype(np.float32)
        return plain.session.run(plain.output_names, {"features": x})

    assert plain.predict(InputRows(outside.astype(np.float64))).warnings is not None
    pixels = np.random.default_rng(1).choice([0, 0, 0, 64, 255], (1, 784)).astype(np.float32)
    pixels[0, 12] = 1
    digits = loaded(image())
    listed, binary = json.dumps({"instances": pixels.astype(int).tolist()}).encode(), binary_request(pixels, "digit")

    def predict_image() -> Any:
        given, by_row, _ = read_predict(digits, listed)
        return tfserving.write_predict(digits.predict(digits.columns.without_unused_columns(given)), by_row)

    def infer_image() -> Any:
        decoded = oip.read_infer(digits, *binary)
        return oip.write_infer(digits.predict(digits.columns.without_unused_columns(decoded.rows)), decoded, {})

    feeds, _ = digits.columns.encode(InputRows(pixels.tolist()))

    def run_image() -> Any:
        return digits.session.run(digits.output_names, feeds)

    of_mixed, of_clean, of_warned, of_bare = least_seconds(predict_mixed, infer(clean), infer(warned), bare)
    of_image, of_binary_image, of_run = least_seconds(
        *(several(one) for one in (predict_image, infer_image, run_image))
    )
    return {
        "mixed_1000_us_cell": round(of_mixed * 1e6 / (ROWS * 4), 3),
        "warned_ratio": round(of_warned / of_clean, 3),
        "oip_binary_1000": round(of_clean / of_bare, 2),
        "mnist_ratio": round(of_image / of_run, 2),
        "mnist_binary_ratio": round(of_binary_image / of_run, 2),
        "mnist_run_us": round(of_run * 1e6 / MANY, 1),
    }


def one_row(toy: ToyModel, row: dict[str, Any]) -> dict[str, float]:
    """Return the microseconds of a single named row: `row_us` from values to answer, `row_run_us` of the network."""
    model = loaded(toy)
    model.predict(InputRows([row]))
    buffer = model.take_buffer()
    if buffer is None:
        raise RuntimeError("The model has no row buffer.")
    model.return_buffer(buffer)
    whole, run = least_seconds(several(lambda: model.predict(InputRows([row]))), several(lambda: buffer.infer(1)))
    return {"row_us": round(whole * 1e6 / MANY, 1), "row_run_us": round(run * 1e6 / MANY, 1)}


if __name__ == "__main__":
    titanic = default_model(DATA / "titanic.csv", "Survived")
    print(json.dumps({**figures(), **one_row(*titanic)}))
