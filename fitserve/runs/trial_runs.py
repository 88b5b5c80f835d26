"""A run's trials as runs of their own, of the kind `trial`, for idle workers; and the parts of a batch prediction.

The run's holder offers them (T1), withdraws those that nobody has begun (T8, `finish.withdraw_trial`), and takes over
the results of the others. All of it is fenced by the holder's lease; a trial's row decides who trains it.
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
    """A trial, or a part, that is a run of its own. `blob` is its result, once it has succeeded."""

    run_id: str
    trial: int
    state: RunState
    attempt: int
    blob: str | None


def offered_trials(session: Session, run_id: str, kind: str = RunKind.trial) -> dict[int, TrialRun]:
    """Return a run's trials, or parts, that were ever offered, by number."""
    columns = (Run.id, Run.spec, Run.state, Run.attempt, Run.result)
    rows = session.execute(select(*columns).where(Run.parent_id == run_id, Run.kind == kind).order_by(Run.id))
    return {
        spec[kind]: TrialRun(trial_id, spec[kind], RunState(state), attempt, (result or {}).get("blob"))
        for trial_id, spec, state, attempt, result in rows
    }


def offer(engine: Engine, lease: Lease, trials: Sequence[int], kind: str = RunKind.trial) -> list[str]:
    """Queue those of these trials or parts that were never offered. Returns their runs' ids. Raises LeaseLost."""
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
