"""Rollouts: versions that become the champion step by step, and A/B comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Path, Response
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.rollouts import evidence, lifecycle
from fitserve.rollouts.lifecycle import StoredPlan
from fitserve.tables import Rollout
from fitserve.wire import Page
from fitserve.wire.rollouts import LiveComparison, RolloutDetail, RolloutInfo, RolloutRequest, RolloutStepInfo
from services.control.deps import Context, Ctx, Cursor, Limit, ModelName, Reader, Trainer
from services.control.models.access import check_owner, visible_model
from services.http import Caller, Router

router = Router(tags=["models"])
_PATH = "/models/{name}/rollouts"
RolloutId = Annotated[str, Path(max_length=100)]


@router.post(_PATH, status_code=201, summary="Start a rollout or an A/B comparison of a version")
def start_rollout(name: ModelName, body: RolloutRequest, response: Response, caller: Trainer, ctx: Ctx) -> RolloutInfo:
    """The version answers a growing share of unversioned requests, while guards compare it with the champion.

    The guards are always-valid sequential tests: together they roll back an equally good version in at most 5% of
    rollouts, however often they check. A breach returns the traffic to the champion within five seconds.

    A request's header `X-Sticky-Key` (gRPC: metadata `x-sticky-key`) keeps it with one version: keys that
    the new one answers stay with it as its share grows.
    """
    options = body.options()
    if body.kind == "ab" and "steps" not in body.model_fields_set:
        options["steps"] = [50.0]
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        row = lifecycle.start(
            session, name, body.to, kind=body.kind, owner=caller.owner, key_id=caller.key_id, **options
        )
        info = RolloutInfo.model_validate(_facts(row))
    response.headers["Location"] = f"/api/v1/models/{name}/rollouts/{row.id}"
    return info


@router.get(_PATH, summary="List a model's rollouts, newest first")
def list_rollouts(
    name: ModelName, caller: Reader, ctx: Ctx, limit: Limit = 100, cursor: Cursor = None
) -> Page[RolloutInfo]:
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "inspect")
        rows = lifecycle.list_of(session, name, before=cursor, limit=limit + 1)
    items = [RolloutInfo.model_validate(_facts(row)) for row in rows[:limit]]
    return Page(items=items, next_cursor=items[-1].id if len(rows) > limit else None)


@router.get(_PATH + "/{rollout_id}", summary="Get a rollout with its guard curves")
def get_rollout(name: ModelName, rollout_id: RolloutId, caller: Reader, ctx: Ctx) -> RolloutDetail:
    """`comparison` is the difference in the live metric, from `feedback`, with an interval that always holds."""
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "inspect")
        row = lifecycle.get(session, name, rollout_id)
        shares = StoredPlan.read(row.plan).shares
        steps = [
            RolloutStepInfo.model_validate(
                {
                    "step": one.step,
                    "share": shares[one.step],
                    "started_at": one.started_at,
                    "figures": one.figures,
                    "curves": one.curves,
                }
            )
            for one in evidence.steps_of(session, row.id)
        ]
        compared = evidence.comparison(session, row, shares)
    comparison = [LiveComparison.model_validate(one) for one in compared]
    return RolloutDetail(**_facts(row), steps=steps, comparison=comparison)


@router.post(_PATH + "/{rollout_id}/pause", summary="Hold a rollout at its step; its guards stay on")
def pause_rollout(name: ModelName, rollout_id: RolloutId, caller: Trainer, ctx: Ctx) -> RolloutInfo:
    return _change(ctx, caller, name, rollout_id, lifecycle.pause)


@router.post(_PATH + "/{rollout_id}/resume", summary="Let a paused rollout go on")
def resume_rollout(name: ModelName, rollout_id: RolloutId, caller: Trainer, ctx: Ctx) -> RolloutInfo:
    return _change(ctx, caller, name, rollout_id, lifecycle.resume)


@router.post(_PATH + "/{rollout_id}/abort", summary="End a rollout: the champion answers all requests again")
def abort_rollout(name: ModelName, rollout_id: RolloutId, caller: Trainer, ctx: Ctx) -> RolloutInfo:
    return _change(ctx, caller, name, rollout_id, lifecycle.abort)


@router.post(_PATH + "/{rollout_id}/promote", summary="End a rollout: its version is the champion at once")
def promote_rollout(name: ModelName, rollout_id: RolloutId, caller: Trainer, ctx: Ctx) -> RolloutInfo:
    return _change(ctx, caller, name, rollout_id, lifecycle.promote)


def _change(
    ctx: Context, caller: Caller, name: str, id: str, change: Callable[[Session, str, str], Rollout]
) -> RolloutInfo:
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        return RolloutInfo.model_validate(_facts(change(session, name, id)))


def _facts(row: Rollout) -> dict[str, Any]:
    plan = StoredPlan.read(row.plan)
    share = plan.shares[row.step] if row.state in lifecycle.ACTIVE else float(row.state == "succeeded")
    names = ("id", "model", "kind", "base", "to", "state", "step", "reason", "owner")
    times = ("created_at", "step_at", "finished_at")
    return {
        **{name: getattr(row, name) for name in (*names, *times)},
        "share": share,
        "shares": list(plan.shares),
        "hold": plan.hold,
        "min_requests": plan.min_requests,
        "min_truths": plan.min_truths,
        "deadline": plan.deadline,
        "guards": dict(plan.guards or {}),
        "shadow": plan.shadow,
    }
