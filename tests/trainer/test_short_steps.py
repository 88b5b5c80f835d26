"""Short forms of losses, metrics and steps: Keras's figures, in fewer operations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from workers.trainer.data.feeds import Resident
from workers.trainer.engine import compiled
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.dropout import seed_by_element
from workers.trainer.engine.executors import Executor
from workers.trainer.engine.halves import in_halves
from workers.trainer.engine.loop import Loop
from workers.trainer.engine.loss_kernels import loss_of

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype("float32")
X[0] = 0  # without biases, its logits are 0, where a cross-entropy's terms have no derivative of their own
HALVES = (X[:, :1] > 0).astype("float32")
CLASSES = RNG.integers(0, 4, 20).astype("int32")
LOSSES: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "binary": (keras.losses.BinaryCrossentropy, lambda: L.Dense(1, "sigmoid", use_bias=False), HALVES),
    "binary of logits": (
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
        lambda: L.Dense(1, use_bias=False),
        HALVES,
    ),
    "classes": (keras.losses.SparseCategoricalCrossentropy, lambda: L.Dense(4, "softmax"), CLASSES),
    "classes of logits, one column": (
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda: L.Dense(4, kernel_regularizer="l2"),
        CLASSES[:, None],
    ),
    "squares": (keras.losses.MeanSquaredError, lambda: L.Dense(1, kernel_regularizer="l2"), X[:, 1:2]),
    "smoothed": (
        lambda: keras.losses.BinaryCrossentropy(label_smoothing=0.1),
        lambda: L.Dense(1, "sigmoid", use_bias=False),
        HALVES,
    ),
}


def _model(loss: Callable[[], Any], end: Callable[[], Any], metrics: Any = ("accuracy", "mae")) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), L.Dense(5, "tanh", use_bias=False), end()])
    model.compile("adam", loss(), metrics=list(metrics), jit_compile=False)
    return model


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_keras_s_and_so_is_its_gradient_but_for_rounding(name: str) -> None:
    loss, end, truth = LOSSES[name]
    model = _model(loss, end)
    rows = RowTensors.of(X, truth)
    compiled.build(model, rows)
    gradients, values = [], []

    @tf.function(autograph=False)
    def both(x: Any, y: Any) -> Any:
        for short in (False, True):
            with tf.GradientTape() as tape:
                predicted = model(x, training=True)
                if short:
                    found = loss_of(model, tape, (x, y, None), predicted, lambda part: part * 2.0)
                else:
                    whole = model.compute_loss(x=x, y=y, y_pred=predicted)
                    doubled = whole * 2.0
            weights = model.trainable_weights
            gradients.append(found.gradients(tape, weights) if short else tape.gradient(doubled, weights))
            values.append(found.value if short else whole)
        return values, gradients

    (whole, short), (theirs, ours) = both(rows.x, rows.y)
    assert whole.numpy() == short.numpy()
    for own, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("halved", [False, True])
def test_a_loss_of_classes_is_keras_s_however_far_apart_their_logits_are(halved: bool) -> None:
    model = keras.Sequential([keras.Input((4,)), L.Softmax()])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(), jit_compile=False)
    finite = np.float32([0, 1e-6, 20, 90, 1e4])[:, None] * np.float32([1, 0.5, 0, -1]) + np.float32([0, 0, 1, 2])
    x = np.vstack([finite, np.float32([[np.inf, 1, 0, 0], [-np.inf, 1, 2, 0], [np.nan, 1, 0, 0], [-1e38, 0, 0, 1e38]])])
    cases = [(x[row : row + 1], np.int32([label])) for row in range(len(x)) for label in range(4)]
    compiled.build(model, RowTensors.of(*cases[0]))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int32)])
    def both(x: Any, y: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            with in_halves(model) if halved else contextlib.nullcontext():
                predicted = model(x, training=True)
            found = loss_of(model, tape, (x, y, None), predicted)
            whole = model.compute_loss(x=x, y=y, y_pred=predicted)
        return [found.value, *found.gradients(tape, [x])], [whole, tape.gradient(whole, x)]

    for case in cases:
        for own, their in zip(*both(*case), strict=True):
            if np.isnan(their).any():  # the kernels differ in which elements are not a number
                assert np.isnan(own).any(), case
            else:
                np.testing.assert_allclose(own, their, rtol=1e-5, atol=2e-7, err_msg=str(case))


@pytest.mark.parametrize("name", ["binary", "classes", "squares"])
def test_steps_count_what_keras_s_steps_count(name: str) -> None:
    loss, end, truth = LOSSES[name]
    ours, theirs = (_model(loss, end, ["mae"] if name == "squares" else ["accuracy"]) for _ in range(2))
    compiled.build(theirs, RowTensors.of(X, truth))
    Compiled(ours, RowTensors.of(X, truth), RowTensors.of(X, truth), 20, 20)
    batch = (tf.constant(X), tf.constant(truth))
    for model in (ours, theirs):
        tf.function(model.train_step, autograph=False)(batch)
        tf.function(model.test_step, autograph=False)(batch)
    for own, their in zip(ours.metrics_variables, theirs.metrics_variables, strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-6)
    for own, their in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-5, atol=1e-6)


def test_a_small_network_is_traced_in_few_operations() -> None:
    loss, end, truth = LOSSES["binary"]
    rows = RowTensors.of(X, truth)
    traced = Compiled(_model(loss, end, ["accuracy"]), rows, rows, 5, 5)
    traced.trace()
    graph = traced._traced.call.graph.as_graph_def()
    operations = len(graph.node) + sum(len(function.node_def) for function in graph.library.function)
    assert operations < 350, operations  # 560 with Keras's own steps and metrics


def test_dropout_s_gradient_passes_where_its_mask_does_in_few_operations() -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dropout(0.5, seed=1)])
    seed_by_element(model)

    @tf.function(autograph=False)
    def dropped(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
        return y, tape.gradient(y, x)

    kept, slopes = dropped(tf.constant(X[1:]))
    np.testing.assert_array_equal(slopes, (kept.numpy() != 0) * np.float32(2))
    assert 0.3 < np.mean(kept.numpy() != 0) < 0.7
    operations = len(dropped.get_concrete_function(tf.TensorSpec((None, 3))).graph.get_operations())
    assert operations < 160, operations  # 190 by `tf.where`, with an axis for replicas


def test_no_graph_is_rewritten_and_a_small_network_has_one_thread() -> None:
    context = pytest.importorskip("tensorflow.python.eager.context").context()

    def rewritten() -> bool:
        config = tf.compat.v1.ConfigProto.FromString(context.function_call_options.config_proto_serialized)
        return not config.graph_options.rewrite_options.disable_meta_optimizer

    small = _model(*LOSSES["binary"][:2])
    large = keras.Sequential([keras.Input((1_000,)), L.Dense(1_000)])
    before = context.function_call_options.as_attrs()
    for model, batch_size, executor_type in ((small, 32, "SINGLE_THREADED_EXECUTOR"), (large, 1_000, "")):
        with Executor(model, batch_size)():
            assert not rewritten()
            assert context.function_call_options.executor_type == executor_type
        assert context.function_call_options.as_attrs() == before


def test_steps_are_traced_when_they_are_needed() -> None:
    loss, end, truth = LOSSES["binary"]
    rows = RowTensors.of(X, truth)
    model = _model(loss, end, ["accuracy"])
    traced = Compiled(model, rows, None, 5, 5)
    loop = Loop(traced, Resident(rows), None, 2)
    loop.run()
    assert (traced._traced.trains, traced._traced.tests) == (True, False)
    found = loop.evaluate(Resident(rows))
    assert (traced._traced.trains, traced._traced.tests) == (True, True)
    np.testing.assert_allclose(list(found.values()), model.evaluate(X, truth, verbose=0), rtol=1e-5)
