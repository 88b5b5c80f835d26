"""A worker process's slots: each claims runs and makes attempts at them until none is queued.

The supervisor only claims; `attempt.TrainerAttempt` carries out an attempt. A message from the broker is only a hint to
check the queue. The poll thread checks it on a timer too, so runs are found without a broker.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from sqlalchemy import Engine

from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.runs import lease, worker_registry
from fitserve.settings import Settings
from fitserve.states import WHOLE_TRAININGS, RunKind
from fitserve.tables import Run
from workers.attempt.attempt import Stopping, TrainerAttempt
from workers.attempt.gang import HelperAttempt, LeaderAttempt, workers_of
from workers.attempt.gang_address import why_no_gang
from workers.attempt.telemetry import attempt_context
from workers.attempt.trial_division import Publish, TrialDivision
from workers.expired_runs import reclaim_expired_runs
from workers.installed import release
from workers.trainer_process import TrainerSlot

log = logging.getLogger(__name__)

ALIVE_SECONDS = 15.0  # between two reports of an idle slot that its worker is alive
_ERROR_PAUSE = 1.0  # seconds to wait after an unexpected error


class Supervisor:
    """The slots of one worker process."""

    def __init__(
        self, settings: Settings, engine: Engine, blobs: BlobStore, publish: Publish = lambda _: False
    ) -> None:
        """`publish` wakes other workers for a run."""
        self.settings = settings
        self.engine = engine
        self.blobs = blobs
        self.publish = publish
        self.stopping = Stopping()
        # One thread starts all trainers and lives as long as this process: the kernel kills a trainer when the thread
        # that started it ends.
        spawner = ThreadPoolExecutor(1, "spawner")
        name = f"{platform.node()}-{os.getpid()}-{new_id('w')[-4:]}"
        self.slots = [TrainerSlot(settings, spawner, f"{name}-{number}") for number in range(settings.trainers)]
        self._free: SimpleQueue[TrainerSlot] = SimpleQueue()
        for slot in self.slots:
            self._free.put(slot)
        # A worker that others must not connect to claims no helper's part.
        self._helps = (RunKind.helper,) if why_no_gang(settings) is None else ()
        self._reported_at = {slot.worker: 0.0 for slot in self.slots}
        self._registered: set[str] = set()
        self._poller = threading.Thread(target=self._poll, name="poll", daemon=True)

    def start(self) -> None:
        """Warm the trainers and begin to poll the queue."""
        for slot in self.slots:
            slot.warm()
        self._poller.start()

    def wake(self) -> int:
        """Work in a free slot until no run is queued, waiting for a slot first. Returns the number of attempts."""
        while not self.stopping.is_set():
            try:
                slot = self._free.get(timeout=0.5)
            except Empty:
                continue
            try:
                return self._work(slot)
            finally:
                self._free.put(slot)
        return 0

    def stop(self) -> None:
        """Ask every attempt to release its run; return once all slots are free and the trainers have exited."""
        self.stopping.set()
        for _ in self.slots:
            self._free.get()
        for slot in self.slots:
            slot.drop()
            try:
                worker_registry.deregister(self.engine, slot.worker)
            except FitserveError:
                log.info("database unavailable; this worker's row is pruned later")

    def hurry(self) -> None:
        """Release every run at once: it resumes from its last checkpoint, and its current epoch is lost."""
        self.stopping.hurried = True
        self.stopping.set()

    def is_ready(self) -> bool:
        """Return whether any slot is working or has a warm trainer."""
        return self._free.qsize() < len(self.slots) or any(slot.is_warm() for slot in self.slots)

    def _work(self, slot: TrainerSlot) -> int:
        attempts = 0
        while not self.stopping.is_set():
            try:
                claim = lease.claim(
                    self.engine,
                    slot.worker,
                    lease_seconds=self.settings.lease_seconds,
                    running_limit=self.settings.limits.running_runs,
                    release=release(),
                    # A run may end up waiting for its trial, and must not wait for TensorFlow's start as well. A helper
                    # needs a new trainer anyway.
                    kinds=(*WHOLE_TRAININGS, *self._helps, *((RunKind.trial,) if slot.is_warm() else ())),
                )
                if claim is None:
                    return attempts
                self._report_alive(slot, claim.lease.run_id)
                with attempt_context(claim) as span:
                    division = TrialDivision(self.settings, self.engine, self.blobs, claim, slot.worker, self.publish)
                    attempt_type = _attempt_type(claim.run)
                    attempt = attempt_type(self.settings, self.engine, self.blobs, slot, claim, self.stopping, division)
                    span.end_run(attempt.run())
                self._report_alive(slot, None)
                attempts += 1
            except FitserveError as error:
                log.warning("cannot claim a run", extra={"error": error.detail})
                return attempts
            except Exception:
                # The lease expires and a reaper requeues the run; this slot must keep working.
                log.exception("attempt failed")
                slot.drop()
                self.stopping.wait(_ERROR_PAUSE)
        return attempts

    def _poll(self) -> None:
        """In each free slot, every few seconds: warm a trainer, report alive, look for expired and queued runs."""
        while not self.stopping.is_set():
            for _ in self.slots:
                try:
                    slot = self._free.get_nowait()
                except Empty:
                    break
                try:
                    slot.warm()
                    self._report_alive(slot, None, every=ALIVE_SECONDS)
                    reclaim_expired_runs(self.engine, self.settings.max_attempts)
                    self._work(slot)
                except FitserveError as error:
                    log.warning("poll failed", extra={"error": error.detail})
                except Exception:
                    log.exception("poll failed")
                finally:
                    self._free.put(slot)
            self.stopping.wait(self.settings.reap_seconds)

    def _report_alive(self, slot: TrainerSlot, run_id: str | None, every: float = 0.0) -> None:
        """Report once that this worker is alive; only people and estimates read that, so failures are ignored."""
        now = time.monotonic()
        if now - self._reported_at[slot.worker] < every:
            return
        self._reported_at[slot.worker] = now
        try:
            if slot.worker not in self._registered:
                worker_registry.register(self.engine, slot.worker, platform.node(), os.getpid())
                self._registered.add(slot.worker)
            worker_registry.report_alive(self.engine, slot.worker, run_id)
        except FitserveError:
            log.info("database unavailable; no heartbeat")


def _attempt_type(run: Run) -> type[TrainerAttempt]:
    """Return the class of attempts at this run: by one worker, or as the leader or a helper of several."""
    if run.kind == RunKind.helper:
        return HelperAttempt
    return TrainerAttempt if run.resolved.get("search") or workers_of(run) is None else LeaderAttempt
