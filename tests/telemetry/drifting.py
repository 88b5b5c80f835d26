"""A toy model with its training distribution, and requests that take the fast lane."""

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
from tests.waiting import PATIENCE

RNG = np.random.default_rng(7)
TRAINING = RNG.normal(0, 3, (20_000, len(NUMBERS)))


@dataclass(frozen=True)
class ToyWithDistributions(ToyModel):
    """A toy model with the distributions that a trainer writes into its manifest."""

    extra: Any = None

    @property
    def manifest(self) -> dict[str, Any]:
        return {**super().manifest, **self.extra}


def toy_with_distributions() -> ToyWithDistributions:
    """Return the model of six numbers, with distributions of normal values of standard deviation 3."""
    toy = numeric()
    predictions = toy.answer(TRAINING[:5_000].tolist())["y"]
    extra = {
        "training_distribution": {name: numeric_distribution(TRAINING[:, place]) for place, name in enumerate(NUMBERS)},
        "prediction_distribution": {
            "y": {
                part: numeric_distribution(values)
                for part, values in drift.prediction_parts("regression", None, predictions).items()
            }
        },
    }
    return ToyWithDistributions(toy.encoder, toy.onnx, toy.outputs, extra=extra)


class KeepAliveClient:
    """One keep-alive connection that sends the same head each time, as the fast lane requires."""

    def __init__(self, served: RunningService, model: str = "m1") -> None:
        self.connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=PATIENCE)
        self.path = f"/v1/models/{model}:predict"
        self.headers = {**served.headers, "Content-Type": "application/json"}

    def predict(self, rows: Any, **headers: str) -> dict[str, Any]:
        """Predict rows and return the response's body."""
        content = json.dumps({"instances": [[round(float(value), 6) for value in row] for row in rows]})
        self.connection.request("POST", self.path, content, {**self.headers, **headers})
        answer = self.connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == 200, body
        return body

    def close(self) -> None:
        self.connection.close()
