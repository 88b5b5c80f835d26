"""ORM rows. Times are UTC, from the database's clock; JSON columns hold what `wire` or `spec` describe."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fitserve.states import RunState

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time, also on SQLite, which stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base class of all rows."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcTime,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        int: BigInteger().with_variant(Integer, "sqlite"),
    }


class Blob(Base):
    """Bytes in the blob store, named by their SHA-256. Only blobs with a row are loaded."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    bytes: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))  # dataset, manifest, keras, onnx, checkpoint, plot, ...
    created_at: Mapped[datetime]


PLAYGROUND = "playground-"  # how the names of the datasets begin that the pages' playground makes


class Dataset(Base):
    """One version of an uploaded table, immutable."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("name", "version"), Index("ix_datasets_sha256", "sha256"))
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    version: Mapped[int]
    owner: Mapped[str] = mapped_column(String(63))
    sha256: Mapped[str] = mapped_column(String(64))  # of the content as uploaded
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))  # the Parquet file
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    rows: Mapped[int]
    bytes: Mapped[int]  # as uploaded
    source: Mapped[dict[str, Any]]  # format, dialect, encoding, compression, options of the upload
    columns: Mapped[list[Any]]  # wire.Column, in order
    profile: Mapped[dict[str, Any]]
    refused: Mapped[dict[str, Any] | None]  # lenient uploads: how many rows were skipped, and the first of them
    notices: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))  # wire.notices.Notice
    shared: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class StagedRows(Base):
    """A batch of rows that waits to be appended, and then by which version it was."""

    __tablename__ = "staged_rows"
    __table_args__ = (
        UniqueConstraint("name", "batch"),
        Index(
            "ix_staged_rows_waiting",
            "name",
            "id",
            sqlite_where=text("dataset_id IS NULL"),
            postgresql_where=text("dataset_id IS NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # ids sort by time
    owner: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(63))  # of the dataset
    batch: Mapped[str | None] = mapped_column(String(255))  # the Idempotency-Key
    sha256: Mapped[str] = mapped_column(String(64))  # as sent
    rows: Mapped[int]
    size: Mapped[int]  # in bytes, as sent
    parquet: Mapped[bytes | None]  # parsed; None once it is appended
    dataset_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]


class UploadedWeights(Base):
    """Arrays by layer, for networks to begin with. Only `fitserve.uploaded_weights` writes here."""

    __tablename__ = "uploaded_weights"
    __table_args__ = (UniqueConstraint("owner", "sha256"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # ids sort by time
    owner: Mapped[str] = mapped_column(String(63))
    sha256: Mapped[str] = mapped_column(String(64))  # of the file, as sent
    artifact: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))  # the manifest that names it
    bytes: Mapped[int]
    parameters: Mapped[int]
    created_at: Mapped[datetime]


class Upload(Base):
    """An unfinished resumable upload."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    length: Mapped[int | None]
    offset: Mapped[int]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    dataset_id: Mapped[str | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


_STATES = ", ".join(f"'{state}'" for state in RunState)


class Run(Base):
    """A run: one spec on one dataset. Only `fitserve.runs` writes here."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state_known"),
        CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name="lease_iff_running"),
        CheckConstraint("priority BETWEEN -100 AND 100", name="priority_range"),
        Index(
            "ix_runs_queue",
            text("priority DESC"),
            "created_at",
            "id",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_runs_lease",
            "lease_expires_at",
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
        Index("ix_runs_owner_id", "owner", "id"),  # ids sort by time
        Index("ix_runs_dataset_id_id", "dataset_id", "id"),
        Index(
            "ix_runs_live",  # quotas
            "owner",
            "state",
            sqlite_where=text("state IN ('queued', 'running')"),
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        Index("ix_runs_finished", "finished_at"),
        Index("ix_runs_key_id_finished_at", "key_id", "finished_at"),  # quotas of a key
        Index(
            "ix_runs_initial_weights",
            "initial_weights",
            sqlite_where=text("initial_weights IS NOT NULL"),
            postgresql_where=text("initial_weights IS NOT NULL"),
        ),
        Index("ix_runs_shared", "id", sqlite_where=text("shared"), postgresql_where=text("shared")),
        Index(
            "ix_runs_parent_id",
            "parent_id",
            sqlite_where=text("parent_id IS NOT NULL"),
            postgresql_where=text("parent_id IS NOT NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), default="training")  # reproduction, trial, prediction
    owner: Mapped[str] = mapped_column(String(63))
    key_id: Mapped[str | None] = mapped_column(String(40))  # of the API key that submitted it
    shared: Mapped[bool] = mapped_column(default=False, server_default=false())
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    model: Mapped[str | None] = mapped_column(String(63))  # registered under this name when it succeeds
    spec: Mapped[dict[str, Any]]  # as submitted
    resolved: Mapped[dict[str, Any]]  # with every default filled in
    estimates: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), default=RunState.queued)
    priority: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)  # counts every claim: part of the fence
    spent_attempts: Mapped[int] = mapped_column(default=0)  # a release in a graceful shutdown spends none
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(128))
    dispatched_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    checkpoint: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))
    checkpoint_epoch: Mapped[int | None]
    initial_weights: Mapped[str | None] = mapped_column(String(64))  # the artifact that its network begins with
    parent_id: Mapped[str | None] = mapped_column(
        ForeignKey("runs.id")
    )  # the run that it was made from, or whose trial it is
    result: Mapped[dict[str, Any] | None]  # final metrics, artifact, trials, evaluation
    error: Mapped[dict[str, Any] | None]  # problem details with a `cause`
    origin: Mapped[dict[str, Any] | None]  # the request that created it: request_id, traceparent
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]  # of the last attempt
    progress_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    name: Mapped[str | None] = mapped_column(String(120))  # these three are its owner's, and change nothing
    tags: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    notes: Mapped[str | None]
    scores: Mapped[dict[str, Any] | None]  # of its result, for lists: `fitserve.runs.scores`
    deleted_at: Mapped[datetime | None]  # set in the transaction that deletes it: only then its events can go


class Event(Base):
    """An event of a run: append-only. `id` is the cursor of the event stream."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("run_id", "attempt", "seq"), Index("ix_events_run", "run_id", "id"))
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    attempt: Mapped[int]
    seq: Mapped[int]  # numbered by the writer within the attempt: a repeated report changes nothing
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
    """A trial of a search. It begins and ends once; an interrupted search resumes from these rows."""

    __tablename__ = "trials"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'pruned', 'failed')", name="trial_state_known"),
    )
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # from 0
    attempt: Mapped[int]  # that wrote its end, or its beginning
    state: Mapped[str] = mapped_column(String(16))
    point: Mapped[dict[str, Any]]  # what each range became, by its JSON pointer: fitserve.spec.search
    chosen: Mapped[dict[str, Any]]  # the same by short names, with the values themselves
    value: Mapped[float | None]  # of the searched metric, at the weights that were kept
    epochs: Mapped[int | None]
    best_epoch: Mapped[int | None]
    seconds: Mapped[float]
    reason: Mapped[str | None]  # why it failed, was pruned or ended early
    rungs: Mapped[dict[str, Any] | None]  # the metric after the epochs at which trials are compared
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


class Model(Base):
    """A name under which versions are served. `generation` increases with every change."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    generation: Mapped[int] = mapped_column(default=0)
    loaded: Mapped[bool] = mapped_column(default=True)
    shared: Mapped[bool] = mapped_column(default=False)
    sharing: Mapped[str | None] = mapped_column(String(16))  # of a shared model: wire.models.Sharing; None is `ask`
    open_feedback: Mapped[bool] = mapped_column(default=False, server_default=false())  # other owners' counts
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
    artifact: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"))  # of a kept epoch, else the version's
    weight: Mapped[float] = mapped_column(default=0.0)  # canary: share of unversioned requests, 0 to 1
    shadow: Mapped[bool] = mapped_column(default=False)  # gets a copy of the traffic; its predictions are only measured
    previous: Mapped[int | None]  # the version before: rollback goes there
    updated_at: Mapped[datetime]


class DecisionChange(Base):
    """The decisions of a version from a moment on; before the first, those of its manifest. Append-only by its code."""

    __tablename__ = "decisions"
    __table_args__ = (
        ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
        Index("ix_decisions_version", "model", "version", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(63))
    version: Mapped[int]
    decisions: Mapped[list[Any]]  # in force: `fitserve.decisions.apply`
    asked: Mapped[dict[str, Any] | None]  # by whom it was moved; None: back to those of the training
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
    rows: Mapped[int]  # of ground truth that have moved it
    changed_at: Mapped[datetime]


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


class Worker(Base):
    """A live worker process, for the operator's page and estimates. No run is assigned by it."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    run_id: Mapped[str | None] = mapped_column(String(40))
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]


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


class OutboxEvent(Base):
    """Something that happened, written with the change itself: see `fitserve.events`."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_owner_id", "owner", "id"),  # ids sort by time
        Index(
            "ix_outbox_waiting",
            "id",
            sqlite_where=text("dispatched_at IS NULL"),
            postgresql_where=text("dispatched_at IS NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str] = mapped_column(String(63))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    dispatched_at: Mapped[datetime | None]  # when a delivery was made for each webhook that wants it


class Webhook(Base):
    """Where an owner's events are sent: an address of their own, or a channel that the operator configured."""

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("(url IS NULL) <> (channel IS NULL)", name="url_or_channel"),
        Index("ix_webhooks_owner", "owner"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    key_id: Mapped[str | None] = mapped_column(String(40))  # that created it
    url: Mapped[str | None] = mapped_column(String(2048))
    channel: Mapped[str | None] = mapped_column(String(63))
    events: Mapped[list[Any]]  # types, or `run.*`, or `*`
    description: Mapped[str | None] = mapped_column(String(200))
    all_owners: Mapped[bool] = mapped_column(default=False, server_default=false())  # of an admin's
    secret: Mapped[str | None] = mapped_column(String(128))  # signs deliveries; no answer of the API holds it
    previous_secret: Mapped[str | None] = mapped_column(String(128))  # signs too, until the receiver knows the new one
    sealed_secret: Mapped[str | None] = mapped_column(String(300))  # these two encrypted, where the operator has keys
    sealed_previous_secret: Mapped[str | None] = mapped_column(String(300))
    previous_until: Mapped[datetime | None]
    enabled: Mapped[bool] = mapped_column(default=True, server_default=true())
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    failing_since: Mapped[datetime | None]  # the first failure after the last success
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Delivery(Base):
    """One event on its way to one webhook. Only the holder of its lease writes how an attempt ended."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event_id"),
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="delivery_state_known"),
        Index(
            "ix_deliveries_due",
            "next_at",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        Index(
            "ix_deliveries_failed",
            "next_at",
            sqlite_where=text("state = 'failed'"),
            postgresql_where=text("state = 'failed'"),
        ),
        Index("ix_deliveries_event_id", "event_id"),
        Index("ix_deliveries_webhook_id_id", "webhook_id", "id"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    event_id: Mapped[str] = mapped_column(ForeignKey("outbox.id"))
    state: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(default=0)  # of this round: `redeliver` begins another
    log: Mapped[list[Any]] = mapped_column(default=list)  # wire.webhooks.DeliveryAttempt, the last ones
    next_at: Mapped[datetime]
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]


class Drifting(Base):
    """A served version whose inputs have drifted: its row is added once and removed once, each with an event."""

    __tablename__ = "drifting"
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    psi: Mapped[float]
    since: Mapped[datetime]


class Rollout(Base):
    """A version on its way to the champion, or two versions compared: only `fitserve.rollouts` writes here."""

    __tablename__ = "rollouts"
    __table_args__ = (
        CheckConstraint("kind IN ('rollout', 'ab')", name="rollout_kind_known"),
        CheckConstraint(
            "state IN ('running', 'paused', 'succeeded', 'rolled_back', 'aborted')", name="rollout_state_known"
        ),
        Index(
            "uq_rollouts_active",  # one at a time
            "model",
            unique=True,
            sqlite_where=text("state IN ('running', 'paused')"),
            postgresql_where=text("state IN ('running', 'paused')"),
        ),
        Index("ix_rollouts_model_id", "model", "id"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    kind: Mapped[str] = mapped_column(String(16))
    base: Mapped[int]  # the version that was champion
    to: Mapped[int]
    plan: Mapped[dict[str, Any]]  # steps, hold, min_requests, guards, shadow: `fitserve.rollouts.Plan`
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[int]  # place in `plan.steps`
    step_at: Mapped[datetime]  # when the step began, moved on by pauses
    paused_at: Mapped[datetime | None]
    reason: Mapped[dict[str, Any] | None]  # why it ended
    owner: Mapped[str | None] = mapped_column(String(63))  # who started it
    key_id: Mapped[str | None] = mapped_column(String(40))
    lease_holder: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class RolloutStep(Base):
    """A step of a rollout: when it began, its guards' last figures, and their curves."""

    __tablename__ = "rollout_steps"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    started_at: Mapped[datetime]
    figures: Mapped[list[Any]]  # `fitserve.rollouts.guards.Figure`
    curves: Mapped[dict[str, Any]]  # by guard: points, oldest first


class RolloutCount(Base):
    """What one prediction process counted in one step of a rollout: `fitserve.rollouts.guards.StepCounts`."""

    __tablename__ = "rollout_counts"
    rollout_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    counts: Mapped[dict[str, Any]]


class Automation(Base):
    """A policy of an owner's: when to train, what, and what happens then. Only `fitserve.automations` writes here."""

    __tablename__ = "automations"
    __table_args__ = (UniqueConstraint("owner", "name"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    key_id: Mapped[str | None] = mapped_column(String(40))  # that created it: revoked, it pauses
    name: Mapped[str] = mapped_column(String(63))
    model: Mapped[str | None] = mapped_column(String(63))  # that its runs register
    policy: Mapped[dict[str, Any]]  # wire.automations.Policy
    enabled: Mapped[bool] = mapped_column(default=True, server_default=true())
    paused_reason: Mapped[str | None] = mapped_column(String(500))
    failures: Mapped[int] = mapped_column(default=0)  # in a row
    baseline_id: Mapped[str | None] = mapped_column(String(40))  # the dataset version that was last trained on
    next_at: Mapped[datetime | None]  # of a schedule
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AutomationFiring(Base):
    """One tick of an automation, once: unique on the tick, whoever looks."""

    __tablename__ = "firings"
    __table_args__ = (
        UniqueConstraint("automation_id", "tick"),
        CheckConstraint(
            "state IN ('queued', 'open', 'training', 'done', 'failed', 'refused', 'skipped')",
            name="firing_state_known",
        ),
        Index("ix_firings_automation_id_id", "automation_id", "id"),
        Index(
            "ix_firings_live",
            "id",
            sqlite_where=text("state IN ('queued', 'open', 'training')"),
            postgresql_where=text("state IN ('queued', 'open', 'training')"),
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
        Index(
            "uq_alarms_open",  # one at a time
            "name",
            "subject",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
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


class GangMember(Base):
    """A worker that helps to train another run's network, or a run that waits for such workers.

    `run_id` is the helper's run, or the led run itself where it let other runs go first.
    """

    __tablename__ = "gang_members"
    __table_args__ = (Index("ix_gang_members_gang_id", "gang_id"),)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    gang_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))  # the led run
    attempt: Mapped[int]  # of run_id: the fence of what its holder announced
    hostname: Mapped[str] = mapped_column(String(255))
    address: Mapped[str | None] = mapped_column(String(300))  # host:port where the others reach it; None: it waits
    rank: Mapped[int | None]  # once the gang has begun
    addresses: Mapped[list[Any] | None]  # of all, by rank; the first is the leader's


class Leader(Base):
    """Which process does something that one at a time may do, until its lease ends."""

    __tablename__ = "leaders"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    holder: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime]


# Terminal states are immutable, whoever writes. Migrations create these triggers.
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
