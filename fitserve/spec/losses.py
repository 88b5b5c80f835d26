"""Keras's losses, and the quantile loss."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from fitserve.spec.argument_types import Above0, Flag, Inside, Int, NonNegative, Share, one_or_list
from fitserve.spec.component import Component, Family
from fitserve.spec.target import TargetEncoding


class Loss(Component, abstract=True):
    """What training minimises."""

    # The target encoding that this loss expects: 0 and 1, label indices, one-hot labels, or any numbers.
    expects: ClassVar[TargetEncoding] = "numbers"
    # The activation of an automatic output layer.
    output: ClassVar[str] = "linear"
    # Whether predictions must be probabilities.
    probabilities: ClassVar[bool] = False

    def units(self) -> int | None:
        """Return how many outputs each target needs; None means as many as the target has numbers."""
        return None


class _Probabilities(Loss, abstract=True):
    probabilities = True
    from_logits: Flag = False


class BinaryCrossentropy(_Probabilities):
    """Cross-entropy of binary targets, each unit on its own."""

    expects = "binary"
    output = "sigmoid"
    shorthand = "label_smoothing"
    label_smoothing: Share = 0.0
    axis: Int = -1


class BinaryFocalCrossentropy(_Probabilities):
    """Cross-entropy that gives easy rows less weight (Lin et al. 2017)."""

    expects = "binary"
    output = "sigmoid"
    shorthand = "gamma"
    apply_class_balancing: Flag = False
    alpha: Share = 0.25
    gamma: NonNegative = 2.0
    label_smoothing: Share = 0.0
    axis: Int = -1


class CategoricalCrossentropy(_Probabilities):
    """Cross-entropy over the labels, one-hot."""

    expects = "one_hot"
    output = "softmax"
    shorthand = "label_smoothing"
    label_smoothing: Share = 0.0
    axis: Int = -1


class CategoricalFocalCrossentropy(_Probabilities):
    """Cross-entropy over the labels that gives easy rows less weight."""

    expects = "one_hot"
    output = "softmax"
    shorthand = "gamma"
    alpha: Share = 0.25
    gamma: NonNegative = 2.0
    label_smoothing: Share = 0.0
    axis: Int = -1


class CategoricalGeneralizedCrossEntropy(Loss):
    """Between cross-entropy (q near 0) and absolute error (q = 1): for noisy labels (Zhang and Sabuncu 2018)."""

    expects = "index"
    output = "softmax"
    probabilities = True
    q: Annotated[Inside, Field(gt=0)] = 0.5


class SparseCategoricalCrossentropy(_Probabilities):
    """Cross-entropy over the labels, as indices."""

    expects = "index"
    output = "softmax"
    shorthand = "ignore_class"
    ignore_class: Int | None = None
    axis: Int = -1


class Hinge(Loss):
    """`mean(max(1 - y * prediction, 0))`, where y is -1 or 1."""

    expects = "binary"
    output = "tanh"


class SquaredHinge(Loss):
    """`mean(max(1 - y * prediction, 0)²)`, where y is -1 or 1."""

    expects = "binary"
    output = "tanh"


class CategoricalHinge(Loss):
    """`max(1 + largest wrong score - right score, 0)`."""

    expects = "one_hot"
    output = "linear"


class KLDivergence(Loss):
    """`sum(y * log(y / prediction))`."""

    aliases = ("kld", "kullback_leibler_divergence")
    expects = "one_hot"
    output = "softmax"
    probabilities = True


class Poisson(Loss):
    """`mean(prediction - y * log(prediction))`: for counts."""

    output = "exponential"


class MeanSquaredError(Loss):
    """`mean((y - prediction)²)`."""

    aliases = ("mse",)


class MeanAbsoluteError(Loss):
    """`mean(|y - prediction|)`."""

    aliases = ("mae",)


class MeanAbsolutePercentageError(Loss):
    """`100 * mean(|(y - prediction) / y|)`."""

    aliases = ("mape",)


class MeanSquaredLogarithmicError(Loss):
    """`mean((log(y + 1) - log(prediction + 1))²)`."""

    aliases = ("msle",)


class Huber(Loss):
    """Squared up to `delta`, linear beyond."""

    aliases = ("huber_loss",)
    delta: Above0 = 1.0


class LogCosh(Loss):
    """`mean(log(cosh(prediction - y)))`."""

    aliases = ("logcosh",)


class CosineSimilarity(Loss):
    """The cosine between targets and predictions, negated."""

    axis: Int = -1


class Dice(Loss):
    """1 minus the overlap of two sets, 2 |A ∩ B| / (|A| + |B|)."""

    expects = "binary"
    output = "sigmoid"
    probabilities = True
    axis: list[Int] | Int | None = None


class Tversky(Loss):
    """Dice with weights for false positives (`alpha`) and false negatives (`beta`)."""

    expects = "binary"
    output = "sigmoid"
    probabilities = True
    alpha: NonNegative = 0.5
    beta: NonNegative = 0.5
    axis: list[Int] | Int | None = None


MAX_QUANTILES = 199
Quantiles = Annotated[
    list[Inside],
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else [value]),
    Field(min_length=1, max_length=MAX_QUANTILES),
    one_or_list({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 1, MAX_QUANTILES),
]


class Quantile(Loss):
    """The pinball loss, one output for each quantile (Koenker and Bassett 1978).

    `mean(max(q * e, (q - 1) * e))` with `e = y - prediction`. Over many quantiles it is half the CRPS. Not Keras's.
    """

    aliases = ("pinball", "CRPS")
    quantiles: Quantiles = [0.1, 0.5, 0.9]  # noqa: RUF012

    def units(self) -> int:
        return len(self.quantiles)


LOSSES: Family[Loss] = Family("loss", "keras.losses", Loss)
