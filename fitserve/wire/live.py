"""Drift, ground truth and live figures of a served model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BinShare(BaseModel):
    """One bin's share of the training rows, and of the asked ones."""

    bin: str
    training: float
    asked: float


class Drifted(BaseModel):
    """How far one distribution has moved."""

    kind: str = Field(description="numeric, text (of which the length counts), categorical")
    rows: int
    psi: float | None = Field(description="Population stability index; null where there are too few rows")
    verdict: str = Field(description="too few rows, stable (below 0.1), moved, drifted (above 0.25)")
    missing: float | None = Field(description="Share of asked rows without a value")
    training_missing: float
    bins: list[BinShare]


class ColumnDrift(Drifted):
    """One column of what is asked."""

    column: str


class OutputDrift(Drifted):
    """One side of what is answered: `classes` and `scores` of a classification, `values` of a regression."""

    output: str
    part: str


class LiveFigure(BaseModel):
    """How true a version's predictions were, by the ground truth that was posted."""

    model_config = ConfigDict(extra="ignore")

    version: int
    output: str
    task: str
    rows: int
    accuracy: float | None
    rmse: float | None
    mae: float | None


class DriftReport(BaseModel):
    """What a model is asked and answers, beside its training rows, over a sliding window."""

    model: str
    version: int
    window_seconds: float
    rows: int = Field(description="Rows that were looked at; at high rates a sample is")
    psi: float | None = Field(description="The largest of the columns' indices")
    verdict: str
    columns: list[ColumnDrift] = Field(description="The most drifted first")
    outputs: list[OutputDrift]
    live: list[LiveFigure] = Field(description="By ground truth, where some was posted")


Truth = bool | float | str | list[bool | float | str]


class Outcome(BaseModel):
    """The truth about one row: joined by the id that the prediction was asked under, or beside what was predicted."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=64, pattern=r"^[A-Za-z0-9._:-]{1,64}$", description="X-Prediction-ID of the request")
    row: int = Field(0, ge=0, lt=100_000, description="Of that request, from 0")
    output: str | None = Field(None, max_length=255, description="The target, where there are several")
    truth: Truth = Field(description="A label, or a number; a list for a target of several numbers or labels")
    predicted: Truth | None = Field(None, description="What was answered; without it, what was kept under the id is")
    version: int | None = Field(None, ge=1, le=2**31, description="Who answered; needed with `predicted` alone")

    @model_validator(mode="after")
    def _whole(self) -> Outcome:
        if (self.predicted is None) != (self.version is None):
            raise ValueError("`predicted` and `version` come together")
        return self


class FeedbackRequest(BaseModel):
    """Ground truth of rows that were predicted."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[Outcome], Field(min_length=1, max_length=1000)]


class FeedbackAnswer(BaseModel):
    """What became of the items."""

    stored: int
    repeated: int = Field(description="Known already: nothing was counted twice")
    unknown: list[str] = Field(description="Ids under which nothing is kept (yet)")
    live: list[LiveFigure]

    @classmethod
    def of(cls, stored: int, repeated: int, unknown: list[str], live: list[dict[str, Any]]) -> FeedbackAnswer:
        figures = [LiveFigure.model_validate(one) for one in live]
        return cls(stored=stored, repeated=repeated, unknown=unknown, live=figures)
