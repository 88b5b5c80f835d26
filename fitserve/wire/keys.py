"""API keys on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

ScopeName = Literal["read", "upload", "train", "predict", "admin"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", examples=["scoring-service"])]


class Quotas(BaseModel):
    """What one key may use. What is left out is as the server's settings say for every key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests_per_minute: int | None = Field(None, ge=1, le=10**9, description="Requests of the control API")
    uploads_per_hour: int | None = Field(None, ge=1, le=10**9)
    queued_runs: int | None = Field(None, ge=0, le=10**9, description="Runs that wait at the same time")
    running_runs: int | None = Field(None, ge=0, le=10**9, description="Runs that train at the same time")
    training_seconds_per_day: int | None = Field(
        None, ge=0, le=10**9, description="Seconds that its runs may train in 24 hours; checked when a run is submitted"
    )

    def set_ones(self) -> dict[str, int]:
        """Those that are said."""
        return self.model_dump(exclude_none=True)


NO_QUOTAS = Quotas()


class KeyRequest(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    owner: Name | None = Field(None, description="Whose key it is; the caller's own when left out")
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=5, examples=[["read", "predict"]])]
    models: Annotated[list[Name], Field(max_length=1000)] | None = Field(
        None, description="A predict key may be limited to these models"
    )
    expires_at: AwareDatetime | None = None
    quotas: Quotas | None = None


class KeyInfo(BaseModel):
    """A key, without its secret."""

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
    """A key with its token, which is shown this once."""

    token: str = Field(description="`id.secret`: send it as `Authorization: Bearer <token>`")
