"""A rollout's life cycle in the database: steps, guards, manual control, leases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from fitserve import db, events, monitoring, registry
from fitserve.errors import BadInput, Conflict, NotFound
from fitserve.rollouts import evidence, lifecycle
from fitserve.rollouts.guards import ArmCounts, StepCounts
from fitserve.tables import Label, Rollout


def start(engine: Engine, to: int = 2, **more: Any) -> Rollout:
    with db.transaction(engine) as session:
        return lifecycle.start(session, "m", to, **{"hold": 0.0, "min_requests": 10, **more})


def count(engine: Engine, rollout: Rollout, step: int, process: str = "p1", **figures: int) -> None:
    """Write requests and errors of both versions in a step."""
    base = ArmCounts(figures.get("base", 1_000), figures.get("base_errors", 0))
    new = ArmCounts(figures.get("new", 1_000), figures.get("new_errors", 0))
    evidence.write_counts(engine, process, {(rollout.id, step): StepCounts(base, new)})


def advance(engine: Engine, rollout: Rollout, holder: str = "w1") -> lifecycle.Advance | None:
    lifecycle.claim(engine, holder)
    return lifecycle.advance(engine, rollout.id, holder)


def state(engine: Engine, rollout: Rollout) -> tuple[str, int, dict[str, tuple[int, float]]]:
    """Return the rollout's state and step, and the labels' versions and weights."""
    with db.reading(engine) as session:
        row = lifecycle.get(session, "m", rollout.id)
        labels = {one.label: (one.version, one.weight) for one in session.scalars(select(Label))}
        return row.state, row.step, labels


def test_a_good_version_becomes_the_champion(engine: Engine, model: str) -> None:
    rollout = start(engine)
    assert state(engine, rollout) == ("running", 0, {"champion": (1, 0.0), "rollout": (2, 0.01)})
    for step, share in enumerate((0.01, 0.1, 0.5, 1.0)):
        assert advance(engine, rollout).moved is None, "no requests yet"  # type: ignore[union-attr]
        assert state(engine, rollout)[2]["rollout"] == (2, share)
        with db.reading(engine) as session:
            (facts,) = registry.load_facts(session, ["m"])
        assert facts.rollout is not None
        assert (facts.rollout.step, facts.rollout.share, facts.rollout.base) == (step, share, 1)
        count(engine, rollout, step)
        assert advance(engine, rollout).moved == ("step" if share < 1 else "succeeded")  # type: ignore[union-attr]
    assert state(engine, rollout) == ("succeeded", 3, {"champion": (2, 0.0)})
    with db.reading(engine) as session:
        assert registry.label(session, "m", "champion").previous == 1
        assert lifecycle.active(session, "m") is None
        told = [event.type for event in events.latest(session, "ada", limit=100) if event.type[:7] == "rollout"]
    assert told == ["rollout.finished", *["rollout.step"] * 4]
    assert advance(engine, rollout) is None


def test_the_counts_of_all_processes_are_summed(engine: Engine, model: str) -> None:
    rollout = start(engine, steps=[50], hold=3600.0, guards={"errors": 0.01})
    done, processes = None, 0
    while done is None or done.moved is None:
        processes += 1
        count(engine, rollout, 0, f"p{processes}", base_errors=5, new_errors=35)
        done = advance(engine, rollout)
    assert done.moved == "rolled_back"
    assert 1 < processes < 12
    assert state(engine, rollout) == ("rolled_back", 0, {"champion": (1, 0.0)})
    with db.reading(engine) as session:
        row = lifecycle.get(session, "m", rollout.id)
        (step,) = evidence.steps_of(session, row.id)
    assert row.reason is not None
    assert row.reason["guard"] == "errors"
    assert row.reason["figure"]["new"] == pytest.approx(0.035)
    assert "3.00%" in row.reason["detail"]
    assert f"{processes},000 requests of the new version" in row.reason["detail"]
    assert len(step.curves["errors"]) == processes
    assert step.curves["errors"][-1]["low"] > 0.01


def test_ground_truth_takes_a_version_back(engine: Engine, model: str) -> None:
    """Of the rollout's own predictions, those of rows posted without a stored prediction, and no others'."""
    rollout = start(engine, steps=[50], hold=3600.0)
    facts = {"model": "m", "owner": "ada", "outputs": {}, "bounds": None, "key_id": None}
    truths: list[dict[str, Any]] = []
    for version in (1, 2):
        stored = [
            {"id": f"{version}-{n}", "version": version, "rollout": rollout.id, "rollout_step": 0, **facts}
            for n in range(800)
        ]
        stored += [
            {"id": f"{version}-x{n}", "version": version, "rollout": None, "rollout_step": None, **facts}
            for n in range(200)
        ]
        assert monitoring.store_predictions(engine, stored, 10_000) == 0
        wrong = 0.05 if version == 1 else 0.2
        ids = [*(one["id"] for one in stored), *(f"{version}-y{n}" for n in range(200))]
        for place, id in enumerate(ids):
            error = 1.0 if "x" in id else float(place % 20 < 20 * wrong)
            common = {"model": "m", "owner": "ada", "row": 0, "output": "y", "task": "binary", "counted": True}
            unknown = dict.fromkeys(monitoring.TRUTH_COLUMNS)
            truths.append(
                {**common, **unknown, "prediction_id": id, "version": version, "error": error, "key_id": None}
            )
    with db.transaction(engine) as session:
        monitoring.add_feedback(session, truths)
        (compared,) = evidence.comparison(session, rollout, (0.5,))
    assert compared["metric"] == "accuracy"
    assert (compared["base"], compared["new"]) == (pytest.approx(0.95), pytest.approx(0.8))
    assert compared["low"] < -0.15 < compared["high"] < -0.05
    done = advance(engine, rollout)
    assert done is not None
    assert done.moved == "rolled_back"
    with db.reading(engine) as session:
        row = lifecycle.get(session, "m", rollout.id)
        assert row.reason is not None
        assert row.reason["guard"] == "live_accuracy"
        assert row.reason["figure"]["new_rows"] == 1_000
        assert evidence.comparison(session, row, (0.5,)) == [compared]


def test_shadow_first(engine: Engine, model: str) -> None:
    rollout = start(engine, shadow=True, steps=[10, 100])
    with db.reading(engine) as session:
        label = registry.label(session, "m", "rollout")
        assert label.shadow
        assert label.weight == 0
    counts = StepCounts(ArmCounts(100), ArmCounts(100), compared=100, disagreeing=70.0)
    evidence.write_counts(engine, "p1", {(rollout.id, 0): counts})
    assert advance(engine, rollout).moved == "rolled_back"  # type: ignore[union-attr]
    second = start(engine, shadow=True, steps=[10, 100])
    counts.disagreeing = 1.0
    evidence.write_counts(engine, "p1", {(second.id, 0): counts})
    assert advance(engine, second).moved == "step"  # type: ignore[union-attr]
    assert state(engine, second)[2]["rollout"] == (2, 0.1)


def test_hands(engine: Engine, model: str) -> None:
    rollout = start(engine)
    count(engine, rollout, 0)
    with db.transaction(engine) as session:
        assert lifecycle.pause(session, "m", rollout.id).state == "paused"
        at = lifecycle.pause(session, "m", rollout.id).step_at
    assert advance(engine, rollout).moved is None  # type: ignore[union-attr]
    with db.transaction(engine) as session:
        assert lifecycle.resume(session, "m", rollout.id).step_at > at
    assert advance(engine, rollout).moved == "step"  # type: ignore[union-attr]
    with db.transaction(engine) as session:
        lifecycle.abort(session, "m", rollout.id)
    assert state(engine, rollout) == ("aborted", 1, {"champion": (1, 0.0)})
    with db.transaction(engine) as session, pytest.raises(Conflict, match="has ended"):
        lifecycle.promote(session, "m", rollout.id)
    second = start(engine, 3)
    with db.transaction(engine) as session:
        lifecycle.promote(session, "m", second.id)
    assert state(engine, second) == ("succeeded", 0, {"champion": (3, 0.0)})
    third = start(engine, 2)
    with db.transaction(engine) as session:
        registry.set_label(session, "m", "champion", version_number=2)
    assert advance(engine, third).moved == "aborted"  # type: ignore[union-attr]
    assert state(engine, third) == ("aborted", 0, {"champion": (2, 0.0)})
    with db.transaction(engine) as session:
        assert [row.id for row in lifecycle.list_of(session, "m", limit=2)] == [third.id, second.id]
        registry.delete(session, "m")
        assert session.scalars(select(Rollout)).all() == []


def _set_back(engine: Engine, rollout: Rollout, seconds: float) -> None:
    """Let a rollout's step have begun so much earlier."""
    with db.transaction(engine) as session:
        lifecycle.get(session, "m", rollout.id).step_at -= timedelta(seconds=seconds)


def test_a_rollout_without_traffic_or_truths_ends_at_its_deadline(engine: Engine, model: str) -> None:
    quiet = start(engine, hold=60.0, deadline=100.0)
    count(engine, quiet, 0, new=9)
    _set_back(engine, quiet, 155)
    assert advance(engine, quiet).moved is None  # type: ignore[union-attr]
    _set_back(engine, quiet, 10)
    with db.transaction(engine) as session:
        lifecycle.pause(session, "m", quiet.id)
    assert advance(engine, quiet).moved is None  # type: ignore[union-attr]
    with db.transaction(engine) as session:
        lifecycle.resume(session, "m", quiet.id)
    assert advance(engine, quiet).moved == "stalled"  # type: ignore[union-attr]
    assert state(engine, quiet) == ("aborted", 0, {"champion": (1, 0.0)})
    unjudged = start(engine, hold=0.0, deadline=100.0, min_truths=5)
    count(engine, unjudged, 0)
    assert advance(engine, unjudged).moved is None  # type: ignore[union-attr]
    _set_back(engine, unjudged, 101)
    assert advance(engine, unjudged).moved == "stalled"  # type: ignore[union-attr]
    with db.reading(engine) as session:
        told = events.latest(session, "ada", limit=10, type="rollout.stalled")
    assert [event.data["detail"].partition(": ")[2] for event in told] == [
        "there is ground truth of 0 of 5 of the new version's predictions.",
        "the new version has had 9 of 10 requests.",
    ]
    forever = start(engine, deadline=None)
    _set_back(engine, forever, 1e8)
    assert advance(engine, forever).moved is None  # type: ignore[union-attr]


def test_ab_stays_until_somebody_decides(engine: Engine, model: str) -> None:
    rollout = start(engine, kind="ab", steps=[30])
    count(engine, rollout, 0, new_errors=900)
    assert advance(engine, rollout).moved is None, "it has no guards unless they are asked for"  # type: ignore[union-attr]
    assert state(engine, rollout)[2] == {"champion": (1, 0.0), "rollout": (2, 0.3)}
    with db.transaction(engine) as session:
        lifecycle.promote(session, "m", rollout.id)
    assert state(engine, rollout)[2] == {"champion": (2, 0.0)}


def test_one_holder_at_a_time(engine: Engine, model: str) -> None:
    rollout = start(engine)
    assert lifecycle.claim(engine, "w1") == [rollout.id]
    assert lifecycle.claim(engine, "w2") == []
    assert lifecycle.claim(engine, "w1") == [rollout.id]
    assert lifecycle.advance(engine, rollout.id, "w2") is None
    with db.transaction(engine) as session:  # as if w1 had died a while ago
        row = lifecycle.get(session, "m", rollout.id)
        assert row.lease_expires_at is not None
        row.lease_expires_at -= timedelta(seconds=2 * lifecycle.LEASE_SECONDS)
    assert lifecycle.claim(engine, "w2") == [rollout.id]
    assert lifecycle.advance(engine, rollout.id, "w1") is None
    lifecycle.release(engine, "w2")
    assert lifecycle.claim(engine, "w1") == [rollout.id]


@pytest.mark.parametrize(
    ("to", "options", "error", "words"),
    [
        (9, {}, NotFound, "no version 9"),
        (1, {}, Conflict, "champion already"),
        (2, {"steps": [10, 5]}, BadInput, "grow"),
        (2, {"steps": [0]}, BadInput, "grow"),
        (2, {"steps": [10, 200]}, BadInput, "grow"),
        (2, {"steps": []}, BadInput, "1 to 20 steps"),
        (2, {"guards": {"latency": 1.0}}, BadInput, "No such guard"),
        (2, {"guards": {"disagreement": 0.1}}, BadInput, "both versions answer"),
        (2, {"kind": "ab", "steps": [10, 50]}, BadInput, "one share"),
        (2, {"min_truths": 5, "guards": {"live_accuracy": None}}, BadInput, "the guard live_accuracy"),
    ],
)
def test_refusals(engine: Engine, model: str, to: int, options: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        start(engine, to, **options)


def test_refusals_of_a_model_in_another_state(engine: Engine, model: str) -> None:
    with db.transaction(engine) as session:
        registry.retire(session, "m", 3)
        registry.set_label(session, "m", "candidate", version_number=2, weight=0.2)
    with pytest.raises(Conflict, match="retired"):
        start(engine, 3)
    with pytest.raises(Conflict, match="share of the traffic"):
        start(engine, 2)
    with db.transaction(engine) as session:
        registry.remove_label(session, "m", "candidate")
        registry.remove_label(session, "m", "champion")  # so that the newest answers
    rollout = start(engine, 2)
    assert state(engine, rollout)[2] == {"champion": (1, 0.0), "rollout": (2, 0.01)}
    with pytest.raises(Conflict, match="active rollout"):
        start(engine, 1)
    with pytest.raises(Conflict, match="in use by labels"), db.transaction(engine) as session:
        registry.retire(session, "m", 2)
