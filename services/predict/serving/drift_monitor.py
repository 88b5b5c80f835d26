"""The thread that counts models' sampled inputs and answers, and writes the counts to the database every few seconds.

`fitserve.monitoring` sums the windows of all processes, `fitserve.rollouts.evidence` the counts of rollouts.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from sqlalchemy import Engine

from fitserve import monitoring
from fitserve.api_keys import Identity
from fitserve.errors import BadInput
from fitserve.ids import new_id
from fitserve.live_coverage import stored_bounds
from fitserve.registry import RolloutFacts
from fitserve.settings import Settings
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.serving.drift import DriftSampler
from services.predict.serving.rollout_traffic import RolloutTraffic

log = logging.getLogger(__name__)

COUNT_SECONDS = 0.25  # between two counts of the buffers
MAX_PENDING_PREDICTIONS = 10_000


class DriftMonitor(threading.Thread):
    """The thread that counts samples and writes windows, and the samplers of the models that are served."""

    def __init__(self, settings: Settings, engine: Engine, loaded_models: Callable[[], Iterable[LoadedModel]]) -> None:
        super().__init__(name="drift", daemon=True)
        self.settings, self.engine, self.loaded_models = settings, engine, loaded_models
        self.process = f"{platform.node()[:80]}-{os.getpid()}-{new_id('p')[-6:]}"
        self.samplers: dict[tuple[str, str], DriftSampler] = {}  # by model and artifact
        self.write_failures = 0
        self.rollouts = RolloutTraffic()
        self.surplus = 0  # predictions that exceeded their owner's quota and were not stored
        self._pending_predictions: deque[dict[str, Any]] = deque(maxlen=MAX_PENDING_PREDICTIONS)
        self._slice_seconds = monitoring.slice_seconds(settings.drift_window_seconds)
        self._stopping = threading.Event()

    def sampler_of(self, model: LoadedModel) -> DriftSampler:
        """Return the model's sampler; an artifact keeps its sampler and counts even while it is unloaded."""
        key = (model.name, model.artifact)
        if key not in self.samplers:
            self.samplers[key] = DriftSampler(model, self._slice_seconds)
        return self.samplers[key]

    def store_prediction(
        self, prediction: Prediction, caller: Identity, id: str, rollout: RolloutFacts | None = None
    ) -> None:
        """Queue an answer to be stored under its id, to be joined with ground truth. Belongs to the event loop.

        `rollout` is the rollout that chose the version at random.
        """
        model = prediction.model
        values = {name: np.asarray(value, np.float64).tolist() for name, value in prediction.outputs.items()}
        self._pending_predictions.append(
            {
                "model": model.name,
                "owner": caller.owner,
                "id": id,
                "version": model.version,
                "outputs": values,
                "bounds": _bounds_to_store(prediction),
                "rollout": None if rollout is None else rollout.id,
                "rollout_step": None if rollout is None else rollout.step,
                "key_id": caller.key_id,
            }
        )

    def stop(self) -> None:
        """End the thread after a last write."""
        self._stopping.set()

    def run(self) -> None:
        write_at = time.monotonic() + self.settings.drift_write_seconds
        while not self._stopping.wait(COUNT_SECONDS):
            self._count()
            if time.monotonic() >= write_at or self._pending_predictions:
                self._write()
                write_at = time.monotonic() + self.settings.drift_write_seconds
            self._write_rollouts()
        self._count()
        self._write()
        self._write_rollouts(now=True)

    def _count(self) -> None:
        for sampler in list(self.samplers.values()):
            try:
                sampler.count_buffer(time.time())
            except Exception:
                log.exception("rows could not be counted", extra={"model": sampler.model})

        try:
            self.rollouts.count()
        except Exception:
            log.exception("answers of a rollout could not be counted")

    def _write_rollouts(self, now: bool = False) -> None:
        try:
            self.rollouts.write(self.engine, self.process, now)
        except Exception as error:
            self.write_failures += 1
            if self.write_failures == 1:  # logged once; the counts are kept and written later
                log.warning("a rollout's counts cannot be written", extra={"error": type(error).__name__})

    def _write(self) -> None:
        predictions = [self._pending_predictions.popleft() for _ in range(len(self._pending_predictions))]
        samplers = list(self.samplers.values())
        windows = [window for sampler in samplers for window in sampler.unwritten_windows(self.process)]
        try:
            if predictions:
                surplus = monitoring.store_predictions(
                    self.engine, predictions, self.settings.limits.stored_predictions
                )
                if surplus and not self.surplus:
                    log.warning("an owner has as many stored predictions as FITSERVE_LIMIT_STORED_PREDICTIONS allows")
                self.surplus += surplus
            monitoring.write_counts(self.engine, windows)
        except Exception as error:
            self.write_failures += 1
            self._pending_predictions.extendleft(reversed(predictions))
            if self.write_failures == 1:  # logged once; the counts are kept and written later
                log.warning("live statistics cannot be written", extra={"error": type(error).__name__})
            return
        oldest = time.time() - self.settings.drift_window_seconds - self._slice_seconds
        for sampler in samplers:
            key = (sampler.model, sampler.artifact)
            sampler.mark_written([one.slice for one in windows if (one.model, one.artifact) == key], oldest)
        loaded = {(model.name, model.artifact) for model in self.loaded_models()}
        for key, sampler in list(self.samplers.items()):
            if key not in loaded and not sampler.slices and not sampler.buffer:
                del self.samplers[key]


def _bounds_to_store(prediction: Prediction) -> dict[str, Any] | None:
    """Return the bounds to check ground truth against, at the default level; None for a version without intervals."""
    model = prediction.model
    if model.level is None and model.conformal.coverage_by is None:
        return None
    try:
        return stored_bounds(prediction.bounds(None), model.levels, prediction.groups)
    except BadInput:  # a bound has the name of an output
        return stored_bounds([], {}, prediction.groups)
