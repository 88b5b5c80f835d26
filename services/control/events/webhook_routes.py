"""Events, and the webhooks that they are sent to."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from fitserve import db, events, webhooks
from fitserve.wire import Page
from fitserve.wire.runs import PRINTABLE
from fitserve.wire.webhooks import (
    DeliveryInfo,
    DeliveryState,
    NewWebhook,
    RecordedEvent,
    WebhookInfo,
    WebhookPatch,
    WebhookRequest,
)
from services.control.deps import Ctx, Cursor, Limit, Reader, Trainer
from services.http import Router

router = Router(tags=["events"])

WebhookId = Annotated[str, Path(max_length=64)]
DeliveryId = Annotated[str, Path(max_length=64)]


@router.get("/events", summary="List events, newest first")
def list_events(
    caller: Reader,
    ctx: Ctx,
    type: Annotated[str | None, Query(max_length=32, pattern=PRINTABLE, description="Only events of this type")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[RecordedEvent]:
    """Events that webhooks receive. An admin sees every owner's events, others their own."""
    with db.reading(ctx.engine) as session:
        rows = events.latest(session, caller.owner_filter, limit=limit + 1, before=cursor, type=type)
        items = [RecordedEvent.model_validate(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=items[-1].id if len(rows) > limit else None)


@router.get("/events/types", summary="List the types of events")
def list_types(caller: Reader) -> dict[str, str]:
    """Each with what its `data` holds."""
    return {name: type.description for name, type in events.TYPES.items()}


@router.post("/webhooks", status_code=201, summary="Create a webhook")
def create_webhook(body: WebhookRequest, caller: Trainer, ctx: Ctx) -> NewWebhook:
    """Events are signed as Standard Webhooks says, sent at least once, and tried for 24 hours.

    The secret is shown in this answer only.
    """
    caller.check_may_share()
    if body.url is not None:
        webhooks.outgoing(ctx.settings).check(body.url, "/url")
    with db.transaction(ctx.engine) as session:
        row, secret = webhooks.create(
            session, body, ctx.settings, owner=caller.owner, key_id=caller.key_id, is_admin=caller.is_admin
        )
        return NewWebhook(**WebhookInfo.model_validate(row).model_dump(), secret=secret)


@router.get("/webhooks", summary="List webhooks, newest first")
def list_webhooks(caller: Reader, ctx: Ctx) -> list[WebhookInfo]:
    """An admin sees every webhook, others their own."""
    with db.reading(ctx.engine) as session:
        return [WebhookInfo.model_validate(row) for row in webhooks.listing(session, caller.owner_filter)]


@router.get("/webhooks/channels", summary="List the operator's channels")
def list_channels(caller: Reader, ctx: Ctx) -> list[str]:
    """Names of chat and mail addresses that a webhook may send to; the addresses are the operator's secret."""
    return sorted(ctx.settings.channels)


@router.get("/webhooks/{webhook_id}", summary="Get a webhook")
def get_webhook(webhook_id: WebhookId, caller: Reader, ctx: Ctx) -> WebhookInfo:
    with db.reading(ctx.engine) as session:
        return WebhookInfo.model_validate(webhooks.get(session, webhook_id, caller.owner_filter))


@router.patch("/webhooks/{webhook_id}", summary="Change, disable or enable a webhook")
def patch_webhook(webhook_id: WebhookId, body: WebhookPatch, caller: Trainer, ctx: Ctx) -> WebhookInfo:
    """A new secret signs beside the old one for 24 hours, so that the receiver can follow."""
    caller.check_may_share()
    with db.reading(ctx.engine) as session:
        webhooks.get(session, webhook_id, caller.owner_filter)
    if body.url is not None:
        webhooks.outgoing(ctx.settings).check(body.url, "/url")
    with db.transaction(ctx.engine) as session:
        row = webhooks.get(session, webhook_id, caller.owner_filter)
        changed = webhooks.change(session, row, body, ctx.settings, key_id=caller.key_id, is_admin=caller.is_admin)
        return WebhookInfo.model_validate(changed)


@router.delete("/webhooks/{webhook_id}", status_code=204, summary="Delete a webhook and its log")
def delete_webhook(webhook_id: WebhookId, caller: Trainer, ctx: Ctx) -> None:
    with db.transaction(ctx.engine) as session:
        webhooks.remove(session, webhooks.get(session, webhook_id, caller.owner_filter))


@router.post("/webhooks/{webhook_id}/test", status_code=202, summary="Send a test")
def test_webhook(webhook_id: WebhookId, caller: Trainer, ctx: Ctx) -> DeliveryInfo:
    """Sends an event of the type `webhook.test` to this webhook only. The log shows the outcome."""
    with db.transaction(ctx.engine) as session:
        return webhooks.send_test(session, webhooks.get(session, webhook_id, caller.owner_filter))


@router.get("/webhooks/{webhook_id}/deliveries", summary="The log of a webhook, newest first")
def list_deliveries(
    webhook_id: WebhookId,
    caller: Reader,
    ctx: Ctx,
    state: Annotated[DeliveryState | None, Query(description="Only deliveries in this state")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DeliveryInfo]:
    with db.reading(ctx.engine) as session:
        row = webhooks.get(session, webhook_id, caller.owner_filter)
        items = webhooks.deliveries(session, row.id, limit=limit + 1, before=cursor, state=state)
    return Page(items=items[:limit], next_cursor=items[limit - 1].id if len(items) > limit else None)


@router.post(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, summary="Deliver an event again"
)
def redeliver(webhook_id: WebhookId, delivery_id: DeliveryId, caller: Trainer, ctx: Ctx) -> DeliveryInfo:
    """Sends it at once under the same event id, then retries with the same pauses as the first time."""
    with db.transaction(ctx.engine) as session:
        return webhooks.redeliver(session, webhooks.get(session, webhook_id, caller.owner_filter), delivery_id)
