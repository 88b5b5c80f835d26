"""What an operator's page shows of the whole server."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class WorkerInfo(BaseModel):
    """A worker process. Work is never given out by these rows; they are for people."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    hostname: str
    pid: int
    run_id: str | None = Field(description="What it trains now")
    started_at: datetime
    heartbeat_at: datetime
    alive: bool = Field(description="Whether it gave a sign within the last minute")


class StorageInfo(BaseModel):
    """Blobs of one kind."""

    kind: str
    blobs: int
    bytes: int


class SystemInfo(BaseModel):
    """Workers, queue and storage, now."""

    version: str
    now: datetime
    workers: list[WorkerInfo]
    runs: dict[str, int] = Field(description="By state")
    oldest_queued_seconds: float
    storage: list[StorageInfo]
    grafana_url: str | None = Field(None, description="Where its dashboards are, where a setting says so")


class AuditEntry(BaseModel):
    """One changing request."""

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
