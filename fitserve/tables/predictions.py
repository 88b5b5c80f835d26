"""What was predicted, counted and found true since."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Index,
    String,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from fitserve.tables.base import Base


class Window(Base):
    """One prediction process's counts of one artifact in one slice of time: see `fitserve.monitoring`."""

    __tablename__ = "windows"
    __table_args__ = (Index("ix_windows_slice", "slice"),)
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    artifact: Mapped[str] = mapped_column(String(64), primary_key=True)
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    slice: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # seconds since 1970 at its start
    version: Mapped[int]
    counts: Mapped[dict[str, Any]]


class StoredPrediction(Base):
    """A prediction that its request named, until its ground truth comes or it expires."""

    __tablename__ = "kept_predictions"
    __table_args__ = (
        Index("ix_kept_predictions_created_at", "created_at"),
        Index("ix_kept_predictions_owner", "owner"),  # quotas
    )
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int]
    outputs: Mapped[dict[str, Any]]  # by target: a list of rows of numbers
    bounds: Mapped[dict[str, Any] | None]  # what ground truth is to be inside of: `fitserve.live_coverage`
    rollout: Mapped[str | None] = mapped_column(String(40))  # that chose the version, by chance
    rollout_step: Mapped[int | None]
    key_id: Mapped[str | None] = mapped_column(String(40))  # that asked for it
    created_at: Mapped[datetime]


class Feedback(Base):
    """The error of one row's prediction by its ground truth. Posted twice, it counts once."""

    __tablename__ = "feedback"
    __table_args__ = (Index("ix_feedback_created_at", "created_at"),)
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63), primary_key=True)
    prediction_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # of the request, from 0
    output: Mapped[str] = mapped_column(String(255), primary_key=True)  # the target's name
    version: Mapped[int]
    task: Mapped[str] = mapped_column(String(16))
    error: Mapped[float]  # classification: 0 right, 1 wrong; regression: predicted minus actual
    level: Mapped[float | None]  # of the interval or set that was answered
    covered: Mapped[bool | None]  # whether the truth is inside
    slice: Mapped[str | None] = mapped_column(String(200))  # the row's label in the column `coverage_by`
    confidence: Mapped[float | None]  # the probability of the likeliest label
    confidence_bin: Mapped[int | None]  # in tenths
    likeliest_right: Mapped[bool | None]
    brier: Mapped[float | None]
    log_loss: Mapped[float | None]
    key_id: Mapped[str | None] = mapped_column(String(40))  # that posted it
    counted: Mapped[bool] = mapped_column(default=True, server_default=true())  # in the model's live figures
    created_at: Mapped[datetime]


class Drifting(Base):
    """A served version whose inputs have drifted: its row is added once and removed once, each with an event."""

    __tablename__ = "drifting"
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    psi: Mapped[float]
    since: Mapped[datetime]
