"""What is wrong, and the alarms that conditions become, on both databases."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from fitserve import db
from fitserve.operations import alarms, conditions, samples
from fitserve.operations.alarms import AlarmWatch
from fitserve.runs import worker_registry
from fitserve.settings import Settings
from fitserve.tables import Alarm, Drifting, OutboxEvent, Worker


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(conditions, "DISK_SHARE", 0.0)  # the disk that the tests run on may be nearly full
    return Settings(home=tmp_path)


def found(engine: Engine, settings: Settings) -> dict[str, conditions.Condition]:
    with db.reading(engine) as session:
        return {one.name: one for one in conditions.look(session, settings)}


def test_an_alarm_has_one_start_and_one_end_whoever_looks(engine: Engine, settings: Settings) -> None:
    worker_registry.register(engine, "w", "here", 1)
    watches = [AlarmWatch(settings, engine, hold=0.0, clear=0.0) for _ in range(2)]

    def look() -> list[Alarm]:
        assert [watch.round() for watch in watches] == [True, False]
        with db.reading(engine) as session:
            return alarms.latest(session, limit=10)

    assert look() == []
    with db.transaction(engine) as session:
        worker = session.get_one(Worker, "w")
        worker.heartbeat_at -= timedelta(minutes=5)
    look()
    (alarm,) = look()
    assert (alarm.name, alarm.severity, alarm.ended_at) == ("no_worker", "critical", None)
    assert list(found(engine, settings)) == ["no_worker"]
    worker_registry.report_alive(engine, "w", None)
    look()
    (alarm,) = look()
    assert alarm.ended_at is not None
    with db.reading(engine) as session:
        types = list(session.scalars(select(OutboxEvent.type).order_by(OutboxEvent.id)))
        assert types == ["alarm.started", "alarm.ended"]
        (queue,) = {row.process for row in samples.rows_since(session, samples.MINUTE, 0, "queue")}
    assert queue == "queue"


def test_what_comes_and_goes_makes_no_alarm_and_no_second_one(engine: Engine, settings: Settings) -> None:
    worker_registry.register(engine, "w", "here", 1)
    hesitant = AlarmWatch(settings, engine, hold=3600.0, clear=0.0)
    with db.transaction(engine) as session:
        session.add(Drifting(model="m", version=1, psi=0.5, since=db.now(session)))
    hesitant.round()
    with db.reading(engine) as session:
        assert alarms.latest(session, limit=10) == []
    patient = AlarmWatch(settings, engine, hold=0.0, clear=3600.0)
    patient.holder = hesitant.holder
    patient.round()
    for present in (False, True):
        with db.transaction(engine) as session:
            session.query(Drifting).delete()
            if present:
                session.add(Drifting(model="m", version=1, psi=0.7, since=db.now(session)))
        patient.round()
    with db.reading(engine) as session:
        (alarm,) = alarms.latest(session, limit=10)
        assert alarm.ended_at is None
        assert "0.70" in alarm.detail


def test_old_alarms_are_deleted_but_no_open_one(engine: Engine) -> None:
    with db.transaction(engine) as session:
        at = db.now(session)
        for number in range(6):
            ended = None if number == 0 else at - timedelta(days=40 if number == 1 else 0)
            facts = {"severity": "warning", "detail": "", "figures": {}, "since": at, "seen_at": at}
            session.add(Alarm(id=f"a{number}", name="x", subject=str(number), ended_at=ended, **facts))
    with db.transaction(engine) as session:
        alarms.delete_old(session, most=3)
        assert [row.id for row in alarms.latest(session, limit=10)] == ["a5", "a4", "a3", "a0"]
