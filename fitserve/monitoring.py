"""Monitoring of served models: their inputs, their predictions, and the ground truth.

Each prediction process writes its counts, a row for each artifact and slice of time; the sum of the recent rows is the
sliding window of the whole service. The reaper deletes old rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Engine, delete, func, select
from sqlalchemy.orm import Session

from fitserve import db, drift
from fitserve.tables import Feedback, StoredPrediction, Window

SLICES = 12  # of a window
Distribution = Mapping[str, Any]


def slice_seconds(window_seconds: float) -> int:
    """Return the length of one slice of a window."""
    return max(1, round(window_seconds / SLICES))


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """One process's counts of one artifact in one slice: a row of `windows`."""

    model: str
    version: int
    artifact: str
    process: str
    slice: int
    counts: dict[str, Any]  # rows; columns: counts by column; outputs: by target, counts by part


@dataclass(slots=True)
class WindowTotals:
    """The counts of a whole window."""

    rows: int = 0
    columns: dict[str, drift.BinCounts] = field(default_factory=dict)
    outputs: dict[str, dict[str, drift.BinCounts]] = field(default_factory=dict)

    def add(self, counts: Mapping[str, Any]) -> None:
        self.rows += counts["rows"]
        for name, added in counts["columns"].items():
            self.columns[name] = drift.add_counts(self.columns[name], added) if name in self.columns else added
        for name, parts in counts["outputs"].items():
            known = self.outputs.setdefault(name, {})
            for part, added in parts.items():
                known[part] = drift.add_counts(known[part], added) if part in known else added


def write_counts(engine: Engine, rows: Sequence[WindowCounts]) -> None:
    """Write counts; they replace the earlier, smaller ones of the same process and slice."""
    if not rows:
        return
    with db.transaction(engine) as session:
        insert = db.insert(session, Window)
        statement = insert.on_conflict_do_update(
            index_elements=[Window.model, Window.artifact, Window.process, Window.slice],
            set_={"counts": insert.excluded.counts},
        )
        session.execute(statement, [asdict(row) for row in rows])


def window_totals(session: Session, model: str, artifact: str, window_seconds: float) -> WindowTotals:
    """Return the counts of an artifact by all processes within the window that ends now."""
    since = db.now(session).timestamp() - window_seconds
    totals = WindowTotals()
    query = select(Window.counts).where(Window.model == model, Window.artifact == artifact, Window.slice > since)
    for counts in session.scalars(query):
        totals.add(counts)
    return totals


def active_artifacts(session: Session, window_seconds: float) -> list[tuple[str, int, str]]:
    """Return every model, version and artifact that had requests within the window."""
    since = db.now(session).timestamp() - window_seconds
    active = select(Window.model, Window.version, Window.artifact).where(Window.slice > since).distinct()
    return [(row[0], row[1], row[2]) for row in session.execute(active.order_by(Window.model, Window.version))]


def delete_expired(engine: Engine, window_seconds: float, feedback_seconds: float) -> int:
    """Delete rows that are too old. Return how many."""
    with db.transaction(engine) as session:
        at = db.now(session)
        old = at - timedelta(seconds=feedback_seconds)
        conditions: list[tuple[Any, ColumnElement[bool]]] = [
            (Window, Window.slice < at.timestamp() - 2 * window_seconds),
            (StoredPrediction, StoredPrediction.created_at < old),
            (Feedback, Feedback.created_at < old),
        ]
        removed = 0
        for table, condition in conditions:
            result: CursorResult[Any] = session.execute(delete(table).where(condition))  # type: ignore[assignment]
            removed += result.rowcount
        return removed


def column_drift(training: Distribution, totals: WindowTotals) -> list[dict[str, Any]]:
    """Return each column's drift, the most drifted first, without columns whose bins have changed since."""
    reports = [
        {"column": name, **drift.report(distribution, totals.columns[name])}
        for name, distribution in training.items()
        if len(totals.columns.get(name, ())) == len(drift.bin_names(distribution))
    ]
    return sorted(reports, key=lambda one: (one["psi"] is None, -(one["psi"] or 0.0)))


def output_drift(predicted: Distribution, totals: WindowTotals) -> list[dict[str, Any]]:
    """Return each target's prediction drift, by part: `classes` and `scores`, or `values`."""
    return [
        {"output": name, "part": part, **drift.report(distribution, totals.outputs[name][part])}
        for name, parts in predicted.items()
        for part, distribution in parts.items()
        if len(totals.outputs.get(name, {}).get(part, ())) == len(drift.bin_names(distribution))
    ]


# Ground truth


def store_predictions(engine: Engine, rows: Sequence[dict[str, Any]], most: int) -> int:
    """Store predictions until their ground truth comes. Of two under one id, the first stays.

    An owner may have `most` of them; what is above that is not stored. Returns how many were not.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        room: dict[str, int] = {}
        for owner in {row["owner"] for row in rows}:
            stored = select(StoredPrediction.id).where(StoredPrediction.owner == owner).limit(most).subquery()
            room[owner] = most - (session.scalar(select(func.count()).select_from(stored)) or 0)
        kept = []
        for row in rows:
            if room[row["owner"]] > 0:
                kept.append(row)
                room[row["owner"]] -= 1
        surplus, rows = len(rows) - len(kept), kept
        db.insert_new(session, StoredPrediction, [{**row, "created_at": at} for row in rows])
    return surplus


def stored_prediction(session: Session, model: str, owner: str, id: str) -> StoredPrediction | None:
    """Return the prediction that was stored under an id."""
    return session.get(StoredPrediction, (model, owner, id))


def add_feedback(session: Session, rows: Sequence[dict[str, Any]]) -> int:
    """Add ground truth. Return the number of new rows."""
    at = db.now(session)
    new = [{**row, "created_at": at} for row in rows]
    return len(db.insert_new(session, Feedback, new, returning=[Feedback.model]))


def live_scores(session: Session, feedback_seconds: float, model: str | None = None) -> list[dict[str, Any]]:
    """Return accuracy, or RMSE and mean absolute error, by the ground truth: a row per model, version and target."""
    since = db.now(session) - timedelta(seconds=feedback_seconds)
    by = (Feedback.model, Feedback.version, Feedback.output, Feedback.task)
    query = select(*by, func.count(), func.avg(Feedback.error * Feedback.error), func.avg(func.abs(Feedback.error)))
    query = query.where(Feedback.created_at >= since, Feedback.counted).group_by(*by).order_by(*by)
    if model is not None:
        query = query.where(Feedback.model == model)
    scores = []
    for name, version, output, task, rows, square, absolute in session.execute(query):
        regression = task == "regression"
        scores.append(
            {
                "model": name,
                "version": version,
                "output": output,
                "task": task,
                "rows": rows,
                "accuracy": None if regression else 1.0 - float(absolute),
                "rmse": math.sqrt(float(square)) if regression else None,
                "mae": float(absolute) if regression else None,
            }
        )
    return scores


def delete_model(session: Session, model: str) -> None:
    """Delete the rows of a deleted model: the next model of its name starts with none."""
    for table in (Window, StoredPrediction, Feedback):
        session.execute(delete(table).where(table.model == model))
