"""What the leading process does in each round: it turns ticks into firings, firings into runs, and runs into decisions.

Each step is one transaction, and repeating it changes nothing: a tick has one firing, a firing has one run (by an
Idempotency-Key), and a decision is written together with its effect. So a leader may die between any two lines, and two
leaders at once still do nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from fitserve import api_keys, artifacts, db, events, registry, submission, telemetry
from fitserve.automations import cron, gate, leadership, store, triggers
from fitserve.automations.inputs import columns_of, dataset_of, known_rows, trained_on, written_spec
from fitserve.automations.table_report import compare
from fitserve.blobs import BlobStore
from fitserve.crash_points import crash_point
from fitserve.datasets import store as datasets
from fitserve.errors import BadInput, Conflict, FitserveError, NotFound, Unavailable
from fitserve.ids import new_id
from fitserve.rollouts import lifecycle
from fitserve.runs import create
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Automation, AutomationFiring, Dataset, Key, Run, Version
from fitserve.wire.automations import Policy

log = logging.getLogger(__name__)


@dataclass
class Scheduler:
    """Does the leader's work, in any process that has a database and the blobs."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    publish: Callable[[str], Any]
    holder: str = field(default_factory=lambda: new_id("scheduler"))

    def __post_init__(self) -> None:
        self._distributions = lru_cache(200)(self._read_distributions)

    def round(self) -> bool:
        """Do what is due. Return whether this process leads."""
        if not leadership.lead(self.engine, self.holder):
            return False
        with db.reading(self.engine) as session:
            ids = list(session.scalars(select(Automation.id).where(Automation.enabled)))
        for id in ids:
            self._guarded(self._look, id)
        with db.reading(self.engine) as session:
            live = [row.id for row in store.live_firings(session)]
        for id in live:
            self._guarded(self._advance, id)
        return True

    def _guarded(self, step: Callable[[str], None], id: str) -> None:
        """Run a step, and keep its failure from the other automations."""
        try:
            step(id)
        except Unavailable as error:
            log.warning("automations wait", extra={"error": error.detail})
        except Exception:
            log.exception("an automation cannot go on", extra={"automation": id})

    # --- ticks ---

    def _look(self, id: str) -> None:
        with db.reading(self.engine) as session:
            row = session.get(Automation, id)
            if row is None or not row.enabled:
                return
            policy, at = store.read(row), db.now(session)
            tick = triggers.due(session, row, policy.on, at, self.settings, self._distributions)
        if tick is None:
            return
        with db.transaction(self.engine) as session:
            row = session.get(Automation, id, with_for_update=True)
            if row is not None and row.enabled:
                _open(session, row, policy, tick, at)
            crash_point("automations.before_opened")
        crash_point("automations.after_opened")

    def _read_distributions(self, artifact: str) -> Mapping[str, Any]:
        return {"training_distribution": artifacts.read(self.blobs, artifact).manifest.get("training_distribution")}

    # --- firings ---

    def _advance(self, id: str) -> None:
        with db.reading(self.engine) as session:
            firing = session.get_one(AutomationFiring, id)
            row = session.get_one(Automation, firing.automation_id)
            run = session.get(Run, firing.run_id) if firing.run_id else None
            ahead = [one.id for one in store.live_firings(session, row.id) if one.id < firing.id]
        if firing.state == "queued":
            if not ahead:
                self._move(id, "queued", "open")
        elif firing.state == "open":
            self._start(firing, row)
        elif run is None or run.state in (RunState.failed, RunState.cancelled):
            why = "Its run is gone." if run is None else f"Its run {run.state}: {(run.error or {}).get('detail', '')}"
            self._fail(firing.id, "training", row.id, why)
        elif run.state == RunState.succeeded:
            self._decide(firing, row, run)

    def _start(self, firing: AutomationFiring, row: Automation) -> None:
        """Check the table and the spec, and submit the run. A repeated submission finds the first run."""
        policy = store.read(row)
        try:
            with db.reading(self.engine) as session:
                if (ended := _key_ended(session, row)) is not None:
                    raise Conflict(ended)
                written = written_spec(session, policy)
                dataset = datasets.get(session, row.owner, str(dataset_of(written)))
                before = session.get(Dataset, row.baseline_id) if row.baseline_id else None
                if before is None or before.name != dataset.name:
                    before = trained_on(session, row.model, dataset.name)
            report = None
            if before is not None and before.id != dataset.id:
                report = compare(before, dataset, columns_of(written))
                if not report["ok"]:
                    self._refuse(firing, row, dataset, report)
                    return
            checked = submission.check_submission(
                self.engine, self.blobs, self.settings, written, owner=row.owner, sees=row.owner
            )
            new = create.NewRun(
                owner=row.owner,
                dataset_id=checked.dataset_id,
                spec=checked.written,
                resolved=checked.validation.resolved,
                estimates=checked.estimates,
                model=checked.model,
                key_id=row.key_id,
            )
            key = create.idempotency_key(f"automation:{firing.id}", firing.id.encode())
            run, is_new = create.create_run(self.engine, new, self.settings.limits, key, self.blobs)
        except Unavailable:
            raise
        except FitserveError as error:
            self._fail(firing.id, "open", row.id, error.detail)
            return
        crash_point("automations.after_run")
        self._record_start(firing, row, dataset, run)
        if is_new:
            telemetry.RUNS_CREATED.inc()
            self.publish(run.id)

    def _record_start(self, firing: AutomationFiring, row: Automation, dataset: Dataset, run: Run) -> None:
        with db.transaction(self.engine) as session:
            moved = _claim(session, firing.id, "open")
            if moved is None:
                return
            ref = f"{dataset.name}@{dataset.version}"
            moved.state, moved.run_id, moved.dataset, moved.model = "training", run.id, ref, run.model
            if run.model is not None:
                _pin_champion(session, run.model)
            session.get_one(Automation, row.id).baseline_id = run.dataset_id
            data = {"automation": row.id, "name": row.name, "reason": firing.reason, "run": run.id, "dataset": ref}
            events.record(session, "automation.fired", owner=row.owner, data=data)
        crash_point("automations.after_started")

    def _decide(self, firing: AutomationFiring, row: Automation, run: Run) -> None:
        """Compare the versions, do what the policy says, and write both in one transaction."""
        policy, version = store.read(row), (run.result or {}).get("version")
        with db.reading(self.engine) as session:
            incumbent = store.champion(session, run.model) if run.model else None
            own = session.get(Version, (run.model, version)) if run.model and version else None
            dataset = session.get(Dataset, run.dataset_id)
            known = known_rows(session, incumbent, dataset)
        if run.model is not None and own is None:
            self._fail(firing.id, "training", row.id, f"Its version of {run.model} was deleted.")
            return
        verdict: dict[str, Any] | None = None
        compared = incumbent is not None and own is not None and incumbent.version != own.version
        if policy.gate is not None and compared and dataset is not None:
            assert incumbent is not None
            assert own is not None
            try:
                rows = gate.held_out_rows(self.blobs, dataset, run.resolved, self.settings.scratch, known)
                verdict = gate.judge(self.blobs, policy.gate, rows, own.artifact, incumbent.artifact)
            except (BadInput, NotFound) as error:
                self._fail(firing.id, "training", row.id, f"The gate cannot compare: {error.detail}")
                return
        crash_point("automations.before_decision")
        with db.transaction(self.engine) as session:
            moved = _claim(session, firing.id, "training")
            if moved is None:
                return
            if run.model is not None:
                registry.lock(session, run.model)
                now = store.champion(session, run.model)
                if (now and now.version) != (incumbent and incumbent.version):
                    return  # another version became the champion meanwhile: the next round compares with that one
            automation = session.get_one(Automation, row.id, with_for_update=True)
            moved.version = version
            decision, why = _carry_out(session, policy, automation, run, version, incumbent, verdict)
            moved.state, moved.decision, moved.why, moved.report = "done", decision, why[:1000], verdict
            moved.finished_at = db.now(session)
            automation.failures = 0
            data: dict[str, Any] = {"automation": row.id, "name": row.name, "decision": decision, "why": why}
            data["run"] = run.id
            data |= {"model": run.model, "version": version}
            events.record(session, "automation.decided", owner=row.owner, data=data)
            crash_point("automations.before_decided")
        telemetry.FIRINGS.labels(decision).inc()
        crash_point("automations.after_decision")

    def _refuse(self, firing: AutomationFiring, row: Automation, dataset: Dataset, report: dict[str, Any]) -> None:
        why = " ".join(problem["detail"] for problem in report["problems"][:5])
        with db.transaction(self.engine) as session:
            moved = _claim(session, firing.id, "open")
            if moved is None:
                return
            ref = f"{dataset.name}@{dataset.version}"
            moved.state, moved.why, moved.report, moved.dataset = "refused", why[:1000], report, ref
            moved.finished_at = db.now(session)
            data = {"automation": row.id, "name": row.name, "dataset": ref, "report": report}
            events.record(session, "automation.refused", owner=row.owner, data=data)
            _count_failure(session, row.id, why)
        telemetry.FIRINGS.labels("refused").inc()

    def _fail(self, id: str, state: str, automation: str, why: str) -> None:
        with db.transaction(self.engine) as session:
            moved = _claim(session, id, state)
            if moved is None:
                return
            moved.state, moved.why, moved.finished_at = "failed", why[:1000], db.now(session)
            _count_failure(session, automation, why)
        telemetry.FIRINGS.labels("failed").inc()

    def _move(self, id: str, state: str, to: str) -> None:
        with db.transaction(self.engine) as session:
            if (moved := _claim(session, id, state)) is not None:
                moved.state = to


def _claim(session: Session, id: str, state: str) -> AutomationFiring | None:
    """Return a firing, locked, if it is still in that state."""
    row = session.get(AutomationFiring, id, with_for_update=True, populate_existing=True)
    return row if row is not None and row.state == state else None


def _open(session: Session, row: Automation, policy: Policy, tick: triggers.Tick, at: datetime) -> None:
    """Make the one firing of a tick; the policy says whether it is skipped or queued."""
    row.next_at = cron.next_after(policy.on, at)  # after now: however many ticks were missed, they make one firing
    live = store.live_firings(session, row.id)
    runs, seconds = store.spent_today(session, row.id, at)
    budget, state, why = policy.budget, "open", None
    if budget.runs is not None and runs >= budget.runs:
        state, why = "skipped", f"The budget of {budget.runs} runs a day is used up."
    elif budget.training_seconds is not None and seconds >= budget.training_seconds:
        state, why = "skipped", f"The budget of {budget.training_seconds:g} s of training a day is used up."
    elif live and policy.overlap == "skip":
        state, why = "skipped", "Its last run is not over."
    elif live and any(one.state == "queued" for one in live):
        state, why = "skipped", "One is queued already."
    elif live:
        state = "queued"
    values = {
        "id": new_id("fire"),
        "automation_id": row.id,
        "tick": tick.key[:120],
        "reason": tick.reason[:300],
        "state": state,
        "why": why,
        "created_at": at,
        "finished_at": at if state == "skipped" else None,
    }
    if db.insert_new(session, AutomationFiring, [values], returning=(AutomationFiring.id,)) and state == "skipped":
        telemetry.FIRINGS.labels("skipped").inc()


def _carry_out(
    session: Session,
    policy: Policy,
    row: Automation,
    run: Run,
    version: int | None,
    incumbent: Version | None,
    verdict: Mapping[str, Any] | None,
) -> tuple[str, str]:
    """Do what the policy says with a version. Return the decision, and why."""
    why = str(verdict["why"]) if verdict is not None else "There was nothing to compare it with."
    if policy.gate is None:
        why = "No gate was asked for."
    if verdict is not None and not verdict["passes"]:
        return "rejected", why
    if policy.then in ("notify", "nothing") or run.model is None or version is None:
        return ("notified" if policy.then == "notify" else "nothing"), why
    if policy.then == "rollout" and incumbent is not None and incumbent.version != version:
        try:
            options = policy.rollout.options() if policy.rollout is not None else {}
            lifecycle.start(session, run.model, version, owner=row.owner, key_id=row.key_id, **options)
        except (Conflict, BadInput) as error:
            return "rejected", f"{why}; the rollout cannot start: {error.detail}"
        return "rollout", why
    registry.set_label(session, run.model, registry.CHAMPION, version_number=version)
    return "promoted", why


def _count_failure(session: Session, id: str, why: str) -> None:
    """Count a failure; pause the automation, with an event, after `pause_after` of them in a row."""
    row = session.get_one(Automation, id, with_for_update=True)
    row.failures += 1
    if not row.enabled or row.failures < store.read(row).pause_after:
        return
    row.enabled, row.next_at = False, None
    row.paused_reason = f"{row.failures} failures in a row; the last one: {why}"[:500]
    data = {"automation": row.id, "name": row.name, "failures": row.failures, "reason": why}
    events.record(session, "automation.paused", owner=row.owner, data=data)


def _key_ended(session: Session, row: Automation) -> str | None:
    """Return why an automation may no longer act in its owner's name; None if it may."""
    key = session.get(Key, row.key_id) if row.key_id else None
    if key is None:
        return None
    is_live = api_keys.is_live(key, db.now(session))
    return None if is_live else "The key that created this automation is revoked or has expired."


def _pin_champion(session: Session, model: str) -> None:
    """Make the version that answers now the champion: without one, the next version would answer before the gate."""
    version = store.champion(session, model)
    if version is not None and registry.CHAMPION not in {label.label for label in registry.labels(session, model)}:
        registry.set_label(session, model, registry.CHAMPION, version_number=version.version)
