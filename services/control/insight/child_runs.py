"""Submit child runs: runs of a changed spec, whose parent is the run that the change was based on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitserve import db
from fitserve.runs import create, queries
from fitserve.runs.create import NewRun
from fitserve.spec.as_written import rewrite
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.spec import parse
from fitserve.submission import estimates_of
from fitserve.trained_weights import find_source
from fitserve.wire.runs import RunInfo
from services.control.insight.run_insight import RunInsight
from services.control.runs.routes import Submission, create_and_publish, read_run_info


def over_seeds(spec: Mapping[str, Any], seeds: int | None) -> Mapping[str, Any]:
    """Return a resolved spec that trains with at least `seeds` seeds; an ensemble already averages over seeds."""
    if seeds is None or spec.get("ensemble"):
        return spec
    training = spec["training"]
    restarts = max(seeds, training["restarts"])
    changed = {**training, "restarts": restarts}
    if restarts > 1:
        changed.pop("stacked", None)  # stacking is for a single network
    return {**spec, "training": changed}


def submit_child(
    submission: Submission, insight: RunInsight, spec: Mapping[str, Any], key: create.RequestKey | None
) -> RunInfo:
    """Submit a changed resolved spec as a child of the run, written as its author wrote the run's.

    Raises SpecRefused, TooMany.
    """
    ctx, caller, run = submission.ctx, submission.caller, insight.run
    with db.reading(ctx.engine) as session:
        pace = queries.measured_pace(session)
        # From the resolved spec: the author's reference may point to another version by now.
        source = find_source(session, ctx.blobs, parse(run.resolved), owner=run.owner, sees=run.owner)

    def resolved_of(spec: Any) -> Resolved:
        return resolve(parse(spec), insight.record.facts, ctx.settings.limits, pace, source=source)

    spec = rewrite(run.spec, spec, lambda candidate: resolved_of(candidate).spec.to_json())
    resolved = resolved_of(spec)
    new = NewRun(
        owner=run.owner,
        dataset_id=run.dataset_id,
        spec=dict(spec),
        resolved=resolved.spec.to_json(),
        estimates=estimates_of(resolved),
        model=run.model,
        priority=run.priority,
        parent_id=run.id,
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    child, _ = create_and_publish(ctx, new, key)
    return read_run_info(ctx, child.id)
