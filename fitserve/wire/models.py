"""Models, versions, labels; the live traffic, drift and ground truth of a served model."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.spec.interval import check_level
from fitserve.states import RunState
from fitserve.wire.destinations import Destination

Sharing = Literal["ask", "inspect", "download"]


class VersionInfo(DataModel):
    """A numbered, immutable version."""

    model_config = ConfigDict(from_attributes=True)

    model: str
    version: int
    run_id: str
    artifact: str = Field(description="SHA-256 of the manifest")
    metrics: dict[str, Any]
    retired_at: datetime | None
    created_at: datetime


class LabelInfo(DataModel):
    """A movable name for a version."""

    model_config = ConfigDict(from_attributes=True)

    label: str
    version: int
    artifact: str | None = Field(description="Artifact of a kept epoch; null for the version's own artifact")
    weight: float = Field(description="Share of the requests that name no version, 0 to 1")
    shadow: bool = Field(description="Receives a copy of the traffic; its answers are measured, never returned")
    previous: int | None = Field(description="The version that a rollback restores")
    updated_at: datetime


class ModelInfo(DataModel):
    """A name under which versions are served."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    owner: str
    shared: bool
    sharing: Sharing | None = Field(
        None,
        description="What other owners may do: `ask` for predictions; `inspect`, also read its manifest, drift and "
        "explanations, with quantiles and categories of the training rows; `download`, also its files",
    )
    open_feedback: bool = Field(False, description="Whether ground truth of other owners counts in its live figures")
    loaded: bool
    generation: int = Field(description="Incremented by every change")
    created_at: datetime

    @model_validator(mode="after")
    def _name_what_is_shared(self) -> ModelInfo:
        self.sharing = (self.sharing or "ask") if self.shared else None
        return self


class ModelDetail(ModelInfo):
    """A model with its versions (newest first) and labels. `serving` answers requests that name no version."""

    serving: int | None
    versions: list[VersionInfo]
    labels: list[LabelInfo]


class ModelPatch(DataModel):
    """Changes to a model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shared: bool | None = Field(None, description="Whether other owners can ask it for predictions")
    sharing: Sharing | None = Field(None, description="Share it for more: see the model's `sharing`")
    open_feedback: bool | None = Field(None, description="Count ground truth that other owners post")
    loaded: bool | None = Field(None, description="Whether the prediction service holds it in memory")

    @model_validator(mode="after")
    def _shared_for_something(self) -> ModelPatch:
        if self.shared is False and self.sharing is not None:
            raise ValueError("`sharing` says what is shared, and `shared` that nothing is")
        return self


class LabelRequest(DataModel):
    """Target of a label. Omitted settings keep their value."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, le=2**31 - 1)
    epoch: int | None = Field(
        None, ge=1, le=2**31 - 1, description="A kept epoch of the version's run, instead of its best epoch"
    )
    weight: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    shadow: bool | None = None


class RollbackRequest(DataModel):
    """The label to point back at its previous version."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: str = "champion"


class ExportRequest(DataModel):
    """A format to export a version to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["onnx-raw", "mlflow", "saved-model", "code"] = Field(
        description="`onnx-raw`: ONNX with the preprocessing inside; `mlflow`: an MLflow model, zipped; `saved-model`: "
        "for TensorFlow Serving, zipped; all take raw columns, as model.keras does. `code`: a script and a notebook "
        "that train the network, zipped"
    )


class ExportInfo(DataModel):
    """One export of a version: it can be downloaded once its run has succeeded."""

    format: str
    run_id: str = Field(description="Of kind `export`")
    state: RunState
    file: str | None = Field(None, description="SHA-256 of the file")
    bytes: int | None = None
    parity: dict[str, Any] | None = Field(
        None, description="Against what is served: rows compared, and the largest difference (`max_abs`, `max_rel`)"
    )
    error: dict[str, Any] | None = Field(None, description="Of a failed one: cause and detail")


class PredictionRequest(DataModel):
    """A batch prediction. Without `version` and `label`, the champion or the newest version predicts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset: str = Field(max_length=120, description="A dataset's id, name, or name@version")
    version: int | None = Field(None, ge=1, le=2**31 - 1)
    label: str | None = Field(None, max_length=63)
    name: str | None = Field(None, max_length=63, description="Name of the dataset to create")
    destination: Destination | Literal["download"] | None = Field(
        None, description="Where the predictions go; left out, or `download`: a new dataset, which can be downloaded"
    )
    columns: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=10_000)] | None = Field(
        None, description="Columns of the dataset that stand beside the predictions; all of them if left out"
    )
    interval: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | Literal[False] | None,
        BeforeValidator(lambda value: value if value is None or value is False else check_level(value)),
    ] = Field(
        None,
        description="Share of the rows whose truth the interval or set of labels is to contain; left out: the level of "
        "the version's spec, if any; false: none",
    )


class Bucket(DataModel):
    """Number of requests answered within a given time."""

    le: float | None = Field(description="Upper bound in seconds; null for no bound")
    count: int


class VersionTraffic(DataModel):
    """Counters of one version since the prediction processes started."""

    version: str
    requests: int
    seconds: float = Field(description="Total time spent answering")
    rows: int
    buckets: list[Bucket] = Field(description="Cumulative latency histogram, as in Prometheus")


class Traffic(DataModel):
    """Traffic of a model by version. The difference between two readings gives a rate and a latency."""

    model: str
    at: datetime
    processes: int = Field(description="Prediction processes counted: those of the replica that was scraped")
    versions: list[VersionTraffic]


class BinShare(DataModel):
    """One bin's share of the training rows and of the requested rows."""

    bin: str
    training: float
    asked: float


class Drifted(DataModel):
    """Distance between a live distribution and its training distribution."""

    kind: str = Field(description="numeric, text (compared by length), categorical")
    rows: int
    psi: float | None = Field(description="Population stability index; null if there are too few rows")
    verdict: str = Field(description="too few rows, stable (below 0.1), moved, drifted (above 0.25)")
    missing: float | None = Field(description="Share of requested rows with a missing value")
    training_missing: float
    bins: list[BinShare]


class ColumnDrift(Drifted):
    """Drift of an input column."""

    column: str


class OutputDrift(Drifted):
    """Drift of an output: `classes` and `scores` of a classification, `values` of a regression."""

    output: str
    part: str


class LiveFigure(DataModel):
    """Accuracy or error of a version's predictions against the ground truth that was posted."""

    model_config = ConfigDict(extra="ignore")

    version: int
    output: str
    task: str
    rows: int
    accuracy: float | None
    rmse: float | None
    mae: float | None
    covered_rows: int = Field(0, description="Rows whose stored prediction had an interval or a set")
    coverage: float | None = Field(None, description="Share of them whose truth is inside")
    level: float | None = Field(None, description="Mean of the levels that they were answered at")
    calibration_rows: int = Field(0, description="Rows whose stored prediction had probabilities")
    calibration_error: float | None = Field(
        None, description="Expected calibration error of the likeliest label, in ten bins"
    )
    brier: float | None = None
    log_loss: float | None = None


class LiveSlice(DataModel):
    """Ground truth of the rows with one label in the column `coverage_by`."""

    model_config = ConfigDict(extra="ignore")

    output: str
    slice: str
    rows: int
    level: float | None
    coverage: float | None = Field(description="Share of the truths that are inside their interval or set")
    accuracy: float | None
    bad: bool = Field(description="Whether coverage or accuracy is worse than chance explains, over all slices")
    why: list[str] = Field(description="coverage: below the level; accuracy: below that of all slices together")


class DriftReport(DataModel):
    """A model's inputs and outputs over a sliding window, compared with its training rows."""

    model: str
    version: int
    window_seconds: float
    rows: int = Field(description="Rows measured; a sample at high request rates")
    psi: float | None = Field(description="The largest index of any column")
    verdict: str
    columns: list[ColumnDrift] = Field(description="Largest drift first")
    outputs: list[OutputDrift]
    live: list[LiveFigure] = Field(description="Quality by ground truth, if any was posted")
    coverage_by: str | None = Field(None, description="The column that `slices` are labels of")
    slices: list[LiveSlice] = Field([], description="By output, the largest first; at most 50 of each")
    bad_slices: list[str] = Field([], description="The slices that have gone bad")
    levels_in_force: dict[str, float] = Field({}, description="By output, where ground truth has moved the level")


Truth = bool | float | str | list[bool | float | str]


class Outcome(DataModel):
    """Ground truth of one row, joined by its prediction id or sent together with what was predicted."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=64, pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="X-Prediction-ID of the request")
    row: int = Field(0, ge=0, lt=100_000, description="Index of the row in that request, from 0")
    output: str | None = Field(None, max_length=255, description="The target; required if there are several")
    truth: Truth = Field(description="A label or a number; a list for a target of several numbers or labels")
    predicted: Truth | None = Field(None, description="The prediction; if omitted, the one stored under the id")
    version: int | None = Field(
        None, ge=1, le=2**31 - 1, description="The version that predicted; only with `predicted`"
    )

    @model_validator(mode="after")
    def _predicted_with_version(self) -> Outcome:
        if (self.predicted is None) != (self.version is None):
            raise ValueError("`predicted` and `version` must be given together")
        return self


class FeedbackRequest(DataModel):
    """Ground truth of predicted rows."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[Outcome], Field(min_length=1, max_length=1000)]


class FeedbackAnswer(DataModel):
    """Result of posting ground truth."""

    stored: int
    repeated: int = Field(description="Items that were already stored; nothing is counted twice")
    unknown: list[str] = Field(description="Ids without a stored prediction (yet)")
    live: list[LiveFigure]
