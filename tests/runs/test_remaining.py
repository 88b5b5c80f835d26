"""A run's current activity, the completed share of its training, and its expected end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

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
        lease.renew(engine, held.lease, lease_seconds=30, reports=[report])
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


@pytest.mark.parametrize(
    ("values", "stopping", "least"),
    [
        # The best is 3 epochs old, and 5 are waited for.
        ([[5.0, 4.0, 3.0, 3.1, 3.2, 3.3]], {"patience": 5}, 2),
        ([[5.0, 4.0, 3.0, 2.0]], {"patience": 5}, 5),
        ([[1.0, 2.0, 3.0, 2.9]], {"patience": 5, "mode": "max"}, 4),
        ([[5.0, 4.0, 3.9, 3.8]], {"patience": 5, "min_delta": 0.5}, 3),
        ([[5.0, 4.0, 4.1, 4.2]], {"patience": 5, "start_from_epoch": 3}, 5),
        ([[5.0, 4.0]], {"patience": 5, "start_from_epoch": 10}, 14),
        ([[5.0, 4.0, 4.1, None]], {"patience": 5}, 3),
        ([[5.0, 4.0]], {"patience": 5, "baseline": 1.0}, None),
        ([[5.0, 4.0]], {"patience": 0}, 1),
        # Side by side they end with the last one; one that improves may go on to the last epoch.
        ([[3.0, 3.1, 3.2, 3.3], [3.0, 2.0, 1.0, 1.1]], {"patience": 4}, 3),
        ([[3.0, 2.9, 2.8, 2.7]], {"patience": 500}, 36),
        ([[3.0, 2.9, 2.8, 2.7]], {"patience": 500_000}, None),
    ],
)
def test_early_stopping_has_an_earliest_end(
    engine: Engine,
    submit: Submit,
    claim: Claim,
    values: list[list[float | None]],
    stopping: dict[str, Any],
    least: int | None,
) -> None:
    run = submit()
    assert claim() is not None
    with db.transaction(engine) as session:
        at = db.now(session)
        known = {"run_id": run.id, "attempt": 1, "seconds": 1.0}
        for trial, series in enumerate(values):
            for epoch, value in enumerate(series, 1):
                when = at + timedelta(seconds=epoch)
                session.add(Epoch(**known, trial=trial, epoch=epoch, created_at=when, logs={"val_loss": value}))
    with db.reading(engine) as session:
        held = queries.get(session, run.id)
        ahead = outlook(session, held, 40, len(values), {"monitor": "val_loss", "mode": "min", **stopping})
    assert ahead is not None
    newest = at + timedelta(seconds=len(values[0]))
    assert (ahead.finish - newest).total_seconds() == pytest.approx(40 - len(values[0]))
    earliest = ahead.earliest and (ahead.earliest - newest).total_seconds()
    assert earliest == (None if least is None else pytest.approx(least))
