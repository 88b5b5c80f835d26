"""Keras's optimizers and learning-rate schedules, with every argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from fitserve.spec.argument_types import Above0, Flag, Inside, NonNegative, Number, Positive, Rate, Share
from fitserve.spec.component import Component, Family


class Schedule(Component, abstract=True):
    """A learning rate that changes with the steps."""


class ExponentialDecay(Schedule):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`."""

    initial_learning_rate: NonNegative
    decay_steps: Positive
    decay_rate: Above0
    staircase: Flag = False


class InverseTimeDecay(Schedule):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`."""

    initial_learning_rate: NonNegative
    decay_steps: Positive
    decay_rate: NonNegative
    staircase: Flag = False


class PolynomialDecay(Schedule):
    """From `initial_learning_rate` to `end_learning_rate` in `decay_steps` along a polynomial."""

    initial_learning_rate: NonNegative
    decay_steps: Positive
    end_learning_rate: NonNegative = 0.0001
    power: Above0 = 1.0
    cycle: Flag = False


class PiecewiseConstantDecay(Schedule):
    """`values[i]` up to the step `boundaries[i]`, then the last value."""

    boundaries: Annotated[list[Positive], Field(min_length=1, max_length=1000)]
    values: Annotated[list[NonNegative], Field(min_length=2, max_length=1001)]

    @model_validator(mode="after")
    def _one_more(self) -> Self:
        if len(self.values) != len(self.boundaries) + 1:
            wanted = len(self.boundaries) + 1
            raise ValueError(f"values must have one more than boundaries: {wanted}, not {len(self.values)}")
        if sorted(set(self.boundaries)) != self.boundaries:
            raise ValueError("boundaries must increase")
        return self


class CosineDecay(Schedule):
    """Along a cosine down to `alpha` of the start; with `warmup_target`, after a linear rise."""

    initial_learning_rate: NonNegative
    decay_steps: Positive
    alpha: Share = 0.0
    warmup_target: NonNegative | None = None
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class CosineDecayRestarts(Schedule):
    """Along a cosine with warm restarts (SGDR, Loshchilov and Hutter 2016)."""

    initial_learning_rate: NonNegative
    first_decay_steps: Positive
    t_mul: Above0 = 2.0
    m_mul: Above0 = 1.0
    alpha: Share = 0.0


SCHEDULES: Family[Schedule] = Family("learning-rate schedule", "keras.optimizers.schedules", Schedule)
AnySchedule = Annotated[Schedule, SCHEDULES]
LearningRate = NonNegative | AnySchedule


# Keras arguments that make a weight's update depend on other weights, or on earlier steps of all of them
BEYOND_A_WEIGHT = ("clipnorm", "global_clipnorm", "use_ema", "gradient_accumulation_steps")


class Optimizer(Component, abstract=True):
    """Base class of optimizers, with the arguments that all of them share."""

    omitted: ClassVar[Mapping[str, Any]] = {"is_legacy_optimizer": False, "jit_compile": ...}
    # Upper bound of the weight-sized arrays that the optimizer holds between two steps.
    state_arrays: ClassVar[int]
    # Whether a weight's update depends only on that weight, its gradient and its history. Only then can replicas be
    # stacked.
    per_weight: ClassVar[bool] = False
    # A good first learning rate on standardised inputs, and one above which the loss probably diverges.
    usual_learning_rate: ClassVar[float] = 0.001
    large_learning_rate: ClassVar[float] = 0.1

    learning_rate: LearningRate = 0.001
    weight_decay: NonNegative | None = None
    clipnorm: Above0 | None = None
    clipvalue: Above0 | None = None
    global_clipnorm: Above0 | None = None
    use_ema: Flag = False
    ema_momentum: Share = 0.99
    ema_overwrite_frequency: Positive | None = None
    loss_scale_factor: Above0 | None = None
    gradient_accumulation_steps: Annotated[int, Field(ge=2)] | None = None

    @property
    def stacks(self) -> bool:
        """Whether stacked networks can use it: no argument makes an update depend on other weights."""
        return self.per_weight and not any(getattr(self, name) for name in BEYOND_A_WEIGHT)

    @model_validator(mode="after")
    def _one_clipping(self) -> Self:
        clipping = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(self, name) is not None]
        if len(clipping) > 1:
            raise ValueError(f"only one of {', '.join(clipping)} can be set")
        return self

    def optional_arrays(self) -> int:
        """Return how many arrays of the weights' size its arguments add to `state_arrays`."""
        return self.use_ema + (self.gradient_accumulation_steps is not None)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum."""

    per_weight = True
    state_arrays = 0
    usual_learning_rate = 0.05
    large_learning_rate = 1.0
    learning_rate: LearningRate = 0.01
    momentum: Share = 0.0
    nesterov: Flag = False

    def optional_arrays(self) -> int:
        return super().optional_arrays() + (self.momentum > 0)


class RMSprop(Optimizer):
    """The gradient over a running root mean square of it (Hinton 2012)."""

    per_weight = True
    state_arrays = 1
    rho: Share = 0.9
    momentum: Share = 0.0
    epsilon: NonNegative = 1e-7
    centered: Flag = False

    def optional_arrays(self) -> int:
        return super().optional_arrays() + (self.momentum > 0) + self.centered


class _Adaptive(Optimizer, abstract=True):
    state_arrays = 2
    beta_1: Rate = 0.9
    beta_2: Rate = 0.999
    epsilon: NonNegative = 1e-7


class _AMSGrad(_Adaptive, abstract=True):
    per_weight = True
    amsgrad: Flag = False

    def optional_arrays(self) -> int:
        return super().optional_arrays() + self.amsgrad


class Adam(_AMSGrad):
    """Adaptive moments (Kingma and Ba 2014); `amsgrad` as in Reddi et al. 2018."""


class AdamW(_AMSGrad):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017)."""

    weight_decay: NonNegative = 0.004


class Nadam(_Adaptive):
    """Adam with Nesterov momentum (Dozat 2015)."""

    per_weight = True


class Adamax(_Adaptive):
    """Adam with the infinity norm in place of the mean square (Kingma and Ba 2014)."""

    per_weight = True


class Adagrad(Optimizer):
    """The gradient over the root of the sum of its squares (Duchi et al. 2011)."""

    per_weight = True
    state_arrays = 1
    usual_learning_rate = 0.01
    large_learning_rate = 1.0
    initial_accumulator_value: NonNegative = 0.1
    epsilon: NonNegative = 1e-7


class Adadelta(Optimizer):
    """Adagrad over a window (Zeiler 2012)."""

    per_weight = True
    state_arrays = 2
    usual_learning_rate = 1.0
    large_learning_rate = 1.0
    rho: Share = 0.95
    epsilon: NonNegative = 1e-7


class Ftrl(Optimizer):
    """Follow the regularized leader (McMahan et al. 2013)."""

    per_weight = True
    state_arrays = 2
    usual_learning_rate = 0.01
    learning_rate_power: Annotated[Number, Field(le=0)] = -0.5
    initial_accumulator_value: NonNegative = 0.1
    l1_regularization_strength: NonNegative = 0.0
    l2_regularization_strength: NonNegative = 0.0
    l2_shrinkage_regularization_strength: NonNegative = 0.0
    beta: NonNegative = 0.0


class Lion(Optimizer):
    """The sign of a running mean of the gradient (Chen et al. 2023)."""

    per_weight = True
    state_arrays = 1
    usual_learning_rate = 0.0003
    beta_1: Inside = 0.9
    beta_2: Rate = 0.99


class Lamb(_Adaptive):
    """Adam with each layer's step in proportion to its weights (You et al. 2019)."""


class Adafactor(Optimizer):
    """Adam with factored second moments (Shazeer and Stern 2018)."""

    state_arrays = 1
    beta_2_decay: Number = -0.8
    epsilon_1: NonNegative = 1e-30
    epsilon_2: NonNegative = 0.001
    clip_threshold: Above0 = 1.0
    relative_step: Flag = True


class Muon(Optimizer):
    """Orthogonalised momentum for matrices, AdamW for the rest (Jordan 2024)."""

    omitted: ClassVar[Mapping[str, Any]] = {**Optimizer.omitted, "exclude_layers": (None, [])}
    state_arrays = 2
    adam_beta_1: Rate = 0.9
    adam_beta_2: Rate = 0.999
    adam_weight_decay: NonNegative = 0.004
    epsilon: NonNegative = 1e-7
    weight_decay: NonNegative = 0.004
    exclude_embeddings: Flag = True
    muon_a: Number = 3.4445
    muon_b: Number = -4.775
    muon_c: Number = 2.0315
    adam_lr_ratio: Above0 = 1.0
    momentum: Share = 0.95
    ns_steps: Annotated[int, Field(ge=1, le=100)] = 5
    nesterov: Flag = True
    rms_rate: NonNegative | None = 0.2


class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule (Defazio et al. 2024)."""

    state_arrays = 2
    learning_rate: LearningRate = 0.0025
    beta_1: Inside = 0.9
    beta_2: Rate = 0.999
    epsilon: NonNegative = 1e-8
    warmup_steps: Annotated[int, Field(ge=0)] = 0


OPTIMIZERS: Family[Optimizer] = Family("optimizer", "keras.optimizers", Optimizer)
AnyOptimizer = Annotated[Optimizer, OPTIMIZERS]
