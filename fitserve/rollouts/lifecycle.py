"""Rollouts: a version becomes the champion step by step, watched by guards that take it back; and A/B comparisons.

A model has at most one active rollout. While it is active, the label `rollout` names the new version, and its weight
is the share of the requests without a version that this version answers; the champion answers the others. Whoever
drives rollouts (`advance`) holds a lease of each for a few seconds, and may die at any line: every step is one
transaction, conditional on the step before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fitserve import db, events, registry
from fitserve.crash_points import crash_point
from fitserve.errors import BadInput, Conflict, NotFound
from fitserve.ids import new_id
from fitserve.rollouts.evidence import comparison, counts_of, live_errors, steps_of
from fitserve.rollouts.guards import DEFAULTS, Figure, StepCounts, measure
from fitserve.tables import Audit, Label, Rollout, RolloutStep

LABEL = registry.ROLLOUT
ACTIVE = ("running", "paused")
STEPS = (1.0, 10.0, 50.0, 100.0)
MAX_STEPS = 20
HOLD_SECONDS = 3_600.0
MIN_REQUESTS = 100
DEADLINE_SECONDS = 604_800.0  # after its hold: limit for a step that lacks the requests or truths it waits for
LEASE_SECONDS = 3.0
MAX_POINTS = 200  # points of a guard's curve in one step
_EVENTS = {"succeeded": "rollout.finished", "rolled_back": "rollout.rolled_back", "aborted": "rollout.aborted"}
_STALLED = "stalled"


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A rollout's plan as stored in its row: each step's share, seconds and requests, and the guards' limits."""

    steps: tuple[float, ...] = STEPS
    hold: float | None = HOLD_SECONDS  # None holds until somebody decides
    min_requests: int = MIN_REQUESTS
    guards: Mapping[str, float] | None = None  # None: the defaults
    shadow: bool = False
    min_truths: int = 0  # least ground truths in each step that `live_accuracy` watches
    deadline: float | None = None  # seconds of a step; None in rollouts of older releases

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the traffic at each step, from 0 (shadow) to 1."""
        return (*((0.0,) if self.shadow else ()), *(step / 100 for step in self.steps))

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": list(self.steps),
            "hold": self.hold,
            "min_requests": self.min_requests,
            "guards": dict(self.guards or {}),
            "shadow": self.shadow,
            "min_truths": self.min_truths,
            "deadline": self.deadline,
        }

    @classmethod
    def read(cls, plan: Mapping[str, Any]) -> StoredPlan:
        return cls(**{**plan, "steps": tuple(plan["steps"])})


# What people and automations do


def start(
    session: Session,
    model: str,
    to: int,
    *,
    steps: Sequence[float] = STEPS,
    hold: float | None = HOLD_SECONDS,
    min_requests: int = MIN_REQUESTS,
    min_truths: int = 0,
    deadline: float | None = DEADLINE_SECONDS,
    guards: Mapping[str, float | None] | None = None,
    shadow: bool = False,
    kind: str = "rollout",
    owner: str | None = None,
    key_id: str | None = None,
) -> Rollout:
    """Start a rollout of version `to`, or an A/B comparison (`kind="ab"`) of it with the champion.

    `guards` overrides limits; None turns a guard off. Raises BadInput, NotFound, Conflict.
    """
    waits = StoredPlan(hold=hold, min_requests=min_requests, min_truths=min_truths, deadline=deadline)
    plan = check_plan(steps, guards, shadow, kind, waits)
    registry.get(session, model)
    base = _base(session, model, to)
    at = db.now(session)
    row = Rollout(
        id=new_id("rol"),
        model=model,
        kind=kind,
        base=base,
        to=to,
        plan=plan.to_json(),
        state="running",
        step=0,
        step_at=at,
        owner=owner,
        key_id=key_id,
        created_at=at,
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        raise _already_active(model) from None
    _enter_step(session, row, plan, 0, at)
    return row


def check_plan(
    steps: Sequence[float], guards: Mapping[str, float | None] | None, shadow: bool, kind: str, waits: StoredPlan
) -> StoredPlan:
    """Validate and return the requested plan; `waits` has what each step waits for. Raises BadInput."""
    if not 1 <= len(steps) <= MAX_STEPS:
        raise BadInput(
            f"A rollout has 1 to {MAX_STEPS} steps.",
            pointer="/steps",
            received=len(steps),
            expected=f"1 to {MAX_STEPS}",
        )
    for place, (before, step) in enumerate(zip((0.0, *steps), steps, strict=False)):
        if not before < step <= 100:
            raise BadInput(
                "Steps are percentages of the traffic that grow.",
                pointer=f"/steps/{place}",
                received=step,
                expected=f"more than {before:g}, at most 100",
                fix="steps: [1, 10, 50, 100]",
            )
    if kind == "ab" and (len(steps) != 1 or steps[0] >= 100):
        raise BadInput("An A/B comparison has one share.", pointer="/steps", received=list(steps), fix="steps: [50]")
    if unknown := [name for name in guards or {} if name not in DEFAULTS]:
        raise BadInput("No such guard.", pointer=f"/guards/{unknown[0]}", expected=", ".join(DEFAULTS))
    limits: dict[str, float | None] = {**({} if kind == "ab" else DEFAULTS), **(guards or {})}
    if not shadow:
        if (guards or {}).get("disagreement") is not None:
            raise BadInput(
                "Disagreement is measured on rows that both versions answer.",
                pointer="/guards/disagreement",
                fix="Ask for shadow: true, or leave this guard out.",
            )
        limits.pop("disagreement", None)
    stated = {name: limit for name in DEFAULTS if (limit := limits.get(name)) is not None}
    whole = replace(waits, steps=tuple(map(float, steps)), guards=stated, shadow=shadow)
    if kind == "ab":
        return replace(whole, hold=None, deadline=None)
    if whole.min_truths and "live_accuracy" not in stated:
        raise BadInput(
            "Ground truth is waited for only with the guard live_accuracy.",
            pointer="/min_truths",
            received=whole.min_truths,
            fix="Leave the guard live_accuracy on, or min_truths out.",
        )
    return whole


def _base(session: Session, model: str, to: int) -> int:
    """Return the version that answers now, making it the champion if there is none. Raises Conflict, NotFound."""
    registry.lock(session, model)
    if registry.version(session, model, to).retired_at is not None:
        raise Conflict(f"Version {to} of {model} is retired.", pointer="/to", fix="Choose another version.")
    if active(session, model) is not None:
        raise _already_active(model)
    labels = {label.label: label for label in registry.labels(session, model)}
    if LABEL in labels:
        raise Conflict(
            f"The model {model} has a label {LABEL}, which rollouts use.", fix=f"Delete the label {LABEL} first."
        )
    if canaries := [name for name, label in labels.items() if label.weight > 0]:
        raise Conflict(
            "Other labels take a share of the traffic.", received=canaries, fix="Set their weight to 0 first."
        )
    if registry.CHAMPION in labels:
        champion = labels[registry.CHAMPION]
        if champion.version == to:
            raise Conflict(f"Version {to} is the champion already.", pointer="/to", received=to)
        return champion.version
    others = [row.version for row in registry.versions(session, model) if row.retired_at is None and row.version != to]
    if not others:
        raise Conflict(
            f"The model {model} has no other version to compare with.",
            pointer="/to",
            received=to,
            fix=f"Set the label {registry.CHAMPION} at once.",
        )
    registry.set_label(session, model, registry.CHAMPION, version_number=others[0])
    return others[0]


def _already_active(model: str) -> Conflict:
    return Conflict(
        f"The model {model} has an active rollout.", fix="Promote it, abort it, or wait until it has ended."
    )


def get(session: Session, model: str, id: str) -> Rollout:
    """Return a rollout of a model. Raises NotFound."""
    row = session.get(Rollout, id, populate_existing=True)
    if row is None or row.model != model:
        raise NotFound(f"The model {model} has no rollout {id[:40]}.", received=id[:100])
    return row


def active(session: Session, model: str) -> Rollout | None:
    """Return a model's active rollout."""
    return session.scalar(select(Rollout).where(Rollout.model == model, Rollout.state.in_(ACTIVE)))


def all_active(session: Session) -> list[tuple[Rollout, list[Any]]]:
    """Return the active rollouts, each with the figures of its step."""
    joined = (RolloutStep.rollout_id == Rollout.id) & (RolloutStep.step == Rollout.step)
    query = select(Rollout, RolloutStep.figures).join(RolloutStep, joined).where(Rollout.state.in_(ACTIVE))
    return [(row, figures) for row, figures in session.execute(query.order_by(Rollout.model))]


def list_of(session: Session, model: str, *, before: str | None = None, limit: int = 100) -> list[Rollout]:
    """Return a model's rollouts, newest first."""
    query = select(Rollout).where(Rollout.model == model).order_by(Rollout.id.desc()).limit(limit)
    return list(session.scalars(query if before is None else query.where(Rollout.id < before)))


def pause(session: Session, model: str, id: str) -> Rollout:
    """Hold a rollout at its step, with its guards on. Raises Conflict, NotFound."""
    row = _changing(session, model, id)
    if row.state != "paused":
        row.state, row.paused_at = "paused", db.now(session)
    return row


def resume(session: Session, model: str, id: str) -> Rollout:
    """Let a paused rollout go on; the time before the pause counts. Raises Conflict, NotFound."""
    row = _changing(session, model, id)
    if row.paused_at is not None:
        row.step_at += db.now(session) - row.paused_at
        row.state, row.paused_at = "running", None
    return row


def abort(session: Session, model: str, id: str) -> Rollout:
    """Give all traffic back to the champion. Raises Conflict, NotFound."""
    row = _changing(session, model, id)
    _finish(session, row, "aborted", {"why": "aborted", "detail": "Aborted by hand."})
    return row


def promote(session: Session, model: str, id: str) -> Rollout:
    """Make the new version the champion now, whatever steps are left. Raises Conflict, NotFound."""
    row = _changing(session, model, id)
    _finish(session, row, "succeeded", {"why": "promoted", "detail": "Promoted by hand."})
    return row


def _changing(session: Session, model: str, id: str) -> Rollout:
    """Return an active rollout, with its model's row locked. Raises Conflict, NotFound."""
    registry.lock(session, model)
    row = get(session, model, id)
    if row.state not in ACTIVE:
        raise Conflict(f"This rollout has ended: it is {row.state.replace('_', ' ')}.", received=row.state)
    return row


# How a rollout moves


def _enter_step(session: Session, row: Rollout, plan: StoredPlan, step: int, at: datetime) -> None:
    share = plan.shares[step]
    row.step, row.step_at = step, at
    session.add(RolloutStep(rollout_id=row.id, step=step, started_at=at, figures=[], curves={}))
    registry.set_label(session, row.model, LABEL, version_number=row.to, weight=share, shadow=share == 0)
    _record_event(session, row, "rollout.step", share=share)


def _finish(session: Session, row: Rollout, state: str, reason: dict[str, Any]) -> None:
    """End a rollout: the new version becomes the champion (`succeeded`) or not, and no version keeps a share."""
    label = session.get(Label, (row.model, LABEL), populate_existing=True)
    if label is not None and label.version == row.to:
        registry.remove_label(session, row.model, LABEL)
    if state == "succeeded":
        registry.set_label(session, row.model, registry.CHAMPION, version_number=row.to)
    compared = comparison(session, row, StoredPlan.read(row.plan).shares)
    row.reason = {**reason, "step": row.step, "comparison": compared}
    row.state, row.paused_at, row.finished_at = state, None, db.now(session)
    _record_event(session, row, "rollout.stalled" if reason["why"] == _STALLED else _EVENTS[state], **reason)


def _record_event(session: Session, row: Rollout, type: str, **data: Any) -> None:
    facts = {"model": row.model, "rollout": row.id, "kind": row.kind, "version": row.to, "before": row.base}
    events.record(session, type, owner=registry.get(session, row.model).owner, data={**facts, **data})


def claim(engine: Engine, holder: str) -> list[str]:
    """Take or renew the leases of active rollouts that no other process holds. Return their ids."""
    with db.reading(engine) as session:
        if session.scalar(select(Rollout.id).where(Rollout.state.in_(ACTIVE)).limit(1)) is None:
            return []
    with db.transaction(engine) as session:
        at = db.now(session)
        free = or_(Rollout.lease_holder == holder, Rollout.lease_expires_at.is_(None), Rollout.lease_expires_at < at)
        statement = update(Rollout).where(Rollout.state.in_(ACTIVE), free)
        lease = {"lease_holder": holder, "lease_expires_at": at + timedelta(seconds=LEASE_SECONDS)}
        return list(session.scalars(statement.values(**lease).returning(Rollout.id)))


def release(engine: Engine, holder: str) -> None:
    """Release all leases, so that another process can continue at once."""
    with db.transaction(engine) as session:
        statement = update(Rollout).where(Rollout.lease_holder == holder)
        session.execute(statement.values(lease_holder=None, lease_expires_at=None))


@dataclass(frozen=True, slots=True)
class Advance:
    """What `advance` did: `moved` is None, `step`, or the state that the rollout ended in."""

    rollout: Rollout
    figures: list[Figure]
    moved: str | None = None


def advance(engine: Engine, id: str, holder: str) -> Advance | None:
    """Measure the guards of a rollout, and take it back, a step further or to its end where they say so.

    None where it is no longer active, or another holds its lease.
    """
    with db.reading(engine) as session:
        row = session.get(Rollout, id)
        if row is None or row.state not in ACTIVE:
            return None
        plan, step, counts = StoredPlan.read(row.plan), row.step, counts_of(session, id)
        live = live_errors(session, row, counts) if "live_accuracy" in (plan.guards or {}) else {}
    shares, guards = plan.shares, plan.guards or {}
    figures = {number: measure(shares, number, guards, counts, live) for number in range(step + 1)}
    crash_point("rollout.measured")
    with db.transaction(engine) as session:
        try:
            registry.lock(session, row.model)
        except NotFound:
            return None
        row = session.get(Rollout, id, populate_existing=True)
        if row is None or row.state not in ACTIVE or row.step != step or row.lease_holder != holder:
            return None
        at = db.now(session)
        for entered in steps_of(session, id):
            _record(entered, figures[entered.step], at)
        truths = max((one.new.n for one in live.get(step, ())), default=0.0)
        moved = _move(session, row, plan, figures, _missing(plan, step, counts.get(step, StepCounts()), truths), at)
        if moved is not None:
            _audit(session, row, moved, at)
        crash_point("rollout.before_commit")
    crash_point("rollout.after_commit")
    return Advance(row, figures[step], moved)


def _audit(session: Session, row: Rollout, moved: str, at: datetime) -> None:
    """Add what a rollout did by itself to the audit log, under the key that started it."""
    session.add(
        Audit(
            key_id=row.key_id,
            owner=row.owner,
            action=f"rollout {moved}",
            target=f"/api/v1/models/{row.model}/rollouts/{row.id}",
            status=200,
            address="",
            request_id="",
            created_at=at,
        )
    )


def _move(
    session: Session,
    row: Rollout,
    plan: StoredPlan,
    figures: Mapping[int, list[Figure]],
    missing: str | None,
    at: datetime,
) -> str | None:
    """Take the rollout back, a step further, or to its end; return what was done. `missing` is what its step lacks."""
    if (taken := _moved_by_hand(session, row, plan)) is not None:
        _finish(session, row, "aborted", {"why": "label_moved", "detail": taken})
        return "aborted"
    for number, measured in figures.items():
        for figure in measured:
            if figure.breached:
                reason = {"why": "guard", "detail": figure.sentence, "guard": figure.guard, "breached_in": number}
                _finish(session, row, "rolled_back", {**reason, "figure": figure.to_json()})
                return "rolled_back"
    if row.state == "paused" or plan.hold is None:
        return None
    lasted = (at - row.step_at).total_seconds()
    if missing is not None and plan.deadline is not None and lasted >= plan.hold + plan.deadline:
        detail = f"Step {row.step + 1} of {len(plan.shares)} still waited after {lasted:,.0f} s: {missing}"
        _finish(session, row, "aborted", {"why": _STALLED, "detail": detail})
        return _STALLED
    if missing is not None or lasted < plan.hold:
        return None
    if row.step + 1 < len(plan.shares):
        _enter_step(session, row, plan, row.step + 1, at)
        return "step"
    _finish(session, row, "succeeded", {"why": "completed", "detail": "Every step went through."})
    return "succeeded"


def _missing(plan: StoredPlan, step: int, counts: StepCounts, truths: float) -> str | None:
    """Return what a step still waits for, as a sentence; None where it has what was asked."""
    share = plan.shares[step]
    seen = counts.compared if share == 0 else counts.new.requests
    if seen < plan.min_requests:
        return f"the new version has had {seen:,} of {plan.min_requests:,} requests."
    if 0 < share < 1 and truths < plan.min_truths:
        return f"there is ground truth of {truths:,.0f} of {plan.min_truths:,} of the new version's predictions."
    return None


def _moved_by_hand(session: Session, row: Rollout, plan: StoredPlan) -> str | None:
    """Return how labels were changed by somebody else meanwhile; None if they were not."""
    labels = {label.label: label for label in registry.labels(session, row.model)}
    champion, own, share = labels.get(registry.CHAMPION), labels.pop(LABEL, None), plan.shares[row.step]
    if champion is None or champion.version != row.base:
        return f"The label {registry.CHAMPION} was moved by hand."
    if own is None or own.version != row.to or own.weight != share or own.shadow != (share == 0):
        return f"The label {LABEL} was changed by hand."
    if others := [name for name, label in labels.items() if label.weight > 0]:
        return f"The label {others[0]} was given a share of the traffic."
    return None


def _record(entered: RolloutStep, figures: Sequence[Figure], at: datetime) -> None:
    """Store a step's figures, and a point of each curve that has grown by a fiftieth since its last one."""
    shown = [figure.to_json() for figure in figures]
    if shown == entered.figures:
        return
    curves = {guard: list(points) for guard, points in entered.curves.items()}
    for figure in figures:
        points = curves.setdefault(figure.guard, [])
        rows = figure.base_rows + figure.new_rows
        last = points[-1]["rows"] if points else 0
        if figure.value is not None and (figure.breached or rows > last * 1.02 + 1):
            point = {"at": at.isoformat(), "rows": rows, "value": figure.value, "low": figure.low, "high": figure.high}
            points.append(point)
            if len(points) > MAX_POINTS:
                del points[1::2]
    entered.figures, entered.curves = shown, curves
