"""What is being done about a run, how much of its training is behind it, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from fitserve import db
from fitserve.runs import finish, lease, queries
from fitserve.runs.history import EpochReport, EventReport, Report
from fitserve.runs.remaining import outlook, phase_of
from fitserve.tables import Epoch
from tests.runs.conftest import Submit

Claim = Callable[..., lease.Claim | None]


def test_each_phase_has_its_name(engine: Engine, submit: Submit, claim: Claim) -> None:
    run = submit()

    def phase() -> str | None:
        with db.reading(engine) as session:
            return phase_of(session, queries.get(session, run.id))

    assert phase() == "queued"
    held = claim()
    assert held is not None
    assert phase() == "preparing"
    reported: list[tuple[Report, str]] = [
        (EpochReport(1, 0, 1, {}, 0.1), "training"),
        (EventReport(2, "info", "Exporting", {"phase": "exporting"}), "exporting"),
        (EventReport(3, "info", "Evaluating", {"phase": "evaluating"}), "evaluating"),
    ]
    for report, name in reported:
        lease.heartbeat(engine, held.lease, lease_seconds=30, reports=[report])
        assert phase() == name
    finish.release(engine, held.lease)
    assert phase() == "taken_back"
    again = claim()
    assert again is not None
    assert phase() == "preparing"  # what the attempt before it did is over
    finish.confirm_cancel(engine, again.lease)
    assert phase() is None


@pytest.mark.parametrize(
    ("epochs", "trials", "recorded", "share", "seconds"),
    [
        # The first epoch took 40 s, as where the network is compiled; a tenth is over.
        (120, 1, [(0, epoch, 40 + epoch) for epoch in range(12)], 0.1, 108),
        # Four restarts side by side
        (120, 4, [(trial, epoch, 2 * epoch) for trial in range(4) for epoch in range(24)], 0.2, 2 * 96),
        # The second of four restarts, one after the other; the first one stopped early.
        (
            *(120, 4, [*((0, epoch, epoch) for epoch in range(50)), *((1, epoch, 60 + epoch) for epoch in range(24))]),
            *(144 / 480, 96 + 2 * 120),
        ),
    ],
)
def test_the_time_left_is_that_of_the_last_epochs(
    engine: Engine,
    submit: Submit,
    claim: Claim,
    epochs: int,
    trials: int,
    recorded: Iterable[tuple[int, int, float]],
    share: float,
    seconds: float,
) -> None:
    run = submit()
    assert claim() is not None
    with db.transaction(engine) as session:
        at = db.now(session)
        known = {"run_id": run.id, "attempt": 1, "logs": {}, "seconds": 1.0}
        rows = [(trial, epoch + 1, at + timedelta(seconds=second)) for trial, epoch, second in recorded]
        session.add_all([Epoch(**known, trial=trial, epoch=epoch, created_at=second) for trial, epoch, second in rows])
    with db.reading(engine) as session:
        ahead = outlook(session, queries.get(session, run.id), epochs, trials)
    assert ahead is not None
    assert ahead.share == pytest.approx(share)
    left = (ahead.finish - max(second for _, _, second in rows)).total_seconds()
    assert seconds / 2 < left < 2 * seconds
