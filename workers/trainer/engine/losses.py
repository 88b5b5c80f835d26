"""Losses that Keras does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class QuantileLoss(keras.losses.Loss):
    """The pinball loss (Koenker and Bassett 1978), one output for each quantile.

    `mean(max(q * e, (q - 1) * e))` with `e = y - prediction`; y is (batch, 1), predictions (batch, quantiles).
    """

    def __init__(
        self,
        quantiles: Sequence[float],
        reduction: str = "sum_over_batch_size",
        name: str = "quantile",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.quantiles = list(quantiles)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        quantiles = ops.convert_to_tensor(self.quantiles, dtype=y_pred.dtype)
        error = ops.cast(y_true, y_pred.dtype) - y_pred
        return ops.mean(ops.maximum(quantiles * error, (quantiles - 1.0) * error), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quantiles": self.quantiles}
