"""Schedulers are killed at each line between a tick, its run and its decision; nothing happens twice or is lost."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update

from fitserve import crash_points, db, events
from fitserve.automations import leadership
from fitserve.settings import Settings
from fitserve.tables import Automation, AutomationFiring, Run
from tests.crash_fleet import CrashFleet
from tests.events.world import World, rows
from tests.faults.cluster import wait_for
from workers.automation_driver import AutomationDriver

POINTS = tuple(point for point in crash_points.POINTS if point.startswith("automations."))


class Publisher:
    """A broker that is not there: the database alone says what is to be trained."""

    def publish(self, id: str) -> None:
        """Do nothing."""


def _schedule(url: str, home: Path) -> None:
    """Be a process that runs automations until it is killed."""
    world = World(db.make_engine(url), home)
    settings = Settings(home=home, reap_seconds=0.01)
    AutomationDriver(settings, world.engine, world.blobs, Publisher(), threading.Event()).run()  # type: ignore[arg-type]


def _kill(engine: Engine, url: str, home: Path, times: int, count: int) -> None:
    world = World(engine, home)
    world.upload(rows(200, 0.0))
    row = world.automate("often", on={"schedule": "0 3 1 1 *"}, then="promote")
    ticks = 0
    with CrashFleet(POINTS, times, count, home, _schedule, url, home) as schedulers:

        def over() -> bool:
            schedulers.replace_dead()
            world.train()
            with db.reading(engine) as session:
                state = (AutomationFiring.state == "done", AutomationFiring.automation_id == row.id)
                return session.scalar(select(func.count()).where(*state)) == ticks

        def make_due() -> bool:
            with db.transaction(engine) as session:
                due = db.now(session) - timedelta(seconds=1) + timedelta(microseconds=ticks)
                session.execute(update(Automation).where(Automation.id == row.id).values(next_at=due))
            return True

        while schedulers.crashes_to_come:
            ticks += 1
            wait_for(make_due, what=f"tick {ticks} due")
            wait_for(over, what=f"tick {ticks}")
    history = world.history(row)
    assert [one.state for one in history] == ["done"] * ticks
    assert len({one.tick for one in history}) == len({one.run_id for one in history}) == ticks
    with db.reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(Run)) == ticks
        for type in ("automation.fired", "automation.decided"):
            assert len(events.latest(session, "ann", limit=1_000, type=type)) == ticks
    print(f"{schedulers.deaths} kills in {ticks} ticks, {count} schedulers")
    schedulers.assert_all_died()


def test_killed_schedulers_run_nothing_twice(
    engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "LEASE_SECONDS", 0.2)
    _kill(engine, database_url, tmp_path, times=1, count=2)


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 5])
def test_schedulers_killed_twenty_times_at_each_line_run_nothing_twice(
    engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(leadership, "LEASE_SECONDS", 0.2)
    _kill(engine, database_url, tmp_path, times=20, count=count)
