"""The thread that moves rollouts forward. Every worker and reaper has one; one process at a time holds a rollout."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time

from sqlalchemy import Engine

from fitserve import telemetry
from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.rollouts import evidence, lifecycle

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
CLEAN_SECONDS = 600.0


class RolloutDriver(threading.Thread):
    """Looks at each active rollout every TICK_SECONDS, as long as this process holds its lease."""

    def __init__(self, engine: Engine, tick_seconds: float = TICK_SECONDS) -> None:
        super().__init__(name="rollouts", daemon=True)
        self.engine, self.tick_seconds = engine, tick_seconds
        self.holder = f"{platform.node()[:80]}-{os.getpid()}-{new_id('w')[-6:]}"
        self._stopping = threading.Event()
        self._clean_at = time.monotonic() + CLEAN_SECONDS

    def run(self) -> None:
        failing = False
        while not self._stopping.is_set():
            try:
                self.tick()
                failing = False
            except FitserveError as error:  # the database is away: rollouts stay where they are
                if not failing:
                    log.warning("rollouts cannot be read", extra={"error": error.detail})
                failing = True
            except Exception:
                log.exception("a rollout cannot be moved forward")
            self._stopping.wait(self.tick_seconds)

    def tick(self) -> None:
        """Advance every rollout whose lease is ours."""
        for id in lifecycle.claim(self.engine, self.holder):
            done = lifecycle.advance(self.engine, id, self.holder)
            if done is None or done.moved is None:
                continue
            row = done.rollout
            facts = {"rollout": row.id, "model": row.model, "version": row.to, "state": row.state, "step": row.step}
            log.info("rollout moved", extra={**facts, "detail": (row.reason or {}).get("detail")})
            if done.moved != "step":
                telemetry.ROLLOUTS_ENDED.labels(done.moved).inc()
        if time.monotonic() >= self._clean_at:
            self._clean_at = time.monotonic() + CLEAN_SECONDS
            evidence.delete_old_counts(self.engine)

    def stop(self) -> None:
        """End the thread and give up its leases, so that another process goes on at once."""
        self._stopping.set()
        if self.is_alive():
            self.join(5)
        try:
            lifecycle.release(self.engine, self.holder)
        except FitserveError:
            log.info("the leases of rollouts expire by themselves")
