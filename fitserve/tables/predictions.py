"""Counts of predictions, predictions that await ground truth, and the feedback on them."""

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
    """A prediction whose request gave it an id, stored until its ground truth arrives or it expires."""

    __tablename__ = "kept_predictions"
    __table_args__ = (
        Index("ix_kept_predictions_created_at", "created_at"),
        Index("ix_kept_predictions_owner", "owner"),  # quotas
    )
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int]
    outputs: Mapped[dict[str, Any]]  # for each target, a list of rows of numbers
    # intervals or sets that should contain the ground truth: `fitserve.live_coverage`
    bounds: Mapped[dict[str, Any] | None]
    rollout: Mapped[str | None] = mapped_column(String(40))  # the rollout that assigned the version at random
    rollout_step: Mapped[int | None]
    key_id: Mapped[str | None] = mapped_column(String(40))  # the key that requested it
    created_at: Mapped[datetime]


class Feedback(Base):
    """The error of one row's prediction against its ground truth. Posted twice, it counts once."""

    __tablename__ = "feedback"
    __table_args__ = (Index("ix_feedback_created_at", "created_at"),)
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63), primary_key=True)
    prediction_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # index of the row in the request, from 0
    output: Mapped[str] = mapped_column(String(255), primary_key=True)  # the target's name
    version: Mapped[int]
    task: Mapped[str] = mapped_column(String(16))
    error: Mapped[float]  # classification: 0 right, 1 wrong; regression: predicted minus actual
    level: Mapped[float | None]  # the level of the returned interval or set
    covered: Mapped[bool | None]  # whether it contains the ground truth
    slice: Mapped[str | None] = mapped_column(String(200))  # the row's label in the column `coverage_by`
    confidence: Mapped[float | None]  # the probability of the likeliest label
    confidence_bin: Mapped[int | None]  # the confidence in tenths
    likeliest_right: Mapped[bool | None]
    brier: Mapped[float | None]
    log_loss: Mapped[float | None]
    key_id: Mapped[str | None] = mapped_column(String(40))  # the key that posted it
    # whether the model's live figures include it
    counted: Mapped[bool] = mapped_column(default=True, server_default=true())
    created_at: Mapped[datetime]


class Drifting(Base):
    """A served version whose inputs have drifted. The row is added once and removed once, each time with an event."""

    __tablename__ = "drifting"
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    psi: Mapped[float]
    since: Mapped[datetime]
