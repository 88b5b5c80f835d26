"""Each optimizer, schedule, loss, metric and callback of a spec is the same as in Keras."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

from fitserve.spec.losses import LOSSES
from fitserve.spec.metrics import METRICS
from fitserve.spec.optimizers import OPTIMIZERS, SCHEDULES
from fitserve.spec.spec import SpecRefused
from tests.spec.table import resolved
from tests.trainer.specs import arrays, compiled, train_one_epoch
from workers.trainer.engine.network import (
    LinearWarmup,
    build,
    build_callbacks,
    build_losses,
    build_metrics,
    build_network,
    build_optimizer,
)

pytestmark = pytest.mark.tensorflow

OPT, S, L, M = keras.optimizers, keras.optimizers.schedules, keras.losses, keras.metrics

OPTIMIZED = [
    ({"SGD": {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}}, OPT.SGD(0.05, momentum=0.9, nesterov=True)),
    (
        {"RMSprop": {"rho": 0.8, "momentum": 0.1, "centered": True, "clipnorm": 1}},
        OPT.RMSprop(rho=0.8, momentum=0.1, centered=True, clipnorm=1.0),
    ),
    ("adam", OPT.Adam()),
    (
        {"Adam": {"amsgrad": True, "beta_1": 0.8, "epsilon": 1e-6, "clipvalue": 0.5, "weight_decay": 0.01}},
        OPT.Adam(amsgrad=True, beta_1=0.8, epsilon=1e-6, clipvalue=0.5, weight_decay=0.01),
    ),
    ({"AdamW": {"weight_decay": 0.01, "global_clipnorm": 2}}, OPT.AdamW(weight_decay=0.01, global_clipnorm=2.0)),
    ({"Nadam": {"beta_2": 0.99}}, OPT.Nadam(beta_2=0.99)),
    ({"Adamax": 0.01}, OPT.Adamax(0.01)),
    ({"Adagrad": {"initial_accumulator_value": 0.2}}, OPT.Adagrad(initial_accumulator_value=0.2)),
    ({"Adadelta": {"rho": 0.9}}, OPT.Adadelta(rho=0.9)),
    (
        {"Ftrl": {"l1_regularization_strength": 0.01, "beta": 0.1}},
        OPT.Ftrl(l1_regularization_strength=0.01, beta=0.1),
    ),
    ({"Lion": {"beta_2": 0.98}}, OPT.Lion(beta_2=0.98)),
    ({"Lamb": 0.002}, OPT.Lamb(0.002)),
    ({"Adafactor": {"relative_step": False}}, OPT.Adafactor(relative_step=False)),
    ({"Muon": {"ns_steps": 3, "nesterov": False}}, OPT.Muon(ns_steps=3, nesterov=False)),
    ({"ScheduleFreeAdamW": {"warmup_steps": 5}}, OPT.ScheduleFreeAdamW(warmup_steps=5)),
    (
        {"SGD": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 10}},
        OPT.SGD(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=10),
    ),
    (
        {"SGD": {"gradient_accumulation_steps": 2, "loss_scale_factor": 4}},
        OPT.SGD(gradient_accumulation_steps=2, loss_scale_factor=4.0),
    ),
]
SCHEDULED = [
    (
        {"ExponentialDecay": {"initial_learning_rate": 0.1, "decay_steps": 100, "decay_rate": 0.9, "staircase": True}},
        S.ExponentialDecay(0.1, 100, 0.9, staircase=True),
    ),
    (
        {"InverseTimeDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}},
        S.InverseTimeDecay(0.1, 10, 0.5),
    ),
    (
        {"PolynomialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "power": 2, "cycle": True}},
        S.PolynomialDecay(0.1, 10, power=2.0, cycle=True),
    ),
    (
        {"PiecewiseConstantDecay": {"boundaries": [5, 9], "values": [0.1, 0.05, 0.01]}},
        S.PiecewiseConstantDecay([5, 9], [0.1, 0.05, 0.01]),
    ),
    (
        {"CosineDecay": {"initial_learning_rate": 0, "decay_steps": 9, "warmup_target": 0.1, "warmup_steps": 3}},
        S.CosineDecay(0.0, 9, warmup_target=0.1, warmup_steps=3),
    ),
    (
        {"CosineDecayRestarts": {"initial_learning_rate": 0.1, "first_decay_steps": 4, "alpha": 0.1}},
        S.CosineDecayRestarts(0.1, 4, alpha=0.1),
    ),
]
# The loss, the same in Keras, and a target that it suits.
LOST: list[tuple[Any, Any, str]] = [
    ({"BinaryCrossentropy": {"label_smoothing": 0.1}}, L.BinaryCrossentropy(label_smoothing=0.1), "yes"),
    ({"BinaryCrossentropy": {"from_logits": True}}, L.BinaryCrossentropy(from_logits=True), "yes"),
    (
        {"BinaryFocalCrossentropy": {"apply_class_balancing": True, "gamma": 1}},
        L.BinaryFocalCrossentropy(apply_class_balancing=True, gamma=1.0),
        "yes",
    ),
    ({"CategoricalCrossentropy": 0.1}, L.CategoricalCrossentropy(label_smoothing=0.1), "colour"),
    ({"CategoricalFocalCrossentropy": {"alpha": 0.5}}, L.CategoricalFocalCrossentropy(alpha=0.5), "colour"),
    ({"CategoricalGeneralizedCrossEntropy": 0.7}, L.CategoricalGeneralizedCrossEntropy(0.7), "colour"),
    ("sparse_categorical_crossentropy", L.SparseCategoricalCrossentropy(), "colour"),
    ("sparse_categorical_crossentropy", L.SparseCategoricalCrossentropy(), "yes"),
    ("Hinge", L.Hinge(), "yes"),
    ("SquaredHinge", L.SquaredHinge(), "yes"),
    ("CategoricalHinge", L.CategoricalHinge(), "colour"),
    ("kl_divergence", L.KLDivergence(), "colour"),
    ("Poisson", L.Poisson(), "count"),
    ("mse", L.MeanSquaredError(), "price"),
    ("mse", L.MeanSquaredError(), "colour"),
    ("mae", L.MeanAbsoluteError(), "price"),
    ("mape", L.MeanAbsolutePercentageError(), "price"),
    ("msle", L.MeanSquaredLogarithmicError(), "count"),
    ({"Huber": 2}, L.Huber(2.0), "price"),
    ("LogCosh", L.LogCosh(), "price"),
    ("CosineSimilarity", L.CosineSimilarity(), "colour"),
    ("Dice", L.Dice(), "yes"),
    ({"Tversky": {"alpha": 0.3, "beta": 0.7}}, L.Tversky(0.3, 0.7), "yes"),
]
# Metrics whose arguments or targets are their own; all others are tried with their defaults.
MEASURED: dict[str, tuple[Any, Any]] = {
    "AUC": ({"curve": "PR", "num_thresholds": 50}, M.AUC(curve="PR", num_thresholds=50)),
    "Precision": ({"thresholds": 0.4}, M.Precision(thresholds=0.4)),
    "PrecisionAtRecall": (0.5, M.PrecisionAtRecall(0.5)),
    "RecallAtPrecision": (0.5, M.RecallAtPrecision(0.5)),
    "SensitivityAtSpecificity": (0.5, M.SensitivityAtSpecificity(0.5)),
    "SpecificityAtSensitivity": (0.5, M.SpecificityAtSensitivity(0.5)),
    "F1Score": ({"average": "macro"}, M.F1Score(average="macro")),
    "FBetaScore": ({"average": "micro", "beta": 2}, M.FBetaScore(average="micro", beta=2.0)),
    "TopKCategoricalAccuracy": (2, M.TopKCategoricalAccuracy(2)),
    "SparseTopKCategoricalAccuracy": (2, M.SparseTopKCategoricalAccuracy(2)),
    "BinaryIoU": ({"target_class_ids": [1]}, M.BinaryIoU(target_class_ids=[1])),
}
TARGETS = {"binary": "yes", "one_hot": "colour", "index": "colour", "numbers": "price"}
LOSS_OF = {"one_hot": "CategoricalCrossentropy", "index": "SparseCategoricalCrossentropy"}


def name_of(case: Any) -> str:
    return case if isinstance(case, str) else next(iter(case)) if isinstance(case, dict) else ""


def config(thing: Any) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != "name"}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(thing.get_config())


def test_everything_has_a_case() -> None:
    assert {OPTIMIZERS.class_named(name_of(stated)).__name__ for stated, _ in OPTIMIZED} == set(OPTIMIZERS.classes)
    assert {name_of(stated) for stated, _ in SCHEDULED} == set(SCHEDULES.classes)
    assert {LOSSES.class_named(name_of(stated)).__name__ for stated, _, _ in LOST} == set(LOSSES.classes) - {"Quantile"}


@pytest.mark.parametrize(("stated", "theirs"), OPTIMIZED, ids=name_of)
def test_an_optimizer_is_the_one_of_keras_and_trains(stated: Any, theirs: Any) -> None:
    run = resolved([{"Dense": 4}], optimizer=stated)
    assert config(build_optimizer(run.spec)) == config(theirs)
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


@pytest.mark.parametrize(("stated", "theirs"), SCHEDULED, ids=name_of)
def test_a_schedule_is_the_one_of_keras_and_trains(stated: Any, theirs: Any) -> None:
    run = resolved([{"Dense": 4}], optimizer={"SGD": {"learning_rate": stated}})
    schedule = build(run.spec.training.optimizer.learning_rate)
    assert config(schedule) == config(theirs)
    assert [float(schedule(step)) for step in (0, 4, 20)] == [float(theirs(step)) for step in (0, 4, 20)]
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


@pytest.mark.parametrize(("stated", "theirs", "target"), LOST, ids=name_of)
def test_a_loss_is_the_one_of_keras_and_trains(stated: Any, theirs: Any, target: str) -> None:
    run = resolved([{"Dense": 4}], target, loss=stated)
    (loss,) = build_losses(run.spec).values()
    assert type(loss) is type(theirs)
    assert config(loss) == config(theirs)
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


def test_quantile_loss_is_the_pinball_loss() -> None:
    run = resolved([], "price", loss={"Quantile": [0.1, 0.5, 0.9]})
    assert run.spec.network[-1].layer.units == 3
    (loss,) = build_losses(run.spec).values()
    y, prediction = np.array([[1.0], [2.0]]), np.array([[0.5, 1.0, 3.0], [0.0, 4.0, 1.0]])
    error = y - prediction
    expected = np.mean(np.maximum(np.array([0.1, 0.5, 0.9]) * error, (np.array([0.1, 0.5, 0.9]) - 1) * error))
    assert float(loss(y, prediction)) == pytest.approx(expected)
    assert float(type(loss).from_config(loss.get_config())(y, prediction)) == pytest.approx(expected)
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


@pytest.mark.parametrize("encoding", TARGETS)
def test_a_metric_is_the_one_of_keras_and_is_logged(encoding: str) -> None:
    """All metrics of one kind of target, at once."""
    names = [name for name, cls in METRICS.classes.items() if cls.expects[0] == encoding]
    run = resolved(
        [{"Dense": 4}],
        TARGETS[encoding],
        loss={**LOSS_OF, "binary": "BinaryCrossentropy", "numbers": "mse"}[encoding],
        metrics=[{name: MEASURED.get(name, (None, None))[0]} for name in names],
    )
    (metrics,) = build_metrics(run.spec).values()
    logs = train_one_epoch(run.spec)
    for name, metric in zip(names, metrics, strict=True):
        theirs = MEASURED[name][1] if name in MEASURED else getattr(M, name)()
        assert config(metric) == config(theirs), name
        if name not in MEASURED:
            assert metric.name in (theirs.name, theirs.name.rstrip("0123456789_"))
        assert metric.name in logs


def test_every_metric_has_a_kind_of_target() -> None:
    assert {cls.expects[0] for cls in METRICS.classes.values()} == set(TARGETS)


def test_callbacks_are_those_of_keras() -> None:
    run = resolved(
        [],
        "yes",
        early_stopping={"monitor": "val_auc", "patience": 3, "restore_best_weights": True, "start_from_epoch": 2},
        reduce_lr_on_plateau={"factor": 0.5, "min_lr": 1e-5},
    )
    stopping, plateau = build_callbacks(run.spec)
    assert isinstance(stopping, keras.callbacks.EarlyStopping)
    assert (stopping.monitor, stopping.patience, stopping.mode) == ("val_auc", 3, "max")
    assert stopping.restore_best_weights
    assert stopping.start_from_epoch == 2
    assert isinstance(plateau, keras.callbacks.ReduceLROnPlateau)
    assert (plateau.factor, plateau.min_lr, plateau.mode) == (0.5, 1e-5, "min")


def test_warmup_rises_to_the_learning_rate() -> None:
    run = resolved([], optimizer={"SGD": 0.1}, warmup={"epochs": 2, "start": 0.5})
    rate = build_optimizer(run.spec, steps_per_epoch=5)._learning_rate
    assert isinstance(rate, LinearWarmup)
    assert [round(float(rate(step)), 4) for step in (0, 4, 9, 50)] == [0.055, 0.075, 0.1, 0.1]
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


def test_warmup_multiplies_a_schedule() -> None:
    schedule = {"InverseTimeDecay": {"initial_learning_rate": 0.1, "decay_steps": 1, "decay_rate": 1}}
    run = resolved([], optimizer={"SGD": {"learning_rate": schedule}}, warmup=4)
    rate = build_optimizer(run.spec)._learning_rate
    assert [round(float(rate(step)), 4) for step in (0, 1, 9)] == [0.025, 0.025, 0.01]


def test_several_targets_train_together() -> None:
    run = resolved(
        [{"Dense": 6}],
        ["yes", "colour", "price"],
        loss={"price": "Huber"},
        loss_weights={"price": 0.5},
        metrics={"colour": ["accuracy", {"AUC": {"name": "area"}}]},
    )
    shown = train_one_epoch(run.spec)
    assert {"loss", "yes_loss", "colour_loss", "price_loss", "colour_accuracy", "colour_area"} <= set(shown)
    parts = shown["yes_loss"] + shown["colour_loss"] + 0.5 * shown["price_loss"]
    assert shown["loss"] == pytest.approx(parts, rel=1e-3)


def test_several_labels_a_row_are_one_output() -> None:
    run = resolved([{"Dense": 6}], ["tag_a", "tag_b"], task="multilabel")
    assert [target.columns for target in run.spec.target] == [("tag_a", "tag_b")]
    assert run.spec.network[-1].layer.units == 2
    assert "accuracy" in train_one_epoch(run.spec)


def test_a_network_answers_by_target_and_reads_by_input() -> None:
    wide_and_deep = [
        {"Embedding": {"input_dim": 9, "output_dim": 4}, "inputs": ["words"]},
        "GlobalAveragePooling1D",
        {"Dense": {"units": 4, "activation": "relu"}, "name": "deep"},
        {"Dense": 4, "name": "wide", "inputs": ["features"]},
        {"Concatenate": {}, "inputs": ["wide", "deep"]},
    ]
    run = resolved(wide_and_deep, "yes", [{"x0": "standardize"}, {"words": {"sequence": {"max_tokens": 9}}}])
    network = build_network(run.spec)
    inputs, _ = arrays(run.spec)
    assert set(inputs) == {"features", "words"}
    answer = network(inputs)
    assert set(answer) == {"yes"}
    assert answer["yes"].shape == (24, 1)
    assert network.count_params() == run.estimates.parameters


@pytest.mark.parametrize("layer", [{"Dense": 4}, {"Dense": {"units": 4, "activity_regularizer": "l2"}}])
def test_mixed_precision_keeps_outputs_in_32_bits(layer: dict[str, Any]) -> None:
    run = resolved([layer], mixed_precision=True)
    network = build_network(run.spec)
    assert network.get_layer("dense").compute_dtype == "bfloat16"
    assert network.get_layer("dense").variable_dtype == "float32"
    assert network.get_layer("price").compute_dtype == "float32"
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


def test_keras_json_builds_the_same_network() -> None:
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Reshape((4, 3)),
            keras.layers.Conv1D(5, 2, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True)),
            keras.layers.LayerNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2, seed=7),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, activation="softmax", kernel_initializer=keras.initializers.HeNormal(seed=1)),
        ]
    )
    run = resolved(model.to_json(), "colour")
    network = build_network(run.spec)
    assert network.count_params() == model.count_params()
    theirs = [layer for layer in model.layers if layer.name != "input_layer"]
    ours = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    for one, other in zip(ours, theirs, strict=True):
        drop = ("name", "layer", "dtype")
        assert {k: v for k, v in config(one).items() if k not in drop} == {
            k: v for k, v in config(other).items() if k not in drop
        }
    assert math.isfinite(train_one_epoch(run.spec)["loss"])


def test_functional_keras_json_keeps_branches() -> None:
    source = keras.Input((12,), name="features")
    left = keras.layers.Dense(4, activation="relu", name="left")(source)
    right = keras.layers.Dense(4, name="right")(source)
    joined = keras.layers.Add(name="joined")([left, right])
    outputs = [keras.layers.Dense(1, name="price")(joined), keras.layers.Dense(1, activation="sigmoid", name="b")(left)]
    model = keras.Model(source, outputs)
    run = resolved(model.to_json(), ["yes", "price"])
    network = build_network(run.spec)
    assert network.count_params() == model.count_params()
    answer = network(arrays(run.spec)[0])
    assert set(answer) == {"yes", "price"}
    by_target = {node.output: node.name for node in run.spec.network if node.output}
    assert by_target == {"price": "price", "yes": "b"}


@pytest.mark.parametrize(
    "model",
    [
        lambda: keras.Sequential([keras.Input((12,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(1)]),
        lambda: keras.Sequential([keras.Input((12,)), keras.Sequential([keras.layers.Dense(1)])]),
    ],
)
def test_keras_json_beyond_the_allow_list_is_refused(model: Any) -> None:
    with pytest.raises(SpecRefused) as refused:
        resolved(model().to_json())
    assert refused.value.problems[0].pointer.startswith("/network")


def test_compiled_weights_move() -> None:
    run = resolved([{"Dense": 4}], optimizer={"SGD": 0.1})
    network = compiled(run.spec)
    before = [np.array(weight) for weight in network.get_weights()]
    network.train_on_batch(*arrays(run.spec))
    assert any(np.abs(one - other).max() > 0 for one, other in zip(before, network.get_weights(), strict=True))
