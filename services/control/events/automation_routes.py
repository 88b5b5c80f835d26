"""Automations: policies that train, compare and promote by themselves."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from fitserve import db
from fitserve.automations import rehearsal, store
from fitserve.errors import Forbidden
from fitserve.wire import Page
from fitserve.wire.automations import AutomationInfo, AutomationPatch, AutomationRequest, Firing, Policy, Rehearsal
from services.control.deps import Context, Ctx, Cursor, Limit, Reader, Trainer
from services.http import Caller, Router

router = Router(tags=["automations"])

AutomationId = Annotated[str, Path(max_length=64, description="Its id, or its name")]


@router.post("/automations", status_code=201, summary="Create an automation")
def create_automation(body: AutomationRequest, caller: Trainer, ctx: Ctx) -> AutomationInfo:
    """It acts in its owner's name, as long as the key that created it is valid."""
    _check_may_read(caller)
    with db.transaction(ctx.engine) as session:
        row = store.create(
            session, body, ctx.settings.limits, owner=caller.owner, key_id=caller.key_id, sees=caller.owner
        )
        return AutomationInfo.model_validate(row)


@router.get("/automations", summary="List automations, newest first")
def list_automations(caller: Reader, ctx: Ctx) -> list[AutomationInfo]:
    """An admin sees every automation, others their own."""
    with db.reading(ctx.engine) as session:
        return [AutomationInfo.model_validate(row) for row in store.listing(session, caller.owner_filter)]


@router.post("/automations/rehearsal", summary="Rehearse a policy")
def rehearse_policy(body: Policy, caller: Trainer, ctx: Ctx) -> Rehearsal:
    """What it would have done over the history of its model and dataset. Nothing is trained or changed."""
    _check_may_read(caller)
    with db.reading(ctx.engine) as session:
        model = store.check(session, body, caller.owner, caller.owner)
    return _rehearse(ctx, body, model, caller.owner)


@router.get("/automations/{automation_id}", summary="Get an automation")
def get_automation(automation_id: AutomationId, caller: Reader, ctx: Ctx) -> AutomationInfo:
    with db.reading(ctx.engine) as session:
        return AutomationInfo.model_validate(store.get(session, automation_id, caller.owner_filter))


@router.patch("/automations/{automation_id}", summary="Change, pause or resume an automation")
def patch_automation(automation_id: AutomationId, body: AutomationPatch, caller: Trainer, ctx: Ctx) -> AutomationInfo:
    with db.transaction(ctx.engine) as session:
        row = store.get(session, automation_id, caller.owner_filter)
        if body.policy is not None:
            _check_may_read(caller)
        changed = store.change(
            session, row, enabled=body.enabled, policy=body.policy, sees=row.owner, key_id=caller.key_id
        )
        return AutomationInfo.model_validate(changed)


@router.delete("/automations/{automation_id}", status_code=204, summary="Delete an automation; its runs remain")
def delete_automation(automation_id: AutomationId, caller: Trainer, ctx: Ctx) -> None:
    with db.transaction(ctx.engine) as session:
        store.remove(session, store.get(session, automation_id, caller.owner_filter))


@router.get("/automations/{automation_id}/history", summary="What an automation did, newest first")
def list_firings(
    automation_id: AutomationId, caller: Reader, ctx: Ctx, limit: Limit = 50, cursor: Cursor = None
) -> Page[Firing]:
    with db.reading(ctx.engine) as session:
        row = store.get(session, automation_id, caller.owner_filter)
        rows = store.history(session, row.id, limit=limit + 1, before=cursor)
        items = [Firing.model_validate(one) for one in rows[:limit]]
    return Page(items=items, next_cursor=items[-1].id if len(rows) > limit else None)


@router.get("/automations/{automation_id}/rehearsal", summary="Rehearse an automation")
def rehearse_automation(automation_id: AutomationId, caller: Reader, ctx: Ctx) -> Rehearsal:
    """What it would have done over the history of its model and dataset. Nothing is trained or changed."""
    with db.reading(ctx.engine) as session:
        row = store.get(session, automation_id, caller.owner_filter)
    return _rehearse(ctx, store.read(row), row.model, row.owner)


def _rehearse(ctx: Context, policy: Policy, model: str | None, owner: str) -> Rehearsal:
    return rehearsal.rehearse(ctx.engine, ctx.blobs, ctx.settings.scratch, policy, model=model, owner=owner)


def _check_may_read(caller: Caller) -> None:
    """Raise Forbidden: an automation reports figures of what it trains on."""
    if not caller.may("read"):
        raise Forbidden("An automation reads what it trains on.", expected="a key that also has the scope read")
