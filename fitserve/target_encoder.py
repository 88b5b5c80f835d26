"""Targets: label columns to what a loss takes, and predictions back to the target's own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.dataset_facts import DatasetFacts
from fitserve.encoding.coercion import labels_of, numbers_of
from fitserve.errors import BadInput, Problem
from fitserve.excerpts import excerpt_of_cell
from fitserve.parsing.words import FALSE, TRUE
from fitserve.spec.target import Target

if TYPE_CHECKING:
    import pyarrow as pa

MAX_PROBLEMS = 20  # shown at once
WIDE_OFFSET = 16.0  # in standard deviations: a larger offset leaves float32 too few digits for the spread


@dataclass(frozen=True)
class FittedTarget:
    """One target. `labels[i]` is the label that i stands for. A regression is trained on (y - center) / scale.

    Answers stay from `low` to `high`, the range of the training rows, where these are given.
    """

    name: str
    columns: tuple[str, ...]
    task: str
    encoding: str
    labels: tuple[str, ...] | None
    center: float = 0.0
    scale: float = 1.0
    low: float | None = None
    high: float | None = None

    @property
    def limits(self) -> tuple[float, float] | None:
        """The smallest and the largest answer; None where answers are not limited."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        """Return the answers for outputs of the network: in the target's own units, within its limits."""
        values = self.inverse(outputs)
        return values if self.limits is None else np.clip(values, *self.limits)

    @property
    def is_standardised(self) -> bool:
        return self.task == "regression" and (self.center != 0.0 or self.scale != 1.0)

    @property
    def is_wide(self) -> bool:
        """Whether predictions are float64: in float32, 1.7e9 has a spacing of 128, whatever the target's spread."""
        return self.is_standardised and abs(self.center) > WIDE_OFFSET * self.scale

    @property
    def rescaling(self) -> tuple[float, float, bool]:
        """How an output becomes a prediction in the target's units: scale, offset, whether in float64."""
        return (self.scale, self.center, self.is_wide) if self.is_standardised else (1.0, 0.0, False)

    def inverse(self, predictions: np.ndarray) -> np.ndarray:
        """Return predictions in the target's own units; those of other tasks than regression are unchanged."""
        if not self.is_standardised:
            return predictions
        return predictions * self.scale + self.center

    def encode(self, table: pa.Table) -> np.ndarray:
        """Encode the target's columns.

        binary, numbers: float32 (rows, columns); one_hot: float32 (rows, labels); index: int32 (rows,).
        Raises BadInput naming the first rows (up to 20) whose target is missing or not a known label.
        """
        if self.task in ("regression", "multilabel"):
            read = self._numbers if self.task == "regression" else self._booleans
            return np.stack([read(table, name) for name in self.columns], axis=1)
        indices = self._label_indices(table, self.columns[0])
        if self.encoding == "binary":
            return indices.astype(np.float32)[:, None]
        if self.encoding == "one_hot":
            return np.asarray(np.eye(len(self.labels or ()), dtype=np.float32)[indices])
        return indices.astype(np.int32)

    def _numbers(self, table: pa.Table, name: str) -> np.ndarray:
        values = numbers_of(table.column(name))
        _refuse_rows(np.flatnonzero(~np.isfinite(values)), name, values, "a finite number")
        scaled: np.ndarray = (values - self.center) / self.scale
        return scaled.astype(np.float32)

    def _booleans(self, table: pa.Table, name: str) -> np.ndarray:
        codes, labels = labels_of(table.column(name))
        of_label = [1.0 if x.lower() in TRUE else 0.0 if x.lower() in FALSE else np.nan for x in labels]
        values = np.array([*of_label, np.nan])[codes]
        _refuse_rows(np.flatnonzero(np.isnan(values)), name, np.array([*labels, None], object)[codes], "a boolean")
        return np.asarray(values, np.float32)

    def _label_indices(self, table: pa.Table, name: str) -> np.ndarray:
        codes, labels = labels_of(table.column(name))
        index_of = {label: index for index, label in enumerate(self.labels or ())}
        indices = np.array([*(index_of.get(label, -1) for label in labels), -1], np.int64)[codes]
        expected = f"one of {', '.join((self.labels or ())[:10])}"
        _refuse_rows(np.flatnonzero(indices < 0), name, np.array([*labels, None], object)[codes], expected)
        return np.asarray(indices)


def _refuse_rows(rows: np.ndarray, name: str, values: np.ndarray, expected: str) -> None:
    """Raise BadInput naming the target's values in these rows, if there are any."""
    if not len(rows):
        return
    problems = [
        Problem(
            f"The target {name!r} is {_shown(values[row])} in row {row + 1}.",
            row=int(row) + 1,
            column=name,
            received=excerpt_of_cell(values[row]),
            expected=expected,
            fix="Leave rows without a target out of the dataset.",
        )
        for row in rows[:MAX_PROBLEMS]
    ]
    raise BadInput(f"The target {name!r} is missing or unusable in {len(rows)} rows.", problems=problems)


def _shown(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and value != value)
    return "missing" if missing else repr(excerpt_of_cell(value))


@dataclass(frozen=True)
class TargetEncoder:
    """All targets of a spec, in order."""

    targets: tuple[FittedTarget, ...]

    @classmethod
    def fit(cls, targets: Sequence[Target], table: pa.Table, facts: DatasetFacts) -> TargetEncoder:
        """Learn from `table`, the training rows alone; `targets` are resolved. Raises BadInput."""
        return cls(tuple(_fit_target(target, table, facts) for target in targets))

    def encode(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Return each output's array, by its name. Raises BadInput naming rows without a target."""
        return {target.name: target.encode(table) for target in self.targets}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `from_json` makes an equal encoder of it."""
        targets = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(target).items()}
            for target in self.targets
        ]
        return {"format": 1, "targets": targets}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> TargetEncoder:
        """Return the encoder that `to_json` wrote."""
        targets = []
        for target in body["targets"]:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in target.items()
            }
            targets.append(FittedTarget(**fields))
        return cls(tuple(targets))


def _fit_target(target: Target, table: pa.Table, facts: DatasetFacts) -> FittedTarget:
    if target.task == "regression":
        center, scale, low, high = 0.0, 1.0, None, None
        values = np.concatenate([numbers_of(table.column(name)) for name in target.columns])
        values = values[np.isfinite(values)]
        if target.clip and len(values):
            low, high = float(values.min()), float(values.max())
        if target.standardize:
            center = float(values.mean()) if len(values) else 0.0
            spread = float(values.std()) if len(values) else 0.0
            scale = spread if spread > 1e-12 * max(1.0, abs(center)) else 1.0
        return FittedTarget(target.name, target.columns, "regression", "numbers", None, center, scale, low, high)
    labels = target.labels or facts.column(target.columns[0]).labels
    default = {"binary": "binary", "multiclass": "index", "multilabel": "binary"}[str(target.task)]
    return FittedTarget(target.name, target.columns, str(target.task), target.encoding or default, labels)
