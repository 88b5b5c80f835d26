"""The history of the server and of its models, alarms, and what each owner stores."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field, computed_field

from fitserve.data_model import DataModel

Severity = Literal["warning", "critical"]


class ConditionInfo(DataModel):
    """Something that is wrong with the server now."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="Which rule: `no_worker`, `queue_old`, `disk_full`, ...")
    severity: Severity
    detail: str
    subject: str = Field(description="A host, a version, a kind of process; empty: the whole server")
    figures: dict[str, Any] = Field(description="What `detail` says, for people who read another language")


class AlarmInfo(ConditionInfo):
    """A condition that lasted, with its start and end."""

    id: str
    since: datetime
    seen_at: datetime = Field(description="When it was last seen")
    ended_at: datetime | None


class HistoryPoint(DataModel):
    """The figures of one slot over all processes; null if no process wrote any."""

    at: datetime = Field(description="When the slot began")
    queued: float | None = Field(None, description="Most runs that waited at once")
    running: float | None = None
    oldest_queued_seconds: float | None = None
    workers: float | None = None
    predictions: float | None = Field(None, description="Prediction requests per second")
    predict_errors: float | None = Field(None, description="Predictions that failed")
    refused: float | None = Field(None, description="Predictions that were refused by the client's fault")
    shed: float | None = Field(None, description="Predictions turned away because a queue was full")
    p50: float | None = Field(None, description="Seconds of a prediction")
    p99: float | None = None
    loads: float | None = Field(None, description="Models loaded")
    load_failures: float | None = None
    api_requests: float | None = Field(None, description="Requests to the API per second")
    api_errors: float | None = None
    api_p50: float | None = None
    api_p99: float | None = None


class ProcessHistory(DataModel):
    """Processor time and memory of one process and its children, slot by slot."""

    process: str
    kind: str = Field(description="api, predict, worker, reaper")
    host: str
    seen_at: datetime
    cpu: list[float | None] = Field(description="Cores in use: 1 is one core all the time")
    memory_bytes: list[int | None]


class SystemHistory(DataModel):
    """The last hour by minutes, or the last day by ten minutes."""

    window: str
    step: int = Field(description="Seconds of a slot")
    at: datetime
    points: list[HistoryPoint]
    processes: list[ProcessHistory]


class ModelPoint(DataModel):
    """A model's figures in one slot; null if no prediction process wrote any."""

    at: datetime
    requests: float | None = Field(None, description="Requests per second")
    refused: int | None = None
    errors: int | None = None
    p50: float | None = None
    p99: float | None = None
    psi: float | None = Field(None, description="Largest stability index of its columns")


class VersionHistory(DataModel):
    """Requests of one version within the window."""

    version: int = Field(description="0: no version answered")
    requests: int
    refused: int
    errors: int
    rows: int
    p50: float | None
    p99: float | None


class FaultInfo(DataModel):
    """The last request of a model that failed or was refused, or its last load that failed."""

    model_config = ConfigDict(from_attributes=True)

    version: int | None
    operation: str
    status: str
    code: str
    detail: str
    at: datetime


class ModelHistory(DataModel):
    """Requests of a model within the window, over all prediction processes and protocols."""

    model: str
    window: str
    step: int
    at: datetime
    requests: int
    refused: int
    errors: int
    rows: int
    p50: float | None
    p99: float | None
    points: list[ModelPoint]
    versions: list[VersionHistory]
    drifting_since: datetime | None
    fault: FaultInfo | None


class OwnerStorage(DataModel):
    """What one owner stores."""

    owner: str
    datasets: int = 0
    dataset_bytes: int = Field(0, description="Of the tables as stored")
    runs: int = 0
    models: int = 0
    artifacts: int = 0
    artifact_bytes: int = 0
    checkpoint_bytes: int = 0
    weights_bytes: int = Field(0, description="Of uploaded weights")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes(self) -> int:
        return self.dataset_bytes + self.artifact_bytes + self.checkpoint_bytes + self.weights_bytes
