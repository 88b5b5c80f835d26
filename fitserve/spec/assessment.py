"""What a client learns from resolving a spec: the network's table, the run's cost, and advice.

Only the response models, without the layers, so that a client can read them without importing the rest of the spec.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel


class SummaryRow(DataModel):
    """One row of the table that `model.summary()` prints."""

    model_config = ConfigDict(frozen=True)

    name: str
    layer: str
    output_shape: tuple[int | None, ...] = Field(description="The batch first, as null")
    parameters: int
    trainable: int
    inputs: tuple[str, ...] = Field(description="The layers it is connected to")
    multiply_adds: int = Field(description="Of one row, forward")
    begins: Literal["seed", "source"] | None = Field(
        None, description="With initial_weights: where the layer's first weights are from"
    )
    frozen: bool = Field(False, description="Its weights are not trained")


class Estimates(DataModel):
    """The cost of the run."""

    model_config = ConfigDict(frozen=True)

    parameters: int = Field(description="Of all members together")
    trainable_parameters: int = Field(description="Of all members together")
    layers: int = Field(description="Layers of one network")
    training_rows: int = Field(description="Rows that each network trains on")
    steps_per_epoch: int
    multiply_adds_per_row: int = Field(description="Of the forward pass")
    multiply_adds: int = Field(
        description="Of all restarts or members, and all epochs, forward and backward, without early stopping"
    )
    activation_bytes: int = Field(description="Activations of one batch that are kept for the backward pass")
    training_bytes: int = Field(description="Weights, gradients, the optimizer's arrays and one batch")
    rows_bytes: int = Field(
        0,
        description="All rows as they are trained on, one-hot columns as places where they are many; a worker streams"
        " from its disk what would take more than a sixth of its memory",
    )
    artifact_bytes: int = Field(description="The weights alone, in 32 bits")
    seconds: float = Field(description="At the pace measured on the workers, without early stopping")
    startup_seconds: float = Field(0.0, description="The part of `seconds` before and after training")
    epochs: int = Field(0, description="Of all restarts together, without early stopping")
    pace: float = Field(1.0, description="Time that the workers take, as a multiple of the reference machine's")


class Advice(DataModel):
    """Something valid but unwise."""

    model_config = ConfigDict(frozen=True)

    code: str
    detail: str
    pointer: str
    fix: str | None = None
