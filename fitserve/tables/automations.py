"""Events with the webhooks that receive them, and automations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    false,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from fitserve.tables.base import Base, partial_index


class OutboxEvent(Base):
    """An event, written in the same transaction as the change that it reports: see `fitserve.events`."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_owner_id", "owner", "id"),  # ids sort by time
        partial_index(
            "ix_outbox_waiting",
            "id",
            where="dispatched_at IS NULL",
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str] = mapped_column(String(63))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    dispatched_at: Mapped[datetime | None]  # when deliveries were created for all subscribed webhooks


class Webhook(Base):
    """Where an owner's events are sent: the owner's own address, or a channel that the operator configured."""

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("(url IS NULL) <> (channel IS NULL)", name="url_or_channel"),
        Index("ix_webhooks_owner", "owner"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    key_id: Mapped[str | None] = mapped_column(String(40))  # the key that created it
    url: Mapped[str | None] = mapped_column(String(2048))
    channel: Mapped[str | None] = mapped_column(String(63))
    events: Mapped[list[Any]]  # event types, or patterns such as `run.*` and `*`
    description: Mapped[str | None] = mapped_column(String(200))
    # events of every owner; admins only
    all_owners: Mapped[bool] = mapped_column(default=False, server_default=false())
    secret: Mapped[str | None] = mapped_column(String(128))  # signs deliveries; the API never returns it
    previous_secret: Mapped[str | None] = mapped_column(String(128))  # also signs, until the receiver has the new one
    # both secrets encrypted, if the operator configured keys
    sealed_secret: Mapped[str | None] = mapped_column(String(300))
    sealed_previous_secret: Mapped[str | None] = mapped_column(String(300))
    previous_until: Mapped[datetime | None]
    enabled: Mapped[bool] = mapped_column(default=True, server_default=true())
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    failing_since: Mapped[datetime | None]  # the first failure after the last success
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Delivery(Base):
    """The delivery of one event to one webhook. Only the holder of its lease records how an attempt ended."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event_id"),
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="delivery_state_known"),
        partial_index(
            "ix_deliveries_due",
            "next_at",
            where="state = 'pending'",
        ),
        partial_index(
            "ix_deliveries_failed",
            "next_at",
            where="state = 'failed'",
        ),
        Index("ix_deliveries_event_id", "event_id"),
        Index("ix_deliveries_webhook_id_id", "webhook_id", "id"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    event_id: Mapped[str] = mapped_column(ForeignKey("outbox.id"))
    state: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(default=0)  # attempts in this round; `redeliver` starts a new round
    log: Mapped[list[Any]] = mapped_column(default=list)  # the latest attempts: wire.webhooks.DeliveryAttempt
    next_at: Mapped[datetime]
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]


class Automation(Base):
    """A policy: when and what to train, and what to do with the result. Only `fitserve.automations` writes here."""

    __tablename__ = "automations"
    __table_args__ = (UniqueConstraint("owner", "name"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    key_id: Mapped[str | None] = mapped_column(String(40))  # key that created it; if revoked, the automation pauses
    name: Mapped[str] = mapped_column(String(63))
    model: Mapped[str | None] = mapped_column(String(63))  # model that its runs register
    policy: Mapped[dict[str, Any]]  # wire.automations.Policy
    enabled: Mapped[bool] = mapped_column(default=True, server_default=true())
    paused_reason: Mapped[str | None] = mapped_column(String(500))
    failures: Mapped[int] = mapped_column(default=0)  # consecutive failures
    baseline_id: Mapped[str | None] = mapped_column(String(40))  # dataset version of the last training
    next_at: Mapped[datetime | None]  # next firing of a schedule
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AutomationFiring(Base):
    """One tick of an automation: unique, even if several processes evaluate it."""

    __tablename__ = "firings"
    __table_args__ = (
        UniqueConstraint("automation_id", "tick"),
        CheckConstraint(
            "state IN ('queued', 'open', 'training', 'done', 'failed', 'refused', 'skipped')",
            name="firing_state_known",
        ),
        Index("ix_firings_automation_id_id", "automation_id", "id"),
        partial_index(
            "ix_firings_live",
            "id",
            where="state IN ('queued', 'open', 'training')",
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    automation_id: Mapped[str] = mapped_column(ForeignKey("automations.id"))
    tick: Mapped[str] = mapped_column(String(120))
    reason: Mapped[str] = mapped_column(String(300))
    state: Mapped[str] = mapped_column(String(16))
    decision: Mapped[str | None] = mapped_column(String(16))
    why: Mapped[str | None] = mapped_column(String(1000))
    dataset: Mapped[str | None] = mapped_column(String(80))  # name@version
    run_id: Mapped[str | None] = mapped_column(String(40))
    model: Mapped[str | None] = mapped_column(String(63))
    version: Mapped[int | None]
    report: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
