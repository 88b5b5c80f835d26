"""Results of folds: each metric's mean and interval over them, and the predictions of held-back rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from fitserve.target_encoder import TargetEncoder
from workers.trainer.export.prediction_columns import joined, prediction_columns
from workers.trainer.insight.evaluation import simple_figures

LEVEL = 0.95
_BOUNDS = {"accuracy": (0.0, 1.0), "r2": (-math.inf, 1.0), "mae": (0.0, math.inf), "rmse": (0.0, math.inf)}


def fold_figures(
    targets: TargetEncoder, rows: pa.Table, predictions: Mapping[str, Any], fold_of: NDArray[np.int64]
) -> dict[str, Any]:
    """Return by target and figure: its value on each fold, their mean, and a 95% interval of that.

    The folds' networks share most of their rows. The interval is Student's, over folds; it is somewhat too narrow, as
    no unbiased one exists (Bengio and Grandvalet 2004).
    """
    by_fold: dict[str, dict[str, list[float]]] = {}
    for fold in range(int(fold_of.max()) + 1):
        own = np.flatnonzero(fold_of == fold)
        part = {name: np.asarray(values)[own] for name, values in predictions.items()}
        for target, figures in simple_figures(targets, rows.take(own), part).items():
            for name, value in figures.items():
                by_fold.setdefault(target, {}).setdefault(name, []).append(value)
    return {target: {name: _over(name, values) for name, values in own.items()} for target, own in by_fold.items()}


def _over(name: str, values: Sequence[float]) -> dict[str, Any]:
    least, most = _BOUNDS.get(name, (-math.inf, math.inf))
    usable = [value for value in values if math.isfinite(value)]
    if len(usable) < 2:
        return {"folds": list(values), "mean": usable[0] if usable else None, "low": None, "high": None}
    mean = math.fsum(usable) / len(usable)
    error = float(np.std(usable, ddof=1)) / math.sqrt(len(usable))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(usable) - 1)) * error
    low, high = max(mean - reach, least), min(mean + reach, most)
    return {"folds": list(values), "mean": mean, "low": low, "high": high}


def out_of_fold(
    rows: pa.Table,
    numbers: NDArray[np.int64],
    fold_of: NDArray[np.int64],
    predictions: Mapping[str, Any],
    outputs: Sequence[Mapping[str, Any]],
) -> pa.Table:
    """Return the rows with their number in the dataset and their fold, from 1, and the predictions for them."""
    columns: dict[str, Any] = {"row": numbers + 1, "fold": fold_of + 1}
    for output in outputs:
        values = np.asarray(predictions[output["name"]])
        columns |= prediction_columns(output, values.reshape(len(numbers), -1))
    return joined(rows, columns)
