"""Each layer, activation, regularizer, constraint and initializer of a spec is the same as in Keras."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from fitserve.exports import CODE_LAYERS
from fitserve.spec.activations import ACTIVATIONS
from fitserve.spec.initializers import INITIALIZERS
from fitserve.spec.layers import LAYERS
from fitserve.spec.network import read_entry
from fitserve.spec.regularizers import CONSTRAINTS, REGULARIZERS
from fitserve.spec.spec import Spec
from tests.spec.table import resolved
from tests.trainer.specs import train_one_epoch
from workers.trainer.engine.initial_values import set_seeds
from workers.trainer.engine.network import build, build_network
from workers.trainer.engine.tabular_layers import BatchEnsemble, Periodic
from workers.trainer.export.plain_code import network_code

pytestmark = pytest.mark.tensorflow

L, R, C, INIT = keras.layers, keras.regularizers, keras.constraints, keras.initializers

SEQUENCE: list[Any] = [{"Reshape": [4, 3]}]
IMAGE: list[Any] = [{"Reshape": [3, 4, 1]}]

NOTHING_ELSE: dict[str, Any] = {
    "bias_initializer": INIT.Zeros(),
    **{f"{weight}_{part}": None for weight in ("kernel", "bias") for part in ("regularizer", "constraint")},
}

# What the spec says, the same in Keras, and the layers before it.
CASES: list[tuple[Any, Any, list[Any]]] = [
    ({"Dense": 5}, L.Dense(5), []),
    (
        {
            "Dense": {
                "units": 5,
                "activation": "relu",
                "use_bias": True,
                "kernel_initializer": {"HeNormal": {"seed": 3}},
                "bias_initializer": {"Constant": 0.1},
                "kernel_regularizer": {"L1L2": {"l1": 0.01, "l2": 0.02}},
                "bias_regularizer": "L2",
                "activity_regularizer": {"L1": 0.001},
                "kernel_constraint": {"MaxNorm": 3},
                "bias_constraint": "NonNeg",
            }
        },
        L.Dense(
            5,
            activation="relu",
            kernel_initializer=INIT.HeNormal(seed=3),
            bias_initializer=INIT.Constant(0.1),
            kernel_regularizer=R.L1L2(l1=0.01, l2=0.02),
            bias_regularizer=R.L2(),
            activity_regularizer=R.L1(0.001),
            kernel_constraint=C.MaxNorm(3.0),
            bias_constraint=C.NonNeg(),
        ),
        [],
    ),
    ("Periodic", Periodic(), []),
    ({"Periodic": {"units": 3, "variant": "PLR"}}, Periodic(3, variant="PLR"), []),
    ({"BatchEnsemble": 5}, BatchEnsemble(5, kernel_initializer=INIT.GlorotUniform(), **NOTHING_ELSE), []),
    ({"Activation": "gelu"}, L.Activation("gelu"), []),
    ({"LeakyReLU": 0.2}, L.LeakyReLU(0.2), []),
    ({"ReLU": {"max_value": 6, "negative_slope": 0.1}}, L.ReLU(max_value=6.0, negative_slope=0.1), []),
    ({"ELU": 0.5}, L.ELU(0.5), []),
    ({"PReLU": {"shared_axes": [1]}}, L.PReLU(shared_axes=[1]), SEQUENCE),
    ("Softmax", L.Softmax(), []),
    ("Identity", L.Identity(), []),
    ({"ActivityRegularization": {"l2": 0.01}}, L.ActivityRegularization(l2=0.01), []),
    (
        {"Embedding": {"input_dim": 9, "output_dim": 3, "embeddings_regularizer": "L2"}},
        L.Embedding(9, 3, embeddings_regularizer=R.L2()),
        [],
    ),
    ({"Dropout": 0.3}, L.Dropout(0.3), []),
    ({"SpatialDropout1D": 0.3}, L.SpatialDropout1D(0.3), SEQUENCE),
    ({"SpatialDropout2D": 0.3}, L.SpatialDropout2D(0.3, data_format="channels_last"), IMAGE),
    ({"GaussianDropout": {"rate": 0.3, "seed": 5}}, L.GaussianDropout(0.3, seed=5), []),
    ({"AlphaDropout": 0.3}, L.AlphaDropout(0.3), []),
    ({"GaussianNoise": 0.3}, L.GaussianNoise(0.3), []),
    ({"BatchNormalization": {"momentum": 0.9}}, L.BatchNormalization(momentum=0.9), []),
    ({"LayerNormalization": {"scale": False}}, L.LayerNormalization(scale=False), []),
    ({"GroupNormalization": 3}, L.GroupNormalization(3), SEQUENCE),
    ("RMSNormalization", L.RMSNormalization(), []),
    ("UnitNormalization", L.UnitNormalization(), []),
    (
        {"Conv1D": {"filters": 4, "kernel_size": 3, "padding": "causal", "dilation_rate": 2, "activation": "relu"}},
        L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu", data_format="channels_last"),
        SEQUENCE,
    ),
    (
        {"Conv2D": {"filters": 4, "kernel_size": [2, 3], "strides": 2, "padding": "same"}},
        L.Conv2D(4, (2, 3), strides=2, padding="same", data_format="channels_last"),
        IMAGE,
    ),
    (
        {"SeparableConv1D": {"filters": 4, "kernel_size": 2, "depth_multiplier": 2}},
        L.SeparableConv1D(4, 2, depth_multiplier=2, data_format="channels_last"),
        SEQUENCE,
    ),
    (
        {"SeparableConv2D": {"filters": 4, "kernel_size": 2}},
        L.SeparableConv2D(4, 2, data_format="channels_last"),
        IMAGE,
    ),
    (
        {"DepthwiseConv1D": {"kernel_size": 2, "depth_multiplier": 2}},
        L.DepthwiseConv1D(2, depth_multiplier=2, data_format="channels_last"),
        SEQUENCE,
    ),
    ({"DepthwiseConv2D": 2}, L.DepthwiseConv2D(2, data_format="channels_last"), IMAGE),
    ({"MaxPooling1D": 2}, L.MaxPooling1D(2, data_format="channels_last"), SEQUENCE),
    (
        {"MaxPooling2D": {"pool_size": 2, "strides": 1, "padding": "same"}},
        L.MaxPooling2D(2, strides=1, padding="same", data_format="channels_last"),
        IMAGE,
    ),
    ({"AveragePooling1D": 2}, L.AveragePooling1D(2, data_format="channels_last"), SEQUENCE),
    ({"AveragePooling2D": [1, 2]}, L.AveragePooling2D((1, 2), data_format="channels_last"), IMAGE),
    ("GlobalMaxPooling1D", L.GlobalMaxPooling1D(data_format="channels_last"), SEQUENCE),
    (
        {"GlobalMaxPooling2D": {"keepdims": True}},
        L.GlobalMaxPooling2D(keepdims=True, data_format="channels_last"),
        IMAGE,
    ),
    ("GlobalAveragePooling1D", L.GlobalAveragePooling1D(data_format="channels_last"), SEQUENCE),
    ("GlobalAveragePooling2D", L.GlobalAveragePooling2D(data_format="channels_last"), IMAGE),
    (
        {"LSTM": {"units": 3, "return_sequences": True, "dropout": 0.1, "recurrent_regularizer": "L1"}},
        L.LSTM(3, return_sequences=True, dropout=0.1, recurrent_regularizer=R.L1()),
        SEQUENCE,
    ),
    ({"GRU": {"units": 3, "reset_after": False}}, L.GRU(3, reset_after=False), SEQUENCE),
    ({"SimpleRNN": 3}, L.SimpleRNN(3), SEQUENCE),
    ({"Bidirectional": {"LSTM": 3}}, L.Bidirectional(L.LSTM(3, name="lstm"), name="x"), SEQUENCE),
    (
        {"Bidirectional": {"layer": {"GRU": {"units": 3, "return_sequences": True}}, "merge_mode": "sum"}},
        L.Bidirectional(L.GRU(3, return_sequences=True, name="gru"), merge_mode="sum"),
        SEQUENCE,
    ),
    ("Flatten", L.Flatten(data_format="channels_last"), SEQUENCE),
    ({"Reshape": [3, -1]}, L.Reshape([3, -1]), []),
    ({"Permute": [2, 1]}, L.Permute([2, 1]), SEQUENCE),
    ({"RepeatVector": 3}, L.RepeatVector(3), []),
    ({"ZeroPadding1D": [1, 2]}, L.ZeroPadding1D((1, 2), data_format="channels_last"), SEQUENCE),
    ({"Cropping1D": 1}, L.Cropping1D(1), SEQUENCE),
    ({"UpSampling1D": 3}, L.UpSampling1D(3), SEQUENCE),
    ({"Rescaling": {"scale": 0.5, "offset": 1}}, L.Rescaling(0.5, offset=1.0), []),
    ({"Concatenate": {"axis": 1}}, L.Concatenate(axis=1), []),
    ("Add", L.Add(), []),
    ("Subtract", L.Subtract(), []),
    ("Multiply", L.Multiply(), []),
    ("Average", L.Average(), []),
    ("Maximum", L.Maximum(), []),
    ("Minimum", L.Minimum(), []),
]


def class_of(case: Any) -> str:
    return case if isinstance(case, str) else next(iter(case))


def case_id(value: Any) -> str:
    return class_of(value) if isinstance(value, (str, dict)) else ""


def config(layer: Any) -> Any:
    """Keras's own configuration, names and the encoding of lists aside."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in ("name", "build_config")}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(keras.saving.serialize_keras_object(layer))


def network_with(entry: Any, before: list[Any]) -> list[Any]:
    """A network with the layer in its middle; merging layers get two branches."""
    name = class_of(entry)
    if LAYERS.classes[name].merges:
        two = [{"Dense": 4, "name": "a", "inputs": "features"}, {"Dense": 4, "name": "b", "inputs": "features"}]
        stated = {entry: {}} if isinstance(entry, str) else entry
        return [*two, {**stated, "inputs": ["a", "b"]}]
    if name == "Embedding":
        return [{**entry, "inputs": ["words"]}, "Flatten"]
    return [*before, entry]


def test_every_layer_has_a_case() -> None:
    assert {class_of(entry) for entry, _, _ in CASES} == set(LAYERS.classes) - {"Input"}


@pytest.mark.parametrize(
    ("entry", "theirs", "before"), CASES, ids=lambda value: class_of(value) if isinstance(value, (str, dict)) else ""
)
def test_a_layer_is_the_one_of_keras_and_trains(entry: Any, theirs: Any, before: list[Any]) -> None:
    assert config(build(read_entry(entry).layer)) == config(theirs)
    words = [{"words": {"sequence": {"max_tokens": 9}}}] if class_of(entry) == "Embedding" else None
    run = resolved(network_with(entry, before), features=words)
    network = build_network(run.spec)
    assert network.count_params() == run.estimates.parameters
    for row in run.summary:
        if row.layer != "Input":
            assert network.get_layer(row.name).output.shape == row.output_shape
            assert network.get_layer(row.name).count_params() == row.parameters
    assert math.isfinite(train_one_epoch(run.spec)["loss"])
    if class_of(entry) in CODE_LAYERS:
        check_first_weights(run.spec)


def check_first_weights(spec: Spec) -> None:
    """Compare a network's first weights with those of its plain code."""
    set_seeds(3)
    expected = build_network(spec).get_weights()
    known: dict[str, Any] = {"keras": keras, "tf": tf, "np": np, "SEED": 3}
    exec(network_code(spec.to_json()["network"]).replace("model.summary()", ""), known)
    for own, first in zip(known["model"].get_weights(), expected, strict=True):
        np.testing.assert_array_equal(own, first)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_the_one_of_keras(activation: str) -> None:
    entry = {"Dense": {"units": 6, "activation": activation}}
    assert config(build(read_entry(entry).layer)) == config(L.Dense(6, activation=activation))


def test_all_activations_train() -> None:
    check_branches([{"Dense": {"units": 6, "activation": activation}} for activation in ACTIVATIONS])


def check_branches(entries: list[Any]) -> None:
    """Train a network with each entry in a branch of its own, and compare it with the summary of the spec."""
    branches = [{**entry, "name": f"b{at}", "inputs": "features"} for at, entry in enumerate(entries)]
    run = resolved([*branches, {"Concatenate": {}, "inputs": [one["name"] for one in branches]}])
    network = build_network(run.spec)
    assert network.count_params() == run.estimates.parameters
    shapes = {row.layer: row.output_shape for row in run.summary}
    assert len(run.summary) == len(entries) + 3, shapes
    for row in run.summary:
        if row.layer != "Input":
            assert network.get_layer(row.name).output.shape == row.output_shape
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


REGULARIZED = [
    ("L1", R.L1()),
    ({"L2": 0.5}, R.L2(0.5)),
    ({"L1L2": {"l1": 0.1, "l2": 0.2}}, R.L1L2(0.1, 0.2)),
    ({"OrthogonalRegularizer": {"factor": 0.1, "mode": "columns"}}, R.OrthogonalRegularizer(0.1, "columns")),
]
CONSTRAINED = [
    ({"MaxNorm": {"max_value": 1, "axis": [0]}}, C.MaxNorm(1.0, axis=[0])),
    (
        {"MinMaxNorm": {"min_value": 0.1, "max_value": 2, "rate": 0.5}},
        C.MinMaxNorm(min_value=0.1, max_value=2.0, rate=0.5),
    ),
    ("NonNeg", C.NonNeg()),
    ("UnitNorm", C.UnitNorm()),
]
INITIALIZED = [
    ("Zeros", INIT.Zeros()),
    ("Ones", INIT.Ones()),
    ({"Constant": 0.3}, INIT.Constant(0.3)),
    ({"Constant": [[0.1, 0.2, 0.3, 0.4]] * 12}, INIT.Constant([[0.1, 0.2, 0.3, 0.4]] * 12)),
    ({"RandomNormal": {"stddev": 0.1, "seed": 1}}, INIT.RandomNormal(stddev=0.1, seed=1)),
    ({"RandomUniform": {"minval": -1, "maxval": 1, "seed": 1}}, INIT.RandomUniform(-1.0, 1.0, seed=1)),
    ({"TruncatedNormal": {"stddev": 0.1, "seed": 1}}, INIT.TruncatedNormal(stddev=0.1, seed=1)),
    (
        {"VarianceScaling": {"scale": 2, "mode": "fan_avg", "distribution": "uniform", "seed": 1}},
        INIT.VarianceScaling(2.0, "fan_avg", "uniform", seed=1),
    ),
    *(
        ({name: {"seed": 4}}, getattr(INIT, name)(seed=4))
        for name in ("GlorotUniform", "GlorotNormal", "HeUniform", "HeNormal", "LecunUniform", "LecunNormal")
    ),
    ({"Orthogonal": {"gain": 2, "seed": 1}}, INIT.Orthogonal(2.0, seed=1)),
    ({"Identity": 0.5}, INIT.Identity(0.5)),
]
PARTS = [
    *(("kernel_regularizer", stated, theirs) for stated, theirs in REGULARIZED),
    *(("bias_regularizer", stated, theirs) for stated, theirs in REGULARIZED[:3]),
    *(("activity_regularizer", stated, theirs) for stated, theirs in REGULARIZED),
    *(("kernel_constraint", stated, theirs) for stated, theirs in CONSTRAINED),
    *(("kernel_initializer", stated, theirs) for stated, theirs in INITIALIZED),
]


def test_every_part_has_a_case() -> None:
    assert {class_of(stated) for stated, _ in REGULARIZED} == set(REGULARIZERS.classes)
    assert {class_of(stated) for stated, _ in CONSTRAINED} == set(CONSTRAINTS.classes)
    assert {class_of(stated) for stated, _ in INITIALIZED} == set(INITIALIZERS.classes)


@pytest.mark.parametrize(("argument", "stated", "theirs"), PARTS, ids=case_id)
def test_a_part_of_a_layer_is_the_one_of_keras(argument: str, stated: Any, theirs: Any) -> None:
    entry = {"Dense": {"units": 4, argument: stated}}
    assert config(build(read_entry(entry).layer)) == config(L.Dense(4, **{argument: theirs}))


@pytest.mark.parametrize("argument", dict.fromkeys(argument for argument, _, _ in PARTS))
def test_all_parts_of_a_layer_train(argument: str) -> None:
    check_branches([{"Dense": {"units": 4, argument: stated}} for one, stated, _ in PARTS if one == argument])
