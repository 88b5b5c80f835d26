"""Models, their versions, labels and decisions, and rollouts of versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from fitserve.tables.base import Base, partial_index


class Model(Base):
    """A name under which versions are served. `generation` increases with every change."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    generation: Mapped[int] = mapped_column(default=0)
    loaded: Mapped[bool] = mapped_column(default=True)
    shared: Mapped[bool] = mapped_column(default=False)
    # what a shared model is shared for: wire.models.Sharing; None means `ask`
    sharing: Mapped[str | None] = mapped_column(String(16))
    # whether other owners' ground truth counts
    open_feedback: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime]


class Version(Base):
    """A numbered, immutable version of a model. Unique on the run: a result is committed once."""

    __tablename__ = "versions"
    model: Mapped[str] = mapped_column(ForeignKey("models.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), unique=True)
    artifact: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))  # the manifest's SHA-256
    metrics: Mapped[dict[str, Any]]
    retired_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class Label(Base):
    """A movable name of a version: `champion`, `candidate`, `epoch-12`."""

    __tablename__ = "labels"
    model: Mapped[str] = mapped_column(ForeignKey("models.name"), primary_key=True)
    label: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int]
    # a kept epoch's artifact; None: the version's
    artifact: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))
    weight: Mapped[float] = mapped_column(default=0.0)  # canary: share of unversioned requests, 0 to 1
    # receives a copy of the traffic; its predictions are only measured
    shadow: Mapped[bool] = mapped_column(default=False)
    previous: Mapped[int | None]  # the version that a rollback returns to
    updated_at: Mapped[datetime]


class DecisionChange(Base):
    """A change of a version's decisions. Until the first change, those in its manifest apply. Rows are only added."""

    __tablename__ = "decisions"
    __table_args__ = (
        ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
        Index("ix_decisions_version", "model", "version", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(63))
    version: Mapped[int]
    decisions: Mapped[list[Any]]  # the decisions in force since then: `fitserve.decisions.apply`
    asked: Mapped[dict[str, Any] | None]  # the request; None: return to the decisions of the training
    owner: Mapped[str | None] = mapped_column(String(63))
    key_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]


class AdaptiveLevel(Base):
    """The error rate that an output's intervals aim at now, adjusted by ground truth: see `fitserve.live_coverage`."""

    __tablename__ = "adaptive_levels"
    __table_args__ = (ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),)
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    output: Mapped[str] = mapped_column(String(255), primary_key=True)
    error_rate: Mapped[float]  # from 0 to 1
    rows: Mapped[int]  # rows of ground truth that have adjusted it
    changed_at: Mapped[datetime]


class Rollout(Base):
    """A version becoming the champion step by step, or an A/B comparison. Only `fitserve.rollouts` writes here."""

    __tablename__ = "rollouts"
    __table_args__ = (
        CheckConstraint("kind IN ('rollout', 'ab')", name="rollout_kind_known"),
        CheckConstraint(
            "state IN ('running', 'paused', 'succeeded', 'rolled_back', 'aborted')", name="rollout_state_known"
        ),
        partial_index(
            "uq_rollouts_active",  # one active rollout per model
            "model",
            unique=True,
            where="state IN ('running', 'paused')",
        ),
        Index("ix_rollouts_model_id", "model", "id"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    kind: Mapped[str] = mapped_column(String(16))
    base: Mapped[int]  # the version that was champion
    to: Mapped[int]
    plan: Mapped[dict[str, Any]]  # steps, hold, min_requests, guards, shadow: `fitserve.rollouts.lifecycle.StoredPlan`
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[int]  # index into `plan.steps`
    step_at: Mapped[datetime]  # when the step began, shifted by pauses
    paused_at: Mapped[datetime | None]
    reason: Mapped[dict[str, Any] | None]  # why it ended
    owner: Mapped[str | None] = mapped_column(String(63))  # who started it
    key_id: Mapped[str | None] = mapped_column(String(40))
    lease_holder: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class RolloutStep(Base):
    """A step of a rollout: its start, its guards' latest figures, and their curves."""

    __tablename__ = "rollout_steps"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    started_at: Mapped[datetime]
    figures: Mapped[list[Any]]  # `fitserve.rollouts.guards.Figure`
    curves: Mapped[dict[str, Any]]  # each guard's points, oldest first


class RolloutCount(Base):
    """What one prediction process counted in one step of a rollout: `fitserve.rollouts.guards.StepCounts`."""

    __tablename__ = "rollout_counts"
    rollout_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    counts: Mapped[dict[str, Any]]
