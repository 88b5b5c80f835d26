"""Webhooks and the delivery of events to them: the only code that writes their rows.

Each event of the outbox becomes one delivery for each webhook subscribed to it. A process claims a delivery under a
lease, sends it, and writes the outcome under the same lease; any number of processes may do so. If one dies between the
receiver's answer and writing the outcome, another sends the event again under the same id: delivery is at least once.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, delete, exists, func, not_, or_, select
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook as Signer

from fitserve import db, events, sealing
from fitserve.crash_points import crash_point
from fitserve.errors import BadInput, Conflict, Forbidden, NotFound, Problem, TooMany
from fitserve.ids import new_id
from fitserve.outgoing import Outgoing
from fitserve.settings import Settings
from fitserve.tables import Delivery, Key, OutboxEvent, Webhook
from fitserve.visibility import owned_by, owns
from fitserve.wire.webhooks import PREFIX, DeliveryInfo, WebhookPatch, WebhookRequest

ROTATION = timedelta(hours=24)  # how long a replaced secret signs beside the new one
MAX_PAUSE = 6 * 3600.0  # seconds between two attempts
GROWTH = 3.0  # factor by which the pause grows at each attempt
KEPT_ATTEMPTS = 20  # attempts kept in a delivery's log
AT_ONCE = 2  # deliveries to one webhook: a slow receiver delays its own events, not those of others
TEST = "webhook.test"


@dataclass(frozen=True, slots=True)
class Secret:
    """A signing secret as the database holds it."""

    text: str
    sealed: bool

    def read(self, settings: Settings) -> str:
        """Return the secret itself. Raises Unreadable."""
        return sealing.unseal(self.text, settings) if self.sealed else self.text


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this process holds until its lease ends, with everything needed to send it."""

    id: str
    token: str
    webhook: str
    url: str | None
    channel: str | None
    secrets: tuple[Secret, ...]
    event: str
    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class DeliveryOutcome:
    """The outcome of an attempt."""

    delivered: bool
    seconds: float
    status: int | None = None
    error: str | None = None
    retry_after: float | None = None  # seconds to wait, as requested by the receiver
    gone: bool = False  # the receiver has unsubscribed (410 Gone)


# --- create, change, delete ----------------------------------------------------------------------------------------


def create(
    session: Session, request: WebhookRequest, settings: Settings, *, owner: str, key_id: str | None, is_admin: bool
) -> tuple[Webhook, str | None]:
    """Create a webhook and return it with its secret. Raises BadInput, Forbidden, TooMany; `url` was checked before."""
    check_events(request.events)
    if request.channel is not None and request.channel not in settings.channels:
        raise BadInput(
            f"There is no channel {request.channel}.",
            pointer="/channel",
            received=request.channel,
            expected=", ".join(sorted(settings.channels)) or "a channel that the operator has configured",
            fix="The operator names channels in FITSERVE_CHANNELS.",
        )
    if request.all_owners and not is_admin:
        raise Forbidden("Only an admin may receive every owner's changes.", pointer="/all_owners", received=True)
    db.serialise(session, "webhooks", owner)
    count = session.scalar(select(func.count()).select_from(Webhook).where(Webhook.owner == owner)) or 0
    if count >= settings.limits.webhooks:
        raise TooMany(
            f"You have {count} webhooks.",
            received=count,
            expected=f"fewer than {settings.limits.webhooks} webhooks",
            fix="Delete some: one webhook may take several types of events.",
        )
    secret = None
    if request.url is not None:
        secret = request.secret.get_secret_value() if request.secret else new_secret()
    at = db.now(session)
    row = Webhook(
        id=new_id("wh"),
        owner=owner,
        key_id=key_id,
        url=request.url,
        channel=request.channel,
        events=list(dict.fromkeys(request.events)),
        description=request.description,
        all_owners=request.all_owners,
        enabled=True,
        created_at=at,
        updated_at=at,
    )
    if secret is not None:
        _keep_secret(row, secret, settings)
    session.add(row)
    session.flush()
    return row, secret


def _keep_secret(row: Webhook, secret: str, settings: Settings) -> None:
    """Store the signing secret, encrypted if the operator configured keys."""
    sealed = sealing.seals(settings)
    row.secret, row.sealed_secret = (None, sealing.seal(secret, settings)) if sealed else (secret, None)


def new_secret() -> str:
    """Return a random secret in the form of Standard Webhooks."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_events(patterns: Sequence[str]) -> None:
    """Raise BadInput for a pattern that matches no type of event."""
    problems = [
        Problem(
            f"{pattern} is no type of event.", f"/events/{index}", received=pattern, expected=", ".join(events.TYPES)
        )
        for index, pattern in enumerate(patterns)
        if not any(matches(pattern, type) for type in events.TYPES)
    ]
    if problems:
        raise BadInput(problems[0].detail, problems=problems)


def matches(pattern: str, type: str) -> bool:
    """Return whether a subscription to `pattern` includes events of this type."""
    return pattern == type or pattern == "*" or (pattern.endswith(".*") and type.startswith(pattern[:-1]))


def get(session: Session, id: str, owner: str | None) -> Webhook:
    """Return a webhook of an owner, or of anybody for owner None. Raises NotFound."""
    row = session.get(Webhook, id)
    if row is None or not owns(owner, row):
        raise NotFound(f"No webhook {id[:64]}.", received=id[:64])
    return row


def listing(session: Session, owner: str | None) -> list[Webhook]:
    """Return an owner's webhooks, or all of them, newest first."""
    query = select(Webhook).where(owned_by(Webhook, owner)).order_by(Webhook.id.desc())
    return list(session.scalars(query))


def change(
    session: Session, row: Webhook, patch: WebhookPatch, settings: Settings, *, key_id: str | None, is_admin: bool
) -> Webhook:
    """Change a webhook; enabling it gives it the caller's key. `patch.url` was checked. Raises BadInput, Conflict."""
    at = db.now(session)
    if row.url is None and (patch.url is not None or patch.secret is not None):
        raise Conflict("A channel's webhook has neither an address nor a secret.", fix="Create another webhook.")
    if patch.events is not None:
        check_events(patch.events)
        row.events = list(dict.fromkeys(patch.events))
    if patch.url is not None:
        row.url, row.failing_since = patch.url, None
    if patch.secret is not None:
        row.previous_secret, row.sealed_previous_secret = row.secret, row.sealed_secret
        row.previous_until = at + ROTATION
        _keep_secret(row, patch.secret.get_secret_value(), settings)
    if patch.description is not None:
        row.description = patch.description or None
    if patch.enabled is not None:
        row.enabled, row.failing_since = patch.enabled, None
        row.disabled_reason = None if patch.enabled else "by hand"
        if patch.enabled and (is_admin or not row.all_owners):
            row.key_id = key_id
    row.updated_at = at
    session.flush()
    return row


def remove(session: Session, row: Webhook) -> None:
    """Delete a webhook and its deliveries."""
    session.execute(delete(Delivery).where(Delivery.webhook_id == row.id))
    session.delete(row)
    session.flush()


# --- deliveries ----------------------------------------------------------------------------------------------------


def deliveries(
    session: Session, webhook: str, *, limit: int, before: str | None = None, state: str | None = None
) -> list[DeliveryInfo]:
    """Return a webhook's deliveries, newest first, older than the id `before`."""
    query = select(Delivery, OutboxEvent.type).join(OutboxEvent, OutboxEvent.id == Delivery.event_id)
    query = query.where(Delivery.webhook_id == webhook).order_by(Delivery.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Delivery.id < before)
    if state is not None:
        query = query.where(Delivery.state == state)
    return [_info(row, type) for row, type in session.execute(query)]


def _info(row: Delivery, type: str) -> DeliveryInfo:
    return DeliveryInfo(
        id=row.id,
        webhook=row.webhook_id,
        event=row.event_id,
        type=type,
        state=row.state,
        attempts=row.attempts,
        next_at=row.next_at if row.state == "pending" else None,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
        log=row.log,
    )


def redeliver(session: Session, row: Webhook, delivery_id: str) -> DeliveryInfo:
    """Begin another round of attempts, at once, under the same event id. Raises NotFound, Conflict."""
    _check_enabled(row)
    at = db.now(session)
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None or delivery.webhook_id != row.id:
        raise NotFound(f"No delivery {delivery_id[:64]} of this webhook.", received=delivery_id[:64])
    if delivery.lease_expires_at is not None and delivery.lease_expires_at > at:
        raise Conflict("It is being delivered at this moment.", fix="Look at its log in a minute.")
    delivery.state, delivery.attempts, delivery.next_at, delivery.delivered_at = "pending", 0, at, None
    session.flush()
    return _info(delivery, session.get_one(OutboxEvent, delivery.event_id).type)


def send_test(session: Session, row: Webhook) -> DeliveryInfo:
    """Record an event for this webhook alone. Raises Conflict if the webhook is disabled."""
    _check_enabled(row)
    data = {"webhook": row.id, "message": "A test from fitserve."}
    event = session.get_one(OutboxEvent, events.record(session, TEST, owner=row.owner, data=data))
    event.dispatched_at = event.created_at
    delivery = _new_delivery(row, event, event.created_at)
    session.add(delivery)
    session.flush()
    return _info(delivery, TEST)


def _check_enabled(row: Webhook) -> None:
    if not row.enabled:
        raise Conflict(f"The webhook is disabled: {row.disabled_reason}.", fix="Enable it first.")


def _new_delivery(row: Webhook, event: OutboxEvent, at: datetime) -> Delivery:
    return Delivery(
        id=new_id("dlv"),
        webhook_id=row.id,
        event_id=event.id,
        state="pending",
        attempts=0,
        log=[],
        next_at=at,
        created_at=at,
    )


def dispatch(engine: Engine, limit: int = 100) -> int:
    """Create deliveries of waiting events to subscribed webhooks. Return the number of events."""
    with db.reading(engine) as session:
        undispatched = select(OutboxEvent.id).where(OutboxEvent.dispatched_at.is_(None)).limit(1)
        keyless = select(Webhook.id).where(Webhook.enabled, _key_has_ended(db.now(session))).limit(1)
        if session.scalar(undispatched) is None and session.scalar(keyless) is None:
            return 0
    with db.transaction(engine) as session:
        _disable_with_their_keys(session)
        waiting = select(OutboxEvent).where(OutboxEvent.dispatched_at.is_(None)).order_by(OutboxEvent.id).limit(limit)
        waiting_events = session.scalars(waiting.with_for_update(skip_locked=True)).all()
        wanting = session.scalars(select(Webhook).where(Webhook.enabled)).all() if waiting_events else []
        at = db.now(session)
        for event in waiting_events:
            for row in wanting:
                if _wants(row, event):
                    session.add(_new_delivery(row, event, at))
            event.dispatched_at = at
        session.flush()
        crash_point("webhooks.before_dispatched")
    crash_point("webhooks.after_dispatched")
    return len(waiting_events)


def _key_has_ended(at: datetime) -> ColumnElement[bool]:
    """Return the condition that the key which created a webhook is revoked or has expired: the webhook ends with it."""
    return exists().where(Key.id == Webhook.key_id, or_(Key.revoked_at.is_not(None), Key.expires_at <= at))


def _disable_with_their_keys(session: Session) -> None:
    at = db.now(session)
    keyless = select(Webhook).where(Webhook.enabled, _key_has_ended(at)).with_for_update()
    for row in session.scalars(keyless).all():
        _disable(session, row, "the key that created it is revoked or has expired", at)


def _wants(row: Webhook, event: OutboxEvent) -> bool:
    """Return whether a webhook receives an event. Webhooks newer than the event do not."""
    of_owner = row.all_owners or row.owner == event.owner
    return of_owner and row.created_at <= event.created_at and any(matches(one, event.type) for one in row.events)


def claim(engine: Engine, most: int, lease_seconds: float, within: int = 200) -> list[ClaimedDelivery]:
    """Claim deliveries that are due, longest waiting first, at most AT_ONCE per webhook."""
    with db.reading(engine) as session:
        if session.scalar(_due(db.now(session)).limit(1)) is None:
            return []
    with db.transaction(engine) as session:
        at = db.now(session)
        held = select(Delivery.webhook_id, func.count()).where(Delivery.lease_expires_at >= at)
        busy = {row[0]: row[1] for row in session.execute(held.group_by(Delivery.webhook_id))}
        full = [
            webhook for webhook, count in busy.items() if count >= AT_ONCE
        ]  # exclude these, so that they do not fill the window
        due = _due(at).add_columns(Delivery.webhook_id).where(Delivery.webhook_id.not_in(full)).limit(within)
        ids = session.execute(due).all()
        chosen: list[str] = []
        for id, webhook in ids:
            if len(chosen) < most and busy.get(webhook, 0) < AT_ONCE:
                busy[webhook] = busy.get(webhook, 0) + 1
                chosen.append(id)
        rows = session.scalars(
            select(Delivery).where(Delivery.id.in_(chosen), _is_free(at)).with_for_update(skip_locked=True)
        ).all()
        claimed = []
        for row in rows:
            row.lease_token, row.lease_expires_at = secrets.token_hex(16), at + timedelta(seconds=lease_seconds)
            claimed.append(_claimed(row, session.get_one(Webhook, row.webhook_id), row.event_id, session, at))
    if claimed:
        crash_point("webhooks.after_claim")
    return claimed


def _is_free(at: datetime) -> Any:
    return and_(Delivery.state == "pending", or_(Delivery.lease_expires_at.is_(None), Delivery.lease_expires_at < at))


def _due(at: datetime) -> Any:
    due = select(Delivery.id).join(Webhook, Webhook.id == Delivery.webhook_id)
    due = due.where(_is_free(at), Delivery.next_at <= at, Webhook.enabled, not_(_key_has_ended(at)))
    return due.order_by(Delivery.next_at)


def _claimed(row: Delivery, webhook: Webhook, event_id: str, session: Session, at: datetime) -> ClaimedDelivery:
    event = session.get_one(OutboxEvent, event_id)
    signing = [(webhook.secret, False), (webhook.sealed_secret, True)]
    if webhook.previous_until is not None and webhook.previous_until > at:
        signing += [(webhook.previous_secret, False), (webhook.sealed_previous_secret, True)]
    return ClaimedDelivery(
        id=row.id,
        token=row.lease_token or "",
        webhook=webhook.id,
        url=webhook.url,
        channel=webhook.channel,
        secrets=tuple(Secret(text, sealed) for text, sealed in signing if text),
        event=event.id,
        type=event.type,
        body=payload(event),
    )


def payload(event: OutboxEvent) -> bytes:
    """Return the signed body, which has the same bytes at each attempt."""
    body = {"type": event.type, "timestamp": event.created_at.isoformat(), "data": event.data}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def headers(claimed: ClaimedDelivery, at: datetime, settings: Settings) -> Mapping[str, str]:
    """Return the headers of Standard Webhooks: the event's id, the time of this attempt, a signature per secret.

    Raises Unreadable if the key of an encrypted secret is missing.
    """
    body = claimed.body.decode()
    signatures = [Signer(secret.read(settings)).sign(claimed.event, at, body) for secret in claimed.secrets]
    return {
        "Content-Type": "application/json",
        "webhook-id": claimed.event,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def pauses(first: float, whole: float) -> list[float]:
    """Return the growing pauses before retries, at most `whole` seconds in total."""
    seconds: list[float] = []
    pause = first
    while sum(seconds) + pause <= whole:
        seconds.append(pause)
        pause = min(pause * GROWTH, MAX_PAUSE)
    return seconds


def finish(engine: Engine, claimed: ClaimedDelivery, outcome: DeliveryOutcome, settings: Settings) -> str | None:
    """Write the outcome of an attempt. Return the delivery's state; None if another process now holds it."""
    with db.transaction(engine) as session:
        at = db.now(session)
        row = session.scalars(
            select(Delivery).where(Delivery.id == claimed.id, Delivery.lease_token == claimed.token).with_for_update()
        ).first()
        if row is None or row.state != "pending":
            return None
        attempt = {"at": at.isoformat(), "status": outcome.status, "error": outcome.error, "seconds": outcome.seconds}
        row.log = [*row.log, attempt][-KEPT_ATTEMPTS:]
        row.attempts += 1
        row.lease_token = row.lease_expires_at = None
        webhook = session.get_one(Webhook, row.webhook_id, with_for_update=True)
        if outcome.delivered:
            row.state, row.delivered_at, webhook.failing_since = "delivered", at, None
        else:
            waits = pauses(settings.webhook_retry_seconds, settings.webhook_give_up_seconds)
            if row.attempts > len(waits):
                row.state = "failed"
            else:
                jitter = 0.9 + 0.2 * secrets.randbelow(1000) / 1000
                pause = max(waits[row.attempts - 1] * jitter, min(outcome.retry_after or 0.0, MAX_PAUSE))
                row.next_at = at + timedelta(seconds=pause)
            _note_failure(session, webhook, outcome, at, settings)
        state = row.state
    crash_point("webhooks.after_outcome")
    return state


def _note_failure(
    session: Session, webhook: Webhook, outcome: DeliveryOutcome, at: datetime, settings: Settings
) -> None:
    """Record a failure; disable the webhook, with an event, if its receiver is gone or has failed for too long."""
    webhook.failing_since = webhook.failing_since or at
    failed_for = (at - webhook.failing_since).total_seconds()
    if not webhook.enabled or not (outcome.gone or failed_for >= settings.webhook_disable_seconds):
        return
    reason = "the receiver answered 410 Gone" if outcome.gone else f"it failed for {failed_for / 3600:.0f} hours"
    _disable(session, webhook, reason, at)


def _disable(session: Session, webhook: Webhook, reason: str, at: datetime) -> None:
    webhook.enabled, webhook.disabled_reason, webhook.updated_at = False, reason, at
    since = webhook.failing_since.isoformat() if webhook.failing_since is not None else None
    data = {"webhook": webhook.id, "reason": reason, "failing_since": since}
    events.record(session, "webhook.disabled", owner=webhook.owner, data=data, at=at)


def reseal(engine: Engine, settings: Settings) -> int:
    """Encrypt with the newest key all secrets that are plain or use an older key. Return how many.

    A secret that no key can decrypt is left as it is.
    """
    if not sealing.seals(settings):
        return 0
    changed = 0
    with db.transaction(engine) as session:
        for row in session.scalars(select(Webhook).where(Webhook.url.is_not(None)).with_for_update()):
            for plain, sealed in (("secret", "sealed_secret"), ("previous_secret", "sealed_previous_secret")):
                text, token = getattr(row, plain), getattr(row, sealed)
                if token is not None and not sealing.is_current(token, settings):
                    with suppress(sealing.Unreadable):
                        text = sealing.unseal(token, settings)
                if text is not None:
                    setattr(row, plain, None)
                    setattr(row, sealed, sealing.seal(text, settings))
                    changed += 1
    return changed


def delete_old(engine: Engine, seconds: float) -> int:
    """Delete events older than `seconds`, with their deliveries. Return the number of events."""
    with db.transaction(engine) as session:
        old = select(OutboxEvent.id).where(
            OutboxEvent.created_at < db.now(session) - timedelta(seconds=seconds),
            OutboxEvent.dispatched_at.is_not(None),
        )
        session.execute(delete(Delivery).where(Delivery.event_id.in_(old)))
        removed: Any = session.execute(delete(OutboxEvent).where(OutboxEvent.id.in_(old)))
        return int(removed.rowcount)


def standing(session: Session) -> tuple[int, float, int]:
    """Return the pending deliveries, the seconds that the oldest has been due, and the disabled webhooks."""
    at = db.now(session)
    waits = select(Delivery.id).join(Webhook, Webhook.id == Delivery.webhook_id)
    waits = waits.where(
        Delivery.state == "pending", Webhook.enabled
    )  # a disabled webhook's deliveries wait for its owner
    pending = session.scalar(select(func.count()).select_from(waits.subquery())) or 0
    due = session.scalar(waits.with_only_columns(func.min(Delivery.next_at), maintain_column_froms=True))
    waiting = session.scalar(select(func.min(OutboxEvent.created_at)).where(OutboxEvent.dispatched_at.is_(None)))
    oldest = max([0.0, *((at - moment).total_seconds() for moment in (due, waiting) if moment is not None)])
    disabled = session.scalar(select(func.count()).select_from(Webhook).where(Webhook.enabled.is_(False))) or 0
    return pending, oldest, disabled


def outgoing(settings: Settings) -> Outgoing:
    """Return the client for requests to webhooks' addresses."""
    return Outgoing(settings.outgoing_networks)
