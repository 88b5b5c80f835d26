"""Parameters and activation memory, estimated without TensorFlow, against TensorFlow's own graphs of the step."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fitserve.spec.activations import ACTIVATIONS
from tests.spec.table import resolved
from tests.trainer.activation_memory import activation_bytes
from workers.trainer.engine.network import build_network

pytestmark = pytest.mark.tensorflow

NETWORKS, OFTEN = 50, 15  # in the long form, and every time
BATCH = 16
LONG = pytest.mark.long
BETWEEN: list[Any] = [
    {"Dropout": 0.2},
    "BatchNormalization",
    "LayerNormalization",
    {"GaussianNoise": 0.1},
    {"LeakyReLU": 0.1},
    "ReLU",
    "PReLU",
    "UnitNormalization",
    {"GaussianDropout": 0.1},
]


def dense(draw: random.Random) -> Any:
    return {"Dense": {"units": draw.choice([32, 64, 128, 256]), "activation": draw.choice(ACTIVATIONS)}}


def convolution(draw: random.Random) -> Any:
    cls = draw.choice(["Conv1D", "SeparableConv1D"])
    return {cls: {"filters": draw.choice([8, 16, 32]), "kernel_size": 3, "padding": "same", "activation": "relu"}}


def generated(number: int) -> list[Any]:
    """A network: dense, convolutional, recurrent or in two branches, as the number says."""
    draw = random.Random(number)
    layers: list[Any] = []
    kind = draw.choice(["dense", "dense", "convolution", "recurrent", "branches"])
    if kind == "convolution":
        layers += [{"Reshape": [12, 1]}, convolution(draw), convolution(draw)]
        layers += draw.choice([[{"MaxPooling1D": 2}], [{"AveragePooling1D": 2}], [{"SpatialDropout1D": 0.2}], []])
        layers += draw.choice([["Flatten"], ["GlobalAveragePooling1D"], ["GlobalMaxPooling1D"]])
    if kind == "recurrent":  # unrolled: the tensors of a loop have no static shape
        cls = draw.choice(["LSTM", "GRU", "SimpleRNN"])
        layers += [{"Reshape": [12, 1]}, {cls: {"units": draw.choice([16, 32]), "unroll": True}}]
    if kind == "branches":
        wide, deep = (
            {**dense(draw), "name": "a", "inputs": "features"},
            {**dense(draw), "name": "b", "inputs": "features"},
        )
        layers += [wide, deep, {"Concatenate": {}, "inputs": ["a", "b"]}]
    for _ in range(draw.randint(1, 4)):
        layers.append(dense(draw))
        if draw.random() < 0.5:
            layers.append(draw.choice(BETWEEN))
    return layers


@pytest.mark.parametrize("number", [*range(OFTEN), *(pytest.param(n, marks=LONG) for n in range(OFTEN, NETWORKS))])
def test_estimates_of_a_generated_network(number: int) -> None:
    run = resolved(generated(number), batch_size=BATCH)
    assert build_network(run.spec).count_params() == run.estimates.parameters
    measured = activation_bytes(run.spec, BATCH)
    assert measured / 1.5 <= run.estimates.activation_bytes <= measured * 1.5
