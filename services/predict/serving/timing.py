"""Where a request's time goes on the ordinary way: decode, queue, encode, infer, answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.predict.catalog.loaded_model import Network, Prediction


class Timing:
    """Moments of one request, by `time.perf_counter`. `begun` is its arrival."""

    __slots__ = ("begun", "encode", "infer", "network", "predict_at", "predicted_at", "prediction", "queue")

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.network: Network | None = None  # who answers
        self.prediction: Prediction | None = None
        self.predict_at = self.predicted_at = 0.0
        self.queue = self.encode = self.infer = 0.0

    def phases(self, now: float) -> Iterator[tuple[str, float]]:
        """Each phase and its seconds; nothing where no prediction was made."""
        if self.predicted_at:
            yield "decode", self.predict_at - self.begun
            yield "queue", self.queue
            yield "encode", self.encode
            yield "infer", self.infer
            yield "answer", now - self.predicted_at


TIMING: ContextVar[Timing | None] = ContextVar("timing", default=None)
