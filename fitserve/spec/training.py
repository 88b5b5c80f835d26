"""How a network is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from fitserve.spec.callbacks import EarlyStopping, ReduceLROnPlateau, Warmup
from fitserve.spec.component import Family, later
from fitserve.spec.losses import LOSSES, Loss
from fitserve.spec.metrics import METRICS
from fitserve.spec.optimizers import Adam, AnyOptimizer
from fitserve.spec.values import Flag, Natural, NonNegative, Positive, Rate, Seed
from fitserve.validation import Refused, shown


def _names_component(value: dict[str, Any], family: Family[Any]) -> bool:
    """Whether a mapping is one component rather than something for each target."""
    if "class_name" in value:
        return True
    if len(value) != 1:
        return False
    ((name, inner),) = value.items()
    inner_is_one = isinstance(inner, str) or (isinstance(inner, dict) and len(inner) == 1)
    return family.knows(name) and not (inner_is_one and _is_component(inner, family))


def _is_component(value: Any, family: Family[Any]) -> bool:
    return family.knows(value) if isinstance(value, str) else family.knows(next(iter(value)))


def _losses(value: Any) -> Any:
    if value == "auto" or isinstance(value, Loss):
        return value
    if isinstance(value, dict) and not _names_component(value, LOSSES):
        read: dict[str, Any] = {}
        for target, loss in value.items():
            try:
                read[target] = loss if loss == "auto" else LOSSES.read(loss)
            except Refused as refused:
                if not LOSSES.knows(target) and len(value) == 1 and not isinstance(loss, str):
                    LOSSES.named(target, f"/{target}")  # says what the nearest loss is
                raise refused.under(target) from None
        return read
    return LOSSES.read(value)


def _metric_list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        value = [value]
    if len(value) > 50:
        raise Refused("At most 50 metrics.", received=shown(value))
    read: list[Any] = []
    for index, metric in enumerate(value):
        try:
            read.append(metric if metric in GENERIC else METRICS.read(metric))
        except Refused as refused:
            raise refused.under(index) from None
    return read


def _metrics(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, dict) and not _names_component(value, METRICS):
        read = {}
        for target, metrics in value.items():
            try:
                read[target] = _metric_list(metrics)
            except Refused as refused:
                raise refused.under(target) from None
        return read
    return _metric_list(value)


# Names that Keras understands by the task.
GENERIC = ("accuracy", "acc", "crossentropy", "ce")


def _dumped(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _dumped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dumped(item) for item in value]
    return value


_LOSS_SCHEMA = {"anyOf": [{"const": "auto"}, later("Loss")]}
_METRIC_LIST = {"type": "array", "items": {"anyOf": [{"enum": list(GENERIC)}, later("Metric")]}}

Losses = Annotated[
    Any,
    BeforeValidator(_losses),
    PlainSerializer(_dumped),
    WithJsonSchema({"anyOf": [*_LOSS_SCHEMA["anyOf"], {"type": "object", "additionalProperties": _LOSS_SCHEMA}]}),
]
Metrics = Annotated[
    Any,
    BeforeValidator(_metrics),
    PlainSerializer(_dumped),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                _METRIC_LIST["items"],
                _METRIC_LIST,
                {"type": "object", "additionalProperties": _METRIC_LIST},
            ]
        }
    ),
]


def _switch(value: Any) -> Any:
    return {} if value is True else None if value is False else value


Switch = BeforeValidator(_switch)
MOST_KEPT = 20  # epochs: each is an artifact, and its weights are in every checkpoint from then on

Epochs = Annotated[
    tuple[Positive, ...], Field(max_length=MOST_KEPT), AfterValidator(lambda epochs: tuple(sorted(set(epochs))))
]


class Training(BaseModel):
    """Everything that Keras's `compile` and `fit` are told, and random restarts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: AnyOptimizer = Field(Adam(), description="An optimizer of Keras, by its name or with its arguments")
    loss: Losses = Field("auto", description="auto: from the target. One for all targets, or one for each by name")
    loss_weights: dict[str, NonNegative] | None = Field(None, description="By target, for several targets")
    metrics: Metrics = Field("auto", description="auto: from the task. For all targets, or a list for each by name")
    label_smoothing: Rate | None = Field(None, description="Shorthand for the argument of the loss")

    batch_size: Positive | Literal["full"] = Field(32, description="1: stochastic; full: all rows in one batch")
    epochs: Positive = Field(100, description="At most so many passes over the training rows")
    steps_per_epoch: Positive | None = Field(None, description="Batches of an epoch; left out: all training rows")
    shuffle: Flag = Field(True, description="Draw the rows in a new order every epoch")
    validation_split: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Shorthand for split.validation"
    )

    early_stopping: Annotated[EarlyStopping | None, Switch] = Field(None, description="true: with Keras's defaults")
    reduce_lr_on_plateau: Annotated[ReduceLROnPlateau | None, Switch] = Field(
        None, description="true: with Keras's defaults"
    )
    warmup: Warmup | None = Field(None, description="A number is that many batches")

    class_weight: Literal["balanced"] | dict[str, NonNegative] | None = Field(
        None, description="balanced: rows / (labels * rows of the label); or a weight for each label"
    )
    sample_weight: str | None = Field(None, description="A column with a weight for each row; not a feature then")

    keep_epochs: Epochs = Field((), description="Epochs whose networks are kept as well, to be served as labels")

    restarts: Positive = Field(1, description="Networks trained from other initial weights; the best is kept")
    seed: Seed = Field(0, description="Of split, initial weights, order of rows, dropout; trial i has seed + i")

    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: a GPU where the worker has one")
    threads: Natural = Field(0, description="0: as the worker is set up")
    jit_compile: Literal["auto"] | Flag = Field("auto", description="XLA; auto leaves it to the trainer")
    mixed_precision: Flag = Field(False, description="Compute in 16 bits, keep weights in 32")

    @model_validator(mode="before")
    @classmethod
    def _one_rate(cls, value: Any) -> Any:
        if isinstance(value, dict) and "learning_rate" in value:
            fix = "optimizer: {Adam: {learning_rate: ...}}"
            raise Refused("learning_rate is an argument of the optimizer.", fix=fix)
        return value

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        scheduled = not isinstance(self.optimizer.learning_rate, float)
        if self.reduce_lr_on_plateau is not None and (scheduled or self.warmup is not None):
            raise ValueError("reduce_lr_on_plateau needs a learning rate that is a number: no schedule and no warmup")
        return self
