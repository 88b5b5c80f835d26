"""A run's rows: read, split, fitted on the training rows, encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.dataset_facts import DatasetFacts
from fitserve.datasets.split import Split, split
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import numbers_of
from fitserve.errors import BadInput, Problem
from fitserve.spec.spec import Spec
from fitserve.spec.training import Training
from fitserve.target_encoder import FittedTarget, TargetEncoder


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as arrays: inputs and targets by name, and weights by target (or none at all)."""

    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    weight: dict[str, np.ndarray] | None

    @property
    def rows(self) -> int:
        return len(next(iter(self.y.values())))


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training rows taught: applies to any rows of the dataset."""

    encoder: Encoder
    targets: TargetEncoder
    class_weights: dict[str, np.ndarray]  # by target: a weight for each label
    sample_weight: str | None

    def encode(self, table: pa.Table, train: bool) -> Encoded:
        """Rows as arrays. Class weights are for training alone, as in Keras. Raises BadInput."""
        x, y = self.encoder.encode(table), self.targets.encode(table)
        weights: dict[str, np.ndarray] = {}
        given = _sample_weights(table, self.sample_weight) if self.sample_weight else None
        for target in self.targets.targets:
            by_class = self.class_weights.get(target.name) if train else None
            weight = given if by_class is None else by_class[_labels(target, y[target.name])]
            if given is not None and by_class is not None:
                weight = weight * given
            if weight is not None:
                weights[target.name] = weight.astype(np.float32)
        if weights and len(weights) < len(y):
            rows = table.num_rows
            weights = {name: weights.get(name, np.ones(rows, np.float32)) for name in y}
        return Encoded(x, y, weights or None)


def columns_of(spec: Spec) -> list[str]:
    """The dataset's columns that a run reads."""
    names = [feature.column for feature in spec.features or ()]
    names += [column for target in spec.target for column in target.columns]
    names += [name for name in (spec.training.sample_weight, spec.split.by) if name]
    return list(dict.fromkeys(names))


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a Parquet file."""
    return pq.read_table(path, columns=list(columns), memory_map=True)


def divide(table: pa.Table, spec: Spec) -> Split:
    """The run's training, validation and test rows. Raises BadInput."""
    return split(table, spec.split, spec.training.seed, spec.target[0].columns[0])


def fit(table: pa.Table, spec: Spec, facts: DatasetFacts) -> Fitted:
    """Learn from `table`, the training rows alone. Raises BadInput."""
    encoder = Encoder.fit(list(spec.features or ()), table, facts)
    targets = TargetEncoder.fit(spec.target, table, facts)
    weights: dict[str, np.ndarray] = {}
    if spec.training.class_weight is not None:
        encoded = targets.encode(table)
        for target in targets.targets:
            if target.task in ("binary", "multiclass"):
                weights[target.name] = _class_weights(spec.training, target, _labels(target, encoded[target.name]))
    return Fitted(encoder, targets, weights, spec.training.sample_weight)


def fingerprint(parts: Split) -> str:
    """SHA-256 of which rows train, validate and test."""
    digest = hashlib.sha256()
    for rows in (parts.train, parts.validation, parts.test):
        digest.update(len(rows).to_bytes(8, "little") + np.ascontiguousarray(rows, "<i8").tobytes())
    return digest.hexdigest()


def _labels(target: FittedTarget, encoded: np.ndarray) -> Any:
    """The label's index of each row."""
    if target.encoding == "one_hot":
        return encoded.argmax(axis=1)
    return encoded.reshape(len(encoded)).astype(np.int64)


def _class_weights(training: Training, target: FittedTarget, labels: Any) -> np.ndarray:
    """`balanced` is rows / (labels * rows of the label), as scikit-learn's; a label left out of a mapping weighs 1."""
    names = target.labels or ()
    if training.class_weight == "balanced":
        counts = np.bincount(labels, minlength=len(names))
        return np.where(counts > 0, len(labels) / (len(names) * np.maximum(counts, 1)), 1.0)
    given = training.class_weight or {}
    return np.array([float(given.get(name, 1.0)) for name in names])  # type: ignore[union-attr]


def _sample_weights(table: pa.Table, name: str) -> np.ndarray:
    values = numbers_of(table.column(name))
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        at = int(bad[0])
        problem = Problem(
            f"The sample weight {name!r} is {values[at]} in row {at + 1}.",
            row=at + 1,
            column=name,
            received=str(values[at]),
            expected="a finite number of at least 0",
        )
        raise BadInput(problem.detail, problems=[problem])
    return values.astype(np.float32)
