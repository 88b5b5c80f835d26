"""Forks: a run goes on from one of its epochs as a new run, with another learning rate or optimizer."""

from __future__ import annotations

from sqlalchemy import func, select

from fitserve import db
from fitserve.datasets import store
from fitserve.errors import BadInput
from fitserve.runs import queries
from fitserve.spec.fork import fork
from fitserve.tables import Epoch
from fitserve.wire.insight import ForkRequest
from fitserve.wire.runs import RunInfo
from services.control.deps import Ctx
from services.control.insight.child_runs import submit_child
from services.control.insight.run_insight import NotReady, RunInsight, load_insight
from services.control.runs.routes import Submitting
from services.http import Router

router = Router(tags=["insight"])


@router.post("/runs/{run_id}/fork", status_code=202, summary="Go on from an epoch with another optimizer")
def fork_run(run_id: str, body: ForkRequest, submission: Submitting) -> RunInfo:
    """A new run that repeats this run's training up to the epoch, then continues with the other optimizer.

    Any completed epoch can be used, also of a run that failed or is still training. The change is in the new run's
    spec, under `training.switches`; its parent is this run. All members of an ensemble continue, except those that had
    stopped.
    """
    ctx, caller = submission.ctx, submission.caller
    key = submission.key(body.model_dump_json().encode())
    if (replayed := submission.replay(key)) is not None:
        submission.response.headers["Location"] = f"/api/v1/runs/{replayed.id}"
        return replayed
    insight = load_insight(ctx, caller, run_id)
    with db.reading(ctx.engine) as session:
        queries.get_owned(session, run_id, caller.owner_filter)
        store.check_visible(session, caller.owner_filter, insight.run.dataset_id)
    if body.optimizer is None and body.learning_rate is None:
        raise BadInput("Nothing would change.", expected="optimizer, learning_rate, or both", pointer="/learning_rate")
    best = insight.record.trial.number if insight.record.trial else 0
    trial = best if body.trial is None else body.trial
    spec = fork(
        insight.run.resolved,
        body.epoch,
        optimizer=body.optimizer,
        learning_rate=body.learning_rate,
        epochs=body.epochs,
        trial=trial,
    )
    _check_epoch(ctx, insight, trial, body.epoch)
    child = submit_child(submission, insight, spec, key)
    submission.response.headers["Location"] = f"/api/v1/runs/{child.id}"
    return child


def _check_epoch(ctx: Ctx, insight: RunInsight, trial: int, epoch: int) -> None:
    """Raise NotReady, or BadInput where the trial, or no member of an ensemble, has trained that epoch."""
    of_trial = [] if insight.run.resolved.get("ensemble") else [Epoch.trial == trial]
    with db.reading(ctx.engine) as session:
        last = session.scalar(select(func.max(Epoch.epoch)).where(Epoch.run_id == insight.run.id, *of_trial))
    if last is None:
        name = f"Trial {trial} of the run" if insight.run.resolved["training"]["restarts"] > 1 else "The run"
        raise NotReady(f"{name} has ended no epoch.", received=insight.run.state)
    if epoch > last:
        detail = f"The run has not trained epoch {epoch}."
        raise BadInput(detail, pointer="/epoch", received=epoch, expected=f"1 to {last}")
