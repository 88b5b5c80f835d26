"""Runs, their epochs and their events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.spec.assessment import Advice, Estimates, SummaryRow
from fitserve.states import Phase, RunState

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"  # one line of text
MOST_CHANGED = 1000  # runs in one request
MOST_IDS = 10_000  # ids in one answer


class RunSummary(DataModel):
    """A run in a list."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: str = Field(
        description="`training`; `reproduction`: an exact repetition of the parent; `trial`: one of the parent's "
        "trials; `prediction`: a batch prediction; `export`: a version in another format; `import`: of a table"
    )
    state: RunState
    owner: str
    shared: bool = Field(False, description="Whether other owners can read it")
    model: str | None = Field(description="Model that the run registers a version of when it succeeds")
    dataset_id: str | None = Field(description="Null of an import: its `result` names the version that it made")
    priority: int = Field(description="-100 to 100; higher runs first")
    attempt: int = Field(description="Number of times that a worker has claimed it")
    parent_id: str | None = Field(description="The run that it repeats, changes, or is a trial of")
    result: dict[str, Any] | None
    error: dict[str, Any] | None = Field(description="For a failed run: `cause`, `detail` and evidence")
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None = Field(description="Start of the last attempt")
    finished_at: datetime | None
    name: str | None = Field(None, description="As its owner calls it")
    tags: list[str] = Field(default_factory=list)
    notes: str | None = None


class ListedRun(RunSummary):
    """A run in a list, with its dataset, targets and scores."""

    dataset: str = Field(description="As name@version; empty of an import that has made none")
    targets: list[str]
    scores: dict[str, float] = Field(
        description="Figures on its test rows, else its validation rows, in the target's units; with several targets "
        "their names begin with the target's",
    )
    changes: list[dict[str, Any]] | None = Field(
        None,
        description="With `changes=true`: where its spec differs from that of `compared_with`, as JSON Pointers with "
        "both values; null where there is none",
    )
    compared_with: str | None = Field(None, description="Its parent, else the run before it on the same dataset")


class RunList(DataModel):
    """One page of the list of runs."""

    items: list[ListedRun]
    next_cursor: str | None = Field(None, description="Pass as `cursor` to get the next page; null on the last page")
    total: int | None = Field(None, description="With `count=true`: how many runs there are in all")


RunName = Annotated[str, Field(min_length=1, max_length=120, pattern=PRINTABLE)]
RunId = Annotated[str, Field(max_length=40)]
RunTag = Annotated[str, Field(min_length=1, max_length=40, pattern=PRINTABLE)]


class RunPatch(DataModel):
    """Changes to a run; omitted members stay as they are."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shared: bool | None = Field(
        None, description="Whether other owners can read it with its epochs, events and insight"
    )
    name: RunName | None = Field(None, description="null takes it away")
    tags: list[RunTag] | None = Field(None, max_length=20, description="All of its tags")
    notes: str | None = Field(None, max_length=10_000, pattern=r"^[^\x00]*$", description="null takes them away")


class BulkChange(DataModel):
    """The same change to many runs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    action: Literal["cancel", "delete", "tag", "untag"]
    runs: list[RunId] = Field(min_length=1, max_length=MOST_CHANGED)
    tag: RunTag | None = Field(None, description="For `tag` and `untag`")


class BulkOutcome(DataModel):
    """Which runs were changed, and why the others were not."""

    done: list[str]
    refused: list[BulkRefusal]


class BulkRefusal(DataModel):
    """A run that was not changed."""

    run: str
    status: int
    detail: str
    fix: str | None


class QueuePlace(DataModel):
    """Position of a queued run."""

    position: int = Field(description="Number of runs ahead of it; 0 is next")
    estimated_start: datetime | None = Field(
        description="Estimated from recent runs and live workers; null without workers"
    )


class Progress(DataModel):
    """Progress of the last attempt."""

    trial: int = Field(description="From 0")
    epoch: int = Field(description="Epochs finished in this trial")
    trials: int
    epochs: int = Field(description="Epochs of each trial, unless it stops early")
    logs: dict[str, Any] = Field(description="Keras's logs of the last epoch")
    share: float | None = Field(None, description="Of the training, 0 to 1, over all trials; null unless running")
    estimated_finish: datetime | None = Field(
        description="Of the training, at the pace of the last epochs; the latest where it may stop early"
    )
    earliest_finish: datetime | None = Field(
        None, description="If nothing improves any more; null unless early stopping may end the training"
    )


class EpochDifference(DataModel):
    """The first epoch in which a reproduction differs from its parent."""

    trial: int
    epoch: int
    expected: dict[str, Any] | None
    received: dict[str, Any] | None


class Reproduction(DataModel):
    """A reproduction compared with its parent, epoch by epoch."""

    epochs_compared: int
    equal: bool = Field(description="Whether the logs of all epochs so far are identical, bit by bit")
    first_difference: EpochDifference | None


class RunInfo(RunSummary):
    """A run with its spec, queue position and progress."""

    spec: dict[str, Any] = Field(description="The spec as submitted")
    resolved: dict[str, Any] = Field(description="The spec with every default filled in; submit it to repeat the run")
    estimates: dict[str, Any]
    spent_attempts: int = Field(description="Attempts that count towards the maximum")
    checkpoint_epoch: int | None = Field(description="The epoch after which another worker resumes a lost attempt")
    queue: QueuePlace | None
    phase: Phase | None = Field(
        None,
        description="What is being done: queued, taken_back (queued again after an attempt was lost), preparing, "
        "training, exporting, evaluating; null once the run has ended",
    )
    progress: Progress | None
    reproduction: Reproduction | None
    serves_at: datetime | None = Field(
        None,
        description="For a succeeded run that registered a version: when the prediction service has it, unless that "
        "service is down. Until then a request that names the version gets 404",
    )


class TrialInfo(DataModel):
    """A trial of a search or, for a run with restarts, one of its networks once it has ended."""

    trial: int = Field(description="From 0")
    state: Literal["running", "succeeded", "pruned", "failed"]
    values: dict[str, Any] = Field(description="What each searched value became, by its shortest distinct name")
    value: float | None = Field(description="Of the searched metric, at the weights that were kept")
    epochs: int | None
    best_epoch: int | None = Field(description="From 1: whose weights were kept")
    seconds: float
    reason: str | None = Field(description="Why it failed, was pruned, or ended before its time")
    created_at: datetime | None
    finished_at: datetime | None


class SearchSize(DataModel):
    """What a search would train."""

    configurations: int | None = Field(description="Null where a number may be anything between two")
    trials: int = Field(description="Networks trained at most")
    parallel: int = Field(description="Trials that are chosen at a time, and train stacked where they can")
    names: list[str] = Field(description="What is searched, by short names")
    metric: str
    direction: Literal["min", "max"]


class Validation(DataModel):
    """A valid spec: the answer to `validate_only=true`."""

    valid: Literal[True] = True
    resolved: dict[str, Any]
    summary: list[SummaryRow]
    estimates: Estimates = Field(description="Of a search: of all its trials")
    warnings: list[Advice]
    search: SearchSize | None = Field(None, description="For a spec with searched values")


class EventInfo(DataModel):
    """An event of a run."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Increases; the list's cursor, and the `id` in a stream")
    run_id: str
    attempt: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "state", "metrics"]
    message: str
    data: dict[str, Any]
    created_at: datetime


class EpochInfo(DataModel):
    """One pass over the training rows."""

    model_config = ConfigDict(from_attributes=True)

    trial: int = Field(description="From 0")
    epoch: int = Field(description="From 1")
    attempt: int
    logs: dict[str, Any] = Field(description="Keras's logs and the learning rate; null for a value that is not finite")
    seconds: float
    rows_per_second: float | None = Field(None, description="Training rows per second, of this trial if stacked")
    layers: dict[str, Any] | None
    created_at: datetime
