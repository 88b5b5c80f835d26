"""The first figures of a trained network, from the serving path's own predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fitserve.target_encoder import FittedTarget, TargetEncoder


def simple_figures(targets: TargetEncoder, table: pa.Table, predictions: dict[str, np.ndarray]) -> dict[str, Any]:
    """By target: `accuracy` (multilabel: of all labels together), or `r2`, `mae` and `rmse` in the target's units."""
    truth = targets.encode(table)
    return {target.name: _figures(target, truth[target.name], predictions[target.name]) for target in targets.targets}


def _figures(target: FittedTarget, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    if target.task == "regression":
        return _regression(target.inverse(truth.astype(np.float64)), predicted.astype(np.float64))
    if target.encoding == "binary":
        return {"accuracy": float(np.mean((predicted > 0.5) == (truth > 0.5)))}
    labels = truth.argmax(axis=-1) if target.encoding == "one_hot" else truth
    return {"accuracy": float(np.mean(predicted.argmax(axis=-1) == labels))}


def _regression(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    if predicted.shape != truth.shape:  # quantiles: the middle one speaks for them
        predicted = predicted[:, predicted.shape[1] // 2 :][:, : truth.shape[1]]
    residual = truth - predicted
    total = float(((truth - truth.mean(axis=0)) ** 2).sum())
    return {
        "r2": 1.0 - float((residual**2).sum()) / total if total else float("nan"),
        "mae": float(np.abs(residual).mean()),
        "rmse": float(np.sqrt((residual**2).mean())),
    }
