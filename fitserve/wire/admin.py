"""API keys, the audit log and the state of the whole server."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.ids import NAME_PATTERN
from fitserve.wire.operations import ConditionInfo

ScopeName = Literal["read", "upload", "train", "predict", "keys", "admin"]
Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["scoring-service"])]


class Quotas(DataModel):
    """Limits of one key. The server's settings apply where a quota is omitted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests_per_minute: int | None = Field(None, ge=1, le=10**9, description="Requests to the control API")
    uploads_per_hour: int | None = Field(None, ge=1, le=10**9)
    queued_runs: int | None = Field(None, ge=0, le=10**9, description="Runs that may be queued at the same time")
    running_runs: int | None = Field(None, ge=0, le=10**9, description="Runs that may train at the same time")
    training_seconds_per_day: int | None = Field(
        None, ge=0, le=10**9, description="Training time of its runs in 24 hours; checked when a run is submitted"
    )


NO_QUOTAS = Quotas()


class KeyRequest(DataModel):
    """A key to create."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    owner: Name | None = Field(None, description="The key's owner; the caller's own if omitted")
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=6, examples=[["read", "predict"]])]
    models: Annotated[list[Name], Field(max_length=1000)] | None = Field(
        None, description="Models that a predict key is limited to"
    )
    expires_at: AwareDatetime | None = None
    quotas: Quotas | None = None


class KeyInfo(DataModel):
    """A key without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    owner: str
    scopes: list[str]
    models: list[str] | None
    quotas: Quotas | None = None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKey(KeyInfo):
    """A new key with its token, which is shown only once."""

    token: str = Field(description="`id.secret`: send it as `Authorization: Bearer <token>`")


class AuditEntry(DataModel):
    """One request that changed something, or tried to."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    key_id: str | None
    owner: str | None
    action: str
    target: str
    status: int
    address: str
    request_id: str
    created_at: datetime


class WorkerInfo(DataModel):
    """A worker process. For monitoring only: runs are claimed in the database, not assigned to workers."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    hostname: str
    pid: int
    run_id: str | None = Field(description="The run that it trains now")
    started_at: datetime
    heartbeat_at: datetime
    alive: bool = Field(description="Whether it sent a heartbeat within the last minute")


class StorageInfo(DataModel):
    """Blobs of one kind."""

    kind: str
    blobs: int
    bytes: int


class SystemInfo(DataModel):
    """Current workers, queue and storage, and what is wrong."""

    version: str
    now: datetime
    status: Literal["good", "warning", "critical"] = Field(description="The worst of `conditions`")
    conditions: list[ConditionInfo] = Field(description="What is wrong right now, the worst first")
    workers: list[WorkerInfo]
    runs: dict[str, int] = Field(description="Number of runs by state")
    oldest_queued_seconds: float
    storage: list[StorageInfo]
    grafana_url: str | None = Field(None, description="Address of the Grafana dashboards, if configured")
