"""Whether an automation is due now, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fitserve import monitoring
from fitserve.automations import store
from fitserve.settings import Settings
from fitserve.tables import Automation, AutomationFiring, Dataset
from fitserve.wire.automations import On

AGAIN = timedelta(
    hours=24
)  # until drift or a live metric fires again, of whichever version: training again need not help
FEWEST_TRUTHS = 50  # rows of ground truth that a live metric needs

# Returns an artifact's distribution of training rows.
Distributions = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Tick:
    """A time at which an automation is due. Every process that looks finds the same `key`."""

    key: str
    reason: str


def due(
    session: Session, row: Automation, on: On, at: datetime, settings: Settings, read: Distributions
) -> Tick | None:
    """Return the tick that is due, if any."""
    if on.schedule is not None:
        if row.next_at is None or row.next_at > at:
            return None
        return Tick(f"schedule {row.next_at.isoformat()}", f"The schedule {on.schedule} was due.")
    if on.appended is not None:
        return _appended(session, row, on)
    if on.drift is not None:
        return _drift(session, row, on, at, settings, read)
    return _live_metric(session, row, on, at, settings)


def newest(session: Session, name: str) -> Dataset | None:
    """Return the newest version of a dataset."""
    return session.scalars(
        select(Dataset).where(Dataset.name == name).order_by(Dataset.version.desc()).limit(1)
    ).first()


def _appended(session: Session, row: Automation, on: On) -> Tick | None:
    last = newest(session, on.appended or "")
    if last is None or last.id == row.baseline_id:
        return None
    before = session.get(Dataset, row.baseline_id) if row.baseline_id else None
    more = last.rows - (before.rows if before is not None else 0)
    if more < (on.rows or 1):
        return None
    return Tick(f"appended {last.id}", f"{last.name} has {more} more rows than it was trained on.")


def _drift(
    session: Session, row: Automation, on: On, at: datetime, settings: Settings, read: Distributions
) -> Tick | None:
    version = store.champion(session, on.drift or "")
    if version is None:
        return None
    totals = monitoring.window_totals(session, version.model, version.artifact, settings.drift_window_seconds)
    if totals.rows < settings.drift_event_rows:
        return None
    columns = monitoring.column_drift(read(version.artifact).get("training_distribution") or {}, totals)
    worst = columns[0] if columns and columns[0]["psi"] is not None else None
    if worst is None or worst["psi"] <= (on.psi or 0.0):
        return None
    reason = f"{worst['column']} of {version.model} version {version.version} drifted: PSI {worst['psi']:.2f}."
    return _once_a_day(session, row, f"drift {version.model}", reason, at)


def _live_metric(session: Session, row: Automation, on: On, at: datetime, settings: Settings) -> Tick | None:
    version, metric = store.champion(session, on.live_metric or ""), on.metric or "accuracy"
    if version is None:
        return None
    for score in monitoring.live_scores(session, settings.feedback_seconds, version.model):
        value = score[metric]
        if score["version"] != version.version or value is None or score["rows"] < FEWEST_TRUTHS:
            continue
        if (on.below is not None and value < on.below) or (on.above is not None and value > on.above):
            reason = f"{metric} of {version.model} version {version.version} is {value:.4g} on {score['rows']} rows."
            return _once_a_day(session, row, f"live {version.model}", reason, at)
    return None


def _once_a_day(session: Session, row: Automation, subject: str, reason: str, at: datetime) -> Tick | None:
    earlier = select(func.count(), func.max(AutomationFiring.created_at)).where(
        AutomationFiring.automation_id == row.id, AutomationFiring.tick.startswith(subject + " ", autoescape=True)
    )
    count, last = session.execute(earlier).one()
    if last is not None and last > at - AGAIN:
        return None
    return Tick(f"{subject} {count + 1}", reason)
