"""Layers recorded between epochs: correct figures, and undisturbed training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import training
from workers.trainer.engine.compiled import RowTensors
from workers.trainer.engine.stacked_network import StackedNetwork
from workers.trainer.insight.probe import ModelProbe, StackProbe
from workers.trainer.insight.recording import LayerRecorder, due

pytestmark = pytest.mark.tensorflow


def _model(activation: str = "relu", seed: int = 0, **more: object) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation, **more),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    return model


def _recorder(model: keras.Model, x: object, y: object) -> LayerRecorder:
    return LayerRecorder(ModelProbe(model, RowTensors.of(x, y)))


def _data(rows: int = 100) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype("float32")
    return x, (x[:, :1] > 0).astype("float32")


def test_norms_are_those_of_the_weights_the_gradient_and_the_change() -> None:
    model, (x, y) = _model(kernel_regularizer=keras.regularizers.L2(0.01)), _data()
    recorder = _recorder(model, x, y)
    before = [v.numpy().copy() for v in model.layers[0].weights]
    model.fit(x, y, epochs=2, verbose=0)
    (row,) = recorder.record(2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.binary_crossentropy(y, model(x, training=False))) + sum(model.losses)
    gradients = tape.gradient(loss, [v.value for v in model.layers[0].trainable_variables])
    norm = lambda parts: float(np.sqrt(sum((np.asarray(p) ** 2).sum() for p in parts)))  # noqa: E731
    first = row["layers"][0]
    moved = [v.numpy() - old for v, old in zip(model.layers[0].weights, before, strict=True)]
    assert first["weights"] == pytest.approx(norm([v.numpy() for v in model.layers[0].weights]), rel=1e-4)
    assert first["gradients"] == pytest.approx(norm(gradients), rel=1e-3)
    assert first["updates"] == pytest.approx(norm(moved) / 2, rel=1e-3)
    assert first["ratio"] == pytest.approx(first["updates"] / first["weights"], rel=1e-3)
    assert row["penalty"] == pytest.approx(float(sum(model.losses)), rel=1e-4)
    assert sum(first["histogram"]["counts"]) == first["size"] == 40


def test_a_small_networks_weights_are_recorded_themselves() -> None:
    model, (x, y) = _model(), _data()
    first, last = _recorder(model, x, y).record(1)[0]["layers"]
    np.testing.assert_allclose(first["values"]["kernel"], model.layers[0].kernel.numpy(), rtol=1e-5)
    np.testing.assert_allclose(last["values"]["bias"], model.layers[-1].bias.numpy(), atol=1e-6)
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(200, "relu"), keras.layers.Dense(1, "sigmoid")])
    wide.compile("sgd", "binary_crossentropy")
    assert "values" not in _recorder(wide, x, y).record(1)[0]["layers"][0]


def test_recording_does_not_change_training() -> None:
    x, y = _data()
    finals = []
    for looks in (False, True):
        model = _model()
        recorder = _recorder(model, x, y) if looks else None
        for epoch in range(1, 4):
            model.fit(x, y, epochs=1, verbose=0, shuffle=False)
            if recorder is not None:
                recorder.record(epoch)
        finals.append(model.get_weights())
    for one, other in zip(*finals, strict=True):
        np.testing.assert_array_equal(one, other)


def test_dead_and_saturated_units_are_counted() -> None:
    x, y = _data()
    dead = _model("relu")
    dead.layers[0].bias.assign([-100.0] * 3 + [0.0] * 5)
    assert _recorder(dead, x, y).record(1)[0]["layers"][0]["dead"] == pytest.approx(3 / 8)
    stuck = _model("tanh")
    stuck.layers[0].bias.assign([50.0] * 2 + [-50.0] * 2 + [0.0] * 4)
    row = _recorder(stuck, x, y).record(1)[0]
    assert row["layers"][0]["saturated"] == pytest.approx(4 / 8)
    assert "saturated" not in row["layers"][1]  # an output may be sure of itself


def test_small_weights_are_sparse() -> None:
    model, (x, y) = _model(), _data()
    kernel = model.layers[0].kernel.numpy().copy()
    kernel[:, :4] = 0.0
    model.layers[0].kernel.assign(kernel)
    model.layers[0].bias.assign(np.ones(8))
    row = _recorder(model, x, y).record(1)[0]["layers"][0]
    assert row["sparsity"] == pytest.approx(16 / 40, abs=0.03)


def test_long_epochs_are_all_recorded_and_short_ones_occasionally() -> None:
    assert all(due(epoch, 10, 196) for epoch in range(1, 11))
    recorded = [epoch for epoch in range(1, 201) if due(epoch, 200, 4)]
    assert recorded[:10] == list(range(1, 11))
    assert recorded[-1] == 200
    assert len(recorded) < 32
    assert sum(due(epoch, 100_000, 196) for epoch in range(1, 100_001)) <= 5_010
    assert 16 * sum(due(epoch, 2_000, 196, 16) for epoch in range(1, 2_001)) <= 5_200


def test_a_network_with_embeddings_and_recurrence_is_recorded() -> None:
    keras.utils.set_random_seed(0)
    words = keras.Input((5,), dtype="int32")
    hidden = keras.layers.LSTM(4)(keras.layers.Embedding(20, 3)(words))
    model = keras.Model(words, keras.layers.Dense(2, "softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = tf.ones((30, 5), tf.int32), tf.zeros((30,), tf.int32)
    (row,) = _recorder(model, x, y).record(1)
    assert [layer["class"] for layer in row["layers"]] == ["Embedding", "LSTM", "Dense"]
    assert all(layer["gradients"] > 0 for layer in row["layers"])


def test_stacked_trials_are_recorded_as_each_would_be_alone() -> None:
    x, y = _data()
    members = [_model("tanh", kernel_regularizer=keras.regularizers.L2(0.01), seed=seed) for seed in range(3)]
    rows = RowTensors.of(x, y)
    stack = StackedNetwork(members[0], members, rows, 32)
    stacked = LayerRecorder(StackProbe(stack, rows))
    before = [member.get_weights() for member in members]
    order = np.stack([np.random.default_rng(seed).permutation(100) for seed in range(3)]).astype(np.int32)
    for _ in range(2):
        stack.epoch(rows, order, None)
    for replica, seen in enumerate(stacked.record(2)):
        member = members[replica]
        member.set_weights(before[replica])
        alone = _recorder(member, x, y)
        member.set_weights(stack.weights(replica))
        (expected,) = alone.record(2)
        assert seen["penalty"] == pytest.approx(expected["penalty"], rel=1e-4)
        for ours, theirs in zip(seen["layers"], expected["layers"], strict=True):
            assert ours.keys() == theirs.keys()
            for name in {"weights", "gradients", "updates", "ratio", "sparsity", "saturated"} & theirs.keys():
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
            assert ours["histogram"]["counts"] == theirs["histogram"]["counts"]
            np.testing.assert_allclose(ours["values"]["kernel"], theirs["values"]["kernel"], rtol=1e-4)


def test_an_embeddings_gradient_is_summed_over_the_positions_that_read_it() -> None:
    keras.utils.set_random_seed(0)
    words = keras.Input((4,), dtype="int32")
    model = keras.Model(words, keras.layers.Dense(1)(keras.layers.Flatten()(keras.layers.Embedding(9, 2)(words))))
    model.compile("sgd", "mse")
    x, y = np.full((10, 4), 3, np.int32), np.ones((10, 1), np.float32)
    (row,) = _recorder(model, x, y).record(1)
    table = model.layers[1].embeddings
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    whole = tf.convert_to_tensor(tape.gradient(loss, table.value))
    assert row["layers"][0]["gradients"] == pytest.approx(float(tf.norm(whole)), rel=1e-4)


@pytest.mark.long
def test_recording_costs_less_than_a_twentieth_of_training() -> None:
    """T2, with our own loop: 50,000 x 32, 256-256-10, batch 256."""
    assert training.recorder(3) < 0.05
