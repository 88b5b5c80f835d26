"""Passes in two halves of the batch: the results of whole batches, whatever the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from workers.trainer.data.feeds import Resident, shuffled
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.dropout import seed_by_element
from workers.trainer.engine.loop import Loop

pytestmark = pytest.mark.tensorflow

ROWS, BATCH = 25, 8  # the last batch of an epoch is a single row, whose first half is empty
RNG = np.random.default_rng(0)


def _dense() -> list[Any]:
    return [L.Dense(6, "relu", kernel_regularizer="l2"), L.Dropout(0.4), L.Dense(5, activity_regularizer="l1")]


def _normalised() -> list[Any]:
    return [L.Dense(6), L.BatchNormalization(), L.GaussianNoise(0.1), L.LayerNormalization(), L.Dense(4, "relu")]


def _images() -> list[Any]:
    return [
        L.Reshape((4, 3, 1)),
        L.Conv2D(3, 2, padding="same"),
        L.MaxPooling2D(),
        L.SpatialDropout2D(0.3),
        L.Flatten(),
    ]


def _texts() -> list[Any]:
    return [L.Embedding(9, 4, mask_zero=True), L.Bidirectional(L.LSTM(3)), L.Dense(3)]


def _dropping_recurrent() -> list[Any]:
    return [L.Reshape((4, 3)), L.GRU(3, dropout=0.3, recurrent_dropout=0.2), L.Dense(3)]


def _nested() -> list[Any]:
    return [keras.Sequential([L.Dense(4, "tanh"), L.BatchNormalization()]), L.Dense(3)]


NETWORKS: dict[str, Callable[[], list[Any]]] = {
    one.__name__.strip("_"): one for one in (_dense, _normalised, _images, _texts, _dropping_recurrent, _nested)
}


def _model(layers: Callable[[], list[Any]], integers: bool) -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12,), dtype="int32" if integers else "float32")
    tensor = inputs
    for layer in layers():
        tensor = layer(tensor)
    side = L.Dense(2, name="side")(tensor)
    merged = L.Concatenate()([tensor, side])
    model = keras.Model(inputs, {"class": L.Dense(3, "softmax", name="class")(merged), "side": side})
    seed_by_element(model)
    losses = {"class": keras.losses.SparseCategoricalCrossentropy(), "side": keras.losses.MeanSquaredError()}
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.5),
        losses,
        metrics={"class": ["accuracy"], "side": ["mae"]},
        jit_compile=False,
    )
    return model


def _trained(layers: Callable[[], list[Any]], rows: RowTensors, parts: bool) -> tuple[dict[str, Any], keras.Model]:
    model = _model(layers, integers=rows.x.dtype == tf.int32)
    compiled = Compiled(model, rows, rows, BATCH, BATCH)
    compiled._in_halves = parts
    history = Loop(compiled, Resident(rows, shuffled(0)), Resident(rows), 3).run()
    return history.history, model


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_halves_train_like_whole_batches(name: str, weighted: bool) -> None:
    x = RNG.integers(0, 9, (ROWS, 12)).astype("int32") if name == "texts" else RNG.normal(size=(ROWS, 12))
    truth = {"class": RNG.integers(0, 3, ROWS).astype("int32"), "side": RNG.normal(size=(ROWS, 2)).astype("float32")}
    weight = {key: RNG.random(ROWS).astype("float32") for key in truth} if weighted else None
    rows = RowTensors.of(x if name == "texts" else x.astype("float32"), truth, weight)
    (whole, theirs), (parts, ours) = (_trained(NETWORKS[name], rows, way) for way in (False, True))
    for key, values in whole.items():
        np.testing.assert_allclose(parts[key], values, rtol=2e-4, atol=1e-6, err_msg=key)
    for own, their in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(own, their, rtol=2e-4, atol=1e-5, err_msg=own.path)
