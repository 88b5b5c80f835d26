"""Targets: label columns to what a loss takes, and predictions back to the target's own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fitserve.dataset_facts import DatasetFacts
from fitserve.encoding.coercion import FALSE, TRUE, clipped, labels_of, numbers_of
from fitserve.errors import BadInput, Problem
from fitserve.spec.target import Target


@dataclass(frozen=True)
class FittedTarget:
    """`labels[i]` is what i means. A regression is trained on (y - center) / scale."""

    name: str
    columns: tuple[str, ...]
    task: str
    encoding: str
    labels: tuple[str, ...] | None
    center: float = 0.0
    scale: float = 1.0

    def inverse(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions in the target's own units: undoes the standardisation; others stay as they are."""
        if self.task != "regression" or (self.center == 0.0 and self.scale == 1.0):
            return predictions
        return predictions * self.scale + self.center

    def encode(self, table: pa.Table) -> np.ndarray:
        """binary, numbers: float32 (rows, columns); one_hot: float32 (rows, labels); index: int32 (rows,).

        Raises BadInput naming the first rows (up to 20) whose target is missing or not a known label.
        """
        if self.task in ("regression", "multilabel"):
            read = self._numbers if self.task == "regression" else self._given
            return np.stack([read(table, name) for name in self.columns], axis=1)
        places = self._places(table, self.columns[0])
        if self.encoding == "binary":
            return places.astype(np.float32)[:, None]
        if self.encoding == "one_hot":
            return np.asarray(np.eye(len(self.labels or ()), dtype=np.float32)[places])
        return places.astype(np.int32)

    def _numbers(self, table: pa.Table, name: str) -> np.ndarray:
        values = numbers_of(table.column(name))
        _refuse_rows(np.flatnonzero(~np.isfinite(values)), name, values, "a finite number")
        scaled: np.ndarray = (values - self.center) / self.scale
        return scaled.astype(np.float32)

    def _given(self, table: pa.Table, name: str) -> np.ndarray:
        codes, labels = labels_of(table.column(name))
        known = np.array(
            [1.0 if x.lower() in TRUE else 0.0 if x.lower() in FALSE else np.nan for x in labels] + [np.nan]
        )
        values = known[codes]
        shown = np.array([*labels, None], object)[codes]
        _refuse_rows(np.flatnonzero(np.isnan(values)), name, shown, "a boolean")
        return np.asarray(values, np.float32)

    def _places(self, table: pa.Table, name: str) -> np.ndarray:
        codes, labels = labels_of(table.column(name))
        at = {label: place for place, label in enumerate(self.labels or ())}
        places = np.array([at.get(label, -1) for label in labels] + [-1], np.int64)[codes]
        shown = np.array([*labels, None], object)[codes]
        _refuse_rows(np.flatnonzero(places < 0), name, shown, f"one of {', '.join((self.labels or ())[:10])}")
        return np.asarray(places)


def _refuse_rows(rows: np.ndarray, name: str, values: np.ndarray, expected: str) -> None:
    if not len(rows):
        return
    problems = [
        Problem(
            f"The target {name!r} is {_shown(values[at])} in row {at + 1}.",
            row=int(at) + 1,
            column=name,
            received=clipped(values[at]),
            expected=expected,
            fix="Leave rows without a target out of the dataset.",
        )
        for at in rows[:20]
    ]
    raise BadInput(f"The target {name!r} is missing or unusable in {len(rows)} rows.", problems=problems)


def _shown(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and value != value)
    return "missing" if missing else repr(clipped(value))


@dataclass(frozen=True)
class TargetEncoder:
    """All targets of a spec, in order."""

    targets: tuple[FittedTarget, ...]

    @classmethod
    def fit(cls, targets: Sequence[Target], table: pa.Table, facts: DatasetFacts) -> TargetEncoder:
        """Learns from `table`, the training rows alone; `targets` are resolved. Raises BadInput."""
        return cls(tuple(_fit_target(target, table, facts) for target in targets))

    def encode(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Each output's array, by its name. Raises BadInput naming rows without a target."""
        return {target.name: target.encode(table) for target in self.targets}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` makes an equal encoder of it."""
        return {"format": 1, "targets": [_plain(asdict(target)) for target in self.targets]}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> TargetEncoder:
        """The encoder that `to_json` wrote."""
        return cls(
            tuple(
                FittedTarget(
                    **{
                        **target,
                        "columns": tuple(target["columns"]),
                        "labels": None if target["labels"] is None else tuple(target["labels"]),
                    }
                )
                for target in body["targets"]
            )
        )


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in body.items()}


def _fit_target(target: Target, table: pa.Table, facts: DatasetFacts) -> FittedTarget:
    if target.task == "regression":
        center, scale = 0.0, 1.0
        if target.standardize:
            values = np.concatenate([numbers_of(table.column(name)) for name in target.columns])
            values = values[np.isfinite(values)]
            center = float(values.mean()) if len(values) else 0.0
            spread = float(values.std()) if len(values) else 0.0
            scale = spread if spread > 1e-12 * max(1.0, abs(center)) else 1.0
        return FittedTarget(target.name, target.columns, "regression", "numbers", None, center, scale)
    labels = target.labels or facts.column(target.columns[0]).labels
    default = {"binary": "binary", "multiclass": "index", "multilabel": "binary"}[str(target.task)]
    return FittedTarget(target.name, target.columns, str(target.task), target.encoding or default, labels)
