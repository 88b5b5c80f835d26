"""A run's trials as runs of their own, of the kind `trial`, for workers that are idle.

The run's holder offers them (T1), takes back those that nobody has begun (T8, `finish.take_back`), and takes over
what came of the others. All of it is fenced by the holder's lease; who trains a trial is decided by that trial's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.ids import new_id
from fitserve.runs.create import NewRun, add
from fitserve.runs.finish import held
from fitserve.runs.lease import Lease
from fitserve.states import TRIAL, RunState
from fitserve.tables import Run


@dataclass(frozen=True, slots=True)
class Part:
    """A trial that is a run of its own. `blob` is what came of it, once it has succeeded."""

    run_id: str
    trial: int
    state: RunState
    attempt: int
    blob: str | None


def parts(session: Session, run_id: str) -> dict[int, Part]:
    """A run's trials that were ever offered, by number."""
    columns = (Run.id, Run.spec, Run.state, Run.attempt, Run.result)
    found = session.execute(select(*columns).where(Run.parent_id == run_id, Run.kind == TRIAL).order_by(Run.id))
    return {
        spec["trial"]: Part(part_id, spec["trial"], RunState(state), attempt, (result or {}).get("blob"))
        for part_id, spec, state, attempt, result in found
    }


def offer(engine: Engine, lease: Lease, trials: Sequence[int]) -> list[str]:
    """Queues these trials for others; one that was offered before is left alone. Returns new runs. Raises LeaseLost."""
    with db.transaction(engine) as session:
        at = db.now(session)
        run = held(session, lease)
        if run.cancel_requested_at is not None:
            return []
        known = parts(session, run.id)
        new = [trial for trial in sorted(trials) if trial not in known]
        ids = sorted(new_id("run") for _ in new)  # made at one moment, they are to be claimed in this order
        for trial, part_id in zip(new, ids, strict=True):
            add(session, _part(run, trial), part_id, at)
        return ids


def _part(run: Run, trial: int) -> NewRun:
    asked: dict[str, Any] = {"run": run.id, "trial": trial}
    return NewRun(
        owner=run.owner,
        dataset_id=run.dataset_id,
        spec=asked,
        resolved=run.resolved,
        estimates=run.estimates,
        kind=TRIAL,
        priority=run.priority,
        parent_id=run.id,
        key_id=run.key_id,
    )
