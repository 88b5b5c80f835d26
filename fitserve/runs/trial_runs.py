"""Offer a run's trials (and the parts of a batch prediction) to idle workers, as runs of their own.

The run's holder offers them (T1), withdraws those that no worker has begun (T8, `finish.withdraw_trial`), and collects
the results of the others, all fenced by its lease. The trial's row decides which worker trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.ids import new_id
from fitserve.runs.create import NewRun, add_run
from fitserve.runs.finish import lock_run
from fitserve.runs.lease import Lease
from fitserve.states import RunKind, RunState
from fitserve.tables import Run


@dataclass(frozen=True, slots=True)
class TrialRun:
    """A trial or part that is a run of its own. `blob` is its result, once it has succeeded."""

    run_id: str
    trial: int
    state: RunState
    attempt: int
    blob: str | None


def offered_trials(session: Session, run_id: str, kind: str = RunKind.trial) -> dict[int, TrialRun]:
    """Return all of a run's trials or parts that have ever been offered, by number."""
    columns = (Run.id, Run.spec, Run.state, Run.attempt, Run.result)
    rows = session.execute(select(*columns).where(Run.parent_id == run_id, Run.kind == kind).order_by(Run.id))
    return {
        spec[kind]: TrialRun(trial_id, spec[kind], RunState(state), attempt, (result or {}).get("blob"))
        for trial_id, spec, state, attempt, result in rows
    }


def offer(engine: Engine, lease: Lease, trials: Sequence[int], kind: str = RunKind.trial) -> list[str]:
    """Queue these trials or parts, except those already offered. Returns the new runs' ids. Raises LeaseLost."""
    with db.transaction(engine) as session:
        at = db.now(session)
        run = lock_run(session, lease)
        if run.cancel_requested_at is not None:
            return []
        known = offered_trials(session, run.id, kind)
        new = [trial for trial in sorted(trials) if trial not in known]
        ids = sorted(new_id("run") for _ in new)  # created at one moment, they are claimed in the order of their ids
        for trial, trial_id in zip(new, ids, strict=True):
            new_run = NewRun(
                owner=run.owner,
                dataset_id=run.dataset_id,
                spec={"run": run.id, kind: trial},
                resolved=run.resolved,
                estimates=run.estimates,
                kind=kind,
                priority=run.priority,
                parent_id=run.id,
                key_id=run.key_id,
            )
            add_run(session, new_run, trial_id, at)
        return ids
