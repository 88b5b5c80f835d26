"""Served models as they live: what they are asked, what they answered, and what turned out to be true.

Each prediction process writes down what it counted, a row for each artifact and slice of time; the sums of the rows
of the last `WINDOW` are the whole service's sliding window. Rows that are too old are removed by the reaper.
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
from fitserve.tables import Feedback, KeptPrediction, Window

SLICES = 12  # of a window
Distribution = Mapping[str, Any]


def slice_seconds(window_seconds: float) -> int:
    """Length of one slice of a window."""
    return max(1, round(window_seconds / SLICES))


@dataclass(frozen=True, slots=True)
class Counted:
    """One process's counts of one artifact in one slice: what `windows` holds."""

    model: str
    version: int
    artifact: str
    process: str
    slice: int
    counts: dict[str, Any]  # rows; columns: counts by column; outputs: by target, counts by part


@dataclass(slots=True)
class Totals:
    """A whole window's counts."""

    rows: int = 0
    columns: dict[str, drift.BinCounts] = field(default_factory=dict)
    outputs: dict[str, dict[str, drift.BinCounts]] = field(default_factory=dict)

    def add(self, counts: Mapping[str, Any]) -> None:
        self.rows += counts["rows"]
        for name, found in counts["columns"].items():
            self.columns[name] = drift.add_counts(self.columns[name], found) if name in self.columns else found
        for name, parts in counts["outputs"].items():
            known = self.outputs.setdefault(name, {})
            for part, found in parts.items():
                known[part] = drift.add_counts(known[part], found) if part in known else found


def write(engine: Engine, rows: Sequence[Counted]) -> None:
    """Writes counts down; a row of the same process and slice is replaced by the later, larger one."""
    if not rows:
        return
    with db.transaction(engine) as session:
        insert = db.insert(session, Window)
        statement = insert.on_conflict_do_update(
            index_elements=[Window.model, Window.artifact, Window.process, Window.slice],
            set_={"counts": insert.excluded.counts},
        )
        session.execute(statement, [asdict(row) for row in rows])


def totals(session: Session, model: str, artifact: str, window_seconds: float) -> Totals:
    """What all processes counted of an artifact within the window that ends now."""
    since = db.now(session).timestamp() - window_seconds
    found = Totals()
    query = select(Window.counts).where(Window.model == model, Window.artifact == artifact, Window.slice > since)
    for counts in session.scalars(query):
        found.add(counts)
    return found


def asked(session: Session, window_seconds: float) -> list[tuple[str, int, str]]:
    """Every model, version and artifact that was asked within the window."""
    since = db.now(session).timestamp() - window_seconds
    chosen = select(Window.model, Window.version, Window.artifact).where(Window.slice > since).distinct()
    return [(row[0], row[1], row[2]) for row in session.execute(chosen.order_by(Window.model, Window.version))]


def expire(engine: Engine, window_seconds: float, feedback_seconds: float) -> int:
    """Removes what is too old to matter, and what belongs to no model; the number of rows."""
    with db.transaction(engine) as session:
        at = db.now(session)
        old = at - timedelta(seconds=feedback_seconds)
        conditions: list[tuple[Any, ColumnElement[bool]]] = [
            (Window, Window.slice < at.timestamp() - 2 * window_seconds),
            (KeptPrediction, KeptPrediction.created_at < old),
            (Feedback, Feedback.created_at < old),
        ]
        removed = 0
        for table, condition in conditions:
            result: CursorResult[Any] = session.execute(delete(table).where(condition))  # type: ignore[assignment]
            removed += result.rowcount
        return removed


def column_reports(training: Distribution, found: Totals) -> list[dict[str, Any]]:
    """Each column's drift, the most drifted first. A column whose bins have changed since says nothing."""
    reports = [
        {"column": name, **drift.report(distribution, found.columns[name])}
        for name, distribution in training.items()
        if len(found.columns.get(name, ())) == len(drift.bin_names(distribution))
    ]
    return sorted(reports, key=lambda one: (one["psi"] is None, -(one["psi"] or 0.0)))


def output_reports(answered: Distribution, found: Totals) -> list[dict[str, Any]]:
    """Each target's prediction drift, by part: `classes` and `scores`, or `values`."""
    return [
        {"output": name, "part": part, **drift.report(distribution, found.outputs[name][part])}
        for name, parts in answered.items()
        for part, distribution in parts.items()
        if len(found.outputs.get(name, {}).get(part, ())) == len(drift.bin_names(distribution))
    ]


# Ground truth


def keep_predictions(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Keeps answers until their ground truth comes. Of two under one id, the first stays."""
    with db.transaction(engine) as session:
        at = db.now(session)
        db.insert_new(session, KeptPrediction, [{**row, "created_at": at} for row in rows])


def kept_prediction(session: Session, model: str, owner: str, id: str) -> KeptPrediction | None:
    """What was answered under an id."""
    return session.get(KeptPrediction, (model, owner, id))


def add_feedback(session: Session, rows: Sequence[dict[str, Any]]) -> int:
    """Adds ground truth; the number of rows that were new."""
    at = db.now(session)
    new = [{**row, "created_at": at} for row in rows]
    return len(db.insert_new(session, Feedback, new, returning=[Feedback.model]))


def figures(session: Session, feedback_seconds: float, model: str | None = None) -> list[dict[str, Any]]:
    """How true the predictions were: by model, version and target, accuracy or RMSE and mean absolute error."""
    since = db.now(session) - timedelta(seconds=feedback_seconds)
    by = (Feedback.model, Feedback.version, Feedback.output, Feedback.task)
    query = select(*by, func.count(), func.avg(Feedback.error * Feedback.error), func.avg(func.abs(Feedback.error)))
    query = query.where(Feedback.created_at >= since).group_by(*by).order_by(*by)
    if model is not None:
        query = query.where(Feedback.model == model)
    found = []
    for name, version, output, task, rows, square, absolute in session.execute(query):
        regression = task == "regression"
        found.append(
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
    return found


def forget(session: Session, model: str) -> None:
    """A model was deleted: whoever takes its name next starts with nothing."""
    for table in (Window, KeptPrediction, Feedback):
        session.execute(delete(table).where(table.model == model))
