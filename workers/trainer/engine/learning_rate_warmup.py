"""A learning rate that rises before it does what it would have done."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class WarmedUp(keras.optimizers.schedules.LearningRateSchedule):
    """The rate times a share that rises in a straight line from `start` to 1 over `steps`.

    The schedule underneath begins at the first step too, so that its boundaries mean what they say.
    """

    def __init__(self, rate: Any, steps: int, start: float = 0.0) -> None:
        super().__init__()
        self.rate = rate
        self.steps = steps
        self.start = start

    def __call__(self, step: Any) -> Any:
        rate = self.rate(step) if callable(self.rate) else ops.convert_to_tensor(self.rate, "float32")
        share = ops.minimum(1.0, (ops.cast(step, "float32") + 1.0) / self.steps)
        return rate * (self.start + (1.0 - self.start) * share)

    def get_config(self) -> dict[str, Any]:
        rate = keras.saving.serialize_keras_object(self.rate) if callable(self.rate) else self.rate
        return {"rate": rate, "steps": self.steps, "start": self.start}
