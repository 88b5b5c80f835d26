"""Monitoring of served models: their inputs, their predictions, and the ground truth.

Each prediction process writes its counts, one row per artifact and slice of time; the sum over recent rows is the
sliding window of the whole service. The reaper deletes old rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Engine, case, delete, func, select
from sqlalchemy.orm import Session

from fitserve import db, drift, events, live_coverage
from fitserve.tables import Drifting, Feedback, Model, ModelFault, StoredPrediction, TrafficSample, Window

SLICES = 12  # slices of time in a window
MAX_SLICES = 50  # labels of `coverage_by` per version and target
TRUTH_COLUMNS = (  # columns of `Feedback`, each None if unknown
    *("level", "covered", "slice"),
    *("confidence", "confidence_bin", "likeliest_right", "brier", "log_loss"),
)
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


def note_drift(engine: Engine, model: str, version: int, worst: Mapping[str, Any], rows: int, threshold: float) -> None:
    """Record once that a served version began to drift, or stopped, however many processes notice it.

    `worst` is the report of the most drifted column. Drift ends at four fifths of the threshold, so that an index that
    wavers around it does not cause repeated events.
    """
    psi = float(worst["psi"])
    with db.reading(engine) as session:
        known = session.get(Drifting, (model, version)) is not None
    if known is (psi > threshold) or (known and psi > 0.8 * threshold):
        return
    with db.transaction(engine) as session:
        owner = session.scalar(select(Model.owner).where(Model.name == model))
        if owner is None:
            return
        data = {"model": model, "version": version, "psi": psi, "threshold": threshold}
        if known:
            gone = delete(Drifting).where(Drifting.model == model, Drifting.version == version)
            if session.execute(gone).rowcount:  # type: ignore[attr-defined]
                events.record(session, "drift.ended", owner=owner, data=data)
            return
        row = {"model": model, "version": version, "psi": psi, "since": db.now(session)}
        if db.insert_new(session, Drifting, [row], returning=(Drifting.model,)):
            events.record(
                session, "drift.detected", owner=owner, data={**data, "column": worst["column"], "rows": rows}
            )


# Ground truth


def store_predictions(engine: Engine, rows: Sequence[dict[str, Any]], most: int) -> int:
    """Store predictions until their ground truth arrives. If an id repeats, the first prediction is kept.

    An owner may have `most` of them; further ones are not stored. Returns the number not stored.
    """
    with db.transaction(engine) as session:
        at = db.now(session)
        room: dict[str, int] = {}
        for owner in sorted({row["owner"] for row in rows}):  # in one order, so that no two wait for each other
            db.serialise(session, "predictions", owner)
            stored = select(StoredPrediction.id).where(StoredPrediction.owner == owner).limit(most).subquery()
            room[owner] = most - (session.scalar(select(func.count()).select_from(stored)) or 0)
        new_rows = []
        for row in rows:
            if room[row["owner"]] > 0:
                new_rows.append(row)
                room[row["owner"]] -= 1
        surplus, rows = len(rows) - len(new_rows), new_rows
        db.insert_new(session, StoredPrediction, [{**row, "created_at": at} for row in rows])
    return surplus


def stored_prediction(session: Session, model: str, owner: str, id: str) -> StoredPrediction | None:
    """Return the prediction that was stored under an id."""
    return session.get(StoredPrediction, (model, owner, id))


def add_feedback(session: Session, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add ground truth. Return the rows that are new."""
    at = db.now(session)
    new = {(row["prediction_id"], row["row"], row["output"]): {**row, "created_at": at} for row in reversed(rows)}
    key = [Feedback.prediction_id, Feedback.row, Feedback.output]
    return [new[tuple(added)] for added in db.insert_new(session, Feedback, [*new.values()][::-1], returning=key)]


def live_scores(session: Session, feedback_seconds: float, model: str | None = None) -> list[dict[str, Any]]:
    """Return live metrics from ground truth, one row per model, version and target.

    They are accuracy, or RMSE and mean absolute error; the share of truths inside their interval or set, beside the
    mean level that was answered; of a classification, Brier score, log loss and expected calibration error too.
    """
    since = db.now(session) - timedelta(seconds=feedback_seconds)
    by = (Feedback.model, Feedback.version, Feedback.output, Feedback.task)
    covered = (func.count(Feedback.covered), _share(Feedback.covered), func.avg(Feedback.level))
    calibration = (func.count(Feedback.brier), func.avg(Feedback.brier), func.avg(Feedback.log_loss))
    errors = (func.avg(Feedback.error * Feedback.error), func.avg(func.abs(Feedback.error)))
    query = select(*by, func.count(), *errors, *covered, *calibration)
    query = query.where(Feedback.created_at >= since, Feedback.counted).group_by(*by).order_by(*by)
    bins = select(*by[:3], func.count(), func.avg(Feedback.confidence), _share(Feedback.likeliest_right))
    bins = bins.where(Feedback.created_at >= since, Feedback.counted, Feedback.confidence_bin.is_not(None))
    bins = bins.group_by(*by[:3], Feedback.confidence_bin)
    if model is not None:
        query, bins = query.where(Feedback.model == model), bins.where(Feedback.model == model)
    gaps: dict[tuple[str, int, str], float] = {}
    for *key, rows, confidence, right in session.execute(bins):
        at = (key[0], key[1], key[2])
        gaps[at] = gaps.get(at, 0.0) + rows * abs(float(confidence) - float(right))
    scores = []
    for row in session.execute(query):
        name, version, output, task, rows, square, absolute, inside, coverage, level, judged, brier, log_loss = row
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
                "covered_rows": inside,
                "coverage": None if not inside else float(coverage),
                "level": None if not inside else float(level),
                "calibration_rows": judged,
                "brier": None if not judged else float(brier),
                "log_loss": None if not judged else float(log_loss),
                "calibration_error": None if not judged else gaps.get((name, version, output), 0.0) / judged,
            }
        )
    return scores


def _share(column: Any) -> Any:
    return func.avg(case((column.is_(None), None), (column.is_(True), 1.0), else_=0.0))


def live_slices(
    session: Session, feedback_seconds: float, model: str | None = None, version: int | None = None
) -> list[dict[str, Any]]:
    """Return coverage and accuracy by the rows' label in `coverage_by`, the largest slices of each version and target.

    A slice is `bad` where fewer truths are inside than its level says, or fewer labels are right than in all slices of
    the target, beyond chance (5% over all slices together); `why` says which.
    """
    since = db.now(session) - timedelta(seconds=feedback_seconds)
    by = (Feedback.model, Feedback.version, Feedback.output, Feedback.task)
    right = func.sum(case((Feedback.error == 0, 1), else_=0))
    inside = func.sum(case((Feedback.covered.is_(True), 1), else_=0))
    figures = (func.count(), func.count(Feedback.covered), inside, func.avg(Feedback.level), right)
    query = select(*by, Feedback.slice, *figures).where(Feedback.created_at >= since, Feedback.counted)
    query = query.where(Feedback.slice.is_not(None)).group_by(*by, Feedback.slice)
    if model is not None:
        query = query.where(Feedback.model == model)
    if version is not None:
        query = query.where(Feedback.version == version)
    targets: dict[tuple[Any, ...], list[Any]] = {}
    for row in session.execute(query):
        targets.setdefault(tuple(row[:4]), []).append(row[4:])
    slices: list[dict[str, Any]] = []
    for (name, number, output, task), rows in sorted(targets.items()):
        facts = {"model": name, "version": number, "output": output}
        slices += [{**facts, **one} for one in _judged_slices(rows, task != "regression")]
    return slices


def _judged_slices(rows: Sequence[Any], classified: bool) -> list[dict[str, Any]]:
    """Test one target's slices, given as label, rows, rows with bounds, covered rows, mean level, correct rows."""
    largest = sorted(rows, key=lambda row: (-row[1], row[0]))[:MAX_SLICES]
    accuracy = sum(int(row[5]) for row in rows) / sum(row[1] for row in rows)
    tests, slices = len(largest) * (1 + classified), []
    for label, count, judged, covered, level, right in largest:
        why = []
        if judged and live_coverage.worse_than(float(level), int(covered), judged, tests):
            why.append("coverage")
        if classified and live_coverage.worse_than(accuracy, int(right), count, tests):
            why.append("accuracy")
        slices.append(
            {
                "slice": label,
                "rows": count,
                "level": float(level) if judged else None,
                "coverage": int(covered) / judged if judged else None,
                "accuracy": int(right) / count if classified else None,
                "bad": bool(why),
                "why": why,
            }
        )
    return slices


def delete_model(session: Session, model: str) -> None:
    """Delete the rows of a deleted model: the next model of its name starts with none."""
    for table in (Window, StoredPrediction, Feedback, Drifting, TrafficSample, ModelFault):
        session.execute(delete(table).where(table.model == model))
