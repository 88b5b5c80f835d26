"""Models, versions and labels as the control API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class VersionInfo(BaseModel):
    """A numbered, immutable version."""

    model_config = ConfigDict(from_attributes=True)

    model: str
    version: int
    run_id: str
    artifact: str = Field(description="SHA-256 of the manifest")
    metrics: dict[str, Any]
    retired_at: datetime | None
    created_at: datetime


class LabelInfo(BaseModel):
    """A movable name of a version."""

    model_config = ConfigDict(from_attributes=True)

    label: str
    version: int
    artifact: str | None = Field(description="A kept checkpoint's artifact, else null: the version's own")
    weight: float = Field(description="Share of the requests without a version, 0 to 1")
    shadow: bool = Field(description="Gets a copy of the traffic; its answers are only measured")
    previous: int | None = Field(description="Where a roll-back goes")
    updated_at: datetime


class ModelInfo(BaseModel):
    """A name under which versions are served."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    owner: str
    shared: bool
    loaded: bool
    generation: int = Field(description="Moves with every change")
    created_at: datetime


class ModelDetail(ModelInfo):
    """A model with its versions (newest first) and labels. `serving` answers requests without a version."""

    serving: int | None
    versions: list[VersionInfo]
    labels: list[LabelInfo]


class ModelPatch(BaseModel):
    """What may be changed of a model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shared: bool | None = Field(None, description="Whether other owners see it")
    loaded: bool | None = Field(None, description="Whether the prediction service holds it in memory")


class LabelRequest(BaseModel):
    """Where a label shall point. What is left out stays as it was."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1)
    epoch: int | None = Field(None, ge=1, description="A kept epoch of the version's run, instead of its best")
    weight: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    shadow: bool | None = None


class RollbackRequest(BaseModel):
    """Which label goes back to the version it named before."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: str = "champion"
