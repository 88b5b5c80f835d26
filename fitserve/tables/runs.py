"""Runs with their events, epochs and trials, and the workers that hold them."""

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
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from fitserve.states import RunKind, RunState
from fitserve.tables.base import Base, partial_index

_STATES = ", ".join(f"'{state}'" for state in RunState)


class Run(Base):
    """A run: one spec on one dataset. Only `fitserve.runs` writes here."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state_known"),
        CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name="lease_iff_running"),
        CheckConstraint("priority BETWEEN -100 AND 100", name="priority_range"),
        partial_index(
            "ix_runs_queue",
            text("priority DESC"),
            "created_at",
            "id",
            where="state = 'queued'",
        ),
        partial_index(
            "ix_runs_lease",
            "lease_expires_at",
            where="state = 'running'",
        ),
        Index("ix_runs_owner_id", "owner", "id"),  # ids sort by time
        Index("ix_runs_dataset_id_id", "dataset_id", "id"),
        partial_index(
            "ix_runs_live",  # quotas
            "owner",
            "state",
            where="state IN ('queued', 'running')",
        ),
        Index("ix_runs_finished", "finished_at"),
        Index("ix_runs_key_id_finished_at", "key_id", "finished_at"),  # quotas of a key
        partial_index(
            "ix_runs_initial_weights",
            "initial_weights",
            where="initial_weights IS NOT NULL",
        ),
        partial_index("ix_runs_shared", "id", where="shared"),
        partial_index(
            "ix_runs_parent_id",
            "parent_id",
            where="parent_id IS NOT NULL",
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), default=RunKind.training)  # a RunKind
    owner: Mapped[str] = mapped_column(String(63))
    key_id: Mapped[str | None] = mapped_column(String(40))  # the API key that submitted it
    shared: Mapped[bool] = mapped_column(default=False, server_default=false())
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))  # None for an import, which creates one
    model: Mapped[str | None] = mapped_column(String(63))  # the name under which it is registered when it succeeds
    spec: Mapped[dict[str, Any]]  # as submitted
    resolved: Mapped[dict[str, Any]]  # the spec with every default filled in
    estimates: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), default=RunState.queued)
    priority: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)  # counts every claim; part of the fence
    spent_attempts: Mapped[int] = mapped_column(default=0)  # a release during graceful shutdown does not count
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(128))
    dispatched_at: Mapped[datetime | None]  # when its message was last published
    cancel_requested_at: Mapped[datetime | None]
    checkpoint: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))
    checkpoint_epoch: Mapped[int | None]
    initial_weights: Mapped[str | None] = mapped_column(String(64))  # the artifact from which its network starts
    parent_id: Mapped[str | None] = mapped_column(
        ForeignKey("runs.id")
    )  # the run that it was derived from, or whose trial it is
    result: Mapped[dict[str, Any] | None]  # final metrics, artifact, trials, evaluation
    error: Mapped[dict[str, Any] | None]  # problem details with a `cause`
    origin: Mapped[dict[str, Any] | None]  # the request that created it: request_id, traceparent
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]  # start of the last attempt
    progress_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    name: Mapped[str | None] = mapped_column(String(120))  # name, tags and notes belong to the owner and have no effect
    tags: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    notes: Mapped[str | None]
    scores: Mapped[dict[str, Any] | None]  # the result's scores, for lists: `fitserve.runs.scores`
    # set by the transaction that deletes the run; its events can be deleted only then
    deleted_at: Mapped[datetime | None]

    @property
    def input_dataset(self) -> str:
        """The dataset that the run reads; every kind of run but an import has one."""
        assert self.dataset_id is not None
        return self.dataset_id


class Event(Base):
    """An event of a run: append-only. `id` is the cursor of the event stream."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("run_id", "attempt", "seq"), Index("ix_events_run", "run_id", "id"))
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    attempt: Mapped[int]
    seq: Mapped[int]  # numbered by the writer within the attempt, so that a repeated report changes nothing
    level: Mapped[str] = mapped_column(String(8))  # info, warn, error
    type: Mapped[str] = mapped_column(String(16))  # message, state, metrics
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Epoch(Base):
    """One pass over the training rows: append-only, once for each trial and epoch."""

    __tablename__ = "epochs"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)  # from 1
    attempt: Mapped[int]
    logs: Mapped[dict[str, Any]]  # Keras's logs: loss, val_loss, metrics, learning_rate
    seconds: Mapped[float]
    layers: Mapped[dict[str, Any] | None]  # per-layer norms and shares (insight)
    created_at: Mapped[datetime]


class Trial(Base):
    """A trial of a search. It starts and ends once; an interrupted search resumes from these rows."""

    __tablename__ = "trials"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'pruned', 'failed')", name="trial_state_known"),
    )
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # from 0
    attempt: Mapped[int]  # the attempt that recorded its end, else its start
    state: Mapped[str] = mapped_column(String(16))
    point: Mapped[dict[str, Any]]  # the choice for each range, by the range's JSON pointer: fitserve.spec.search
    chosen: Mapped[dict[str, Any]]  # the chosen values by short name
    value: Mapped[float | None]  # the searched metric, with the weights that were kept
    epochs: Mapped[int | None]
    best_epoch: Mapped[int | None]
    seconds: Mapped[float]
    reason: Mapped[str | None]  # why it failed, was pruned or ended early
    rungs: Mapped[dict[str, Any] | None]  # the metric at the epochs where trials are compared
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Idempotency(Base):
    """The run that a POST with an Idempotency-Key has created."""

    __tablename__ = "idempotency"
    owner: Mapped[str] = mapped_column(String(63), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    created_at: Mapped[datetime]


class Worker(Base):
    """A live worker process, for the operator's page and estimates. No run is assigned by it."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    run_id: Mapped[str | None] = mapped_column(String(40))
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


class GangMember(Base):
    """A worker that helps to train another run's network, or a run that waits for helpers.

    `run_id` is the helper's run, or the led run itself where it let other runs go first.
    """

    __tablename__ = "gang_members"
    __table_args__ = (Index("ix_gang_members_gang_id", "gang_id"),)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    gang_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))  # the leader's run
    attempt: Mapped[int]  # attempt of run_id, which fences this announcement
    hostname: Mapped[str] = mapped_column(String(255))
    address: Mapped[str | None] = mapped_column(String(300))  # host:port where the others reach it; None while it waits
    rank: Mapped[int | None]  # set once the gang has started
    addresses: Mapped[list[Any] | None]  # all members' addresses by rank; the leader's is first


# Terminal states are immutable for every writer. Migrations create these triggers.
TERMINAL_GUARD = {
    "sqlite": [
        """CREATE TRIGGER runs_terminal_immutable BEFORE UPDATE OF state ON runs
           WHEN OLD.state IN ('succeeded', 'failed', 'cancelled') AND NEW.state <> OLD.state
           BEGIN SELECT RAISE(ABORT, 'a terminal run state is immutable'); END""",
    ],
    "postgresql": [
        """CREATE FUNCTION runs_terminal_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'a terminal run state is immutable' USING ERRCODE = 'check_violation'; END $$""",
        """CREATE TRIGGER runs_terminal_immutable BEFORE UPDATE OF state ON runs FOR EACH ROW
           WHEN (OLD.state IN ('succeeded', 'failed', 'cancelled') AND NEW.state <> OLD.state)
           EXECUTE FUNCTION runs_terminal_immutable()""",
    ],
}
