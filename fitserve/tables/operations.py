"""What the status page shows, and which process leads."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Index,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from fitserve.tables.base import Base, partial_index


class Sample(Base):
    """One process's counts in one time slot: see `fitserve.operations.samples`."""

    __tablename__ = "samples"
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # length of the slot in seconds
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # seconds since 1970 at its start
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # api, predict, worker, reaper, queue
    host: Mapped[str] = mapped_column(String(80))
    figures: Mapped[dict[str, Any]]  # counts, buckets, gauges, most, broken


class TrafficSample(Base):
    """One prediction process's requests for one version in one slot. The reaper writes the drift."""

    __tablename__ = "traffic_samples"
    __table_args__ = (Index("ix_traffic_samples_step_slot", "step", "slot"),)
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 0: no version answered
    figures: Mapped[dict[str, Any]]  # requests, refused, errors, rows, seconds, buckets; or psi


class ModelFault(Base):
    """The last request of a model that was refused or failed, or the last load that failed."""

    __tablename__ = "model_faults"
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int | None]
    operation: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(32))  # an HTTP or gRPC status
    code: Mapped[str] = mapped_column(String(64))  # the problem's code
    # for a refusal only its title, because the rest may contain the row
    detail: Mapped[str] = mapped_column(String(300))
    at: Mapped[datetime]


class Alarm(Base):
    """A period in which something was wrong with the server: see `fitserve.operations.alarms`."""

    __tablename__ = "alarms"
    __table_args__ = (
        CheckConstraint("severity IN ('warning', 'critical')", name="alarm_severity_known"),
        partial_index(
            "uq_alarms_open",  # one open alarm per name and subject
            "name",
            "subject",
            unique=True,
            where="ended_at IS NULL",
        ),
        Index("ix_alarms_ended_at", "ended_at"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # ids sort by time
    name: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(128))  # a host, or a model's version; empty for the whole server
    severity: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(String(500))
    figures: Mapped[dict[str, Any]]  # the values in the detail, for pages in other languages
    since: Mapped[datetime]
    seen_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Leader(Base):
    """The process that holds work for a single process, until its lease ends."""

    __tablename__ = "leaders"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    holder: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime]
