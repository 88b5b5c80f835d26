"""Automations train when they are due, once per tick over all processes, and promote versions that pass."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update

from fitserve import api_keys, db, events, monitoring, registry, telemetry
from fitserve.automations import cron, gate, leadership, rehearsal
from fitserve.automations import store as automations
from fitserve.errors import BadInput, Conflict, NotFound
from fitserve.rollouts import lifecycle
from fitserve.tables import Automation, AutomationFiring, Leader, OutboxEvent, Run
from fitserve.wire.automations import On, Policy
from tests.events.world import SPEC, World, rows

YEARLY = "0 3 1 1 *"  # is due when a test says so, and not while a slow machine runs it


@pytest.fixture
def world(sqlite_url: str, tmp_path: Path) -> World:
    return World(db.make_engine(sqlite_url), tmp_path)


@pytest.fixture
def both_world(engine: Engine, tmp_path: Path) -> World:
    """On SQLite, and on PostgreSQL: for what several processes may do at once."""
    return World(engine, tmp_path)


@pytest.fixture
def served(world: World) -> World:
    """A world whose model has a version, of 300 points with the border at 0."""
    world.upload(rows(300, 0.0))
    first = world.automate("first", on={"schedule": YEARLY}, then="promote")
    make_due(world, first)
    world.rounds(1)
    assert world.train() == 1
    world.rounds(1)
    with db.transaction(world.engine) as session:
        automations.change(
            session, session.get_one(Automation, first.id), enabled=False, policy=None, sees="ann", key_id=None
        )
    assert world.champion() == 1
    return world


def make_due(world: World, row: Automation, late: timedelta = timedelta(seconds=1)) -> None:
    with db.transaction(world.engine) as session:
        session.execute(update(Automation).where(Automation.id == row.id).values(next_at=db.now(session) - late))


def settle(world: World) -> None:
    """Train and go on until nothing is left to do: a step that found the database busy is done in a later round."""
    while True:
        world.rounds(1)
        trained = world.train()
        with db.reading(world.engine) as session:
            if trained is None and not automations.live_firings(session):
                return


def told(world: World, type: str) -> list[dict[str, Any]]:
    with db.reading(world.engine) as session:
        return [row.data for row in reversed(events.latest(session, "ann", limit=100, type=type))]


APPENDED = {"on": {"appended": "points", "rows": 100}, "do": {"champion": "m"}, "gate": {}, "then": "promote"}


def test_a_world_that_moved_is_learned_and_promoted(served: World) -> None:
    def promoted() -> float:
        return telemetry.REGISTRY.get_sample_value("fitserve_automation_firings_total", {"outcome": "promoted"}) or 0

    before, row = promoted(), served.automate("follow", **APPENDED)
    served.upload(rows(60, 5.0, seed=1), append=True)
    served.rounds()
    assert served.history(row) == []  # 60 rows of 100
    served.upload(rows(500, 5.0, seed=2), append=True)
    served.rounds()
    assert served.train() == 2
    served.rounds()
    (firing,) = served.history(row)
    assert (firing.state, firing.decision, firing.dataset) == ("done", "promoted", "points@3")
    assert firing.report is not None
    assert firing.report["unseen_by_champion"]
    assert firing.report["candidate"] > firing.report["champion"] + 0.1
    assert served.champion() == 2
    assert told(served, "automation.fired")[-1]["reason"] == "points has 560 more rows than it was trained on."
    assert told(served, "automation.decided")[-1]["decision"] == "promoted"
    assert promoted() == before + 1
    served.rounds()
    assert len(served.history(row)) == 1


def test_poisoned_data_is_refused_at_validation_or_at_the_gate(served: World) -> None:
    row = served.automate("follow", **APPENDED, pause_after=2)
    served.upload(rows(150, 0.0, seed=1, missing=0.9), append=True)
    served.rounds()
    (refused,) = served.history(row)
    assert (refused.state, refused.run_id) == ("refused", None)
    assert refused.report is not None
    assert [(one["column"], one["what"]) for one in refused.report["problems"]] == [("x", "missing")]
    assert told(served, "automation.refused")[0]["dataset"] == "points@2"
    served.upload(rows(300, 0.0).append_column("z", rows(300, 0.0).column("x")).drop_columns(["x"]))
    served.rounds()
    assert served.history(row)[1:] == []  # a table of the same size is not appended to
    served.upload(rows(900, 0.0, seed=3))
    served.upload(rows(900, 0.0, seed=4).rename_columns(["z", "y"]))
    served.rounds()
    gone = served.history(row)[-1]
    assert (gone.state, "x is gone" in (gone.why or "")) == ("refused", True)
    paused = served.row(row)
    assert (paused.enabled, paused.failures) == (False, 2)
    assert told(served, "automation.paused")[0]["failures"] == 2
    assert served.champion() == 1


def test_a_worse_version_does_not_pass_the_gate(served: World) -> None:
    row = served.automate("follow", **{**APPENDED, "gate": {"margin": 0.02}})
    served.upload(rows(200, 0.0, seed=5), append=True)  # more of the same: no better
    served.rounds()
    served.train()
    served.rounds()
    (firing,) = served.history(row)
    assert (firing.state, firing.decision) == ("done", "rejected")
    assert "0.02 better was asked" in (firing.why or "")
    assert served.champion() == 1
    assert served.row(row).failures == 0


@pytest.mark.parametrize(("then", "decision"), [("notify", "notified"), ("nothing", "nothing"), ("rollout", "rollout")])
def test_what_happens_then(served: World, then: str, decision: str) -> None:
    asked = {"rollout": {"steps": [30], "guards": {"errors": None}, "deadline": None}} if then == "rollout" else {}
    row = served.automate("follow", **{**APPENDED, "then": then, **asked})
    served.upload(rows(500, 5.0, seed=2), append=True)
    served.rounds()
    served.train()
    served.rounds()
    (firing,) = served.history(row)
    assert (firing.state, firing.decision, firing.version) == ("done", decision, 2)
    with db.reading(served.engine) as session:
        started = lifecycle.active(session, "m")
    plan = started and lifecycle.StoredPlan.read(started.plan)
    assert (plan is not None) is (then == "rollout")
    if plan is not None:
        assert (plan.steps, plan.deadline, "errors" in (plan.guards or {})) == ((30.0,), None, False)
    assert served.champion() == 1


def _beaten(served: World) -> Automation:
    """Train a version for an automation that would promote it, while version 1 is the champion."""
    row = served.automate("follow", **APPENDED)
    served.upload(rows(500, 5.0, seed=2), append=True)
    served.rounds()
    assert served.train() == 2
    return row


def test_a_champion_that_was_replaced_meanwhile_is_compared_anew(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody promotes another version while the gate compares with the one before."""
    served.upload(rows(500, 5.0, seed=2), append=True)
    other = served.automate("other", on={"schedule": YEARLY}, do={"champion": "m"}, then="nothing")
    make_due(served, other)
    served.rounds()
    assert served.train() == 2
    served.rounds()
    row, judge = served.automate("follow", **APPENDED), gate.judge
    served.rounds()
    assert served.train() == 3
    compared: list[int | None] = []

    def judged(*arguments: Any) -> dict[str, Any]:
        compared.append(served.champion())
        if len(compared) == 1:
            with db.transaction(served.engine) as session:
                registry.set_label(session, "m", "champion", version_number=2)
        return judge(*arguments)

    monkeypatch.setattr(gate, "judge", judged)
    served.rounds(3)
    assert compared == [1, 2]
    (firing,) = served.history(row)
    assert firing.report is not None
    assert firing.report["champion"] == firing.report["candidate"]


def test_a_model_that_was_deleted_meanwhile_fails_the_firing(served: World) -> None:
    row = _beaten(served)
    with db.transaction(served.engine) as session:
        registry.delete(session, "m")
    served.rounds()
    assert [(one.state, one.why) for one in served.history(row)] == [("failed", "Its version of m was deleted.")]


def test_the_first_version_needs_no_champion_and_later_ones_do_not_serve_before_they_pass(world: World) -> None:
    world.upload(rows(200, 0.0))
    row = world.automate(on={"schedule": "0 0 1 1 *"}, gate={}, then="notify")
    for version in (1, 2):
        make_due(world, row, timedelta(seconds=version))
        world.rounds()
        assert world.train() == version
        world.rounds()
    assert [one.decision for one in world.history(row)] == ["notified", "notified"]
    assert world.champion() == 1


def test_a_missed_tick_is_made_up_for_once(both_world: World) -> None:
    both_world.upload(rows(200, 0.0))
    row = both_world.automate(on={"schedule": YEARLY}, overlap="queue")
    make_due(both_world, row, timedelta(hours=5))
    both_world.rounds(4)
    assert [one.state for one in both_world.history(row)] == ["training"]
    after = both_world.row(row)
    assert after.next_at is not None
    assert after.next_at > after.created_at


@pytest.mark.parametrize(("overlap", "states"), [("skip", ["done", "skipped"]), ("queue", ["done", "done", "skipped"])])
def test_overlapping_runs_are_skipped_or_queued(world: World, overlap: str, states: list[str]) -> None:
    world.upload(rows(200, 0.0))
    row = world.automate(on={"schedule": YEARLY}, overlap=overlap, then="nothing")
    for number in range(len(states)):
        make_due(world, row, timedelta(seconds=1 + number))
        world.rounds(1)
    for _ in range(2):
        world.train()
        world.rounds(3)
    assert [one.state for one in world.history(row)] == states
    assert len(set(world.published)) == len(world.published)


def test_a_budget_holds_for_a_day(world: World) -> None:
    world.upload(rows(200, 0.0))
    row = world.automate(on={"schedule": YEARLY}, budget={"runs": 1}, then="nothing")
    for number in range(2):
        make_due(world, row, timedelta(seconds=1 + number))
        world.rounds()
        world.train()
        world.rounds()
    states = [(one.state, one.why) for one in world.history(row)]
    assert states[0][0] == "done"
    assert states[1] == ("skipped", "The budget of 1 runs a day is used up.")


def test_failures_in_a_row_pause_it_and_enabling_ends_that(world: World) -> None:
    world.upload(rows(200, 0.0))
    row = world.automate(on={"schedule": YEARLY}, pause_after=2)
    for number in range(2):
        make_due(world, row, timedelta(seconds=1 + number))
        world.rounds()
        world.train(fails=True)
        world.rounds()
    assert [one.state for one in world.history(row)] == ["failed", "failed"]
    paused = world.row(row)
    assert (paused.enabled, paused.next_at) == (False, None)
    assert "NaN" in (paused.paused_reason or "")
    with db.transaction(world.engine) as session:
        automations.change(
            session, session.get_one(Automation, row.id), enabled=True, policy=None, sees="ann", key_id="key_b"
        )
        assert leadership.count_paused(session) == 0
    again = world.row(row)
    assert (again.failures, again.paused_reason, again.next_at is not None) == (0, None, True)
    assert again.key_id == "key_b"


def test_a_revoked_key_ends_what_it_started(world: World) -> None:
    world.upload(rows(200, 0.0))
    row = world.automate(on={"schedule": YEARLY}, pause_after=1)
    with db.transaction(world.engine) as session:
        key, _ = api_keys.create(session, owner="ann", name="k", scopes=["train", "read"])
        session.get_one(Automation, row.id).key_id = key.id
        api_keys.revoke(session, key.id)
    make_due(world, row)
    world.rounds()
    assert world.published == []
    assert "revoked" in (world.row(row).paused_reason or "")


def test_drift_and_a_live_metric_are_answered_once_a_day(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    drifted = {"columns": [{"column": "x", "psi": 0.4}], "accuracy": 0.6}
    monkeypatch.setattr(monitoring, "window_totals", lambda *_: monitoring.WindowTotals(rows=500))
    monkeypatch.setattr(monitoring, "column_drift", lambda *_: drifted["columns"])
    score = {"model": "m", "version": 1, "rows": 80, "accuracy": 0.6, "rmse": None, "mae": None}
    monkeypatch.setattr(monitoring, "live_scores", lambda *_: [score])
    by_drift = served.automate("d", on={"drift": "m", "psi": 0.25}, do={"champion": "m"})
    by_metric = served.automate("l", on={"live_metric": "m", "below": 0.7}, do={"champion": "m"})
    served.rounds(3)
    for row, word in ((by_drift, "PSI 0.40"), (by_metric, "accuracy of m version 1 is 0.6")):
        assert [word in one.reason for one in served.history(row)] == [True]
    with db.transaction(served.engine) as session:
        session.execute(update(AutomationFiring).values(created_at=db.now(session) - timedelta(hours=25)))
    served.rounds(1)
    assert len(served.history(by_drift)) == 2
    while (version := served.train()) is not None:  # what was learned anew drifts as well: no loop of trainings
        with db.transaction(served.engine) as session:
            registry.set_label(session, "m", "champion", version_number=version)
        score["version"] = version
    served.rounds(3)
    assert [len(served.history(row)) for row in (by_drift, by_metric)] == [2, 2]


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.long), 5])
def test_no_tick_runs_twice_with_several_schedulers(both_world: World, count: int) -> None:
    """Without the leader's lease, too: each scheduler believes to lead."""
    both_world.upload(rows(200, 0.0))
    made = [both_world.automate(f"a{n}", on={"schedule": YEARLY}, then="nothing") for n in range(3)]
    schedulers = [both_world.new_scheduler() for _ in range(count)]
    barrier = threading.Barrier(count)

    def look(scheduler: Any) -> None:
        barrier.wait()
        for row in made:
            scheduler._guarded(scheduler._look, row.id)
        with db.reading(both_world.engine) as session:
            live = [one.id for one in automations.live_firings(session)]
        for one in live:
            scheduler._guarded(scheduler._advance, one)

    for tick in range(2):
        for row in made:
            make_due(both_world, row, timedelta(seconds=1 + tick))
        threads = [threading.Thread(target=look, args=(one,)) for one in schedulers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        settle(both_world)
    with db.reading(both_world.engine) as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 2 * len(made)
    assert [[one.state for one in both_world.history(row)] for row in made] == [["done", "done"]] * len(made)


def test_one_leads_until_its_lease_ends(both_world: World) -> None:
    other = both_world.new_scheduler()
    assert both_world.scheduler.round()
    assert not other.round()
    with db.transaction(both_world.engine) as session:
        session.execute(update(Leader).values(expires_at=db.now(session) - timedelta(seconds=1)))
    assert other.round()
    assert not both_world.scheduler.round()


def test_a_rehearsal_says_what_would_have_happened(served: World) -> None:
    row = served.automate("follow", **APPENDED)
    served.upload(rows(500, 5.0, seed=2), append=True)
    served.rounds()
    served.train()
    served.rounds()
    served.upload(rows(300, 0.0, seed=6, missing=0.9), append=True)
    policy = Policy.model_validate(APPENDED)
    played = rehearsal.rehearse(served.engine, served.blobs, served.home, policy, model="m", owner="ann")
    assert [(tick.dataset, tick.outcome) for tick in played.ticks] == [
        ("points@2", "promoted"),
        ("points@3", "refused"),
    ]
    assert (played.trained, played.promoted, played.refused) == (1, 1, 1)
    with db.reading(served.engine) as session:
        before = session.scalar(select(func.count()).select_from(OutboxEvent))
    rehearsal.rehearse(served.engine, served.blobs, served.home, policy, model="m", owner="ann")
    with db.reading(served.engine) as session:
        assert session.scalar(select(func.count()).select_from(OutboxEvent)) == before
    assert served.history(row)[-1].state == "done"


@pytest.mark.parametrize(
    "policy",
    [
        {"on": {}},
        {"on": {"schedule": YEARLY, "drift": "m", "psi": 0.2}},
        {"on": {"schedule": "61 * * * *"}},
        {"on": {"schedule": "* * * * * *"}},
        {"on": {"schedule": "0 0 31 2 *"}},
        {"on": {"schedule": YEARLY, "timezone": "Mars/Olympus"}},
        {"on": {"schedule": YEARLY, "psi": 0.2}},
        {"on": {"appended": "points"}},
        {"on": {"appended": "nothing", "rows": 1}},
        {"on": {"drift": "nobody", "psi": 0.2}},
        {"on": {"live_metric": "nobody"}},
        {"do": {}},
        {"do": {"champion": "nobody"}},
        {"do": {"spec": {"target": "y", "dataset": "nothing", "model": "m"}}},
        {"do": {"spec": {**SPEC, "model": None}}, "then": "promote"},
        {"do": {"spec": {**SPEC, "model": "../x"}}},
        {"gate": {"significance": 2}},
        {"budget": {"runs": 0}},
        {"then": "dance"},
        {"then": "promote", "rollout": {}},
        {"then": "rollout", "rollout": {"steps": [50, 10]}},
        {"then": "rollout", "rollout": {"to": 3}},
    ],
)
def test_what_cannot_work_is_refused(world: World, policy: dict[str, Any]) -> None:
    world.upload(rows(50, 0.0))
    with pytest.raises((ValueError, BadInput, NotFound, Conflict)):
        world.automate(**{"on": {"schedule": YEARLY}, **policy})


def test_schedules_follow_daylight_saving_time() -> None:
    on = On(schedule="30 2 * * *", timezone="Europe/Berlin")
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    found = list(cron.times(on, after, after + timedelta(days=3)))
    assert len(found) == 3  # 2:30 does not exist on the 29th: it is due once all the same
    assert len({moment.date() for moment in found}) == 3
    after = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert len(list(cron.times(on, after, after + timedelta(days=3)))) == 3  # 2:30 comes twice on the 25th
    every = list(cron.times(On(schedule="*/30 * * * *", timezone="Europe/Berlin"), after, after + timedelta(days=1)))
    assert {later - earlier for earlier, later in pairwise(every)} == {timedelta(minutes=30)}  # also in the hour twice
    midnight = On(schedule="0 0 * * *", timezone="America/Santiago")  # where the day that begins summer has none
    since = datetime(2026, 9, 4, 12, tzinfo=UTC)
    assert len({one.date() for one in cron.times(midnight, since, since + timedelta(days=4))}) == 4


def test_a_day_of_the_month_and_one_of_the_week_are_either() -> None:
    year = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=1)
    assert len(list(cron.times(On(schedule="0 0 13 * 5"), year, year + timedelta(days=365)))) == 61


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_scheduler_that_dies_anywhere_does_nothing_twice(
    served: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Each step broken off after each of its commits; another scheduler goes on, which remembers nothing."""
    points = ("automations.after_run", "automations.before_decision", "automations.after_decision")
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for point in points:
        for number in range(times):
            (tokens / f"{point}.{number}").touch()
    monkeypatch.setenv("FITSERVE_TEST_HOOKS", "1")
    monkeypatch.setenv("FITSERVE_CRASH_AT", ",".join(f"{point}:error" for point in points))
    monkeypatch.setenv("FITSERVE_CRASH_TOKENS", str(tokens))
    row = served.automate("often", on={"schedule": YEARLY}, do={"champion": "m"}, then="notify")
    runs = 0
    while list(tokens.iterdir()):
        runs += 1
        make_due(served, row, timedelta(seconds=runs))
        for _ in range(2 + times):
            scheduler = served.new_scheduler()
            scheduler.holder = served.scheduler.holder
            scheduler.round()
        assert served.train() is not None
        assert served.train() is None  # one run of each tick
        for _ in range(2 + times):
            served.rounds(1)
        assert runs <= 3 * times + 3
    served.rounds(3)
    assert [one.state for one in served.history(row)] == ["done"] * runs
    assert len(told(served, "automation.decided")) == runs + 1
    assert len(told(served, "automation.fired")) == runs + 1
