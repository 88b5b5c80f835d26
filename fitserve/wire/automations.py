"""Automations: when and what to train, which comparison the result must pass, and what happens then."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.ids import NAME_PATTERN
from fitserve.wire.rollouts import RolloutPlan

Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["admissions-weekly"])]
Ref = Annotated[str, Field(pattern=NAME_PATTERN)]
Then = Literal["promote", "rollout", "notify", "nothing"]
FiringState = Literal["queued", "open", "training", "done", "failed", "refused", "skipped"]
Decision = Literal["promoted", "rollout", "notified", "nothing", "rejected"]


class On(DataModel):
    """When to train: exactly one of `schedule`, `appended`, `drift` and `live_metric`."""

    model_config = ConfigDict(extra="forbid")

    schedule: str | None = Field(None, max_length=100, description="Five cron fields", examples=["0 3 * * 1"])
    timezone: str = Field("UTC", max_length=64, description="Of the schedule", examples=["Europe/Berlin"])
    appended: Ref | None = Field(None, description="A dataset's name: once it has `rows` more than it was trained on")
    rows: int | None = Field(None, ge=1, le=10**9)
    drift: Ref | None = Field(None, description="A model: once the worst column of its live inputs exceeds `psi`")
    psi: float | None = Field(None, gt=0, le=100)
    live_metric: Ref | None = Field(None, description="A model: once its live metric is `below` or `above` a limit")
    metric: Literal["accuracy", "rmse", "mae"] | None = Field(None, description="Of live_metric; accuracy if omitted")
    below: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _one_trigger(self) -> On:
        named = [name for name in ("schedule", "appended", "drift", "live_metric") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError("must have exactly one of schedule, appended, drift and live_metric")
        needs = {"appended": ("rows",), "drift": ("psi",)}
        belongs = {"rows": "appended", "psi": "drift", "metric": "live_metric", "below": "live_metric"}
        belongs |= {"above": "live_metric"}
        for option in needs.get(named[0], ()):
            if getattr(self, option) is None:
                raise ValueError(f"{named[0]} needs {option}")
        for option, trigger in belongs.items():
            if trigger != named[0] and getattr(self, option) is not None:
                raise ValueError(f"{option} belongs to {trigger}")
        if self.live_metric is not None and (self.below is None) == (self.above is None):
            raise ValueError("live_metric needs either below or above")
        return self


class Do(DataModel):
    """What to train: a `spec`, or the spec of a model's `champion` on the newest version of its dataset."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any] | None = None
    champion: Ref | None = Field(None, description="A model")

    @model_validator(mode="after")
    def _one(self) -> Do:
        if (self.spec is None) == (self.champion is None):
            raise ValueError("must have either spec or champion")
        return self


class Gate(DataModel):
    """The comparison with the champion on the same held-out rows, if possible ones on which it was not trained.

    The new version passes if its metric is at least `margin` better. With `significance`, a paired test must show that.
    """

    model_config = ConfigDict(extra="forbid")

    metric: Literal["accuracy", "log_loss", "rmse", "mae"] | None = Field(
        None, description="accuracy of a classification, rmse of a regression if omitted"
    )
    margin: float = Field(0.0, ge=-1e9, le=1e9, description="Negative: it may be that much worse")
    significance: float | None = Field(
        None, gt=0, lt=1, description="Largest probability, by the paired test, of a result by chance"
    )


class Budget(DataModel):
    """What an automation may spend in a day (UTC)."""

    model_config = ConfigDict(extra="forbid")

    runs: int | None = Field(None, ge=1, le=1000)
    training_seconds: float | None = Field(None, gt=0, le=10**8)


class Policy(DataModel):
    """What an automation does."""

    model_config = ConfigDict(extra="forbid")

    on: On
    do: Do
    gate: Gate | None = Field(None, description="Omitted: every version that was trained passes")
    then: Then = "notify"
    rollout: RolloutPlan | None = Field(None, description="How, with `then: rollout`; omitted: as rollouts usually go")
    overlap: Literal["skip", "queue"] = Field("skip", description="While its last run is not over")
    budget: Budget = Budget()
    pause_after: int = Field(3, ge=1, le=100, description="Failures in a row after which it is paused")

    @model_validator(mode="after")
    def _rollout_is_then(self) -> Self:
        if self.rollout is not None and self.then != "rollout":
            raise ValueError("rollout belongs to then: rollout")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the policy as stored. Guards that are off and a deadline of never are null rather than left out."""
        written = self.model_dump(mode="json", exclude_none=True, exclude={"rollout"})
        if self.rollout is not None:
            written["rollout"] = self.rollout.model_dump(mode="json", exclude_unset=True)
        return written


class AutomationRequest(Policy):
    """An automation to create."""

    name: Name
    enabled: bool = True


class AutomationPatch(DataModel):
    """What to change."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool | None = Field(None, description="true also ends a pause")
    policy: Policy | None = None


class AutomationInfo(DataModel):
    """An automation."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    owner: str
    model: str | None
    policy: Policy
    enabled: bool
    paused_reason: str | None
    failures: int = Field(description="In a row")
    next_at: datetime | None = Field(description="When its schedule is next due")
    created_at: datetime
    updated_at: datetime


class Firing(DataModel):
    """One time that an automation was due, and its outcome."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    automation_id: str
    tick: str
    reason: str
    state: FiringState
    decision: Decision | None
    why: str | None
    dataset: str | None
    run_id: str | None
    model: str | None
    version: int | None
    report: dict[str, Any] | None = Field(description="Of the table that was refused, and of the gate")
    created_at: datetime
    finished_at: datetime | None


class RehearsedTick(DataModel):
    """One time that a policy would have been due."""

    at: datetime
    reason: str
    dataset: str | None
    outcome: str = Field(description="refused, promoted, rejected, trained (nothing to judge by), skipped, no_data")
    why: str
    report: dict[str, Any] | None = None


class Rehearsal(DataModel):
    """What a policy would have done over the history of its model and dataset."""

    ticks: list[RehearsedTick]
    trained: int
    promoted: int
    refused: int
    skipped: int
    notes: list[str]
