"""Evidence for rollouts: the counts of all prediction processes, and ground truth for both versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, and_, case, delete, func, or_, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.rollouts.always_valid import RunningSums, Stream, asymptotic_difference, difference_interval
from fitserve.rollouts.guards import ALPHA, LiveErrors, StepCounts
from fitserve.tables import Feedback, Rollout, RolloutCount, RolloutStep, StoredPrediction

KEPT_COUNTS = timedelta(hours=1)  # kept after a rollout's end, because processes may still write


def write_counts(engine: Engine, process: str, counts: Mapping[tuple[str, int], StepCounts]) -> None:
    """Write a process's counts by rollout and step, replacing its earlier, smaller counts."""
    if not counts:
        return
    with db.transaction(engine) as session:
        insert = db.insert(session, RolloutCount)
        statement = insert.on_conflict_do_update(
            index_elements=[RolloutCount.rollout_id, RolloutCount.step, RolloutCount.process],
            set_={"counts": insert.excluded.counts},
        )
        rows = [
            {"rollout_id": id, "step": step, "process": process, "counts": one.to_json()}
            for (id, step), one in counts.items()
        ]
        session.execute(statement, rows)


def delete_old_counts(engine: Engine) -> int:
    """Delete the counts of rollouts that ended some time ago, or are deleted. Return how many rows."""
    with db.transaction(engine) as session:
        running = select(Rollout.id).where(
            or_(Rollout.finished_at.is_(None), Rollout.finished_at > db.now(session) - KEPT_COUNTS)
        )
        result: Any = session.execute(delete(RolloutCount).where(RolloutCount.rollout_id.not_in(running)))
        return int(result.rowcount)


def counts_of(session: Session, id: str) -> dict[int, StepCounts]:
    """Return the counts of all processes by step."""
    by_step: dict[int, list[dict[str, Any]]] = {}
    query = select(RolloutCount.step, RolloutCount.counts).where(RolloutCount.rollout_id == id)
    for step, counts in session.execute(query):
        by_step.setdefault(step, []).append(counts)
    return {step: StepCounts.read(counts) for step, counts in by_step.items()}


def steps_of(session: Session, id: str) -> list[RolloutStep]:
    """Return the steps that a rollout has entered, in order."""
    query = select(RolloutStep).where(RolloutStep.rollout_id == id).order_by(RolloutStep.step)
    return list(session.scalars(query))


@dataclass(frozen=True, slots=True)
class _Truth:
    """Ground truth of one output by one version in one step. A prediction of several rows counts once."""

    task: str
    errors: RunningSums  # absolute errors; of a classification 0 or 1


def _truths(
    session: Session, row: Rollout, scales: Mapping[str, float] | None = None
) -> dict[tuple[int, str, int], _Truth]:
    """Return the ground truth of this rollout's predictions, by step, output and version.

    With `scales`, errors of a regression are shares of its output's scale, at most 1; outputs without one are left out.
    A prediction that was not stored counts in the step in which its truth was posted.
    """
    starts = [(one.step, one.started_at) for one in steps_of(session, row.id)]
    posted = case(*((Feedback.created_at >= at, number) for number, at in reversed(starts)), else_=0)
    step = case((StoredPrediction.id.is_(None), posted), else_=StoredPrediction.rollout_step)
    error: Any = func.abs(Feedback.error)
    where = [
        Feedback.model == row.model,
        Feedback.version.in_((row.base, row.to)),
        Feedback.created_at >= row.created_at,
        Feedback.counted,
        or_(StoredPrediction.id.is_(None), StoredPrediction.rollout == row.id),
    ]
    if row.finished_at is not None:
        where.append(Feedback.created_at <= row.finished_at)
    if scales is not None:
        known = [(and_(Feedback.output == name, error < scale), error / scale) for name, scale in scales.items()]
        scaled: Any = case(*known, else_=1.0) if known else 1.0
        error = case((Feedback.task == "regression", scaled), else_=error)
        where.append(or_(Feedback.task != "regression", Feedback.output.in_(list(scales))))
    stored = and_(
        StoredPrediction.model == Feedback.model,
        StoredPrediction.owner == Feedback.owner,
        StoredPrediction.id == Feedback.prediction_id,
    )
    by = (step.label("step"), Feedback.output, Feedback.version, Feedback.task)
    requests = (
        select(*by, func.avg(error).label("error"))
        .select_from(Feedback)
        .outerjoin(StoredPrediction, stored)
        .where(*where)
        .group_by(*by, Feedback.owner, Feedback.prediction_id)
        .subquery()
    )
    own = requests.c
    figures = (func.count(), func.sum(own.error), func.sum(own.error * own.error))
    query = select(own.step, own.output, own.version, own.task, *figures)
    query = query.group_by(own.step, own.output, own.version, own.task)
    return {
        (number, output, version): _Truth(task, RunningSums(n, float(total), float(squares)))
        for number, output, version, task, n, total, squares in session.execute(query)
    }


def live_errors(session: Session, row: Rollout, counts: Mapping[int, StepCounts]) -> dict[int, list[LiveErrors]]:
    """Return the ground truth of both versions by step and output, as errors from 0 to 1."""
    scales = {name: scale for one in counts.values() for name, scale in one.scales.items()}
    truths = _truths(session, row, scales)
    live: dict[int, list[LiveErrors]] = {}
    for step, output in sorted({(number, name) for number, name, _ in truths}):
        sides = [truths.get((step, output, version)) for version in (row.base, row.to)]
        base, new = (Stream(one.errors.n, one.errors.total) if one else Stream() for one in sides)
        live.setdefault(step, []).append(LiveErrors(output, base, new))
    return live


def comparison(session: Session, row: Rollout, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Return the live metric of both versions by output, and its difference with an interval that always holds.

    Accuracy of a classification, mean absolute error of a regression. Steps in which only one version answered are
    left out.
    """
    if row.finished_at is not None and row.reason is not None:
        return list(row.reason.get("comparison") or [])
    sums: dict[tuple[str, str], list[RunningSums]] = {}
    for (step, output, version), truth in _truths(session, row).items():
        if 0 < shares[step] < 1:
            sides = sums.setdefault((output, truth.task), [RunningSums(), RunningSums()])
            side, more = int(version == row.to), truth.errors
            known = sides[side]
            sides[side] = RunningSums(known.n + more.n, known.total + more.total, known.squares + more.squares)
    return [_compared(output, task, *sides) for (output, task), sides in sorted(sums.items())]


def _compared(output: str, task: str, base: RunningSums, new: RunningSums) -> dict[str, Any]:
    facts = {"output": output, "base_rows": base.n, "new_rows": new.n, "confidence": 1 - ALPHA}
    difference = None if new.mean is None or base.mean is None else new.mean - base.mean
    if task == "regression":
        bounds = asymptotic_difference(new, base, ALPHA)
        own: dict[str, Any] = {"metric": "mean_absolute_error", "base": base.mean, "new": new.mean}
    else:
        low, high = difference_interval(Stream(new.n, new.total), Stream(base.n, base.total), ALPHA)
        bounds = None if difference is None else (-high, -low)
        difference = None if difference is None else -difference
        own = {"metric": "accuracy", "base": _right(base), "new": _right(new)}
    low_high = {"low": None, "high": None} if bounds is None else {"low": bounds[0], "high": bounds[1]}
    return {**facts, **own, "difference": difference, **low_high}


def _right(moments: RunningSums) -> float | None:
    return None if moments.mean is None else 1 - moments.mean
