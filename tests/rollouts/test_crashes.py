"""Rollout drivers die at each line between measuring and committing; no step is lost or taken twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fitserve import db, events, registry
from fitserve.rollouts import evidence, lifecycle
from fitserve.rollouts.guards import ArmCounts, StepCounts
from fitserve.tables import Rollout
from tests.crash_fleet import CrashFleet
from tests.faults.cluster import wait_for
from tests.waiting import wait_until
from workers.rollout_driver import RolloutDriver

POINTS = ("rollout.measured", "rollout.before_commit", "rollout.after_commit")


def _drive(url: str) -> None:
    """Be a process that drives rollouts until it is killed."""
    RolloutDriver(db.make_engine(url), tick_seconds=0.01).run()


def _roll_out(engine: Engine, to: int, bad: bool, drivers: CrashFleet) -> Rollout:
    """Start a rollout whose requests are there already, and return it once it has ended."""

    def begun() -> Rollout:
        with db.transaction(engine) as session:
            return lifecycle.start(session, "m", to, hold=0.0, min_requests=10, guards={"errors": 0.01})

    # Drivers that are killed or slow may hold SQLite's lock for longer than a transaction waits for it.
    rollout = wait_for(begun, what="a rollout")
    errors = 900 if bad else 20
    counts = StepCounts(ArmCounts(4_000, 20), ArmCounts(4_000, errors))
    step = {(rollout.id, number): counts for number in range(4)}
    counted = step if not bad else {(rollout.id, 0): StepCounts(), **step}
    wait_for(lambda: evidence.write_counts(engine, "p", counted) is None, what="counts")

    def ended() -> Rollout | None:
        drivers.replace_dead()
        with db.reading(engine) as session:
            row = lifecycle.get(session, "m", rollout.id)
        return row if row.finished_at is not None else None

    return wait_for(ended, what="the rollout's end")  # type: ignore[no-any-return]


def _crash(engine: Engine, url: str, folder: Path, times: int, count: int) -> None:
    expected: dict[str, Counter[str]] = {}
    champion, number = 1, 0
    with CrashFleet(POINTS, times, count, folder, _drive, url) as drivers:
        while drivers.crashes_to_come or number < 2:
            bad, number = number % 2 == 0, number + 1
            to = 2 if champion != 2 else 3
            row = _roll_out(engine, to, bad, drivers)
            assert row.state == ("rolled_back" if bad else "succeeded")
            steps = 1 if bad else 4
            expected[row.id] = Counter({"rollout.step": steps, f"rollout.{'rolled_back' if bad else 'finished'}": 1})
            champion = champion if bad else to
            with db.reading(engine) as session:
                labels = {label.label: label.version for label in registry.labels(session, "m")}
            assert labels == {"champion": champion}
    made: dict[str, Counter[str]] = {}
    with db.reading(engine) as session:
        for event in events.latest(session, None, limit=10_000):
            if event.type.startswith("rollout."):
                made.setdefault(event.data["rollout"], Counter())[event.type] += 1
    assert made == expected
    print(f"{drivers.deaths} kills in {number} rollouts")
    drivers.assert_all_died()


def test_drivers_die_at_each_line(
    engine: Engine, database_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "LEASE_SECONDS", 0.2)
    _crash(engine, database_url, tmp_path, times=2, count=2)


@pytest.mark.long
def test_drivers_die_twenty_times_at_each_line(
    engine: Engine, database_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "LEASE_SECONDS", 0.2)
    _crash(engine, database_url, tmp_path, times=20, count=5)


def test_another_driver_goes_on_when_one_stops(engine: Engine, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once if it gives up its lease, else when that has expired."""
    with db.transaction(engine) as session:
        rollout = lifecycle.start(session, "m", 2, hold=0.0, min_requests=0, guards={"errors": 0.01})
    first, second = RolloutDriver(engine), RolloutDriver(engine)
    first.tick()
    second.tick()
    with db.reading(engine) as session:
        assert lifecycle.get(session, "m", rollout.id).lease_holder == first.holder
    first.stop()
    second.tick()
    with db.reading(engine) as session:
        row = lifecycle.get(session, "m", rollout.id)
    assert (row.lease_holder, row.step) == (second.holder, 2)
    monkeypatch.setattr(lifecycle, "LEASE_SECONDS", 0.1)
    assert lifecycle.claim(engine, second.holder) == [rollout.id]
    wait_until(lambda: lifecycle.claim(engine, "third"), "the lease's end")
