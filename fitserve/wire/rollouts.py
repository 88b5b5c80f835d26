"""Rollouts of a version, and A/B comparisons."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel

RolloutState = Literal["running", "paused", "succeeded", "rolled_back", "aborted"]
Limit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class RolloutGuards(DataModel):
    """Limits that roll the new version back once they are exceeded beyond doubt. Null turns a guard off."""

    model_config = ConfigDict(extra="forbid", strict=True)

    errors: Limit | None = Field(0.005, description="Share of requests that fail, above that of the version before")
    p99_ratio: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] | None = Field(
        1.5, description="99th percentile of the response time, as a multiple of the version's before"
    )
    prediction_drift: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = Field(
        0.25, description="Population stability index between the answers of both versions"
    )
    disagreement: Limit | None = Field(0.1, description="Share of rows that the shadow answers otherwise")
    live_accuracy: Limit | None = Field(
        0.01, description="Accuracy lost, by posted ground truth; of a regression, error gained as a share of its scale"
    )


class RolloutPlan(DataModel):
    """The plan of a rollout: its steps, how long each lasts, and what rolls the version back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: list[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]] = Field(
        default=[1.0, 10.0, 50.0, 100.0],
        min_length=1,
        max_length=20,
        description="Percentages of the requests without a version that it answers, growing",
    )
    hold: float = Field(3_600.0, ge=0, le=31_536_000, allow_inf_nan=False, description="Least seconds of each step")
    min_requests: int = Field(
        100, ge=0, le=2**31 - 1, description="Least requests that the new version answers in each step"
    )
    min_truths: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Least predictions of the new version with ground truth in each step that live_accuracy watches",
    )
    deadline: float | None = Field(
        604_800.0,
        gt=0,
        le=31_536_000,
        allow_inf_nan=False,
        description="Most seconds that a step waits, after its hold, for requests or ground truth. Then the rollout "
        "ends, with the event rollout.stalled. Null: it may wait indefinitely",
    )
    guards: RolloutGuards | None = Field(None, description="Limits other than the usual ones")
    shadow: bool = Field(False, description="First send it a copy of the traffic, which is compared and not returned")

    def options(self) -> dict[str, Any]:
        """Return the plan as arguments of `lifecycle.start`, with only the guards that were named."""
        guards = None if self.guards is None else self.guards.model_dump(exclude_unset=True)
        plain = ("steps", "hold", "min_requests", "min_truths", "deadline", "shadow")
        return {**{name: getattr(self, name) for name in plain}, "guards": guards}


class RolloutRequest(RolloutPlan):
    """Make a version the champion step by step, or compare it with the champion."""

    to: int = Field(ge=1, le=2**31 - 1, description="The version")
    kind: Literal["rollout", "ab"] = Field(
        "rollout", description="`ab` keeps one share until it is promoted or aborted, with only the guards asked for"
    )


class GuardFigure(DataModel):
    """A guard at one moment. Its bounds hold at all moments at once; it rolls the version back when `low` > `limit`."""

    guard: str
    output: str | None
    limit: float
    base_rows: float
    new_rows: float
    base: float | None
    new: float | None
    value: float | None
    low: float | None
    high: float | None
    breached: bool


class CurvePoint(DataModel):
    """A guard's value and bounds after a number of requests to both versions."""

    at: datetime
    rows: float
    value: float | None
    low: float | None
    high: float | None


class RolloutStepInfo(DataModel):
    """A step that was entered; a `share` of 0 means shadow."""

    step: int
    share: float
    started_at: datetime
    figures: list[GuardFigure]
    curves: dict[str, list[CurvePoint]]


class LiveComparison(DataModel):
    """The live metric of both versions, and its difference (new minus base) with an interval that always holds."""

    output: str
    metric: Literal["accuracy", "mean_absolute_error"]
    base_rows: int
    new_rows: int
    base: float | None
    new: float | None
    difference: float | None
    low: float | None
    high: float | None
    confidence: float


class RolloutInfo(DataModel):
    """A rollout. `step` is an index into `shares`, the shares of the traffic from 0 (shadow) to 1."""

    id: str
    model: str
    kind: Literal["rollout", "ab"]
    base: int = Field(description="The version that was champion")
    to: int
    state: RolloutState
    step: int
    share: float = Field(description="That the new version answers now")
    shares: list[float]
    hold: float | None
    min_requests: int
    min_truths: int
    deadline: float | None
    guards: dict[str, float]
    shadow: bool
    reason: dict[str, Any] | None = Field(description="Why it ended: `why`, `detail`, and a guard's `figure`")
    owner: str | None
    created_at: datetime
    step_at: datetime
    finished_at: datetime | None


class RolloutDetail(RolloutInfo):
    """A rollout with its steps' guard curves, and the live metric of both versions."""

    steps: list[RolloutStepInfo]
    comparison: list[LiveComparison]
