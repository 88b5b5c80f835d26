"""Steps divided among two threads, by rows of the batch or of a kernel: the results of whole ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L

from workers.trainer.data.feeds import Resident, shuffled
from workers.trainer.engine import device, executors, halves, split_kernels
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.dropout import seed_by_element
from workers.trainer.engine.loop import Loop

pytestmark = pytest.mark.tensorflow

ROWS, BATCH = 25, 8  # the last batch of an epoch is a single row, of which TensorFlow's kernels take no empty half
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


def _separable() -> list[Any]:
    separable = L.SeparableConv2D(3, 2, activation="relu")
    return [L.Reshape((4, 3, 1)), separable, L.DepthwiseConv2D(2), L.Reshape((2, 3)), L.Conv1D(4, 1), L.MaxPooling1D()]


def _masked() -> list[Any]:
    return [L.Embedding(9, 4, mask_zero=True), L.Dropout(0.3), L.BatchNormalization(), L.LSTM(3), L.Dense(3)]


def _nested() -> list[Any]:
    return [keras.Sequential([L.Dense(4, "tanh"), L.BatchNormalization()]), L.Dense(3)]


NETWORKS: dict[str, Callable[[], list[Any]]] = {
    one.__name__.strip("_"): one
    for one in (_dense, _normalised, _images, _separable, _texts, _masked, _dropping_recurrent, _nested)
}


TEXTS = ("texts", "masked")


def _model(layers: Callable[[], list[Any]], integers: bool) -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12,), dtype="int32" if integers else "float32")
    tensor = inputs
    for layer in layers():
        tensor = layer(tensor)
    tensor = L.Flatten()(tensor)
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


def _halve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small networks trained in halves too."""
    monkeypatch.setattr(halves, "HALVED_STEP", 0)
    monkeypatch.setattr(halves, "USES", 0)
    monkeypatch.setattr(device, "threads", lambda: 2)


def _train(model: keras.Model, rows: RowTensors) -> tuple[dict[str, Any], int]:
    """Train a model; return the history and the number of products in the compiled function."""
    compiled = Compiled(model, rows, rows, BATCH, BATCH)
    history = Loop(compiled, Resident(rows, shuffled(0)), Resident(rows), 3).run()
    graph = compiled._traced.call.graph.as_graph_def()
    nodes = [node.op for function in graph.library.function for node in function.node_def]
    return history.history, nodes.count("MatMul")


def _assert_same(parts: dict[str, Any], whole: dict[str, Any], ours: keras.Model, theirs: keras.Model) -> None:
    """Compare the histories and the variables of two models."""
    for key, values in whole.items():
        np.testing.assert_allclose(parts[key], values, rtol=2e-4, atol=1e-6, err_msg=key)
    variables = ([*model.variables, *model.optimizer.variables] for model in (ours, theirs))
    for own, their in zip(*variables, strict=True):
        np.testing.assert_allclose(own, their, rtol=2e-4, atol=1e-4, err_msg=own.path)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_halves_train_like_whole_batches(name: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.integers(0, 9, (ROWS, 12)).astype("int32") if name in TEXTS else RNG.normal(size=(ROWS, 12))
    truth = {"class": RNG.integers(0, 3, ROWS).astype("int32"), "side": RNG.normal(size=(ROWS, 2)).astype("float32")}
    weight = {key: RNG.random(ROWS).astype("float32") for key in truth} if weighted else None
    rows = RowTensors.of(x if name in TEXTS else x.astype("float32"), truth, weight)
    ours, theirs = (_model(NETWORKS[name], integers=name in TEXTS) for _ in range(2))
    whole, few = _train(theirs, rows)
    monkeypatch.setattr(executors, "MULTITHREADED_STEP", -1)  # as large networks run: other kernels of TensorFlow's
    _halve(monkeypatch)
    parts, many = _train(ours, rows)
    _assert_same(parts, whole, ours, theirs)
    assert many > few


@pytest.mark.parametrize("end", ["sigmoid", "softmax", "logits", "numbers"])
def test_halves_have_the_loss_of_whole_batches(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss, its gradient and the metrics of one output, which are computed in each half."""
    x = RNG.normal(size=(ROWS, 12)).astype("float32")
    classes, above = RNG.integers(0, 3, ROWS).astype("int32"), (x[:, :1] > 0).astype("float32")
    sparse = keras.losses.SparseCategoricalCrossentropy
    last, loss, truth, metric = {
        "sigmoid": (lambda: L.Dense(1, "sigmoid"), keras.losses.BinaryCrossentropy, above, "auc"),
        "softmax": (lambda: L.Dense(3, "softmax", kernel_regularizer="l2"), sparse, classes, "accuracy"),
        "logits": (
            lambda: L.Dense(3),
            lambda: sparse(from_logits=True),
            classes[:, None],
            "sparse_categorical_accuracy",
        ),
        "numbers": (lambda: L.Dense(1), keras.losses.MeanSquaredError, x[:, 1:2], "mae"),
    }[end]
    rows = RowTensors.of(x, truth)

    def model() -> keras.Model:
        keras.utils.set_random_seed(3)
        network = keras.Sequential([keras.Input((12,)), L.Dense(6, "relu"), L.Dropout(0.4), last()])
        seed_by_element(network)
        network.compile("adam", loss(), metrics=[metric], jit_compile=False)
        return network

    ours, theirs = model(), model()
    whole, few = _train(theirs, rows)
    _halve(monkeypatch)
    parts, many = _train(ours, rows)
    _assert_same(parts, whole, ours, theirs)
    assert many > few


def test_halves_give_the_same_bits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _halve(monkeypatch)
    x, side = RNG.normal(size=(ROWS, 12)).astype("float32"), RNG.normal(size=(ROWS, 2)).astype("float32")
    rows = RowTensors.of(x, {"class": RNG.integers(0, 3, ROWS).astype("int32"), "side": side})
    first, second = (_model(_normalised, integers=False) for _ in range(2))
    for model in (first, second):
        _train(model, rows)
    for own, again in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(own, again, err_msg=own.path)


def _wide(optimizer: str, **arguments: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = [keras.Input((15,)), L.Dense(64, "relu"), L.Dropout(0.3), L.Dense(40), L.Dense(1, "sigmoid")]
    model = keras.Sequential(layers)
    seed_by_element(model)
    own = keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.05, **arguments}})
    model.compile(own, keras.losses.BinaryCrossentropy(), metrics=["accuracy"], jit_compile=False)
    return model


@pytest.mark.parametrize(
    ("optimizer", "arguments", "split"),
    [
        ("Adam", {}, True),
        ("SGD", {}, True),
        ("SGD", {"momentum": 0.9, "nesterov": True}, True),
        ("RMSprop", {}, True),
        ("RMSprop", {"momentum": 0.5}, True),
        ("Adam", {"clipnorm": 0.1}, False),
        ("AdamW", {}, False),
        ("Nadam", {}, False),
    ],
)
def test_kernels_in_parts_train_like_whole_ones(
    optimizer: str, arguments: dict[str, Any], split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = RNG.normal(size=(ROWS, 15)).astype("float32")
    rows = RowTensors.of(x, (x[:, :1] > 0).astype("float32"))
    ours, theirs = (_wide(optimizer, **arguments) for _ in range(2))
    whole, few = _train(theirs, rows)
    monkeypatch.setattr(split_kernels, "FEWEST", 500)
    monkeypatch.setattr(device, "threads", lambda: 2)
    parts, many = _train(ours, rows)
    _assert_same(parts, whole, ours, theirs)
    assert (many > few) == split


def test_kernels_stay_whole_where_parts_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with weights are trained by Keras's own step; a penalty and a constraint need the whole kernel."""
    monkeypatch.setattr(split_kernels, "FEWEST", 0)
    monkeypatch.setattr(device, "threads", lambda: 2)
    x = RNG.normal(size=(ROWS, 15)).astype("float32")
    truth = (x[:, :1] > 0).astype("float32")
    weighted = Compiled(_wide("Adam"), *[RowTensors.of(x, truth, truth[:, 0] + 1)] * 2, BATCH, BATCH)
    weighted.trace()
    assert not weighted.splits
    for argument in ({"kernel_regularizer": "l2"}, {"kernel_constraint": "max_norm"}):
        model = keras.Sequential([keras.Input((15,)), L.Dense(9, **argument), L.Dense(1, "sigmoid", **argument)])
        model.compile("adam", keras.losses.BinaryCrossentropy(), jit_compile=False)
        own = Compiled(model, *[RowTensors.of(x, truth)] * 2, BATCH, BATCH)
        own.trace()
        assert not own.splits


def test_validation_alone_is_traced_as_beside_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed in the middle of its validation has the same figures."""
    _halve(monkeypatch)
    monkeypatch.setattr(split_kernels, "FEWEST", 500)
    x = RNG.normal(size=(ROWS, 15)).astype("float32")
    rows = RowTensors.of(x, (x[:, :1] > 0).astype("float32"))
    for trains in (True, False):
        compiled = Compiled(_wide("Adam"), rows, rows, BATCH, BATCH)
        compiled.trace(trains)
        assert not compiled._in_halves
        assert bool(compiled.splits) == trains
