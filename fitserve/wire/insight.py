"""Insight into runs, as the API shows it: findings, evaluation, importance, surfaces, explanations, lineage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.wire.runs import RunInfo

MAX_EPOCH = 2**31 - 1
FEWEST_SEARCHED = 100  # with fewer held-out rows, worst slices are not searched


class FindingInfo(DataModel):
    """One diagnosis, with its evidence and the change to the spec that addresses it."""

    model_config = ConfigDict(from_attributes=True)

    n: int = Field(description="From 1: POST findings/{n}/apply submits the patched spec")
    rule: str
    severity: Literal["critical", "warning", "info"]
    title: str
    sentence: str
    threshold: str = Field(description="When the rule applies")
    source: str = Field(description="Where the rule is from")
    answer: str = Field(description="What the patch does")
    trial: int
    epochs: list[int] = Field(description="The epochs that show it")
    values: dict[str, Any] = Field(description="The measurements behind it")
    patch: list[dict[str, Any]] = Field(description="JSON Patch (RFC 6902) on the resolved spec; may be empty")


class Findings(DataModel):
    """A run's findings, most severe first."""

    items: list[FindingInfo]


class RuleInfo(DataModel):
    """A rule of the diagnosis."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    title: str
    severity: Literal["critical", "warning", "info"]
    threshold: str
    source: str
    answer: str


class ForkRequest(DataModel):
    """The epoch from which a new run continues, and its changes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    epoch: int = Field(ge=1, le=MAX_EPOCH, description="The last one that is trained as in the run")
    learning_rate: float | None = Field(None, ge=0, allow_inf_nan=False, description="From the next epoch on")
    optimizer: str | dict[str, Any] | None = Field(
        None, description="As in a spec: a name, or a name with arguments; left out: the one at that epoch"
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=MAX_EPOCH,
        description="Of the new run, from its first; left out: as many as the run's, or as many again from its last",
    )
    trial: int | None = Field(None, ge=0, le=MAX_EPOCH, description="Which restart goes on; the kept one if omitted")


class Applied(RunInfo):
    """The child run. `repeated`, where seeds were requested, is the parent's spec trained again under as many seeds."""

    repeated: RunInfo | None = None


class Complexity(DataModel):
    """The model complexity graph: losses without the regularizers' penalty."""

    trial: int
    loss: str
    baseline: float | None = Field(description="The loss of the best constant prediction")
    epochs: list[int]
    train: list[float | None]
    validation: list[float | None] | None
    best_epoch: int | None
    turned_epoch: int | None = Field(description="The validation loss was higher ever after")
    kept_epoch: int
    verdict: Literal["underfitting", "just right", "overfitting", "nothing learned", "unknown"]
    sentence: str


class Evaluation(DataModel):
    """Figures by part and target. `test` rows took no part in training or selection; `validation` rows in selection."""

    part: Literal["test", "validation", "train"] = Field(description="The part to report")
    test: dict[str, dict[str, Any]] | None
    validation: dict[str, dict[str, Any]] | None
    fit: dict[str, dict[str, Any]] = Field(description="By target: mean loss by model and part")


class Importance(DataModel):
    """Permutation importance, by column: the rise of the loss when its values are shuffled."""

    target: str
    part: str
    items: list[dict[str, Any]] = Field(description="column, importance, its 95% interval, weight in the first layer")
    left_out: int = Field(description="Columns not measured for lack of time")


class Hardest(DataModel):
    """Rows with the highest loss, and rows whose label is probably wrong. Row numbers start at 1."""

    target: str
    items: list[dict[str, Any]]
    mislabelled: list[dict[str, Any]]
    mislabelled_rows: int
    rows: int = Field(description="Rows that were examined")
    method: str


class Slices(DataModel):
    """How well the network predicts parts of the held-out rows (with folds, each by the network not trained on it).

    A condition has a `column` and `equals`, `from` (included) and `to` (excluded), `missing`, or `others`: how many
    values are too rare to be listed one by one.
    """

    target: str
    rows: int = Field(description="Held-out rows that were examined: all, or a sample")
    metric: Literal["log_loss", "mae"]
    value: float | None = Field(description="The metric on all of them")
    more: dict[str, float | None] = Field(description="accuracy, or mean_error (predicted minus actual)")
    least_rows: int = Field(description="Rows that a slice needs")
    fewest_searched: int = Field(
        FEWEST_SEARCHED, description="Held-out rows that it takes to look for `worst`; with fewer it is empty"
    )
    false_discoveries: float = Field(description="The rate at which `worst` and `worse` are false, at most")
    worst: list[dict[str, Any]] = Field(
        description="Worse than the rest by more than chance, worst first: conditions (one or two), rows, share; on "
        "the half of the rows that took no part in the search: value, interval, rest (of the others), difference, "
        "difference_interval, guessing (the best constant answer), p_value, p_adjusted, judged_rows"
    )
    columns: list[dict[str, Any]] = Field(
        description="By column, the most unequal first: items with condition, rows, share, value, interval, rest, "
        "difference, difference_interval, p_value, p_adjusted, worse"
    )
    left_out: int = Field(description="Columns without a place in `columns`")


class Fairness(DataModel):
    """Rates and errors by group of the protected columns, on held-out rows, as the decision answers them.

    A group of fewer than `min_group` rows is `small`: shown, and not compared. `differences` have bootstrap intervals
    and name the groups that are `left_out`.
    """

    decisions: list[dict[str, Any]] = Field(description="In force; without one the likeliest label is answered")
    items: list[dict[str, Any]] = Field(
        description="By column and target: rows, min_group; of a classification `labels`, each with groups (rows, "
        "answered, selection_rate, true_positive_rate, false_positive_rate, precision, calibration_error, intervals), "
        "and differences (demographic_parity_difference, demographic_parity_ratio, equalized_odds_difference); of a "
        "regression `numbers`, with groups (mean_error, mae, rmse, intervals) and differences"
    )


class AxisInfo(DataModel):
    """An axis of a surface."""

    column: str
    values: list[Any]


class UnitSurface(DataModel):
    """The output of one hidden unit over the same plane."""

    layer: str
    unit: int
    grid: list[list[float | None]]


class SurfaceInfo(DataModel):
    """The network's output over two columns, with the others at their median or most frequent value."""

    target: str
    label: str | None = Field(description="The label whose probability `values` are; null for a regression")
    labels: list[str] | None
    x: AxisInfo
    y: AxisInfo
    values: list[list[float | None]] = Field(description="Rows along y, columns along x")
    epoch: int
    epochs: list[int] = Field(description="Epochs whose network was kept; the last is the artifact's")
    reference: dict[str, Any]
    axes: list[str] = Field(description="The columns that can be an axis: of text, values have no order")
    units: list[UnitSurface] = Field([])


class ExplainRequest(DataModel):
    """A row to explain."""

    model_config = ConfigDict(extra="forbid")

    row: dict[str, Any] = Field(description="Raw values by column")
    target: str | None = Field(None, description="Left out: the first")
    label: str | None = Field(None, description="Left out: the most likely; of a binary target the second")
    reference: dict[str, Any] | None = Field(None, description="Left out: medians and most frequent values")


class Explanation(DataModel):
    """Integrated gradients: contributions sum to the output minus the reference's output."""

    target: str
    label: str | None
    output: float
    reference_output: float
    contributions: dict[str, float] = Field(description="By column, largest magnitude first")
    completeness_error: float
    steps: int
    reference: dict[str, Any]


class WalkValue(DataModel):
    """One of the network's inputs for a row."""

    name: str
    value: float


class WalkLayer(DataModel):
    """A Dense layer of the kept network."""

    name: str
    activation: str
    kernel: list[list[float]] = Field(description="By input, then by unit")
    bias: list[float]
    l1: float = Field(description="Its kernel's penalty: l1 * sum of magnitudes + l2 * sum of squares")
    l2: float


class Walk(DataModel):
    """A row as the network reads it, and the network: enough to go through a step of training by hand."""

    row: int
    rows: int = Field(description="Of the dataset")
    inputs: list[WalkValue]
    layers: list[WalkLayer]
    target: list[float] = Field(description="One number for each unit of the output")
    target_name: str
    labels: list[str] | None
    loss: Literal["binary", "categorical", "squared"]
    learning_rate: float | None = Field(description="The optimizer's; null where it follows a schedule")


class LayerSeries(DataModel):
    """The layers of a trial after each recorded epoch."""

    trial: int
    items: list[dict[str, Any]]
    final: dict[str, Any] | None = Field(description="The kept network, with histograms")
    next_cursor: int | None = Field(None, description="Pass as `after`")


class GroupInfo(DataModel):
    """Runs of one spec under different seeds."""

    group: str
    runs: list[str]
    parent: str | None = Field(description="The group whose spec it was changed from")
    changes: list[dict[str, Any]] = Field(description="Where its spec differs from the parent's")
    seeds: int
    mean: float | None = Field(description="Mean of the lowest validation losses, without the regularizers' penalty")
    verdict: Literal["better", "worse", "within noise", "undecided"] | None
    difference: float | None
    interval: list[float] | None
    sentence: str | None


class DataOrigin(DataModel):
    """A dataset, and what it was made from."""

    dataset: str = Field(description="Name and version")
    dataset_id: str
    made: Literal["uploaded", "imported", "predicted"]
    model: str | None = Field(None, description="Whose predictions it holds")
    version: int | None = Field(None, description="Of the model")
    run: str | None = Field(None, description="The batch prediction that made it")
    trained_by: str | None = Field(None, description="The run that trained that version, if you may see it")


class Lineage(DataModel):
    """A run's ancestors and descendants, and which changes helped."""

    run: str
    group: str
    groups: list[GroupInfo]
    data: list[DataOrigin] = Field(
        description="The run's dataset; where it holds predictions, then the one that they were made on, and so on"
    )
