"""What the rows of a request cost beside the network, in processor time: part of `make bench-serving`.

Requests are decoded, predicted and encoded as the protocols do it, without HTTP. The sides of a ratio alternate, and
the least time of each is taken, since what else runs on the machine only adds.

    python -m benchmarks.rows        the figures alone, as one JSON object
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from services.predict.catalog.loaded_model import InputRows, LoadedModel
from services.predict.protocols.oip import rest as oip
from services.predict.protocols.tfserving import rest as tfserving
from tests.predict.toy_registry import ToyModel, mixed, numeric

ROWS, ROUNDS = 1000, 60


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


def binary_request(values: Any) -> tuple[bytes, int]:
    """Return the body of a request of one binary tensor, and the length of its JSON."""
    data = values.astype("<f4").tobytes()
    tensor = {"name": "instances", "shape": list(values.shape), "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": len(data)}
    output = {"name": "y", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    return head + data, len(head)


def figures() -> dict[str, float]:
    """Return `mixed_1000_us_cell`, `warned_ratio` and `oip_binary_1000`."""
    model = loaded(mixed())
    cities = ["Rom", "Bern", None, "Ürzig"]
    rows = [{"gre": 640 + at % 100, "gpa": 3.2, "rank": 1 + at % 4, "city": cities[at % 4]} for at in range(ROWS)]
    body = json.dumps({"instances": rows}).encode()

    def predict_mixed() -> None:
        given, by_row, _ = tfserving.read_predict(model, body)
        tfserving.write_predict(model.predict(model.columns.accept(given)), by_row)

    plain = loaded(numeric())
    values = np.random.default_rng(0).uniform(-99, 99, (ROWS, 6)).astype(np.float32)
    outside = values.copy()
    outside[7, 2] = 1e4
    clean, warned = binary_request(values), binary_request(outside)

    def infer(request: tuple[bytes, int]) -> Callable[[], Any]:
        def run() -> Any:
            decoded = oip.read_infer(plain, *request)
            return oip.write_infer(plain.predict(decoded.rows), decoded)

        return run

    def bare() -> Any:
        x = ((values.astype(np.float64) - 0.5) / 2.0).astype(np.float32)
        return plain.session.run(plain.output_names, {"features": x})

    assert plain.predict(InputRows(outside.astype(np.float64))).warnings is not None
    of_mixed, of_clean, of_warned, of_bare = least_seconds(predict_mixed, infer(clean), infer(warned), bare)
    return {
        "mixed_1000_us_cell": round(of_mixed * 1e6 / (ROWS * 4), 3),
        "warned_ratio": round(of_warned / of_clean, 3),
        "oip_binary_1000": round(of_clean / of_bare, 2),
    }


if __name__ == "__main__":
    print(json.dumps(figures()))
