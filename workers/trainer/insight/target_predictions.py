"""What the network was asked to say, target by target: truth and predictions in the target's own terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.target_encoder import FittedTarget

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to predict. A multi-label target is a yes-or-no question for each of its columns.

    `labels` are empty for a regression. `output` is the serving graph's, `unit` its column (of a multi-label one).
    """

    name: str
    target: FittedTarget
    labels: tuple[str, ...]
    unit: int = 0

    @property
    def task(self) -> str:
        """binary, multiclass or regression."""
        return "regression" if not self.labels else "binary" if len(self.labels) == 2 else "multiclass"

    def truth(self, encoded: Mapping[str, Array]) -> Array:
        """From the targets as they are trained on: label indices, or numbers in the target's own units. (rows,)"""
        values = encoded[self.target.name]
        if not self.labels:
            return self.target.inverse(values.astype(np.float64)).reshape(len(values), -1)[:, 0]
        if self.target.encoding == "one_hot":
            return values.argmax(-1)
        return values.reshape(len(values), -1)[:, self.unit].astype(np.int64)

    def predicted(self, outputs: Mapping[str, Array]) -> Array:
        """From the serving graph's outputs: probabilities (rows, labels), or numbers (rows,). float64."""
        values = np.asarray(outputs[self.target.name], np.float64)
        values = values.reshape(len(values), -1)
        if not self.labels:
            return values[:, values.shape[1] // 2]  # of quantiles, the middle one
        if self.target.encoding == "binary" and (values.shape[1] == 1 or self.target.task == "multilabel"):
            positive = _share(values[:, self.unit])
            return np.stack([1 - positive, positive], axis=1)
        return _shares(values)

    def losses(self, truth: Array, predicted: Array) -> NDArray[np.float64]:
        """Each row's log loss, or squared error. (rows,)"""
        if not self.labels:
            return np.square(predicted - truth)
        return -np.log(np.clip(predicted[np.arange(len(truth)), truth], 1e-7, 1.0))


def questions(targets: Sequence[FittedTarget]) -> list[Question]:
    """All of them, in order."""
    found = []
    for target in targets:
        if target.task == "multilabel":
            found += [Question(column, target, ("0", "1"), unit) for unit, column in enumerate(target.columns)]
        else:
            labels = tuple(target.labels or ()) if target.task != "regression" else ()
            found.append(Question(target.name, target, labels))
    return found


def _share(values: Array) -> Array:
    """A probability from one output: as it is; from -1 to 1 (hinge losses) moved; a logit through a sigmoid."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=1.0))
    if low >= 0.0 and high <= 1.0:
        return values
    if low >= -1.0 and high <= 1.0:
        return (values + 1.0) / 2.0
    return 1.0 / (1.0 + np.exp(-np.clip(values, -500, 500)))


def _shares(values: Array) -> Array:
    """Probabilities from an output for each label: as they are, or logits through a softmax."""
    if values.min(initial=0.0) >= 0.0 and np.allclose(values.sum(1), 1.0, atol=1e-3):
        return values
    moved = np.exp(values - values.max(1, keepdims=True))
    return moved / moved.sum(1, keepdims=True)
