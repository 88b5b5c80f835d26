"""Keras's callbacks that are part of training: stopping early, a lower learning rate on a plateau; and warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fitserve.spec.values import Flag, Inside, Natural, NonNegative, Number, Positive, Share

Mode = Literal["auto", "min", "max"]


class EarlyStopping(BaseModel):
    """Stops when `monitor` has not become better for `patience` epochs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    omitted: ClassVar[Mapping[str, Any]] = {"verbose": 0}

    monitor: str = Field("val_loss", description="Left out: val_loss, or loss where nothing is held out")
    min_delta: NonNegative = Field(0.0, description="A change of less does not count")
    patience: Natural = Field(0, description="Epochs without improvement")
    mode: Mode = Field("auto", description="Whether less or more is better; auto knows it from the metric")
    baseline: Number | None = Field(None, description="Stop unless it becomes better than this")
    restore_best_weights: Flag = Field(False, description="Keep the weights of the best epoch rather than the last's")
    start_from_epoch: Natural = Field(0, description="Epochs before it begins to watch")


class ReduceLROnPlateau(BaseModel):
    """Multiplies the learning rate by `factor` when `monitor` has not become better for `patience` epochs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    omitted: ClassVar[Mapping[str, Any]] = {"verbose": 0}

    monitor: str = Field("val_loss", description="Left out: val_loss, or loss where nothing is held out")
    factor: Inside = Field(0.1, description="The new learning rate over the old")
    patience: Natural = Field(10, description="Epochs without improvement")
    mode: Mode = Field("auto", description="Whether less or more is better; auto knows it from the metric")
    min_delta: NonNegative = Field(0.0001, description="A change of less does not count")
    cooldown: Natural = Field(0, description="Epochs of rest after a reduction")
    min_lr: NonNegative = Field(0.0, description="The learning rate does not fall below")


class Warmup(BaseModel):
    """The learning rate rises in a straight line from `start` of itself to all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Positive | None = Field(None, description="Batches that the rise takes")
    epochs: Positive | None = Field(None, description="Epochs that the rise takes; instead of steps")
    start: Share = Field(0.0, description="Share of the learning rate at the first batch")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"steps": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self
