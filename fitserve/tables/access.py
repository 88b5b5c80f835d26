"""API keys, sessions of browsers, and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from fitserve.tables.base import Base


class Key(Base):
    """An API key, with the SHA-256 of its secret, never the secret."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(63))
    scopes: Mapped[list[Any]]
    models: Mapped[list[Any] | None]  # the only models that the key can predict with
    quotas: Mapped[dict[str, Any] | None]  # wire.keys.Quotas
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A signed-in browser: what its cookie holds, with the rights of the key that signed in."""

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_expires_at", "expires_at"), Index("ix_sessions_key_id", "key_id"))
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(ForeignKey("keys.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class Audit(Base):
    """Who did what, when, from where: append-only."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_owner_id", "owner", "id"),  # ids sort by time
        Index("ix_audit_key_id_id", "key_id", "id"),
        Index("ix_audit_created_at", "created_at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key_id: Mapped[str | None] = mapped_column(String(40))
    owner: Mapped[str | None] = mapped_column(String(63))
    action: Mapped[str] = mapped_column(String(128))
    target: Mapped[str] = mapped_column(String(256))
    status: Mapped[int]
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
