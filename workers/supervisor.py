"""A worker's slots: each claims a run, trains it, and looks for the next until none is queued.

A message from the broker only says "look". So does the clock: where the broker is away, runs are still found.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from queue import Empty, SimpleQueue

from sqlalchemy import Engine

from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.runs import lease, worker_rows
from fitserve.settings import Settings
from fitserve.states import TRIAL
from workers import lost_runs
from workers.attempt.attempt import Attempt
from workers.attempt.origin import attempt_of
from workers.attempt.trial_division import Division, Publish
from workers.trainer_process import Slot, Spawner

log = logging.getLogger(__name__)

WHOLE = ("training", "reproduction")  # kinds of runs that a trainer trains from beginning to end
SIGN_EVERY = 15.0  # seconds between two signs of life of an idle slot
_AFTER_TROUBLE = 1.0  # seconds to wait after an error that we did not foresee


class Supervisor:
    """The slots of one worker process."""

    def __init__(
        self, settings: Settings, engine: Engine, blobs: BlobStore, publish: Publish = lambda _: False
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.blobs = blobs
        self.publish = publish  # wakes other workers
        self.stopping = threading.Event()
        spawner = Spawner()
        name = f"{platform.node()}-{os.getpid()}-{new_id('w')[-4:]}"
        self.slots = [Slot(settings, spawner, f"{name}-{number}") for number in range(settings.trainers)]
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for slot in self.slots:
            self._free.put(slot)
        self._signed_at = {slot.worker: 0.0 for slot in self.slots}
        self._known: set[str] = set()
        self._clock = threading.Thread(target=self._look_now_and_then, name="clock", daemon=True)

    def start(self) -> None:
        """Warms the trainers and begins to look for runs."""
        for slot in self.slots:
            slot.warm()
        self._clock.start()

    def wake(self) -> int:
        """Works in a free slot until no run is queued; waits for a slot where all are busy. Returns runs ended."""
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
        """Asks every run to be handed back; returns when all slots are empty and the trainers are gone."""
        self.stopping.set()
        for _ in self.slots:
            self._free.get()
        for slot in self.slots:
            slot.drop()
            try:
                worker_rows.leave(self.engine, slot.worker)
            except FitserveError:
                log.info("the database is away; our row is buried later")

    def is_ready(self) -> bool:
        """Whether some slot has a warm trainer or is at work."""
        return self._free.qsize() < len(self.slots) or any(slot.is_warm() for slot in self.slots)

    def _work(self, slot: Slot) -> int:
        ended = 0
        while not self.stopping.is_set():
            try:
                claim = lease.claim(
                    self.engine,
                    slot.worker,
                    lease_seconds=self.settings.lease_seconds,
                    running_limit=self.settings.limits.running_runs,
                    # A run may come to wait for its trial: not for TensorFlow's start as well.
                    kinds=(*WHOLE, TRIAL) if slot.is_warm() else WHOLE,
                )
                if claim is None:
                    return ended
                self._sign(slot, claim.lease.run_id)
                with attempt_of(claim) as span:
                    division = Division(self.settings, self.engine, self.blobs, claim, slot.worker, self.publish)
                    attempt = Attempt(self.settings, self.engine, self.blobs, slot, claim, self.stopping, division)
                    state = attempt.run()
                    span.end_run(state)
                self._sign(slot, None)
                ended += 1
            except FitserveError as error:
                log.warning("no run can be claimed now", extra={"error": error.detail})
                return ended
            except Exception:
                # The run's lease runs out and the reaper sees to it; this slot must live on.
                log.exception("an attempt broke off")
                slot.drop()
                self.stopping.wait(_AFTER_TROUBLE)
        return ended

    def _look_now_and_then(self) -> None:
        """Every few seconds, in the slots that are free: warm a trainer, give a sign, look for lost and queued runs."""
        while not self.stopping.is_set():
            for _ in self.slots:
                try:
                    slot = self._free.get_nowait()
                except Empty:
                    break
                try:
                    slot.warm()
                    self._sign(slot, None, every=SIGN_EVERY)
                    lost_runs.take_back(self.engine, self.settings.max_attempts)
                    self._work(slot)
                except FitserveError as error:
                    log.warning("no look for runs now", extra={"error": error.detail})
                except Exception:
                    log.exception("a look for runs broke off")
                finally:
                    self._free.put(slot)
            self.stopping.wait(self.settings.reap_seconds)

    def _sign(self, slot: Slot, run_id: str | None, every: float = 0.0) -> None:
        """Tells the table of workers; that this fails matters to nobody but a reader of the table."""
        now = time.monotonic()
        if now - self._signed_at[slot.worker] < every:
            return
        self._signed_at[slot.worker] = now
        try:
            if slot.worker not in self._known:
                worker_rows.appear(self.engine, slot.worker, platform.node(), os.getpid())
                self._known.add(slot.worker)
            worker_rows.sign(self.engine, slot.worker, run_id)
        except FitserveError:
            log.info("the database is away")
