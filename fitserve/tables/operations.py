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
    """What one process counted in one slot of time: see `fitserve.operations.samples`."""

    __tablename__ = "samples"
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # length of the slot in seconds
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # seconds since 1970 at its start
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # api, predict, worker, reaper, queue
    host: Mapped[str] = mapped_column(String(80))
    figures: Mapped[dict[str, Any]]  # counts, buckets, gauges, most, broken


class TrafficSample(Base):
    """What one prediction process answered with one version in one slot; drift is written by the reaper."""

    __tablename__ = "traffic_samples"
    __table_args__ = (Index("ix_traffic_samples_step_slot", "step", "slot"),)
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 0: none answered
    figures: Mapped[dict[str, Any]]  # requests, refused, errors, rows, seconds, buckets; or psi


class ModelFault(Base):
    """The last request of a model that was refused or failed, or the last load that failed."""

    __tablename__ = "model_faults"
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int | None]
    operation: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(32))  # HTTP's or gRPC's
    code: Mapped[str] = mapped_column(String(64))  # of the problem
    detail: Mapped[str] = mapped_column(String(300))  # of a refusal its title alone: the rest may hold the row
    at: Mapped[datetime]


class Alarm(Base):
    """Something that was wrong with the server, from when to when: see `fitserve.operations.alarms`."""

    __tablename__ = "alarms"
    __table_args__ = (
        CheckConstraint("severity IN ('warning', 'critical')", name="alarm_severity_known"),
        partial_index(
            "uq_alarms_open",  # one at a time
            "name",
            "subject",
            unique=True,
            where="ended_at IS NULL",
        ),
        Index("ix_alarms_ended_at", "ended_at"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # ids sort by time
    name: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(128))  # a host, a model's version; empty: the whole server
    severity: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(String(500))
    figures: Mapped[dict[str, Any]]  # what the detail says, for pages in other languages
    since: Mapped[datetime]
    seen_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Leader(Base):
    """Which process holds a piece of work that one at a time may do, until its lease ends."""

    __tablename__ = "leaders"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    holder: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime]
