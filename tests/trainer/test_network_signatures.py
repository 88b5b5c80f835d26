"""The spec's classes against Keras's signatures, so that a new Keras cannot drift from us unnoticed."""

from __future__ import annotations

import inspect

import keras
import pytest

from fitserve.spec.activations import ACTIVATION_ALIASES, ACTIVATIONS, UNUSABLE
from fitserve.spec.component import Component
from fitserve.spec.initializers import INITIALIZERS, Initializer
from fitserve.spec.layers import LAYERS, tabular
from fitserve.spec.losses import LOSSES, Quantile
from fitserve.spec.metrics import METRICS
from fitserve.spec.optimizers import OPTIMIZERS, SCHEDULES
from fitserve.spec.regularizers import CONSTRAINTS, REGULARIZERS
from fitserve.spec.training import EarlyStopping, ReduceLROnPlateau
from workers.trainer.engine.network import MODULES, build

pytestmark = pytest.mark.tensorflow

FAMILIES = (LAYERS, INITIALIZERS, REGULARIZERS, CONSTRAINTS, OPTIMIZERS, SCHEDULES, LOSSES, METRICS)
CLASSES = [cls for family in FAMILIES for cls in family.classes.values() if cls not in (Quantile, *tabular.OURS)]
# Every Keras class has these; a layer's name stands beside it, precision is the run's, a loss's reduction is the mean.
EVERYWHERE = {"self", "name", "dtype", "reduction", "kwargs", "args"}
# Classes that a spec leaves out, and why.
LEFT_OUT = {
    "losses": {"CTC": "sequences of labels of their own length", "Circle": "embeddings, not predictions"},
    "optimizers": {"LossScaleOptimizer": "wraps code's optimizer", "MultiOptimizer": "maps layers by code"},
    "metrics": {
        "IoU": "images",
        "MeanIoU": "images",
        "OneHotIoU": "images",
        "OneHotMeanIoU": "images",
        "Mean": "of values that code gives",
        "Sum": "of values that code gives",
        "MeanMetricWrapper": "takes a function",
    },
    "initializers": {"STFT": "for audio kernels"},
    "regularizers": {},
    "constraints": {},
    "schedules": {},
}


def theirs(cls: type[Component]) -> type:
    if cls.__name__ == "Input":
        return keras.layers.InputLayer
    module = next(module for base, module in MODULES if issubclass(cls, base))
    return getattr(module, cls.__name__)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}")
def test_arguments_are_those_of_keras(cls: type[Component]) -> None:
    signature = inspect.signature(theirs(cls).__init__).parameters
    if "args" in signature:  # no __init__ of its own
        signature = {}
    known = set(cls.model_fields) | set(cls.omitted)
    assert set(signature) - EVERYWHERE - {"batch_shape"} <= known, (
        "Keras has arguments that the spec neither has nor omits"
    )
    assert set(cls.model_fields) - {"name"} <= set(signature), "the spec has arguments that Keras has not"
    for name, field in cls.model_fields.items():
        if name in ("name", "data_format", "dtype") or name not in signature:
            continue
        ours, default = field.get_default(call_default_factory=True), signature[name].default
        if field.is_required():
            assert default is inspect.Parameter.empty or cls.__name__ == "Input", name
        else:
            assert same(ours, default), f"{name}: ours {ours!r}, Keras's {default!r}"


def same(ours: object, default: object) -> bool:
    if isinstance(ours, Initializer):
        return type(build(ours)) is type(keras.initializers.get(default))
    if ours == "linear" and default is None:
        return True
    if isinstance(ours, tuple) and not isinstance(default, tuple):
        return set(ours) == {default}
    if isinstance(default, tuple):
        return tuple(ours) == default  # type: ignore[call-overload]
    return ours == default


@pytest.mark.parametrize(
    ("ours", "keras_class"),
    [(EarlyStopping, "EarlyStopping"), (ReduceLROnPlateau, "ReduceLROnPlateau")],
)
def test_callbacks_have_keras_arguments(ours: type, keras_class: str) -> None:
    signature = inspect.signature(getattr(keras.callbacks, keras_class).__init__).parameters
    assert set(signature) - {"self", "kwargs"} == set(ours.model_fields) | set(ours.omitted)
    for name, field in ours.model_fields.items():
        assert field.default == signature[name].default, name


def test_every_activation_of_keras_is_known() -> None:
    public = {name for name in dir(keras.activations) if not name.startswith("_")} - {"get", "serialize", "deserialize"}
    assert public == set(ACTIVATIONS) | set(UNUSABLE) | set(ACTIVATION_ALIASES) - {"identity"}


@pytest.mark.parametrize(
    ("name", "module", "base", "family"),
    [
        ("losses", keras.losses, keras.losses.Loss, LOSSES),
        ("metrics", keras.metrics, keras.metrics.Metric, METRICS),
        ("optimizers", keras.optimizers, keras.optimizers.Optimizer, OPTIMIZERS),
        (
            "schedules",
            keras.optimizers.schedules,
            keras.optimizers.schedules.LearningRateSchedule,
            SCHEDULES,
        ),
        ("initializers", keras.initializers, keras.initializers.Initializer, INITIALIZERS),
        ("regularizers", keras.regularizers, keras.regularizers.Regularizer, REGULARIZERS),
        ("constraints", keras.constraints, keras.constraints.Constraint, CONSTRAINTS),
    ],
)
def test_every_class_of_keras_is_known_or_left_out_for_a_reason(
    name: str, module: object, base: type, family: object
) -> None:
    public = [getattr(module, item) for item in dir(module) if item[0].isupper()]
    classes = {cls.__name__ for cls in public if inspect.isclass(cls) and issubclass(cls, base) and cls is not base}
    assert classes == {n for n in family.classes if n != "Quantile"} | set(LEFT_OUT[name])  # type: ignore[attr-defined]
