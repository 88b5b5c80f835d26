"""What the rules read of a run: its epochs by trial, its resolved spec, its dataset's facts, its evaluation."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fitserve.dataset_facts import DatasetFacts

Json = Mapping[str, Any]
_CROSS_ENTROPIES = ("BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy")


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One recorded epoch: `logs` are Keras's, `layers` what the trainer saw in the network (or None)."""

    trial: int
    epoch: int
    logs: Json
    layers: Json | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The layers after one epoch, in the network's order."""

    epoch: int
    layers: tuple[Json, ...]

    @property
    def weighted(self) -> list[Json]:
        """Layers with trainable weights whose gradient is a number."""
        return [layer for layer in self.layers if layer.get("size") and layer.get("gradients") is not None]


@dataclass(frozen=True)
class Trial:
    """One network's curves. Losses are without the regularizers' penalty, as far as that is known."""

    number: int
    epochs: tuple[int, ...]
    train: tuple[float, ...]  # NaN where the loss was no number
    validation: tuple[float, ...]  # empty where nothing was held out
    looks: tuple[Look, ...] = ()
    penalty: float = 0.0  # of regularizers, the largest that was seen

    @property
    def best(self) -> int | None:
        """The index of the lowest validation loss; of the training loss where nothing was held out."""
        values = self.validation or self.train
        finite = [index for index, value in enumerate(values) if math.isfinite(value)]
        return min(finite, key=lambda index: values[index]) if finite else None


@dataclass(frozen=True)
class Record:
    """A run as the rules see it.

    `spec` is resolved; `insight` is what the trainer found out about the trained network (None for a run that has no
    artifact); `kept` is the trial that the artifact is of; `failed` says why the run failed.
    """

    spec: Json
    facts: DatasetFacts
    rows: Sequence[EpochRow]
    insight: Json | None = None
    kept: int | None = None
    failed: str | None = None

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, by number."""
        by_trial: dict[int, list[EpochRow]] = {}
        for row in self.rows:
            by_trial.setdefault(row.trial, []).append(row)
        return tuple(
            _trial(number, sorted(own, key=lambda r: r.epoch), self._final(number))
            for number, own in sorted(by_trial.items())
        )

    def _final(self, number: int) -> Json | None:
        """The layers of the kept network, for a trial whose epochs nobody looked at (trials that train stacked)."""
        final: Json | None = (self.insight or {}).get("final")
        return final if number == self.kept else None

    @cached_property
    def trial(self) -> Trial | None:
        """The trial whose network was kept; else the one of the lowest loss."""
        for trial in self.trials:
            if trial.number == self.kept:
                return trial
        scored = [(t, t.best) for t in self.trials]
        ranked = [(_values(t)[best], t) for t, best in scored if best is not None]
        if ranked:
            return min(ranked, key=lambda pair: pair[0])[1]
        return self.trials[0] if self.trials else None

    @cached_property
    def kept_index(self) -> int | None:
        """The index of the epoch whose weights were kept."""
        if self.trial is None or not self.trial.epochs:
            return None
        stopping = self.training.get("early_stopping")
        told = (self.insight or {}).get("kept_epoch")
        if told in self.trial.epochs:
            return self.trial.epochs.index(int(told))
        if stopping and stopping.get("restore_best_weights") and self.trial.best is not None:
            return self.trial.best
        return len(self.trial.epochs) - 1

    @property
    def training(self) -> Json:
        """The spec's part on training."""
        part: Json = self.spec["training"]
        return part

    @property
    def optimizer(self) -> tuple[str, Json]:
        """The optimizer's class and arguments."""
        ((name, arguments),) = self.training["optimizer"].items()
        return str(name), arguments

    @property
    def target(self) -> Json | None:
        """The target, where there is one alone."""
        targets = self.spec["target"]
        return targets[0] if len(targets) == 1 else None

    @property
    def loss(self) -> str | None:
        """The class of the loss, where there is one target alone."""
        loss = self.training.get("loss")
        if isinstance(loss, str):
            return loss
        if isinstance(loss, Mapping) and len(loss) == 1:
            ((name, inner),) = loss.items()
            named_target = self.target is not None and name == self.target["name"]
            if named_target and isinstance(inner, Mapping) and len(inner) == 1:
                return str(next(iter(inner)))
            return str(inner) if named_target and isinstance(inner, str) else str(name)
        return None

    @cached_property
    def baseline(self) -> float | None:
        """The loss of always saying the same best thing; None where no formula is known for the loss."""
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

    def fit_of(self, who: str, part: str) -> float | None:
        """The mean loss (log loss, or squared error in the target's units) of `network`, `baseline`, `linear` or
        `trees` on a part, as the trainer evaluated it."""
        value = ((self.insight or {}).get("fit") or {}).get(who, {}).get(part)
        return float(value) if isinstance(value, (int, float)) else None

    def best_reference(self, part: str) -> float | None:
        """The lower of the linear model's and the trees' loss."""
        found = [value for who in ("linear", "trees") if (value := self.fit_of(who, part)) is not None]
        return min(found) if found else None


def _values(trial: Trial) -> tuple[float, ...]:
    return trial.validation or trial.train


def _trial(number: int, rows: Sequence[EpochRow], final: Json | None) -> Trial:
    if final is not None and not any(row.layers for row in rows):
        rows = [replace(row, layers=final) if row.epoch == final["epoch"] else row for row in rows]
    looks = tuple(Look(r.epoch, tuple(r.layers.get("layers") or ())) for r in rows if r.layers)
    penalties = [(r.epoch, number_of(r.layers.get("penalty"))) for r in rows if r.layers]
    penalties = [(epoch, value) for epoch, value in penalties if math.isfinite(value)]
    free = [_between(penalties, r.epoch) for r in rows]
    # The training loss is a mean over the epoch, the penalty that of its end.
    over = [_mean_between(_between(penalties, r.epoch - 1), p) for r, p in zip(rows, free, strict=True)]
    train = tuple(number_of(r.logs.get("loss")) - p for r, p in zip(rows, over, strict=True))
    held = all("val_loss" in r.logs for r in rows)
    validation = tuple(number_of(r.logs.get("val_loss")) - p for r, p in zip(rows, free, strict=True)) if held else ()
    penalty = max((value for _, value in penalties), default=0.0)
    return Trial(number, tuple(r.epoch for r in rows), train, validation, looks, penalty)


def _between(known: Sequence[tuple[int, float]], epoch: int) -> float:
    """The penalty after an epoch. Between two looks, and before the first, it is taken to fall or grow by a factor."""
    if not known:
        return 0.0
    at = bisect_left(known, (epoch, -math.inf))
    if at == len(known):
        return known[-1][1]
    right, high = known[at]
    if right == epoch or len(known) == 1:
        return high
    (left, low), (right, high) = known[max(0, at - 1)], known[max(1, at)]
    share = (epoch - left) / (right - left)
    if low <= 0 or high <= 0:
        return max(0.0, low + (high - low) * share)
    return low * math.pow(min(10.0, max(0.1, high / low)), share)


def _mean_between(before: float, after: float) -> float:
    """The mean of something that changes by a steady factor from one value to the other."""
    if before <= 0 or after <= 0 or abs(before - after) < 1e-6 * after:
        return (before + after) / 2
    return (before - after) / math.log(before / after)


def number_of(value: Any) -> float:
    """A recorded number; NaN for None, for text, and for anything that JSON cannot say."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def mean(values: Iterable[float]) -> float:
    """The mean of the finite ones; NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def median(values: Iterable[float]) -> float:
    """The median of the finite ones; NaN where there is none."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def view_of(insight: Json | None, spec: Json) -> Json | None:
    """What the rules read of the trainer's insight: the answers about the first target, beside the run's own."""
    if insight is None:
        return None
    targets = insight.get("targets") or {}
    first = spec["target"][0]["name"] if len(spec["target"]) == 1 else next(iter(targets), None)
    return {**insight, **(targets.get(first) or {})}
