"""What a policy would have done over the recorded history: past versions of the model and of its dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.automations import cron, gate
from fitserve.automations.inputs import columns_of, known_rows, written_spec
from fitserve.automations.table_report import compare
from fitserve.automations.triggers import FEWEST_TRUTHS
from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.tables import Dataset, Feedback, OutboxEvent, Run, Version
from fitserve.visibility import visible_to
from fitserve.wire.automations import On, Policy, Rehearsal, RehearsedTick

MAX_TICKS = 200
MAX_COMPARISONS = 20  # each loads two networks and predicts the held-out rows with both


def rehearse(
    engine: Engine, blobs: BlobStore, scratch: Path, policy: Policy, *, model: str | None, owner: str | None
) -> Rehearsal:
    """Play a policy over the history without training: a past version of the same data stands in for the new one."""
    with db.reading(engine) as session:
        written = written_spec(session, policy)
        versions = _versions(session, model)
        dataset = str(written.get("dataset"))
        tables = _tables(session, dataset.partition("@")[0], owner)
        at = db.now(session)
        notes: list[str] = []
        moments = _moments(session, policy.on, tables, versions, at, notes)
    rehearsal = _Rehearsal(engine, blobs, scratch, policy, tables, versions, columns_of(written))
    ticks = [rehearsal.step(moment, reason) for moment, reason in moments[-MAX_TICKS:]]
    if len(moments) > MAX_TICKS:
        notes.append(f"Only the last {MAX_TICKS} of {len(moments)} times are shown.")
    if rehearsal.comparisons > MAX_COMPARISONS:
        notes.append(f"Only the first {MAX_COMPARISONS} comparisons were made.")
    count = {name: sum(tick.outcome == name for tick in ticks) for name in ("promoted", "refused", "skipped")}
    trained = sum(tick.outcome in ("promoted", "rejected", "trained") for tick in ticks)
    return Rehearsal(ticks=ticks, trained=trained, notes=notes, **count)


def _versions(session: Session, model: str | None) -> list[tuple[Version, Run]]:
    if model is None:
        return []
    query = select(Version, Run).join(Run, Run.id == Version.run_id).where(Version.model == model)
    return [(version, run) for version, run in session.execute(query.order_by(Version.version))]


def _tables(session: Session, name: str, owner: str | None) -> list[Dataset]:
    query = select(Dataset).where(Dataset.name == name, visible_to(Dataset, owner)).order_by(Dataset.version)
    return list(session.scalars(query))


def _moments(
    session: Session,
    on: On,
    tables: Sequence[Dataset],
    versions: Sequence[tuple[Version, Run]],
    at: datetime,
    notes: list[str],
) -> list[tuple[datetime, str]]:
    """Return when the policy would have been due, and why, in order of time."""
    if on.schedule is not None:
        since = min([*(table.created_at for table in tables), *(version.created_at for version, _ in versions), at])
        moments = list(islice(cron.times(on, since, at), 10 * MAX_TICKS))
        return [(moment, f"The schedule {on.schedule} was due.") for moment in moments]
    if on.appended is not None:
        return _appended(session, on)
    if on.drift is not None:
        notes.append("Drift is known from the events of the last weeks, at the server's own threshold or above.")
        query = select(OutboxEvent).where(OutboxEvent.type == "drift.detected").order_by(OutboxEvent.id)
        events = [event for event in session.scalars(query) if event.data.get("model") == on.drift]
        return [
            (event.created_at, f"{event.data['column']} drifted: PSI {event.data['psi']:.2f}.")
            for event in events
            if event.data["psi"] > (on.psi or 0.0)
        ]
    return _live_metric(session, on, notes)


def _appended(session: Session, on: On) -> list[tuple[datetime, str]]:
    watched = session.scalars(select(Dataset).where(Dataset.name == on.appended).order_by(Dataset.version)).all()
    moments: list[tuple[datetime, str]] = []
    rows = watched[0].rows if watched else 0
    for table in watched[1:]:
        if table.rows - rows >= (on.rows or 1):
            moments.append((table.created_at, f"{table.name} had {table.rows - rows} more rows."))
            rows = table.rows
    return moments


def _live_metric(session: Session, on: On, notes: list[str]) -> list[tuple[datetime, str]]:
    """Return the days whose ground truth put the metric beyond its limit."""
    notes.append("A live metric is known from the ground truth that is still kept, day by day.")
    metric = on.metric or "accuracy"
    day = func.date(Feedback.created_at)
    errors = (func.avg(Feedback.error * Feedback.error), func.avg(func.abs(Feedback.error)))
    query = select(day, func.max(Feedback.created_at), func.count(), *errors).where(
        Feedback.model == on.live_metric, Feedback.counted
    )
    moments = []
    for _, last, rows, square, absolute in session.execute(query.group_by(day).order_by(day)):
        value = {"accuracy": 1 - float(absolute), "rmse": float(square) ** 0.5, "mae": float(absolute)}[metric]
        beyond = (on.below is not None and value < on.below) or (on.above is not None and value > on.above)
        if rows >= FEWEST_TRUTHS and beyond:
            moments.append((last, f"{metric} was {value:.4g} on {rows} rows."))
    return moments


class _Rehearsal:
    """The state of a rehearsal between its ticks."""

    def __init__(
        self,
        engine: Engine,
        blobs: BlobStore,
        scratch: Path,
        policy: Policy,
        tables: Sequence[Dataset],
        versions: Sequence[tuple[Version, Run]],
        used: Sequence[str] | None,
    ) -> None:
        self.engine, self.blobs, self.scratch, self.policy = engine, blobs, scratch, policy
        self.tables, self.versions, self.used = tables, versions, used
        self.comparisons = 0
        first = versions[0][1].dataset_id if versions else None
        self._trained_on = next((one for one in tables if one.id == first), None)
        self._days: dict[Any, int] = {}

    def step(self, at: datetime, reason: str) -> RehearsedTick:
        table = next((one for one in reversed(self.tables) if one.created_at <= at), None)
        ref = f"{table.name}@{table.version}" if table is not None else None

        def tick(outcome: str, why: str, report: dict[str, Any] | None = None) -> RehearsedTick:
            return RehearsedTick(at=at, reason=reason, dataset=ref, outcome=outcome, why=why, report=report)

        if table is None:
            return tick("no_data", "There was no version of its dataset yet.")
        runs = self.policy.budget.runs
        if runs is not None and self._days.get(at.date(), 0) >= runs:
            return tick("skipped", f"The budget of {runs} runs a day was used up.")
        before = self._trained_on
        if before is not None and before.id != table.id:
            report = compare(before, table, self.used)
            if not report["ok"]:
                return tick("refused", " ".join(problem["detail"] for problem in report["problems"][:5]), report)
        self._trained_on, self._days[at.date()] = table, self._days.get(at.date(), 0) + 1
        return self._gated(table, tick)

    def _gated(self, table: Dataset, tick: Callable[..., RehearsedTick]) -> RehearsedTick:
        """Compare the version that was trained on this table with the one before it, if there are both."""
        later = [(version, run) for version, run in self.versions if run.dataset_id == table.id]
        if not later:
            return tick("trained", "It would have trained; no past version was, on this data, to judge by.")
        version, run = later[0]
        earlier = [one for one, _ in self.versions if one.version < version.version]
        if self.policy.gate is None or not earlier:
            acted = self.policy.then in ("promote", "rollout")
            why = "No gate was asked for." if self.policy.gate is None else "It would have been the first version."
            return tick("promoted" if acted else "trained", f"Version {version.version}: {why}")
        self.comparisons += 1
        if self.comparisons > MAX_COMPARISONS:
            return tick("trained", f"Version {version.version} was not compared: enough comparisons were made.")
        try:
            with db.reading(self.engine) as session:
                known = known_rows(session, earlier[-1], table)
            rows = gate.held_out_rows(self.blobs, table, run.resolved, self.scratch, known)
            verdict = gate.judge(self.blobs, self.policy.gate, rows, version.artifact, earlier[-1].artifact)
        except FitserveError as error:
            return tick("trained", f"The gate cannot compare: {error.detail}")
        return tick(
            "promoted" if verdict["passes"] else "rejected", f"Version {version.version}: {verdict['why']}", verdict
        )
