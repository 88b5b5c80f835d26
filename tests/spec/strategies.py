"""Random specs over the small table: mostly valid, some of them not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fitserve.spec.activations import ACTIVATIONS
from fitserve.spec.losses import LOSSES
from fitserve.spec.metrics import METRICS
from fitserve.spec.optimizers import OPTIMIZERS
from tests.spec.table import FEATURES

SMALL = st.integers(1, 6)
RATES = st.sampled_from([0.0, 0.1, 0.5])
POSITIVE = st.sampled_from([0.001, 0.1, 1, 2.5])


def one_of(name: str, arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return arguments.map(lambda said: {name: said})


REGULARIZERS = st.one_of(
    st.sampled_from(["l1", "L2", {"L1L2": {"l1": 0.01}}, {"OrthogonalRegularizer": 0.1}, {"L2": 0.5}]),
)
INITIALIZERS = st.sampled_from(
    ["he_normal", "GlorotUniform", {"RandomNormal": {"stddev": 0.2, "seed": 1}}, "zeros", "Orthogonal", "Identity"]
)
CONSTRAINTS = st.sampled_from(["NonNeg", {"MaxNorm": 2}, "unit_norm"])
ACTIVATION = st.sampled_from([*ACTIVATIONS, "swish", None])


def arguments(required: dict[str, Any], optional: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required, optional=optional or {})


WEIGHTED = {
    "activation": ACTIVATION,
    "use_bias": st.booleans(),
    "kernel_regularizer": REGULARIZERS,
    "bias_regularizer": st.sampled_from(["L1", {"L2": 0.1}]),
    "activity_regularizer": st.sampled_from(["L2", None]),
    "kernel_initializer": INITIALIZERS,
    "kernel_constraint": CONSTRAINTS,
}
WINDOW = {"padding": st.sampled_from(["same", "valid"])}
RECURRENT = st.one_of(
    *(
        one_of(name, arguments({"units": SMALL}, {"return_sequences": st.booleans(), "use_bias": st.booleans()}))
        for name in ("LSTM", "GRU", "SimpleRNN")
    )
)
FLAT = st.one_of(
    one_of("Dense", arguments({"units": SMALL}, WEIGHTED)),
    one_of("Dense", SMALL),
    one_of("Activation", ACTIVATION),
    one_of("Dropout", RATES),
    one_of("GaussianNoise", RATES),
    one_of("GaussianDropout", RATES),
    one_of("LeakyReLU", RATES),
    one_of("PReLU", st.none()),
    one_of("Rescaling", POSITIVE),
    one_of("BatchNormalization", arguments({}, {"scale": st.booleans(), "momentum": RATES})),
    one_of("LayerNormalization", arguments({}, {"center": st.booleans()})),
    st.sampled_from(["UnitNormalization", "Softmax", "Flatten", "Identity", "RMSNormalization"]),
    one_of("RepeatVector", SMALL),
)
SEQUENCE = st.one_of(
    RECURRENT,
    one_of("Bidirectional", RECURRENT),
    one_of("Conv1D", arguments({"filters": SMALL, "kernel_size": SMALL}, {**WEIGHTED, **WINDOW, "strides": SMALL})),
    one_of("SeparableConv1D", arguments({"filters": SMALL, "kernel_size": SMALL}, WINDOW)),
    one_of("DepthwiseConv1D", arguments({"kernel_size": SMALL}, WINDOW)),
    one_of("MaxPooling1D", arguments({"pool_size": SMALL}, {**WINDOW, "strides": SMALL})),
    one_of("AveragePooling1D", SMALL),
    one_of("SpatialDropout1D", RATES),
    one_of("ZeroPadding1D", SMALL),
    one_of("Cropping1D", st.just(1)),
    one_of("UpSampling1D", SMALL),
    st.sampled_from(["GlobalMaxPooling1D", "GlobalAveragePooling1D", {"Permute": [2, 1]}]),
)
IMAGE = st.one_of(
    one_of("Conv2D", arguments({"filters": SMALL, "kernel_size": SMALL}, WINDOW)),
    one_of("DepthwiseConv2D", arguments({"kernel_size": SMALL}, WINDOW)),
    one_of("SeparableConv2D", arguments({"filters": SMALL, "kernel_size": st.just(2)}, WINDOW)),
    one_of("MaxPooling2D", st.sampled_from([1, 2, [1, 2]])),
    one_of("AveragePooling2D", st.sampled_from([1, 2])),
    one_of("SpatialDropout2D", RATES),
    st.sampled_from(["GlobalMaxPooling2D", {"GlobalAveragePooling2D": {"keepdims": True}}]),
)
INVALID = st.sampled_from(["Lambda", {"Dense": -1}, {"Dense": {"unit": 3}}, {"Conv3D": 3}, 7, {"Dropout": 2}])


@st.composite
def branches(draw: st.DrawFn) -> list[Any]:
    """Draw two branches of one width that are joined."""
    width = draw(SMALL)
    merge = draw(st.sampled_from(["Concatenate", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"]))
    return [
        {"Dense": width, "name": "left", "inputs": "features"},
        draw(FLAT),
        {"Dense": {"units": width, "activation": "relu"}, "name": "right", "inputs": ["features"]},
        {merge: {}, "inputs": ["left", "right"]},
    ]


def networks() -> st.SearchStrategy[list[Any]]:
    """Return lists of layers: flat, sequences, images, branches, some with something invalid."""
    flat = st.lists(FLAT, max_size=4)
    sequence = st.lists(SEQUENCE, min_size=1, max_size=3).map(lambda layers: [{"Reshape": [4, 3]}, *layers])
    image = st.lists(IMAGE, min_size=1, max_size=2).map(lambda layers: [{"Reshape": [3, 4, 1]}, *layers])
    tail = st.lists(FLAT, max_size=1)
    return st.one_of(
        flat,
        st.builds(lambda one, two: one + two, sequence, tail),
        st.builds(lambda one, two: one + two, image, tail),
        st.builds(lambda one, two: one + two, branches(), tail),
        st.builds(lambda one, two: [*one, two], flat, st.one_of(INVALID, FLAT)),
    )


def _component(names: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(sorted(names))


RATE = st.one_of(
    POSITIVE,
    st.just({"ExponentialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}}),
    st.just({"CosineDecay": {"initial_learning_rate": 0.01, "decay_steps": 5}}),
)
OPTIMIZER = st.one_of(
    _component(OPTIMIZERS.classes),
    st.builds(
        lambda name, rate, more: {name: {"learning_rate": rate, **more}},
        _component(OPTIMIZERS.classes),
        RATE,
        st.sampled_from([{}, {"clipnorm": 1}, {"use_ema": True}, {"weight_decay": 0.01}]),
    ),
)
LOSS = st.one_of(st.just("auto"), st.just("auto"), _component(LOSSES.classes))
PLAIN_METRICS = [
    name for name, cls in METRICS.classes.items() if not any(field.is_required() for field in cls.model_fields.values())
]
METRIC = st.lists(st.one_of(st.just("accuracy"), _component(PLAIN_METRICS)), max_size=3)
TRAINING = st.fixed_dictionaries(
    {},
    optional={
        "optimizer": OPTIMIZER,
        "loss": LOSS,
        "metrics": st.one_of(st.just("auto"), METRIC),
        "batch_size": st.sampled_from([1, 8, "full", 1000]),
        "epochs": st.sampled_from([1, 50, 10**9]),
        "early_stopping": st.sampled_from([True, {"monitor": "val_loss", "patience": 3}, {"monitor": "val_auc"}]),
        "reduce_lr_on_plateau": st.sampled_from([True, {"factor": 0.5}]),
        "warmup": st.sampled_from([5, {"epochs": 1}]),
        "class_weight": st.sampled_from(["balanced", {"yes": 2}, {"red": 2.0}]),
        "label_smoothing": st.sampled_from([0.1, 0.2]),
        "restarts": st.sampled_from([1, 3]),
        "stacked": st.sampled_from([[], ["epsilon"]]),
        "switches": st.sampled_from([[], [{"after": 2, "optimizer": "sgd"}]]),
        "keep_epochs": st.sampled_from([[], [1], [3, 1, 3]]),
        "validation_split": st.sampled_from([0.0, 0.3]),
        "seed": st.integers(0, 9),
        "epoch": st.just(3),
    },
)
TARGET = st.sampled_from(
    [
        "yes",
        "colour",
        "price",
        "count",
        ["yes", "price"],
        {"columns": ["tag_a", "tag_b"], "task": "multilabel"},
        "prise",
    ]
)


def specs() -> st.SearchStrategy[dict[str, Any]]:
    """Return bodies of `POST /runs`."""
    return st.fixed_dictionaries(
        {
            "dataset": st.just("table"),
            "target": TARGET,
            "network": networks(),
            "features": st.just(FEATURES),
            "training": TRAINING,
        }
    )
