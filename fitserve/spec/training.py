"""How a network is trained: optimizer, loss, metrics, epochs, early stopping, restarts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from fitserve.data_model import DataModel
from fitserve.excerpts import excerpt
from fitserve.spec.argument_types import (
    Flag,
    Inside,
    Natural,
    NonNegative,
    Number,
    Positive,
    Rate,
    Seed,
    Share,
)
from fitserve.spec.component import Family, deferred_ref, dump_components
from fitserve.spec.losses import LOSSES, Loss
from fitserve.spec.metrics import METRICS
from fitserve.spec.optimizers import Adam, AnyOptimizer
from fitserve.spec.workers import AnyWorkers
from fitserve.validation import InvalidValue

# Names that Keras interprets by the task.
GENERIC_METRICS = ("accuracy", "acc", "crossentropy", "ce")
MAX_METRICS = 50
MAX_SWITCHES = 20  # optimizer switches; each one traces the network again
MAX_KEPT_EPOCHS = 20  # each kept epoch is an artifact, and its weights are part of every later checkpoint
Mode = Literal["auto", "min", "max"]


class _Callback(DataModel):
    """A callback that watches `monitor`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    omitted: ClassVar[Mapping[str, Any]] = {"verbose": 0}

    monitor: str = Field("val_loss", description="Left out: val_loss, or loss where no rows are held out")
    mode: Mode = Field("auto", description="Whether lower or higher is better; auto: the metric's own")


class EarlyStopping(_Callback):
    """Stops when `monitor` has not improved for `patience` epochs."""

    min_delta: NonNegative = Field(0.0, description="A smaller change is not an improvement")
    patience: Natural = Field(0, description="Epochs without improvement")
    baseline: Number | None = Field(None, description="Stop unless it becomes better than this")
    restore_best_weights: Flag = Field(False, description="Keep the weights of the best epoch rather than the last")
    start_from_epoch: Natural = Field(0, description="Epochs before it starts to watch")


class ReduceLROnPlateau(_Callback):
    """Multiplies the learning rate by `factor` when `monitor` has not improved for `patience` epochs."""

    factor: Inside = Field(0.1, description="The new learning rate over the old")
    patience: Natural = Field(10, description="Epochs without improvement")
    min_delta: NonNegative = Field(0.0001, description="A smaller change is not an improvement")
    cooldown: Natural = Field(0, description="Epochs to wait after a reduction")
    min_lr: NonNegative = Field(0.0, description="The lowest learning rate")


class Warmup(DataModel):
    """The learning rate rises linearly from `start` of itself to all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Positive | None = Field(None, description="Batches that the rise takes")
    epochs: Positive | None = Field(None, description="Epochs that the rise takes; instead of steps")
    start: Share = Field(0.0, description="Share of the learning rate at the first batch")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"steps": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


class OptimizerSwitch(DataModel):
    """A switch to another optimizer or learning rate from an epoch on.

    If the class stays the same, its state is kept: moments, step count, averages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Positive = Field(description="The last epoch that the optimizer before it trains")
    optimizer: AnyOptimizer = Field(description="As `optimizer` of the training; a schedule counts its own steps")


def _is_component(value: dict[str, Any], family: Family[Any]) -> bool:
    """Return whether a mapping is one component rather than a value for each target."""
    if isinstance(value.get("class_name"), str):
        return True
    if len(value) != 1:
        return False
    # {Huber: {delta: 1}} is a loss; {mae: Huber}, or {mae: {Huber: ...}}, is a loss for the target `mae`.
    ((name, inner),) = value.items()
    inner_name = next(iter(inner)) if isinstance(inner, dict) and len(inner) == 1 else inner
    return family.knows(name) and not family.knows(inner_name)


def _losses(value: Any) -> Any:
    if value == "auto" or isinstance(value, Loss):
        return value
    if not isinstance(value, dict) or _is_component(value, LOSSES):
        return LOSSES.read(value)
    losses: dict[str, Any] = {}
    for target, loss in value.items():
        try:
            losses[target] = loss if loss == "auto" else LOSSES.read(loss)
        except InvalidValue as invalid:
            if not LOSSES.knows(target) and len(value) == 1 and not isinstance(loss, str):
                LOSSES.class_named(target, f"/{target}")  # more likely a misspelt loss: raises with the closest one
            raise invalid.under(target) from None
    return losses


def _metrics(value: Any) -> Any:
    if value == "auto":
        return value
    # A list belongs to a target, whatever it is called: {accuracy: [mae]}.
    listed = isinstance(value, dict) and all(isinstance(inner, (list, tuple)) for inner in value.values())
    if not isinstance(value, dict) or (_is_component(value, METRICS) and not listed):
        return _metric_list(value)
    metrics = {}
    for target, listed in value.items():
        try:
            metrics[target] = _metric_list(listed)
        except InvalidValue as invalid:
            raise invalid.under(target) from None
    return metrics


def _metric_list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        value = [value]
    if len(value) > MAX_METRICS:
        raise InvalidValue(f"At most {MAX_METRICS} metrics.", received=excerpt(value))
    metrics: list[Any] = []
    for index, metric in enumerate(value):
        try:
            metrics.append(metric if metric in GENERIC_METRICS else METRICS.read(metric))
        except InvalidValue as invalid:
            raise invalid.under(index) from None
    return metrics


_LOSS: dict[str, Any] = {"anyOf": [{"const": "auto"}, deferred_ref("Loss")]}
_METRIC = {"anyOf": [{"enum": list(GENERIC_METRICS)}, deferred_ref("Metric")]}
_METRICS = {"type": "array", "items": _METRIC}

Losses = Annotated[
    Any,
    BeforeValidator(_losses),
    PlainSerializer(dump_components),
    WithJsonSchema({"anyOf": [*_LOSS["anyOf"], {"type": "object", "additionalProperties": _LOSS}]}),
]
Metrics = Annotated[
    Any,
    BeforeValidator(_metrics),
    PlainSerializer(dump_components),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, _METRIC, _METRICS, {"type": "object", "additionalProperties": _METRICS}]}
    ),
]
# `true` is a callback with its defaults, `false` is none.
Switch = BeforeValidator(lambda value: {} if value is True else None if value is False else value)
Switches = Annotated[tuple[OptimizerSwitch, ...], Field(max_length=MAX_SWITCHES)]
Stacked = tuple[Literal["beta_1", "beta_2", "epsilon", "momentum", "rho"], ...]
Epochs = Annotated[
    tuple[Positive, ...], Field(max_length=MAX_KEPT_EPOCHS), AfterValidator(lambda epochs: tuple(sorted(set(epochs))))
]


def refuse_learning_rate(value: Any, fix: str) -> Any:
    """Return an object without `learning_rate`, which is the optimizer's. Raises InvalidValue."""
    if isinstance(value, dict) and "learning_rate" in value:
        raise InvalidValue("learning_rate is an argument of the optimizer.", fix=fix)
    return value


class Training(DataModel):
    """The arguments of Keras's `compile` and `fit`, and random restarts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: AnyOptimizer = Field(Adam(), description="An optimizer of Keras, by its name or with its arguments")
    switches: Switches = Field((), description="Other optimizers from later epochs on, in the order of their epochs")
    loss: Losses = Field("auto", description="auto: the target's. One for all targets, or one for each by name")
    loss_weights: dict[str, NonNegative] | None = Field(None, description="By target, for several targets")
    metrics: Metrics = Field("auto", description="auto: the task's. For all targets, or a list for each by name")
    label_smoothing: Rate | None = Field(None, description="Shorthand for the argument of the loss")

    batch_size: Positive | Literal["full"] = Field(
        32, description="1: stochastic; full: all rows in one batch; left out with the network: 32 to 1024, by the rows"
    )
    epochs: Positive = Field(100, description="Passes over the training rows, at most; left out with the network: 200")
    steps_per_epoch: Positive | None = Field(None, description="Batches in an epoch; left out: all training rows")
    shuffle: Flag = Field(True, description="Draw the rows in a new order every epoch")
    validation_split: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Shorthand for split.validation"
    )

    early_stopping: Annotated[EarlyStopping | None, Switch] = Field(
        None,
        description="true: with Keras's defaults; left out: patience 20 (less on large tables) and the best weights"
        " restored, unless the spec names a network and its epochs",
    )
    reduce_lr_on_plateau: Annotated[ReduceLROnPlateau | None, Switch] = Field(
        None, description="true: with Keras's defaults"
    )
    warmup: Warmup | None = Field(None, description="A number is that many batches")

    class_weight: Literal["balanced"] | dict[str, NonNegative] | None = Field(
        None, description="balanced: rows / (labels * rows of the label); or a weight for each label"
    )
    sample_weight: str | None = Field(None, description="A column with a weight for each row; not a feature then")

    keep_epochs: Epochs = Field((), description="Epochs whose networks are kept as well, to be served under labels")

    restarts: Positive = Field(1, description="Networks trained from different initial weights; the best is kept")
    stacked: Stacked | None = Field(
        None,
        description="Train the network in a stack, as a search trains trials: equal to one of them to the bit. The"
        " optimizer's arguments that differed in that stack; of a trial's spec",
    )
    seed: Seed = Field(0, description="Of split, initial weights, order of rows, dropout; trial i has seed + i")

    workers: AnyWorkers = Field(None, description="Workers that train the network together, such as 4; left out: one")
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto: a GPU where the worker has one; gpu: all that it has"
    )
    threads: Natural = Field(0, description="0: the worker's setting")
    jit_compile: Literal["auto"] | Flag = Field("auto", description="XLA; auto: no, because it gains little")
    mixed_precision: Flag = Field(False, description="Compute in 16 bits, keep weights in 32")

    @model_validator(mode="before")
    @classmethod
    def _without_learning_rate(cls, value: Any) -> Any:
        return refuse_learning_rate(value, "optimizer: {Adam: {learning_rate: ...}}")

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        scheduled = not isinstance(self.optimizer.learning_rate, float)
        if self.reduce_lr_on_plateau is not None and (scheduled or self.warmup is not None):
            raise ValueError("reduce_lr_on_plateau needs a learning rate that is a number: no schedule and no warmup")
        later = [switch.optimizer.learning_rate for switch in self.switches]
        if self.reduce_lr_on_plateau is not None and not all(isinstance(rate, float) for rate in later):
            raise ValueError("reduce_lr_on_plateau needs learning rates that are numbers, in switches too")
        epochs = [switch.after for switch in self.switches]
        if epochs != sorted(set(epochs)):
            raise ValueError("switches must come in the order of their epochs, one for each")
        return self
