"""Decisions of a version: those in force, those chosen by the training, their changes, and threshold curves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel


class DecisionChangeInfo(DataModel):
    """One change of a version's decisions."""

    model_config = ConfigDict(from_attributes=True)

    asked: dict[str, Any] | None = Field(description="What was asked; null: back to the decisions of the training")
    decisions: list[dict[str, Any]] = Field(description="In force from then on")
    owner: str | None
    key_id: str | None
    created_at: datetime


class ThresholdCurve(DataModel):
    """The effect of thresholds, ascending, on one part's rows. From the threshold up, `label` is returned."""

    part: str = Field(description="validation: rows that thresholds are chosen on; test: rows that judge them")
    label: str
    positives: int = Field(description="Rows that have the label")
    negatives: int
    threshold: list[float]
    true_positive: list[int]
    false_positive: list[int]


class DecidedOutput(DataModel):
    """A classified target with the effects of its thresholds; of many thresholds or labels, a selection."""

    output: str
    task: str
    labels: list[str]
    curves: list[ThresholdCurve]
    measures_distance: bool = Field(description="Whether `abstain` can look at the distance from the training rows")


class DecisionDetail(DataModel):
    """The decisions of a version. For a target without one, the likeliest label is returned."""

    model: str
    version: int
    decisions: list[dict[str, Any]] = Field(
        description="In force: `output`, what was `asked`, the `method` with its thresholds, weights or costs, when to "
        "`abstain`, what they were `chosen_on`, and `figures` by part"
    )
    trained: list[dict[str, Any]] = Field(description="Those of the training, to which DELETE returns")
    history: list[DecisionChangeInfo] = Field(description="Newest first; for its owner and admins")
    outputs: list[DecidedOutput]
