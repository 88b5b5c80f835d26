"""Resolving a spec: defaults, the summary, estimates, warnings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.decode import parse_bytes
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import SpecRefused, parse
from tests.spec.table import FEATURES, facts, resolved

YAML = b"""
$schema: https://fitserve.example/api/v1/schemas/spec
dataset: table
target: yes   # YAML 1.1 would read this as true
features: [x0, x1, colour, words]
network:
  - Dense: {units: 128, activation: relu, kernel_regularizer: {L2: 1e-3}}
  - Dropout: 0.2
  - &hidden
    Dense: {units: 64, activation: relu}
  - *hidden
training:
  optimizer: {SGD: {learning_rate: {ExponentialDecay: {initial_learning_rate: 1e-1, decay_steps: 100, decay_rate: 0.9}},
                    momentum: 0.9, nesterov: true}}
  batch_size: full
  epochs: 2e2
  early_stopping: {monitor: val_loss, patience: 10, restore_best_weights: true}
  validation_split: 0.25
  restarts: 8
model: "007"
"""
SLOW = {"optimizer": {"SGD": {"learning_rate": {"CosineDecay": {"initial_learning_rate": 0.1, "decay_steps": 10**6}}}}}


def test_yaml_and_json_give_the_same_spec() -> None:
    spec = parse_bytes(YAML, "application/yaml; charset=utf-8")
    assert spec.target[0].name == "yes"
    assert spec.training.epochs == 200
    assert spec.training.optimizer.arguments()["nesterov"] is True
    assert spec.network[2] == spec.network[3]
    assert spec.model == "007"
    assert parse_bytes(json.dumps(spec.to_json()).encode()) == spec


def test_everything_left_out_is_written_out() -> None:
    run = resolve(parse({"dataset": "table", "target": "yes"}), facts())
    spec = run.spec
    assert spec.dataset.ref == "table@1"
    assert spec.dataset.sha256 == "0" * 64
    assert spec.task == "binary"
    assert spec.target[0].labels == ("no", "yes")
    assert [feature.column for feature in spec.features or ()][-1] == "count"
    layers = [next(iter(node.model_dump())) for node in spec.network]
    assert layers == ["Input", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert spec.network[-1].output == "yes"
    assert spec.network[-1].layer.model_dump()["Dense"]["activation"] == "sigmoid"
    assert list(spec.training.loss) == ["yes"]
    assert [metric.name for metric in spec.training.metrics["yes"]] == ["accuracy", "auc"]
    assert resolve(spec, facts()).spec == spec


@pytest.mark.parametrize(
    ("target", "task", "units", "activation", "loss"),
    [
        ("yes", "binary", 1, "sigmoid", "BinaryCrossentropy"),
        ("tag_a", "binary", 1, "sigmoid", "BinaryCrossentropy"),
        ("colour", "multiclass", 3, "softmax", "SparseCategoricalCrossentropy"),
        ("price", "regression", 1, "linear", "MeanSquaredError"),
        ({"columns": ["tag_a", "tag_b"]}, "multilabel", 2, "sigmoid", "BinaryCrossentropy"),
    ],
)
def test_output_and_loss_follow_from_the_target(target: Any, task: str, units: int, activation: str, loss: str) -> None:
    spec = resolved([], target).spec
    output = spec.network[-1].layer
    assert spec.task == task
    assert (output.units, output.activation) == (units, activation)  # type: ignore[attr-defined]
    assert type(next(iter(spec.training.loss.values()))).__name__ == loss


@pytest.mark.parametrize(
    ("target", "loss", "units", "activation", "encoding"),
    [
        ("yes", "Hinge", 1, "tanh", "binary"),
        ("yes", {"BinaryCrossentropy": {"from_logits": True}}, 1, "linear", "binary"),
        ("yes", "CategoricalCrossentropy", 2, "softmax", "one_hot"),
        ("colour", "CategoricalCrossentropy", 3, "softmax", "one_hot"),
        ("colour", "mse", 3, "softmax", "one_hot"),
        ("count", "Poisson", 1, "exponential", "numbers"),
        ("price", {"Quantile": [0.1, 0.9]}, 2, "linear", "numbers"),
    ],
)
def test_the_output_follows_from_the_loss(target: str, loss: Any, units: int, activation: str, encoding: str) -> None:
    spec = resolved([], target, loss=loss).spec
    output = spec.network[-1].layer
    assert (output.units, output.activation) == (units, activation)  # type: ignore[attr-defined]
    assert spec.target[0].encoding == encoding


def test_a_written_output_layer_is_used() -> None:
    for beside in ({"output": True}, {"output": "colour"}, {"name": "colour"}):
        run = resolved([{"Dense": 5}, {"Dense": {"units": 3, "activation": "softmax"}, **beside}], "colour")
        assert len(run.spec.network) == 3
        assert run.spec.network[-1].output == "colour"


def test_label_smoothing_and_one_hot_metrics_choose_the_loss_that_has_them() -> None:
    smoothed = resolved([], "colour", label_smoothing=0.1).spec.training
    assert smoothed.loss["colour"].label_smoothing == 0.1
    assert smoothed.label_smoothing is None
    assert resolved([], "colour", metrics=["AUC"]).spec.target[0].encoding == "one_hot"


def test_large_targets_are_standardised_by_default() -> None:
    large = facts().model_copy(
        update={
            "columns": tuple(
                column.model_copy(update={"mean": 3e5, "std": 1e5, "max": 1e6}) if column.name == "price" else column
                for column in facts().columns
            )
        }
    )

    def standardized(target: Any) -> Any:
        body = {"dataset": "table", "target": target, "features": FEATURES, "preset": "plain"}
        return resolve(parse(body), large).spec.target[0].standardize

    assert standardized("price") is True
    assert standardized({"column": "price", "standardize": False}) is False
    assert standardized("count") is False


def test_the_summary_is_what_keras_prints() -> None:
    run = resolved([{"Dense": 8}, {"Dropout": 0.5}], "colour")
    assert [(row.name, row.layer, row.output_shape, row.parameters) for row in run.summary] == [
        ("features", "Input", (None, 12), 0),
        ("dense", "Dense", (None, 8), 104),
        ("dropout", "Dropout", (None, 8), 0),
        ("colour", "Dense", (None, 3), 27),
    ]
    assert run.estimates.parameters == 131
    assert run.estimates.multiply_adds_per_row == 12 * 8 + 8 + 8 * 3
    assert run.estimates.training_rows == 280
    assert run.estimates.steps_per_epoch == 9


@pytest.mark.parametrize(
    ("code", "network", "training"),
    [
        ("vanishing-gradients", [{"Dense": {"units": 8, "activation": "sigmoid"}}] * 8, {}),
        ("batch-larger-than-table", [], {"batch_size": 1000}),
        ("batch-of-one", ["BatchNormalization"], {"batch_size": 1}),
        ("not-shuffled", [], {"shuffle": False}),
        ("large-learning-rate", [], {"optimizer": {"Adam": 2}}),
        ("no-learning", [], {"optimizer": {"Adam": 0}}),
        ("no-patience", [], {"early_stopping": True}),
        ("watching-training", [], {"early_stopping": {"monitor": "loss", "patience": 3}}),
        ("nothing-held-out", [], {"validation_split": 0}),
        ("more-parameters-than-rows", [{"Dense": 3000}], {"epochs": 100}),
        ("hidden-softmax", [{"Dense": {"units": 8, "activation": "softmax"}}], {}),
        ("constant-layer", [{"Dense": {"units": 1, "activation": "softmax"}}, {"Dense": 4}], {}),
        ("alpha-dropout", [{"AlphaDropout": 0.1}], {}),
        (
            "slow-decay",
            [],
            SLOW,
        ),
    ],
)
def test_valid_but_unwise_specs_are_warned_about(code: str, network: Any, training: Any) -> None:
    warnings = {advice.code: advice for advice in resolved(network, **training).warnings}
    assert code in warnings
    assert warnings[code].pointer.startswith("/")
    assert warnings[code].fix


def test_a_run_that_stops_by_held_out_rows_is_not_warned_of_memorising() -> None:
    assert "more-parameters-than-rows" not in {advice.code for advice in resolved([{"Dense": 3000}]).warnings}


def test_unscaled_inputs_are_warned_about() -> None:
    wide = facts().model_copy(
        update={"columns": tuple(column.model_copy(update={"max": 900.0}) for column in facts().columns)}
    )
    body = {"dataset": "table", "target": "price", "features": [{"x0": "pass_through"}]}
    assert "unscaled-input" in {advice.code for advice in resolve(parse(body), wide).warnings}
    scaled = {**body, "network": ["BatchNormalization"]}
    assert "unscaled-input" not in {advice.code for advice in resolve(parse(scaled), wide).warnings}


def test_a_sensible_spec_has_no_warnings() -> None:
    run = resolved([{"Dense": {"units": 16, "activation": "relu"}}], early_stopping={"patience": 10})
    assert run.warnings == []


def test_several_inputs_are_named() -> None:
    features = ["x0", {"words": {"sequence": {"max_tokens": 50}}}]
    network = [
        {"Embedding": {"input_dim": 50, "output_dim": 4}, "inputs": "words"},
        {"LSTM": 6, "name": "read"},
        {"Concatenate": {}, "inputs": ["features", "read"]},
    ]
    run = resolved(network, "yes", features)
    assert [node.name for node in run.spec.network[:2]] == ["features", "words"]
    assert run.spec.network[1].layer.dtype == "int32"  # type: ignore[attr-defined]
    assert run.summary[-2].output_shape == (None, 7)


def dense(units: int, activation: str = "linear") -> dict[str, Any]:
    return {"Dense": {"units": units, "activation": activation}}


@pytest.mark.parametrize(
    ("target", "network", "loss"),
    [
        ("colour", [dense(8, "relu"), dense(3, "softmax")], "auto"),
        ("colour", [dense(3)], "auto"),  # logits
        ("colour", [dense(3), "Softmax"], "auto"),
        ("colour", [dense(3), {"Activation": "softmax"}], "CategoricalCrossentropy"),
        ("yes", [dense(1, "sigmoid")], "auto"),  # the tutorial's perceptron
        ("yes", [dense(2, "softmax")], "auto"),
        ("yes", [dense(1)], {"BinaryCrossentropy": {"from_logits": True}}),
        ("yes", [dense(1, "tanh")], "Hinge"),
        ("price", [dense(1)], "auto"),
        ("count", [dense(1, "relu")], "auto"),
        ("count", [dense(1, "exponential")], "Poisson"),
        ("price", [dense(2)], {"Quantile": [0.1, 0.9]}),
        ({"columns": ["tag_a", "tag_b"]}, [dense(2, "sigmoid")], "auto"),
    ],
)
def test_a_last_layer_that_fits_is_the_output(target: Any, network: list[Any], loss: Any) -> None:
    run = resolved(network, target, loss=loss)
    assert len(run.spec.network) == 1 + len(network)
    assert run.spec.network[-1].output
    assert "output-added" not in {advice.code for advice in run.warnings}
    assert resolve(run.spec, facts()).spec == run.spec


@pytest.mark.parametrize(
    ("target", "network", "loss"),
    [
        ("colour", [dense(3, "relu")], "auto"),
        ("colour", [dense(4, "softmax")], "auto"),
        ("colour", [dense(1, "sigmoid")], "auto"),
        ("colour", [dense(3)], "SparseCategoricalCrossentropy"),
        ("yes", [dense(1, "relu")], "auto"),
        ("yes", [dense(2, "softmax")], "BinaryCrossentropy"),
        ("price", [dense(1, "relu")], "auto"),  # from -2
        ("price", [dense(1, "leaky_relu")], "auto"),
    ],
)
def test_an_output_behind_a_layer_that_looks_like_one_is_said(target: str, network: list[Any], loss: Any) -> None:
    run = resolved(network, target, loss=loss)
    (said,) = [advice for advice in run.warnings if advice.code == "output-added"]
    assert len(run.spec.network) == 2 + len(network)
    assert said.pointer == "/network/0"
    assert "does not fit" in said.detail


def test_a_last_layer_that_contradicts_the_loss_is_refused() -> None:
    with pytest.raises(SpecRefused, match="takes logits"):
        resolved([dense(3, "softmax")], "colour", loss={"SparseCategoricalCrossentropy": {"from_logits": True}})
    with pytest.raises(SpecRefused, match="always 1"):
        resolved([dense(1, "softmax")], "yes")


def with_column(**changed: Any) -> DatasetFacts:
    return facts().model_copy(
        update={"columns": tuple(c.model_copy(update=changed) if c.name == "price" else c for c in facts().columns)}
    )


def test_rows_without_a_target_are_refused_by_number_or_left_out() -> None:
    body = {"dataset": "table", "target": "price", "features": FEATURES}
    gaps = with_column(missing=3, infinite=1)
    with pytest.raises(SpecRefused) as refused:
        resolve(parse(body), gaps, find_rows=lambda column, is_target: [4, 17, 20, 400])
    (problem,) = refused.value.problems
    assert problem.detail.endswith("in 4 of 400 rows (rows 4, 17, 20, 400).")
    assert problem.received == {"count": 4, "rows": [4, 17, 20, 400]}
    assert problem.fix is not None
    assert "rows_without_target: leave_out" in problem.fix
    run = resolve(parse({**body, "rows_without_target": "leave_out"}), gaps)
    assert "rows-left-out" in {advice.code for advice in run.warnings}
    with pytest.raises(SpecRefused):
        resolve(parse({**body, "rows_without_target": "leave_out"}), with_column(missing=400))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"distinct": 1, "min": 3.5, "max": 3.5, "mean": 3.5, "std": 0.0}, "constant-target"),
        ({"min": 0.0, "max": 1e-5, "mean": 1e-6, "std": 1e-6}, "target-scale"),
    ],
)
def test_a_constant_or_tiny_target_is_said_before_training(changed: dict[str, Any], code: str) -> None:
    run = resolve(parse({"dataset": "table", "target": "price", "features": FEATURES}), with_column(**changed))
    assert code in {advice.code for advice in run.warnings}


def test_a_network_input_and_a_metric_may_be_called_as_a_target() -> None:
    for name in ("features", "accuracy", "mse", "class_name", "my target", "a/b", "\t"):
        columns = tuple(c.model_copy(update={"name": name}) if c.name == "price" else c for c in facts().columns)
        named = facts().model_copy(update={"columns": columns})
        run = resolve(parse({"dataset": "table", "target": name, "features": FEATURES}), named)
        assert resolve(parse(run.spec.to_json()), named).spec == run.spec
        assert name not in {feature.input for feature in run.spec.features or ()}


def test_a_split_is_stratified_by_default_for_labels() -> None:
    assert resolved([], "colour").spec.split.method == "stratified"
    assert resolved([], "price").spec.split.method == "random"
    for written in ("random", {"method": "random", "test": 0.2}):
        body = {"dataset": "table", "target": "colour", "features": FEATURES, "split": written}
        assert resolve(parse(body), facts()).spec.split.method == "random"


def test_labels_with_few_rows_are_warned_about() -> None:
    counts = tuple(
        c.model_copy(update={"label_counts": (1, 99, 300)}) if c.name == "colour" else c for c in facts().columns
    )
    few = facts().model_copy(update={"columns": counts})
    run = resolve(parse({"dataset": "table", "target": "colour", "features": FEATURES}), few)
    (said,) = [advice for advice in run.warnings if advice.code == "rare-labels"]
    assert "'blue' (1)" in said.detail
