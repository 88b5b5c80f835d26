"""Uploaded weights: arrays by layer, from which a network starts."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel


class WeightsSummary(DataModel):
    """Uploaded weights, in a list."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(description="What `initial_weights: {upload: ...}` names")
    owner: str
    sha256: str = Field(description="Of the file, as sent")
    bytes: int
    parameters: int = Field(description="Numbers, of all arrays together")
    created_at: datetime


class WeightsInfo(WeightsSummary):
    """Uploaded weights."""

    tensors: dict[str, list[int]] = Field(
        description="Shapes by layer and place, as `dense/0`: a layer's arrays in Keras's order"
    )
