"""What a served model is asked, and how fast it answers."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


class Bucket(BaseModel):
    """Answers that took at most so long."""

    le: float | None = Field(description="Seconds; null: however long")
    count: int


class VersionTraffic(BaseModel):
    """One version's answers since the prediction processes began; two looks apart give a rate and a latency."""

    version: str
    requests: int
    seconds: float = Field(description="All answers' times together")
    rows: int
    buckets: list[Bucket] = Field(description="Cumulative, as Prometheus counts them")


class Traffic(BaseModel):
    """A model's answers by version."""

    model: str
    at: datetime
    processes: int = Field(description="Prediction processes that are told of: those of the one that was asked")
    versions: list[VersionTraffic]
