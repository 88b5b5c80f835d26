"""Alarms: conditions that lasted, with their start and end. One process at a time checks, under a lease.

A condition becomes an alarm once it has lasted for HOLD_SECONDS, and the alarm ends once the condition has been absent
for CLEAR_SECONDS, so that an intermittent condition makes one alarm. Start and end are events, for webhooks that
receive every owner's events.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from fitserve import db, events, leaders
from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.operations import conditions
from fitserve.operations.conditions import Condition
from fitserve.operations.sampler import Sampler
from fitserve.operations.samples import Reading
from fitserve.runs import queries, worker_registry
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Alarm, Worker

log = logging.getLogger(__name__)

LEADER = "alarms"
HOLD_SECONDS = 30.0
CLEAR_SECONDS = 60.0
KEPT_SECONDS = 30 * 86_400.0
MAX_KEPT = 5_000
OWNER = ""  # owner of alarm events; no key has it, so only webhooks with `all_owners` receive them

Key = tuple[str, str]  # name, subject


class AlarmWatch(threading.Thread):
    """A thread that checks conditions every `sample_seconds` while this process leads, and samples the queue."""

    def __init__(
        self, settings: Settings, engine: Engine, hold: float = HOLD_SECONDS, clear: float = CLEAR_SECONDS
    ) -> None:
        super().__init__(name="alarms", daemon=True)
        self.settings, self.engine, self.hold, self.clear = settings, engine, hold, clear
        self.holder = f"{platform.node()[:80]}-{os.getpid()}-{new_id('s')[-6:]}"
        self.queue = _QueueSampler(engine, settings.sample_seconds, settings.home)
        self._since: dict[Key, datetime] = {}  # start of each condition that is not an alarm yet
        self._away: dict[Key, datetime] = {}  # when each alarm's condition was first absent
        self._stopping = threading.Event()

    def stop(self, wait: float = 2.0) -> None:
        """End the thread."""
        self._stopping.set()
        if self.is_alive():
            self.join(wait)

    def run(self) -> None:
        failed = False
        while not self._stopping.wait(self.settings.sample_seconds):
            try:
                self.round()
                failed = False
            except FitserveError as error:
                if not failed:  # logged once
                    log.warning("alarms wait", extra={"error": error.detail})
                failed = True
            except Exception:
                log.exception("alarms wait")

    def round(self) -> bool:
        """Check once and record changes. Return whether this process leads."""
        with db.transaction(self.engine) as session:
            lease = max(30.0, 3 * self.settings.sample_seconds)
            if not leaders.lead(session, LEADER, self.holder, lease):
                self._since.clear()
                self._away.clear()
                return False
        with db.reading(self.engine) as session:
            holding = conditions.look(session, self.settings)
            reading = queue_reading(session)
        self.queue.write(reading)
        with db.transaction(self.engine) as session:
            self._update(session, {(one.name, one.subject): one for one in holding})
            delete_old(session)
        return True

    def _update(self, session: Session, by_key: dict[Key, Condition]) -> None:
        at = db.now(session)
        is_open = {(row.name, row.subject): row for row in open_alarms(session)}
        for key, condition in by_key.items():
            self._away.pop(key, None)
            if (row := is_open.get(key)) is not None:
                row.severity, row.detail, row.figures = condition.severity, condition.detail[:500], condition.figures
                row.seen_at = at
                continue
            since = self._since.setdefault(key, at)
            if (at - since).total_seconds() >= self.hold:
                _start(session, condition, since, at)
                del self._since[key]
        for key in self._since.keys() - by_key.keys():
            del self._since[key]
        for key, row in is_open.items():
            if key not in by_key and (at - self._away.setdefault(key, at)).total_seconds() >= self.clear:
                row.ended_at = self._away.pop(key)
                events.record(
                    session,
                    "alarm.ended",
                    owner=OWNER,
                    data={**_facts(row), "since": row.since.isoformat()},
                    at=at,
                )


def _start(session: Session, condition: Condition, since: datetime, at: datetime) -> None:
    row = Alarm(
        id=new_id("alarm"),
        name=condition.name,
        subject=condition.subject[:128],
        severity=condition.severity,
        detail=condition.detail[:500],
        figures=condition.figures,
        since=since,
        seen_at=at,
        ended_at=None,
    )
    session.add(row)
    session.flush()
    events.record(session, "alarm.started", owner=OWNER, data={**_facts(row), "figures": row.figures}, at=at)


def _facts(row: Alarm) -> dict[str, str]:
    return {
        "alarm": row.id,
        "name": row.name,
        "subject": row.subject,
        "severity": row.severity,
        "detail": row.detail,
    }


class _QueueSampler:
    """A writer of the queue's gauges under one name, whichever process leads."""

    def __init__(self, engine: Engine, seconds: float, home: Path) -> None:
        self._reading = Reading()
        self._sampler = Sampler(engine, "queue", seconds, home, self._read)
        self._sampler.process = "queue"

    def _read(self) -> Reading:
        return self._reading

    def write(self, reading: Reading) -> None:
        self._reading = reading
        self._sampler.sample()


def queue_reading(session: Session) -> Reading:
    """Return the numbers of queued and running runs and of workers, and how long the oldest run has been queued."""
    since = db.now(session) - timedelta(seconds=worker_registry.WORKER_TIMEOUT)
    alive = session.scalar(select(func.count()).select_from(Worker).where(Worker.heartbeat_at > since)) or 0
    states = queries.count_by_state(session)
    gauges = {
        "queued": float(states[RunState.queued]),
        "running": float(states[RunState.running]),
        "oldest_queued_seconds": queries.oldest_queued_seconds(session),
        "workers": float(alive),
    }
    return Reading(gauges=gauges)


def open_alarms(session: Session) -> list[Alarm]:
    """Return the alarms that have not ended, the oldest first."""
    return list(session.scalars(select(Alarm).where(Alarm.ended_at.is_(None)).order_by(Alarm.id)))


def latest(session: Session, *, limit: int, before: str | None = None) -> list[Alarm]:
    """Return alarms, newest first, older than the id `before`."""
    query = select(Alarm).order_by(Alarm.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Alarm.id < before)
    return list(session.scalars(query))


def delete_old(session: Session, most: int = MAX_KEPT) -> None:
    """Delete alarms that ended long ago, and the oldest ended ones beyond `most`."""
    old = db.now(session) - timedelta(seconds=KEPT_SECONDS)
    session.execute(delete(Alarm).where(Alarm.ended_at < old))
    surplus = session.scalar(select(Alarm.id).order_by(Alarm.id.desc()).offset(most).limit(1))
    if surplus is not None:
        session.execute(delete(Alarm).where(Alarm.id <= surplus, Alarm.ended_at.is_not(None)))
