"""Each alarm rule, from what is stored to the alarm's start and end, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.ids import new_id
from fitserve.operations import alarms, conditions, samples
from fitserve.operations.alarms import CLEAR_SECONDS, HOLD_SECONDS, AlarmWatch
from fitserve.runs import worker_registry
from fitserve.settings import Settings
from fitserve.tables import (
    Alarm,
    Automation,
    Blob,
    Dataset,
    Delivery,
    Drifting,
    OutboxEvent,
    Run,
    Sample,
    Webhook,
)

SLOW = [0] * 11 + [200] + [0] * 3  # predictions by how long they took
USUAL: dict[str, dict[str, Any]] = {
    "api": {"counts": {"requests": 100, "errors": 0}},
    "predict": {"counts": {"requests": 100, "errors": 1, "shed": 10}},
    "reaper": {"counts": {}},
}


class World:
    """A server's tables, and a clock; all is well unless a test changes that."""

    samples: dict[str, dict[str, Any]]  # what each kind of process writes
    workers: set[str]  # those with a heartbeat
    dispatching: bool  # whether events are turned into deliveries

    def __init__(self, engine: Engine, folder: Path, patch: pytest.MonkeyPatch) -> None:
        with db.reading(engine) as session:
            self.engine, self.time = engine, db.now(session).replace(minute=0, second=0, microsecond=0)
        patch.setattr(db, "now", lambda session: self.time)  # it stands still until the test moves it
        self.watch = AlarmWatch(Settings(home=folder), engine)
        with self.change() as (session, at):
            session.add(Blob(sha256="0" * 64, bytes=1, kind="dataset", created_at=at))
            session.flush()
            facts: dict[str, Any] = {"source": {}, "columns": [], "profile": {}, "refused": None}
            row = Dataset(id="ds", name="d", version=1, owner="ann", sha256="0" * 64, blob="0" * 64, **facts)
            row.rows, row.bytes, row.created_at = 1, 1, at
            session.add(row)
        self.workers = {"w1", "w2"}
        for worker in self.workers:
            worker_registry.register(engine, worker, "here", 1)
        as_usual(self)

    def change(self) -> Change:
        return Change(self.engine)

    def after(self, seconds: float) -> dict[str, Alarm]:
        """Let time pass, with all that still works at work, and look. Return the alarms that are open."""
        self.time += timedelta(seconds=seconds)
        for worker in self.workers:
            worker_registry.report_alive(self.engine, worker, None)
        with self.change() as (session, now):
            if self.dispatching:
                session.execute(update(OutboxEvent).values(dispatched_at=now))
            for kind, figures in self.samples.items():
                _write(session, kind, figures, now.timestamp())
        assert self.watch.round()
        with db.reading(self.engine) as session:
            return {alarm.name: alarm for alarm in alarms.open_alarms(session)}


def _write(session: Session, kind: str, figures: dict[str, Any], at: float) -> None:
    """Add what a process has counted since it wrote last, to its row of this minute and that of these ten minutes."""
    gauges = {"at": at, "disk_free": 50.0, "disk_size": 100.0, **figures.get("gauges", {})}
    for step, slot in samples.slots_of(at):
        row = session.get(Sample, (step, slot, kind))
        before = row.figures["counts"] if row is not None else {}
        counted = {name: before.get(name, 0) + number for name, number in figures.get("counts", {}).items()}
        whole = {"buckets": {}, "broken": [], **figures, "counts": counted, "gauges": gauges, "most": {}}
        session.merge(Sample(step=step, slot=slot, process=kind, kind=kind, host="here", figures=whole))


class Change:
    """A transaction with the time, for `with`."""

    def __init__(self, engine: Engine) -> None:
        self._whole = db.transaction(engine)

    def __enter__(self) -> tuple[Session, datetime]:
        session = self._whole.__enter__()
        return session, db.now(session)

    def __exit__(self, *error: Any) -> None:
        self._whole.__exit__(*error)


Step = Callable[[World], None]


def says(kind: str, **figures: Any) -> Step:
    """A process writes other figures than usual."""

    def change(world: World) -> None:
        for name, value in figures.items():
            known = world.samples[kind].get(name)
            world.samples[kind][name] = {**known, **value} if isinstance(known, dict) else value

    return change


def counts(kind: str, **counted: int) -> Step:
    return says(kind, counts=counted)


def as_usual(world: World) -> None:
    world.samples, world.workers, world.dispatching = deepcopy(USUAL), {"w1", "w2"}, True


def silence(kind: str) -> Step:
    def stop(world: World) -> None:
        del world.samples[kind]

    return stop


def stop_workers(*names: str) -> Step:
    return lambda world: world.workers.difference_update(names)


def runs(state: str, number: int = 1) -> Step:
    def add(world: World) -> None:
        with world.change() as (session, at):
            facts = {"owner": "ann", "dataset_id": "ds", "spec": {}, "resolved": {}, "estimates": {}, "created_at": at}
            ended = None if state == "queued" else at
            session.add_all(Run(id=new_id("run"), state=state, finished_at=ended, **facts) for _ in range(number))

    return add


def undelivered(world: World) -> None:
    world.dispatching = False
    with world.change() as (session, at):
        session.add(OutboxEvent(id=new_id("evt"), type="run.failed", owner="ann", data={}, created_at=at))


def add_webhook(reason: str | None = None, delivery: str | None = None) -> Step:
    def add(world: World) -> None:
        with world.change() as (session, at):
            hook, event = new_id("hook"), new_id("evt")
            row = Webhook(id=hook, owner="ann", url="https://a.example", events=["*"], created_at=at, updated_at=at)
            row.enabled, row.disabled_reason = reason is None, reason
            session.add(row)
            session.add(OutboxEvent(id=event, type="run.failed", owner="ann", data={}, created_at=at))
            session.flush()
            if delivery is not None:
                facts: dict[str, Any] = {"state": delivery, "next_at": at, "created_at": at}
                session.add(Delivery(id=new_id("d"), webhook_id=hook, event_id=event, **facts))

    return add


def paused(reason: str | None) -> Step:
    def add(world: World) -> None:
        with world.change() as (session, at):
            row = Automation(id=new_id("auto"), owner="ann", name=new_id("n"), policy={}, created_at=at, updated_at=at)
            row.enabled, row.paused_reason = False, reason
            session.add(row)

    return add


def drifting(world: World) -> None:
    with world.change() as (session, at):
        session.add(Drifting(model="m", version=3, psi=0.5, since=at))


def delete_all(table: Any, *where: Any) -> Step:
    def remove(world: World) -> None:
        with world.change() as (session, _):
            session.execute(delete(table).where(*where))

    return remove


@dataclass(frozen=True)
class Case:
    """What makes a rule's alarm, and what ends it."""

    severity: str
    happen: Step
    nearly: Step | None = None  # what must not make it
    until: float = 0.0  # seconds from then to the condition
    mend: Step | None = None  # beside all that works again
    fade: float = 0.0  # seconds from being mended to the condition's end
    subject: str = ""


DEAD = worker_registry.WORKER_TIMEOUT
SILENT = conditions.SILENT_SECONDS + 4 * Settings().sample_seconds + 1
WINDOW, HOUR = 421.0, 3661.0  # of five minutes and an hour, with the slot that is being written
CASES: dict[str, Case] = {
    "no_worker": Case("critical", stop_workers("w1", "w2"), until=DEAD),
    "workers_lost": Case("warning", stop_workers("w2"), until=DEAD),
    "queue_old": Case(
        "warning", runs("queued"), until=conditions.QUEUE_SECONDS + 1, mend=delete_all(Run, Run.state == "queued")
    ),
    "process_down": Case("critical", silence("reaper"), until=SILENT, subject="reaper"),
    "predict_errors": Case(
        "critical",
        counts("predict", requests=10_000, errors=200),
        counts("predict", requests=1000, errors=14),
        fade=WINDOW,
    ),
    "api_errors": Case(
        "critical", counts("api", requests=10_000, errors=600), counts("api", requests=100, errors=5), fade=WINDOW
    ),
    "predict_slow": Case(
        "warning",
        says("predict", buckets={"predictions": SLOW}),
        says("predict", buckets={"predictions": [count // 100 for count in SLOW]}),
        fade=WINDOW,
    ),
    "predict_shedding": Case("warning", counts("predict", shed=1000), counts("predict", shed=100), fade=WINDOW),
    "version_broken": Case("critical", says("predict", broken=["m/3"]), subject="m/3"),
    "disk_full": Case(
        "critical",
        says("api", gauges={"disk_free": 9.9}),
        says("api", gauges={"disk_free": 10.1}),
        subject="here",
    ),
    "runs_failing": Case("warning", runs("failed", 5), runs("failed", 3), fade=1801.0),
    "deliveries_late": Case("warning", undelivered, until=conditions.DELIVERY_SECONDS + 1),
    "deliveries_failed": Case("warning", add_webhook(delivery="failed"), fade=HOUR),
    "webhooks_disabled": Case("warning", add_webhook("it kept failing"), fade=HOUR),
    "automations_paused": Case("warning", paused("five failures"), paused(None), mend=delete_all(Automation)),
    "drift": Case("warning", drifting, mend=delete_all(Drifting), subject="m/3"),
}


def test_each_rule_starts_its_alarm_and_ends_it_in_time(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(engine, tmp_path, monkeypatch)
    assert world.after(0) == world.after(HOLD_SECONDS + 1) == {}
    for case in CASES.values():
        if case.nearly is not None:
            case.nearly(world)
    assert world.after(0) == world.after(HOLD_SECONDS + 1) == {}
    as_usual(world)
    world.after(WINDOW)
    # No worker at all is another alarm than one that is lost.
    check_times(world, {name: case for name, case in CASES.items() if name != "no_worker"})
    check_times(world, {"no_worker": CASES["no_worker"]})


def check_times(world: World, cases: dict[str, Case]) -> None:
    """Have all cases happen at once, and end at once: each alarm starts and ends in its own time."""
    for case in cases.values():
        case.happen(world)
    passed = 0.0
    for due in sorted({case.until for case in cases.values()}):
        earlier = {name for name, case in cases.items() if case.until < due}
        for at, expected in (
            (due - 1, earlier),
            (due, earlier),
            (due + HOLD_SECONDS - 1, earlier),
            (due + HOLD_SECONDS, earlier | {name for name, case in cases.items() if case.until == due}),
        ):
            seen = world.after(max(0.0, at - passed))
            passed = max(passed, at)
            assert set(seen) == expected, (at, due, set(seen) ^ expected)
    for name, case in cases.items():
        alarm = seen[name]
        assert (alarm.severity, alarm.subject) == (case.severity, case.subject), name
    as_usual(world)
    for case in cases.values():
        if case.mend is not None:
            case.mend(world)
    passed = 0.0
    for due in sorted({case.fade for case in cases.values()}):
        lasting = {name for name, case in cases.items() if case.fade > due}
        ending = lasting | {name for name, case in cases.items() if case.fade == due}
        for at, expected in ((due, ending), (due + CLEAR_SECONDS - 1, ending), (due + CLEAR_SECONDS, lasting)):
            seen = world.after(at - passed)
            assert set(seen) == expected, (at, due, set(seen) ^ expected)
            passed = at


def test_every_rule_has_a_case() -> None:
    source = Path(conditions.__file__).read_text()
    named = {line.split('Condition("')[1].split('"')[0] for line in source.splitlines() if 'Condition("' in line}
    assert named | {"predict_errors", "api_errors"} == set(CASES)
