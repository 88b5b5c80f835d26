"""Keras's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fitserve.spec.argument_types import Flag, Inside, Int, NonNegative, Positive, Share
from fitserve.spec.component import Component, Family
from fitserve.spec.target import TargetEncoding

Thresholds = Share | Annotated[list[Share], Field(min_length=1, max_length=1000)] | None


class Metric(Component, abstract=True):
    """A figure that every epoch reports beside the loss, under `name`."""

    shorthand: ClassVar[str | None] = ""
    # The target encodings that it accepts.
    expects: ClassVar[tuple[TargetEncoding, ...]] = ("numbers",)
    better: ClassVar[Literal["max", "min"]] = "min"

    name: str | None = Field(None, min_length=1, max_length=100)


class _HigherIsBetter(Metric, abstract=True):
    better: ClassVar[Literal["max", "min"]] = "max"


class Accuracy(_HigherIsBetter):
    """How often predictions equal the targets exactly. (`accuracy` in lower case is the task's.)"""

    expects = ("numbers",)


class BinaryAccuracy(_HigherIsBetter):
    """How often binary predictions are right."""

    expects = ("binary",)
    shorthand = "threshold"
    threshold: Inside = 0.5


class CategoricalAccuracy(_HigherIsBetter):
    """How often the likeliest label is right; targets one-hot."""

    expects = ("one_hot",)


class SparseCategoricalAccuracy(_HigherIsBetter):
    """How often the likeliest label is right; targets as indices."""

    expects = ("index",)


class TopKCategoricalAccuracy(_HigherIsBetter):
    """How often the right label is among the `k` likeliest; targets one-hot."""

    expects = ("one_hot",)
    shorthand = "k"
    k: Positive = 5


class SparseTopKCategoricalAccuracy(_HigherIsBetter):
    """How often the right label is among the `k` likeliest; targets as indices."""

    expects = ("index",)
    shorthand = "k"
    k: Positive = 5
    from_sorted_ids: Flag = False


class AUC(_HigherIsBetter):
    """The area under the ROC curve, or under precision over recall."""

    expects = ("binary", "one_hot")
    shorthand = "curve"
    omitted: ClassVar[Mapping[str, Any]] = {"label_weights": None}
    num_thresholds: Annotated[int, Field(ge=2, le=10_000)] = 200
    curve: Literal["ROC", "PR"] = "ROC"
    summation_method: Literal["interpolation", "minoring", "majoring"] = "interpolation"
    thresholds: Annotated[list[Share], Field(min_length=1, max_length=1000)] | None = None
    multi_label: Flag = False
    num_labels: Positive | None = None
    from_logits: Flag = False


class _Thresholded(_HigherIsBetter, abstract=True):
    expects = ("binary", "one_hot")
    shorthand = "thresholds"
    thresholds: Thresholds = None


class _PerClass(_Thresholded, abstract=True):
    top_k: Positive | None = None
    class_id: Annotated[int, Field(ge=0)] | None = None


class Precision(_PerClass):
    """True positives over all predicted positives."""


class Recall(_PerClass):
    """True positives over all positives."""


class TruePositives(_Thresholded):
    """The number of true positives."""


class TrueNegatives(_Thresholded):
    """The number of true negatives."""


class FalsePositives(_Thresholded):
    """The number of false positives."""

    better = "min"


class FalseNegatives(_Thresholded):
    """The number of false negatives."""

    better = "min"


class _AtThreshold(_HigherIsBetter, abstract=True):
    expects = ("binary", "one_hot")
    num_thresholds: Annotated[int, Field(ge=1, le=10_000)] = 200
    class_id: Annotated[int, Field(ge=0)] | None = None


class PrecisionAtRecall(_AtThreshold):
    """The best precision where recall is at least `recall`."""

    shorthand = "recall"
    recall: Share


class RecallAtPrecision(_AtThreshold):
    """The best recall where precision is at least `precision`."""

    shorthand = "precision"
    precision: Share


class SensitivityAtSpecificity(_AtThreshold):
    """The best sensitivity where specificity is at least `specificity`."""

    shorthand = "specificity"
    specificity: Share


class SpecificityAtSensitivity(_AtThreshold):
    """The best specificity where sensitivity is at least `sensitivity`."""

    shorthand = "sensitivity"
    sensitivity: Share


class F1Score(_HigherIsBetter):
    """The harmonic mean of precision and recall."""

    aliases = ("f1",)
    expects = ("binary", "one_hot")
    shorthand = "average"
    average: Literal["micro", "macro", "weighted"] | None = None
    threshold: Inside | None = None


class FBetaScore(_HigherIsBetter):
    """F1 with `beta` times as much weight on recall."""

    expects = ("binary", "one_hot")
    shorthand = "beta"
    average: Literal["micro", "macro", "weighted"] | None = None
    beta: NonNegative = 1.0
    threshold: Inside | None = None


class BinaryIoU(_HigherIsBetter):
    """The mean intersection over union of binary predictions."""

    expects = ("binary",)
    shorthand = "threshold"
    target_class_ids: list[Annotated[int, Field(ge=0, le=1)]] = [0, 1]  # noqa: RUF012
    threshold: Inside = 0.5


class BinaryCrossentropy(Metric):
    """The loss of that name, as a metric."""

    expects = ("binary",)
    from_logits: Flag = False
    label_smoothing: Share = 0.0


class CategoricalCrossentropy(Metric):
    """The loss of that name, as a metric."""

    expects = ("one_hot",)
    from_logits: Flag = False
    label_smoothing: Share = 0.0
    axis: Int = -1


class SparseCategoricalCrossentropy(Metric):
    """The loss of that name, as a metric."""

    expects = ("index",)
    from_logits: Flag = False
    ignore_class: Int | None = None
    axis: Int = -1


class Hinge(Metric):
    """The loss of that name, as a metric."""

    expects = ("binary",)


class SquaredHinge(Metric):
    """The loss of that name, as a metric."""

    expects = ("binary",)


class CategoricalHinge(Metric):
    """The loss of that name, as a metric."""

    expects = ("one_hot",)


class KLDivergence(Metric):
    """The loss of that name, as a metric."""

    aliases = ("kld",)
    expects = ("one_hot", "binary")


class Poisson(Metric):
    """The loss of that name, as a metric."""


class MeanSquaredError(Metric):
    """The loss of that name, as a metric."""

    aliases = ("mse",)
    expects = ("numbers", "binary", "one_hot")


class RootMeanSquaredError(Metric):
    """The root of the mean squared error."""

    aliases = ("rmse",)
    expects = ("numbers", "binary", "one_hot")


class MeanAbsoluteError(Metric):
    """The loss of that name, as a metric."""

    aliases = ("mae",)
    expects = ("numbers", "binary", "one_hot")


class MeanAbsolutePercentageError(Metric):
    """The loss of that name, as a metric."""

    aliases = ("mape",)


class MeanSquaredLogarithmicError(Metric):
    """The loss of that name, as a metric."""

    aliases = ("msle",)
    expects = ("numbers", "binary", "one_hot")


class LogCoshError(Metric):
    """The loss `LogCosh`, as a metric."""

    aliases = ("logcosh",)
    expects = ("numbers", "binary", "one_hot")


class CosineSimilarity(_HigherIsBetter):
    """The cosine between targets and predictions."""

    expects = ("numbers", "one_hot")
    shorthand = "axis"
    axis: Int = -1


class R2Score(_HigherIsBetter):
    """The share of variance that predictions explain."""

    shorthand = "class_aggregation"
    class_aggregation: Literal["uniform_average", "variance_weighted_average"] | None = "uniform_average"
    num_regressors: Annotated[int, Field(ge=0)] = 0


class PearsonCorrelation(_HigherIsBetter):
    """The correlation of targets and predictions along an axis."""

    expects = ("numbers", "one_hot")
    shorthand = "axis"
    axis: Int = -1


class ConcordanceCorrelation(_HigherIsBetter):
    """Correlation that also penalises a shift or another scale."""

    expects = ("numbers", "one_hot")
    shorthand = "axis"
    axis: Int = -1


METRICS: Family[Metric] = Family("metric", "keras.metrics", Metric)
