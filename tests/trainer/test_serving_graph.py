"""The serving graph, which is written layer by layer, predicts as Keras does."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from keras import layers as L

from fitserve.spec.activations import ACTIVATIONS
from workers.trainer.engine.tabular_layers import BatchEnsemble, Periodic, with_plain_layers
from workers.trainer.export.export import exported_by_keras
from workers.trainer.export.onnx_graph import NotWritten, OutputForm
from workers.trainer.export.serving_graph import write

pytestmark = pytest.mark.tensorflow

UNWRITTEN = {"glu", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "threshold"}


def _same_answers(model: keras.Model, *arrays: np.ndarray) -> None:
    source = (getattr(model, "_functional", None) or model).output_names[0]
    graph = write(model, {"answer": OutputForm(source, 2.0, -1.0)}).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, dict(zip([i.name for i in session.get_inputs()], arrays, strict=True)))
    expected = np.asarray(model(arrays[0] if len(arrays) == 1 else list(arrays), training=False)) * 2.0 - 1.0
    np.testing.assert_allclose(answer, expected, rtol=2e-5, atol=2e-5)


def _same_answers_exported(model: keras.Model, x: np.ndarray) -> None:
    graph = exported_by_keras(model, {"y": OutputForm("y")}).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x})
    np.testing.assert_allclose(answer, np.asarray(model({"x": x})["y"]), rtol=2e-5, atol=2e-5)


def _randomised(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - UNWRITTEN))
def test_each_activation(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(5, 7)).astype("float32") * 3
    _same_answers(keras.Sequential([keras.Input((7,)), L.Activation(name)]), x)


@pytest.mark.parametrize("name", sorted(UNWRITTEN))
def test_an_unknown_activation_is_left_to_the_exporter(name: str) -> None:
    with pytest.raises(NotWritten):
        write(keras.Sequential([keras.Input((8,)), L.Activation(name)]), {})


@pytest.mark.parametrize("name", ["celu", "gelu"])  # of all activations, those with operators that ONNX lacks
def test_the_exporter_writes_each_activation(name: str) -> None:
    x = keras.Input((4, 3), name="x")
    both = L.Concatenate()([L.LSTM(3, activation=name)(x), L.Flatten()(L.Conv1D(2, 2, activation=name)(x))])
    model = _randomised(keras.Model({"x": x}, {"y": L.Dense(1)(both)}))
    _same_answers_exported(model, np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32"))


FLAT = {
    "dense": [L.Dense(5, "relu"), L.Dropout(0.5), L.Dense(3, "softmax", use_bias=False)],
    "norms": [
        L.BatchNormalization(),
        L.LayerNormalization(),
        L.BatchNormalization(scale=False, center=False),
        L.Dense(2),
    ],
    "leaky": [L.LeakyReLU(0.1), L.ReLU(max_value=1.5), L.ELU(0.7), L.PReLU(), L.Softmax()],
    "shapes": [L.Reshape((4, 3)), L.Permute((2, 1)), L.Dense(2), L.Flatten(), L.RepeatVector(2), L.Rescaling(0.5, 1.0)],
}
FLAT |= {
    "periodic": [Periodic(3, 4), Periodic(2, 3, variant="PLR"), L.Dense(2)],
    "members": [
        BatchEnsemble(4, 3, activation="relu"),
        BatchEnsemble(2, 3, random_signs=False, use_bias=False),
        L.GlobalAveragePooling1D(),
    ],
}
SEQUENCE = {
    "convolution": [L.Conv1D(4, 3, padding="same", strides=2), L.Conv1D(3, 2, padding="causal", dilation_rate=2)],
    "pooling": [L.MaxPooling1D(2), L.AveragePooling1D(2, padding="same", strides=1), L.GlobalMaxPooling1D()],
    "lstm": [L.LSTM(4, return_sequences=True), L.LSTM(3)],
    "gru": [L.GRU(4, return_sequences=True), L.GRU(3, reset_after=False, use_bias=False)],
}
IMAGE = {
    "convolution": [L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(2, padding="same"), L.GlobalAveragePooling2D()],
    "strides": [L.Conv2D(4, (3, 2), strides=2, padding="same"), L.AveragePooling2D(2, padding="same"), L.Flatten()],
}


@pytest.mark.parametrize("name", FLAT)
def test_layers_on_rows(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(5, 12)).astype("float32")
    _same_answers(_randomised(keras.Sequential([keras.Input((12,)), *FLAT[name]])), x)


@pytest.mark.parametrize("name", SEQUENCE)
def test_layers_on_sequences(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(2, 9, 3)).astype("float32")
    _same_answers(_randomised(keras.Sequential([keras.Input((9, 3)), *SEQUENCE[name]])), x)


@pytest.mark.parametrize("name", IMAGE)
def test_layers_on_images(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(2, 9, 8, 3)).astype("float32")
    _same_answers(_randomised(keras.Sequential([keras.Input((9, 8, 3)), *IMAGE[name]])), x)


def test_branches_and_embeddings() -> None:
    words, numbers = keras.Input((4,), dtype="int32", name="words"), keras.Input((3,), name="features")
    embedded = L.Flatten()(L.Embedding(10, 3)(words))
    a, b = L.Dense(4)(embedded), L.Dense(4)(numbers)
    merged = [m([a, b]) for m in (L.Add(), L.Subtract(), L.Multiply(), L.Average(), L.Maximum(), L.Minimum())]
    model = _randomised(keras.Model([words, numbers], L.Dense(2)(L.Concatenate()(merged))))
    rng = np.random.default_rng(1)
    _same_answers(model, rng.integers(0, 10, (5, 4)).astype("int32"), rng.normal(size=(5, 3)).astype("float32"))


@pytest.mark.parametrize("case", ["periodic", "members", "dense"])
def test_plain_layers_compute_the_same_and_load_anywhere(case: str, tmp_path: Path) -> None:
    layers = [type(one).from_config(one.get_config()) for one in FLAT[case]]
    model = _randomised(keras.Sequential([keras.Input((12,)), *layers]))
    plain = with_plain_layers(model)
    assert (plain is model) == (case == "dense")
    assert not {type(layer).__name__ for layer in plain.layers} & {"Periodic", "BatchEnsemble"}
    keras.Model(plain.inputs[0], plain.outputs[0]).save(tmp_path / "plain.keras")
    x = np.random.default_rng(1).normal(size=(5, 12)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(np.asarray(loaded(x)), np.asarray(model(x)), rtol=1e-5, atol=1e-5)
