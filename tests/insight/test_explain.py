"""Integrated gradients that sum to the change in output, and surfaces, through the serving graph."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import tensorflow as tf

from fitserve.encoder import Encoder
from fitserve.errors import BadInput, NotFound
from fitserve.explain import Inputs, attribute, axis_of, surface
from tests.insight.trained_runs import TrainedRun, run

pytestmark = pytest.mark.tensorflow


@cache
def _trained() -> TrainedRun:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    city = rng.choice(["oslo", "rome", "bonn"], 300)
    y = np.tanh(x[:, 0] * x[:, 1]) + (city == "rome") + rng.normal(0, 0.1, 300)
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "city": city, "y": y})
    network = [{"Dense": {"units": 32, "activation": "relu"}}, {"Dense": {"units": 16, "activation": "tanh"}}]
    training = {"epochs": 40, "optimizer": {"Adam": {"learning_rate": 0.01}}}
    features = {
        "a": ["robust", {"piecewise_linear": {"bins": 6}}],
        "b": "standardize",
        "c": "robust",
        "city": "one_hot",
    }
    return run(table, {"target": "y", "features": features, "network": network, "training": training})


def _parts() -> tuple[Encoder, dict, onnxruntime.InferenceSession]:
    ran = _trained()
    assert ran.result is not None
    assert ran.insight is not None
    encoder = Encoder.from_json(ran.result.manifest["encoder"])
    return encoder, ran.insight["reference"], onnxruntime.InferenceSession(str(ran.result.files["onnx"]))


def _predict(inputs: Inputs) -> np.ndarray:
    return np.asarray(_parts()[2].run(["y"], dict(inputs))[0], np.float64)


@pytest.mark.parametrize("seed", range(5))
def test_contributions_sum_to_the_change_in_output(seed: int) -> None:
    encoder, reference, _ = _parts()
    a, b, c = np.random.default_rng(seed).normal(0, 1.5, 3)
    attribution = attribute(encoder, reference, {"a": a, "b": b, "c": c, "city": "rome"}, _predict)
    assert attribution.completeness_error < 1e-3
    assert sum(attribution.contributions.values()) == pytest.approx(
        attribution.output - attribution.reference_output, abs=1e-3
    )


def test_contributions_are_integrals_of_the_gradient() -> None:
    """Against TensorFlow's own gradients on a path of 2,000 points."""
    encoder, reference, _ = _parts()
    row = {"a": 1.5, "b": 1.0, "c": -0.5, "city": "rome"}
    attribution = attribute(encoder, reference, row, _predict)
    assert _trained().result is not None
    network = keras.models.load_model(_trained().result.files["keras"])  # type: ignore[union-attr]
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    start, _ = encoder.encode_rows([reference])
    end, _ = encoder.encode_rows([row])
    shares = (np.arange(2000, dtype="float32")[:, None] + 0.5) / 2000
    path = tf.constant(start["features"] + shares * (end["features"] - start["features"]))
    with tf.GradientTape() as tape:
        tape.watch(path)
        outputs = inner({"features": path}, training=False)
        outputs = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    mean = tape.gradient(outputs, path).numpy().mean(0) * (end["features"] - start["features"])[0]
    for column in encoder.raw_columns:
        expected = sum(float(mean[one.part].sum()) for one in column.parts)
        assert attribution.contributions[column.name] == pytest.approx(expected, abs=0.02), column.name


def test_a_column_like_its_reference_contributes_nothing() -> None:
    encoder, reference, _ = _parts()
    attribution = attribute(encoder, reference, {**reference, "a": 2.0}, _predict)
    assert {name for name, value in attribution.contributions.items() if value} == {"a"}


def test_a_surface_holds_the_prediction_at_each_point() -> None:
    encoder, reference, _ = _parts()
    across, down = axis_of(encoder, "a", 7), axis_of(encoder, "city", 7)
    drawn = surface(encoder, reference, _predict, across, down)
    assert drawn.shape == (3, 7, 1)
    encoded, _ = encoder.encode_rows([{**reference, "a": across.values[4], "city": down.values[1]}])
    assert drawn[1, 4, 0] == pytest.approx(_predict(encoded)[0, 0], abs=1e-6)


def test_axes_that_cannot_be_drawn_are_refused() -> None:
    encoder, reference, _ = _parts()
    with pytest.raises(NotFound):
        axis_of(encoder, "d", 10)
    with pytest.raises(BadInput):
        axis_of(encoder, "a", 10, low=3.0, high=1.0)
    with pytest.raises(BadInput):
        axis_of(encoder, "a", 10_000)
    with pytest.raises(BadInput):
        surface(encoder, reference, _predict, axis_of(encoder, "a", 3), axis_of(encoder, "a", 3))
