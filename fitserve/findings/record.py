"""The input of the rules: a run's epochs by trial, its resolved spec, its dataset's facts, its evaluation."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from fitserve.dataset_facts import DatasetFacts

Json = Mapping[str, Any]
RISE = 0.10  # relative rise of the validation loss above its minimum that counts as a rise
_CROSS_ENTROPIES = ("BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy")


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One recorded epoch: `logs` are Keras's, `layers` what the trainer measured in the network (or None)."""

    trial: int
    epoch: int
    logs: Json
    layers: Json | None = None


@dataclass(frozen=True, slots=True)
class LayerSnapshot:
    """The layers after one epoch, in the network's order."""

    epoch: int
    layers: tuple[Json, ...]

    @property
    def weighted(self) -> list[Json]:
        """Layers with trainable weights and a finite gradient."""
        return [layer for layer in self.layers if layer.get("size") and layer.get("gradients") is not None]


@dataclass(frozen=True)
class TrialCurves:
    """The learning curves of one trial. Losses exclude the regularizers' penalty as far as it is known."""

    number: int
    epochs: tuple[int, ...]
    train: tuple[float, ...]  # NaN where the loss was not finite
    validation: tuple[float, ...]  # empty where no rows were held out
    snapshots: tuple[LayerSnapshot, ...] = ()
    penalty: float = 0.0  # largest measured penalty of the regularizers

    @property
    def scores(self) -> tuple[float, ...]:
        """The validation losses, or the training losses if no rows were held out."""
        return self.validation or self.train

    @property
    def best(self) -> int | None:
        """The index of the lowest score; None where none is finite."""
        finite = [index for index, value in enumerate(self.scores) if math.isfinite(value)]
        return min(finite, key=lambda index: self.scores[index]) if finite else None

    @cached_property
    def turning_point(self) -> int | None:
        """The index after which the validation loss rose by more than its jitter and stayed up; None if it did not."""
        losses = [value if math.isfinite(value) else math.inf for value in self.validation]
        if len(losses) < 3:
            return None
        lowest = min(range(len(losses)), key=lambda index: losses[index])
        jitter = median(abs(new - old) for old, new in pairwise(losses))
        limit = (1 + RISE) * losses[lowest] + 2 * (jitter if math.isfinite(jitter) else 0.0)
        tail = losses[lowest + 1 :][-3:]
        return lowest if tail and all(value > limit for value in tail) else None


@dataclass(frozen=True)
class RunRecord:
    """A run's record, the input of all rules.

    `spec` is resolved; `insight` is the trainer's evaluation of the trained network (None for a run without an
    artifact); `kept_trial` is the number of the artifact's trial; `failed` is the cause of a failed run.
    """

    spec: Json
    facts: DatasetFacts
    rows: Sequence[EpochRow]
    insight: Json | None = None
    kept_trial: int | None = None
    failed: str | None = None

    @cached_property
    def trials(self) -> tuple[TrialCurves, ...]:
        """All trials, by number."""
        by_trial: dict[int, list[EpochRow]] = {}
        for row in self.rows:
            by_trial.setdefault(row.trial, []).append(row)
        return tuple(
            _curves(number, sorted(rows, key=lambda row: row.epoch), self._final_layers(number))
            for number, rows in sorted(by_trial.items())
        )

    def _final_layers(self, number: int) -> Json | None:
        """Return the layers of the kept network, for a trial without snapshots (trials that train stacked)."""
        final: Json | None = (self.insight or {}).get("final")
        return final if number == self.kept_trial else None

    @cached_property
    def trial(self) -> TrialCurves | None:
        """The trial whose network was kept; else the one with the lowest loss."""
        for trial in self.trials:
            if trial.number == self.kept_trial:
                return trial
        ranked = [(trial.scores[trial.best], trial) for trial in self.trials if trial.best is not None]
        if ranked:
            return min(ranked, key=lambda pair: pair[0])[1]
        return self.trials[0] if self.trials else None

    @cached_property
    def kept_epoch_index(self) -> int | None:
        """The index of the epoch whose weights were kept."""
        if self.trial is None or not self.trial.epochs:
            return None
        reported = (self.insight or {}).get("kept_epoch")
        if reported in self.trial.epochs:
            return self.trial.epochs.index(int(reported))
        stopping = self.training.get("early_stopping")
        if stopping and stopping.get("restore_best_weights") and self.trial.best is not None:
            return self.trial.best
        return len(self.trial.epochs) - 1

    @property
    def training(self) -> Json:
        """The spec's `training`."""
        part: Json = self.spec["training"]
        return part

    @property
    def optimizer(self) -> tuple[str, Json]:
        """The optimizer's class and arguments."""
        ((name, arguments),) = self.training["optimizer"].items()
        return str(name), arguments

    @property
    def target(self) -> Json | None:
        """The target; None where there are several."""
        targets = self.spec["target"]
        return targets[0] if len(targets) == 1 else None

    @property
    def loss(self) -> str | None:
        """The class of the loss; None where there are several targets."""
        loss = self.training.get("loss")
        if isinstance(loss, str):
            return loss
        if isinstance(loss, Mapping) and len(loss) == 1:
            ((name, inner),) = loss.items()
            by_target = self.target is not None and name == self.target["name"]
            if by_target and isinstance(inner, Mapping) and len(inner) == 1:
                return str(next(iter(inner)))
            return str(inner) if by_target and isinstance(inner, str) else str(name)
        return None

    @cached_property
    def baseline(self) -> float | None:
        """The loss of the best constant prediction; None where no formula is known for the loss."""
        target, loss = self.target, self.loss
        if target is None or loss is None or len(target["columns"]) != 1:
            return None
        facts = self.facts.by_name.get(target["columns"][0])
        if facts is None:
            return None
        if loss in _CROSS_ENTROPIES and facts.label_counts and not self.training.get("class_weight"):
            total = sum(facts.label_counts)
            return -sum(count / total * math.log(count / total) for count in facts.label_counts if count)
        if loss == "MeanSquaredError" and target.get("task") == "regression" and facts.std is not None:
            return 1.0 if target.get("standardize") else facts.std**2
        return None

    def mean_loss(self, model: str, part: str) -> float | None:
        """Return the mean loss (log loss, or squared error in the target's units) that the trainer evaluated.

        `model` is `network`, `baseline`, `linear` or `trees`; `part` is `train`, `validation` or `test`.
        """
        value = ((self.insight or {}).get("fit") or {}).get(model, {}).get(part)
        return float(value) if isinstance(value, (int, float)) else None

    def best_reference(self, part: str) -> float | None:
        """Return the lower of the linear model's and the boosted trees' mean loss."""
        losses = [value for model in ("linear", "trees") if (value := self.mean_loss(model, part)) is not None]
        return min(losses) if losses else None


def _curves(number: int, rows: Sequence[EpochRow], final: Json | None) -> TrialCurves:
    if final is not None and not any(row.layers for row in rows):
        rows = [replace(row, layers=final) if row.epoch == final["epoch"] else row for row in rows]
    snapshots = tuple(LayerSnapshot(r.epoch, tuple(r.layers.get("layers") or ())) for r in rows if r.layers)
    measured = [(r.epoch, to_float(r.layers.get("penalty"))) for r in rows if r.layers]
    measured = [(epoch, value) for epoch, value in measured if math.isfinite(value)]
    at_end = [_interpolated(measured, r.epoch) for r in rows]
    # The training loss is a mean over the epoch, the measured penalty is that of its end.
    over_epoch = [_logarithmic_mean(_interpolated(measured, r.epoch - 1), p) for r, p in zip(rows, at_end, strict=True)]
    train = tuple(to_float(r.logs.get("loss")) - p for r, p in zip(rows, over_epoch, strict=True))
    validation: tuple[float, ...] = ()
    if all("val_loss" in r.logs for r in rows):
        validation = tuple(to_float(r.logs.get("val_loss")) - p for r, p in zip(rows, at_end, strict=True))
    penalty = max((value for _, value in measured), default=0.0)
    return TrialCurves(number, tuple(r.epoch for r in rows), train, validation, snapshots, penalty)


def _interpolated(measured: Sequence[tuple[int, float]], epoch: int) -> float:
    """Return the penalty after an epoch. Between two snapshots, and before the first, it changes geometrically."""
    if not measured:
        return 0.0
    at = bisect_left(measured, (epoch, -math.inf))
    if at == len(measured):
        return measured[-1][1]
    right, high = measured[at]
    if right == epoch or len(measured) == 1:
        return high
    (left, low), (right, high) = measured[max(0, at - 1)], measured[max(1, at)]
    share = (epoch - left) / (right - left)
    if low <= 0 or high <= 0:
        return max(0.0, low + (high - low) * share)
    return low * math.pow(min(10.0, max(0.1, high / low)), share)


def _logarithmic_mean(before: float, after: float) -> float:
    """Return the mean of a quantity that changes by a steady factor from one value to the other."""
    if before <= 0 or after <= 0 or abs(before - after) < 1e-6 * after:
        return (before + after) / 2
    return (before - after) / math.log(before / after)


def to_float(value: Any) -> float:
    """Return a recorded number; NaN for None and for anything that is not a number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def mean(values: Iterable[float]) -> float:
    """Return the mean of the finite values; NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def median(values: Iterable[float]) -> float:
    """Return the median of the finite values; NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


def flatten_insight(insight: Json | None, spec: Json) -> Json | None:
    """Flatten the trainer's insight for the rules: the first target's entries beside the run's own."""
    if insight is None:
        return None
    targets = insight.get("targets") or {}
    first = spec["target"][0]["name"] if len(spec["target"]) == 1 else next(iter(targets), None)
    return {**insight, **(targets.get(first) or {})}
