"""Estimate a running run's progress, phase and remaining time from its latest epochs and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, load_only

from fitserve.states import Phase, RunState
from fitserve.tables import Epoch, Event, Run

LAST = 10  # latest epochs, whose mean time predicts the next ones
LAST_EVENTS = 20  # latest events searched for the beginning of a phase
MAX_WATCHED = 20_000  # epochs that are read to say when training may stop early
MAX_SECONDS = 10 * 365 * 86_400.0  # longest estimate; a longer time could overflow a date


class Outlook(NamedTuple):
    """A run's progress (0 to 1) and expected end.

    `earliest` is when it ends if nothing improves any more; None unless it may stop early.
    """

    share: float
    finish: datetime
    earliest: datetime | None


def phase_of(session: Session, run: Run) -> Phase | None:
    """Return the current phase of a run; None once it has ended."""
    if run.state == RunState.queued:
        return "taken_back" if run.attempt else "queued"
    if run.state != RunState.running:
        return None
    of_attempt = select(Event.data).where(Event.run_id == run.id, Event.attempt == run.attempt)
    for data in session.scalars(of_attempt.order_by(Event.id.desc()).limit(LAST_EVENTS)):
        if (phase := data.get("phase")) in ("exporting", "evaluating"):
            return phase  # type: ignore[no-any-return]
    trained = select(Epoch.epoch).where(Epoch.run_id == run.id, Epoch.attempt == run.attempt).limit(1)
    return "preparing" if session.scalars(trained).first() is None else "training"


def outlook(
    session: Session, run: Run, epochs: int, trials: int, stopping: Mapping[str, Any] | None = None
) -> Outlook | None:
    """Estimate the run's progress and end from the pace of its latest epochs; None if it is not running.

    A trial that ended before its last epoch has no epochs left. Trials that train side by side end together.
    `stopping` is the resolved early stopping of each trial.
    """
    if run.state != RunState.running:
        return None
    newest = select(Epoch).where(Epoch.run_id == run.id).order_by(Epoch.created_at.desc(), Epoch.epoch.desc()).limit(1)
    last = session.scalars(newest.options(load_only(Epoch.epoch, Epoch.seconds, Epoch.created_at))).first()
    if last is None:
        return None
    each = _seconds_of_an_epoch(session, run, last)
    by_trial = session.execute(
        select(Epoch.trial, func.max(Epoch.epoch), func.max(Epoch.created_at))
        .where(Epoch.run_id == run.id)
        .group_by(Epoch.trial)
    ).all()
    recent = last.created_at - timedelta(seconds=1.0 + 3.0 * each)
    going_on = {trial: epoch for trial, epoch, at in by_trial if at >= recent and epoch < epochs}
    side_by_side = max(1, sum(at >= recent and epoch == last.epoch for _, epoch, at in by_trial))
    rounds = -(-max(0, trials - len(by_trial)) // side_by_side)
    left = max((epochs - epoch for epoch in going_on.values()), default=0) + rounds * epochs
    done = sum(epoch if at >= recent else epochs for _, epoch, at in by_trial)

    def after(count: int) -> datetime:
        return last.created_at + timedelta(seconds=min(each * count, MAX_SECONDS))

    earliest = None
    if stopping is not None and (least := _epochs_at_least(session, run, going_on, stopping)) is not None:
        shortest = int(stopping.get("start_from_epoch", 0)) + max(1, int(stopping.get("patience", 0))) + 1
        earliest = after(min(left, least + rounds * min(epochs, shortest)))
    return Outlook(min(1.0, done / max(1, epochs * trials)), after(left), earliest)


def _epochs_at_least(
    session: Session, run: Run, going_on: Mapping[int, int], stopping: Mapping[str, Any]
) -> int | None:
    """Return how many more epochs the trials train if nothing improves any more; None where that is not known.

    The best epoch of a trial that goes on is among its last `patience` ones, or it would have stopped; a baseline may
    stop it before.
    """
    patience, start = max(1, int(stopping.get("patience", 0))), int(stopping.get("start_from_epoch", 0))
    if patience * len(going_on) > MAX_WATCHED or stopping.get("baseline") is not None:
        return None
    since = max(start, min(going_on.values(), default=0) - patience - 1)
    watched: dict[int, list[float | None]] = {trial: [] for trial in going_on}
    logs = session.execute(
        select(Epoch.trial, Epoch.logs)
        .where(Epoch.run_id == run.id, Epoch.trial.in_(going_on), Epoch.epoch > since)
        .order_by(Epoch.epoch)
        .limit(MAX_WATCHED)
    )
    for trial, values in logs:
        watched[trial].append(values.get(stopping["monitor"]))
    unwatched = {trial: max(0, start - epoch) for trial, epoch in going_on.items()}
    return max((patience - _unimproved(watched[one], stopping) + unwatched[one] for one in going_on), default=0)


def _unimproved(values: Sequence[float | None], stopping: Mapping[str, Any]) -> int:
    """Return the epochs since the best of these, as Keras counts them; -1 where none was watched yet."""
    sign, least = (-1 if stopping.get("mode") == "max" else 1), float(stopping.get("min_delta", 0.0))
    best, since = float("inf"), -1
    for value in values:
        since += 1
        if value is not None and sign * value < best - least:
            best, since = sign * value, 0
    return since


def _seconds_of_an_epoch(session: Session, run: Run, last: Epoch) -> float:
    """Return the wall time from one epoch of a trial to the next in this attempt, including the work between them."""
    times = session.scalars(
        select(Epoch.created_at)
        .where(Epoch.run_id == run.id, Epoch.trial == last.trial, Epoch.attempt == last.attempt)
        .order_by(Epoch.epoch.desc())
        .limit(LAST)
    ).all()
    if len(times) < 2:
        return last.seconds
    return (times[0] - times[-1]).total_seconds() / (len(times) - 1)
