"""Estimates follow the seconds that the last runs took."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.runs import finish, lease, queries
from fitserve.runs.remaining import outlook, phase_of
from fitserve.tables import Epoch, Event, Run
from tests.runs.conftest import Submit

ESTIMATES = {"seconds": 23.0, "startup_seconds": 3.0, "epochs": 200, "pace": 1.0}


@pytest.fixture
def ended(
    engine: Engine, store: FolderStore, submit: Submit, claim: Callable[..., lease.Claim | None]
) -> Callable[..., None]:
    """Return a function that ends a run with these estimates, epochs and seconds of each phase."""

    def end(estimates: dict[str, Any], epochs: int, **seconds: float) -> None:
        run = submit()
        with db.transaction(engine) as session:
            session.execute(update(Run).where(Run.id == run.id).values(estimates=estimates))
        claimed = claim()
        assert claimed is not None
        result = {"trials": [{"epochs": epochs}], "seconds": seconds}
        finish.succeed(engine, claimed.lease, result, blobs=store, stored={}, register=lambda _: {})

    return end


def pace(engine: Engine) -> float:
    with db.reading(engine) as session:
        return queries.measured_pace(session)


def test_without_runs_the_pace_is_that_of_the_constants(engine: Engine, ended: Callable[..., None]) -> None:
    assert pace(engine) == 1.0
    ended({}, 3, train=2.0)  # from before there were such estimates
    assert pace(engine) == 1.0


def test_a_run_is_compared_with_the_epochs_that_it_trained(engine: Engine, ended: Callable[..., None]) -> None:
    ended(ESTIMATES, 100, prepare=1.0, train=20.0, finish=5.0)  # estimated: 3 + 20 / 2
    assert pace(engine) == pytest.approx(2.0)


def test_members_that_train_one_after_another_are_one_epoch_together() -> None:
    members = {"trials": [{"epochs": 90}, {"epochs": 110}], "ensemble": {"members": 2}}
    assert queries.expected_seconds(ESTIMATES, members) == pytest.approx(13.0)
    assert queries.expected_seconds(ESTIMATES, {**members, "ensemble": None}) == pytest.approx(23.0)


def test_the_pace_of_an_estimate_is_taken_out_again(engine: Engine, ended: Callable[..., None]) -> None:
    ended({**ESTIMATES, "seconds": 46.0, "startup_seconds": 6.0, "pace": 2.0}, 200, train=46.0)
    assert pace(engine) == pytest.approx(2.0)


def test_one_odd_run_changes_little(engine: Engine, ended: Callable[..., None]) -> None:
    for seconds in (23.0, 2300.0, 25.0):
        ended(ESTIMATES, 200, train=seconds)
    assert pace(engine) == pytest.approx(25 / 23)


@pytest.mark.parametrize(
    ("rows", "trials", "seconds", "share"),
    [
        # (trial, epoch, seconds after the start); the run has 20 epochs
        ([(0, epoch, 600.0 + epoch) for epoch in range(1, 6)], 1, 15.0, 0.25),  # ten minutes of preparing count no more
        (
            [(0, 1, 30.0), (0, 2, 60.0), *((0, epoch, 60.0 + epoch) for epoch in range(3, 18))],
            1,
            3.0,
            0.85,
        ),  # faster now
        ([(trial, epoch, 2.0 * epoch) for epoch in range(1, 6) for trial in range(16)], 16, 30.0, 0.25),  # side by side
        (
            [(0, 1, 1.0), (0, 2, 2.0), (1, 1, 30.0), (1, 2, 31.0), (1, 3, 32.0)],
            3,
            37.0,
            23 / 60,
        ),  # the first stopped early
        ([(0, 7, 5.0)], 1, 6.5, 0.35),  # one epoch alone: what it says that it took
        ([(0, 20, 5.0)], 1, 0.0, 1.0),
    ],
)
def test_the_time_left_follows_from_the_last_epochs(
    engine: Engine,
    submit: Submit,
    claim: Callable[..., lease.Claim | None],
    rows: list[tuple[int, int, float]],
    trials: int,
    seconds: float,
    share: float,
) -> None:
    submit()
    claimed = claim()
    assert claimed is not None
    began = datetime(2026, 1, 1, tzinfo=UTC)
    with db.transaction(engine) as session:
        for trial, epoch, at in rows:
            created = began + timedelta(seconds=at)
            own = {"attempt": claimed.lease.attempt, "logs": {}, "seconds": 0.5, "layers": None, "created_at": created}
            session.add(Epoch(run_id=claimed.lease.run_id, trial=trial, epoch=epoch, **own))
    with db.reading(engine) as session:
        run = session.get_one(Run, claimed.lease.run_id)
        ahead = outlook(session, run, 20, trials)
    assert ahead is not None
    last = max(at for _, _, at in rows)
    assert (ahead.finish - began).total_seconds() - last == pytest.approx(seconds)
    assert ahead.share == pytest.approx(share)


def test_the_phase_is_that_of_the_attempt(
    engine: Engine, submit: Submit, claim: Callable[..., lease.Claim | None]
) -> None:
    run_id = submit().id

    def phase() -> str | None:
        with db.reading(engine) as session:
            return phase_of(session, session.get_one(Run, run_id))

    def report(row: Epoch | Event) -> None:
        with db.transaction(engine) as session:
            session.add(row)

    own: dict[str, Any] = {"run_id": run_id, "attempt": 1, "created_at": datetime.now(UTC)}
    assert phase() == "queued"
    first = claim()
    assert first is not None
    assert phase() == "preparing"
    report(Epoch(trial=0, epoch=1, logs={}, seconds=0.1, layers=None, **own))
    assert phase() == "training"
    report(Event(seq=9, level="info", type="message", message="", data={"phase": "exporting"}, **own))
    assert phase() == "exporting"
    finish.release(engine, first.lease)
    assert phase() == "taken_back"
    assert claim() is not None
    assert phase() == "preparing"
