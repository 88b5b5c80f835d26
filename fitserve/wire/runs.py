"""Runs as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fitserve.spec.advice import Advice
from fitserve.spec.estimates import Estimates, SummaryRow
from fitserve.states import RunState


class RunSummary(BaseModel):
    """A run in a list."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: str = Field(
        description="`training`; `reproduction`: the parent again, to the letter; `trial`: one of the parent's trials"
    )
    state: RunState
    owner: str
    shared: bool = Field(False, description="Whether other owners may look at it")
    model: str | None = Field(description="Registered under this name when it succeeds")
    dataset_id: str
    priority: int = Field(description="-100 to 100; higher goes first")
    attempt: int = Field(description="Times that a worker has taken it up")
    parent_id: str | None = Field(description="The run that this one repeats, or is a trial of")
    result: dict[str, Any] | None
    error: dict[str, Any] | None = Field(description="Of a failed run: `cause`, `detail` and evidence")
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None = Field(description="Of the last attempt")
    finished_at: datetime | None


class RunPatch(BaseModel):
    """What may be changed of a run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shared: bool = Field(description="Whether other owners may look at it, its epochs, events and insight")


class QueuePlace(BaseModel):
    """Where a queued run stands."""

    position: int = Field(description="Runs that go first; 0 is the next one")
    estimated_start: datetime | None = Field(description="From recent runs and live workers; null where none lives")


class Progress(BaseModel):
    """How far the last attempt has come."""

    trial: int = Field(description="From 0")
    epoch: int = Field(description="Epochs done in this trial")
    trials: int
    epochs: int = Field(description="Of each trial, if it does not stop early")
    logs: dict[str, Any] = Field(description="Keras's logs of the last epoch")
    estimated_finish: datetime | None


class EpochDifference(BaseModel):
    """The first epoch in which a reproduction did not repeat its parent."""

    trial: int
    epoch: int
    expected: dict[str, Any] | None
    received: dict[str, Any] | None


class Reproduction(BaseModel):
    """A reproduction, epoch by epoch, beside the run that it repeats."""

    epochs_compared: int
    equal: bool = Field(description="Every epoch so far has the same logs, to the bit")
    first_difference: EpochDifference | None


class RunInfo(RunSummary):
    """A run, whole."""

    spec: dict[str, Any] = Field(description="As it was asked for")
    resolved: dict[str, Any] = Field(description="With every default written out: send it again and get the same run")
    estimates: dict[str, Any]
    spent_attempts: int = Field(description="Attempts that count towards the maximum")
    checkpoint_epoch: int | None = Field(description="A lost worker's run goes on after this epoch")
    queue: QueuePlace | None
    progress: Progress | None
    reproduction: Reproduction | None


class Validation(BaseModel):
    """A spec that would be accepted: what `validate_only=true` answers."""

    valid: Literal[True] = True
    resolved: dict[str, Any]
    summary: list[SummaryRow]
    estimates: Estimates
    warnings: list[Advice]


class EventInfo(BaseModel):
    """Something that happened to a run."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Grows; the cursor of the list, and the `id` of the stream")
    run_id: str
    attempt: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "state", "metrics"]
    message: str
    data: dict[str, Any]
    created_at: datetime


class EpochInfo(BaseModel):
    """One pass over the training rows."""

    model_config = ConfigDict(from_attributes=True)

    trial: int = Field(description="From 0")
    epoch: int = Field(description="From 1")
    attempt: int
    logs: dict[str, Any] = Field(description="Keras's logs, and the learning rate; null where a value was not finite")
    seconds: float
    rows_per_second: float | None = Field(None, description="Training rows; of trials that train stacked, each's own")
    layers: dict[str, Any] | None
    created_at: datetime
