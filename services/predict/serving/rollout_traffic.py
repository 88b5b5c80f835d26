"""Traffic counted while rollouts are active: requests, errors, response times and answers of both versions.

The event loop counts with plain integers and leaves answers in a buffer of limited size; a thread bins these by the old
version's bins, and writes the sums to the database. `fitserve.rollouts` judges the sums of all processes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine

from fitserve import drift
from fitserve.registry import RolloutFacts
from fitserve.rollouts import evidence
from fitserve.rollouts.guards import LATENCY_EDGES, ArmCounts, StepCounts
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.serving.drift import DriftSampler

MAX_BUFFERED = 2_000  # answers between two counts; of more, the first ones are counted
MAX_ROWS = 200  # answers of one request; of more, every n-th is taken
MAX_CLASSES = 20  # the most frequent classes, which have a bin of their own
FAR_APART = 0.1  # share of the scale by which two values of a regression disagree
WRITE_SECONDS = 1.0
IDLE_SECONDS = 60.0  # idle time after which a step's counts are dropped from memory: a later step has begun
BASE, NEW = "base", "new"

Answers = Mapping[str, Any]  # by output, arrays (rows, units)


class StepTraffic:
    """One step of one rollout."""

    def __init__(self, reference: DriftSampler) -> None:
        self.counts = StepCounts()
        self.arms = {BASE: self.counts.base, NEW: self.counts.new}
        self.buffer: deque[tuple[str, LoadedModel, Answers]] = deque()
        self.changed = True
        self.changed_at = time.monotonic()
        self.outputs = {output.name: output for output in reference.outputs}
        self.bins = {
            name: {part: _few_classes(bins) for part, bins in reference.distributions(output).items()}
            for name, output in self.outputs.items()
        }
        for name, parts in self.bins.items():
            if (scale := _scale(parts.get("values"))) is not None:
                self.counts.scales[name] = scale

    def observe(self, arm: str, seconds: float, failed: bool, prediction: Prediction | None) -> None:
        """Count a request. Belongs to the event loop."""
        counts = self.arms[arm]
        counts.requests += 1
        if failed:
            counts.errors += 1
        else:
            counts.latency[bisect_left(LATENCY_EDGES, seconds)] += 1
            if prediction is not None and len(self.buffer) < MAX_BUFFERED:
                self.buffer.append((arm, prediction.model, prediction.outputs))
        self.changed, self.changed_at = True, time.monotonic()

    def compare(self, answered: Prediction, shadow: Prediction | None, disagreeing: float) -> None:
        """Count a request that both versions answered; None if the new one failed. Belongs to the event loop."""
        for counts in self.arms.values():
            counts.requests += 1
        if shadow is None:
            self.counts.new.errors += 1
        else:
            if len(self.buffer) < MAX_BUFFERED:
                self.buffer.append((BASE, answered.model, answered.outputs))
                self.buffer.append((NEW, shadow.model, shadow.outputs))
            self.counts.compared += 1
            self.counts.disagreeing += disagreeing
        self.changed, self.changed_at = True, time.monotonic()

    def disagreeing(self, answered: Prediction, shadow: Prediction) -> float:
        """Return the share of rows that the versions answer differently, the largest over all outputs. Any thread."""
        shares = [0.0]
        for name, output in self.outputs.items():
            if name not in shadow.outputs:
                continue
            one, other = (self._parts(each.model, name, each.outputs[name]) for each in (answered, shadow))
            if "classes" in one and "classes" in other:
                shares.append(float(np.mean(one["classes"] != other["classes"])))
            elif output.task == "regression" and "values" in other and name in self.counts.scales:
                apart = np.abs(one["values"] - other["values"]) > FAR_APART * self.counts.scales[name]
                shares.append(float(np.mean(apart)))
        return max(shares)

    @staticmethod
    def _parts(model: LoadedModel, name: str, values: Any) -> Mapping[str, Any]:
        output = next(one for one in model.outputs if one.name == name)
        return drift.prediction_parts(output.task, output.labels, np.asarray(values))

    def count_buffer(self) -> None:
        """Count the buffered answers into bins. Belongs to the monitor's thread."""
        single: dict[tuple[str, LoadedModel], list[Answers]] = {}
        for _ in range(len(self.buffer)):
            arm, model, answers = self.buffer.popleft()
            if len(next(iter(answers.values()))) == 1:
                single.setdefault((arm, model), []).append(answers)
            else:
                self._count(self.arms[arm], model, answers, 1)
        for (arm, model), requests in single.items():
            joined = {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}
            self._count(self.arms[arm], model, joined, len(requests))

    def _count(self, arm: ArmCounts, model: LoadedModel, answers: Answers, requests: int) -> None:
        """Count rows that belong to this many requests, weighted so that each request counts once."""
        for name, values in answers.items():
            if requests == 1:
                values = values[:: 1 + len(values) // MAX_ROWS]
            bins = self.bins.get(name, {})
            parts = self._parts(model, name, values) if bins and len(values) else {}
            for part in bins.keys() & parts.keys():
                counted = drift.count(bins[part], parts[part])
                arm.add_shares(name, part, [requests * count / len(values) for count in counted])


class RolloutTraffic:
    """All active rollouts of a process."""

    def __init__(self) -> None:
        self.steps: dict[tuple[str, int], StepTraffic] = {}
        self._write_at = 0.0

    def of(self, rollout: RolloutFacts, reference: LoadedModel | None) -> StepTraffic | None:
        """Return a step's counts. `reference` is the previous version; None until it is loaded."""
        known = self.steps.get((rollout.id, rollout.step))
        if known is None and reference is not None and isinstance(reference.sampler, DriftSampler):
            known = self.steps[rollout.id, rollout.step] = StepTraffic(reference.sampler)
        return known

    def count(self) -> None:
        """Count the buffered answers. Belongs to the thread."""
        for step in list(self.steps.values()):
            step.count_buffer()

    def write(self, engine: Engine, process: str, now: bool = False) -> None:
        """Write what has changed, at most once in WRITE_SECONDS unless it must be `now`. Belongs to the thread."""
        if not self.steps or (time.monotonic() < self._write_at and not now):
            return
        self._write_at = time.monotonic() + WRITE_SECONDS
        changed = {key: step for key, step in list(self.steps.items()) if step.changed}
        for step in changed.values():
            step.changed = False  # before it is read: what is counted meanwhile is written again
        try:
            evidence.write_counts(engine, process, {key: step.counts for key, step in changed.items()})
        except Exception:
            for step in changed.values():
                step.changed = True
            raise
        idle = time.monotonic() - IDLE_SECONDS
        for key in [key for key, step in list(self.steps.items()) if step.changed_at < idle and not step.changed]:
            del self.steps[key]


def _few_classes(bins: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a distribution in which only the most frequent classes have a bin of their own."""
    if bins["kind"] != "categorical" or len(bins["frequencies"]) <= MAX_CLASSES:
        return bins
    classes: Sequence[str] = sorted(bins["frequencies"], key=bins["frequencies"].__getitem__, reverse=True)[
        :MAX_CLASSES
    ]
    return {**bins, "frequencies": {name: bins["frequencies"][name] for name in classes}}


def _scale(values: Mapping[str, Any] | None) -> float | None:
    """Return the scale of a regression's differences: the width of the middle of its training predictions."""
    edges: Sequence[float] = (values or {}).get("edges") or ()
    if len(edges) < 2:
        return None
    width = edges[-2] - edges[1] if len(edges) >= 4 else edges[-1] - edges[0]
    return float(width) if width > 0 else None
