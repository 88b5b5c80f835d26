"""A served toy that knows its training distribution, and requests that go the fast lane."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from fitserve import drift
from fitserve.encoding.distribution import numeric_distribution
from tests.predict.toy_registry import NUMBERS, RunningService, ToyModel, numeric

RNG = np.random.default_rng(7)
TRAINING = RNG.normal(0, 3, (20_000, len(NUMBERS)))


@dataclass(frozen=True)
class Known(ToyModel):
    """A toy with the distributions that a trainer would have written down."""

    extra: Any = None

    @property
    def manifest(self) -> dict[str, Any]:
        return {**super().manifest, **self.extra}


def toy_with_distributions() -> Known:
    """The six numbers' network, trained (so it says) on standard normals times three."""
    toy = numeric()
    answered = toy.answer(TRAINING[:5_000].tolist())["y"]
    extra = {
        "training_distribution": {name: numeric_distribution(TRAINING[:, place]) for place, name in enumerate(NUMBERS)},
        "prediction_distribution": {
            "y": {
                part: numeric_distribution(values)
                for part, values in drift.prediction_parts("regression", None, answered).items()
            }
        },
    }
    return Known(toy.encoder, toy.onnx, toy.outputs, extra)


class KeepAliveClient:
    """One keep-alive connection: the same head each time, as the fast lane wants it."""

    def __init__(self, served: RunningService, model: str = "m1") -> None:
        self.connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=20)
        self.path = f"/v1/models/{model}:predict"
        self.headers = {**served.headers, "Content-Type": "application/json"}

    def ask(self, rows: Any, **headers: str) -> dict[str, Any]:
        """The answer's body."""
        body = json.dumps({"instances": [[round(float(value), 6) for value in row] for row in rows]})
        self.connection.request("POST", self.path, body, {**self.headers, **headers})
        answer = self.connection.getresponse()
        told = json.loads(answer.read())
        assert answer.status == 200, told
        return told

    def close(self) -> None:
        self.connection.close()
