"""Refusals of specs: with a pointer, what was received, what is allowed, the closest name."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from fitserve.errors import FitserveError, Malformed, Problem
from fitserve.settings import Limits
from fitserve.spec.decode import parse_bytes
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import SpecRefused, parse
from fitserve.validation import did_you_mean, problems_from
from fitserve.wire.datasets import UploadOptions
from tests.spec.table import FEATURES, facts, resolved

BODY = {"dataset": "table", "target": "price", "features": FEATURES}


def problem(**changes: Any) -> Problem:
    """Return the first problem of a spec with these members."""
    with pytest.raises(SpecRefused) as refused:
        resolve(parse({**BODY, **changes}), facts())
    return refused.value.problems[0]


@pytest.mark.parametrize(
    ("changes", "pointer", "received", "nearest"),
    [
        ({"network": [{"Dens": 3}]}, "/network/0/Dens", "Dens", "Dense"),
        ({"network": [{"Dense": {"unit": 3, "units": 3}}]}, "/network/0/Dense/unit", "unit", "units"),
        (
            {"network": [{"Dense": {"units": 3, "activation": "rellu"}}]},
            "/network/0/Dense/activation",
            "rellu",
            "relu",
        ),
        (
            {"network": ["Flatten", {"Dense": {"units": 3, "kernel_initializer": "HeNorml"}}]},
            "/network/1/Dense/kernel_initializer",
            "HeNorml",
            "HeNormal",
        ),
        ({"training": {"epoch": 3}}, "/training/epoch", "epoch", "epochs"),
        ({"training": {"optimizer": "Adams"}}, "/training/optimizer", "Adams", "Adam"),
        (
            {"training": {"optimizer": {"SGD": {"momentun": 1}}}},
            "/training/optimizer/SGD/momentun",
            "momentun",
            "momentum",
        ),
        ({"training": {"loss": "MeanSquareError"}}, "/training/loss", "MeanSquareError", "MeanSquaredError"),
        ({"training": {"loss": {"Hubert": {"delta": 1}}}}, "/training/loss/Hubert", "Hubert", "Huber"),
        (
            {"training": {"metrics": ["MeanAbsolutError"]}},
            "/training/metrics/0",
            "MeanAbsolutError",
            "MeanAbsoluteError",
        ),
        (
            {"training": {"early_stopping": {"monitor": "val_los"}}},
            "/training/early_stopping/monitor",
            "val_los",
            "val_loss",
        ),
        ({"target": "prize"}, "/target", "prize", "price"),
        ({"features": ["x0", "x11", "word"]}, "/features/2", "word", "words"),
        ({"network": [{"Dense": 3, "output": "prce"}]}, "/network/0/output", "prce", "price"),
        ({"network": [{"Dense": 3, "inputs": ["feature"]}]}, "/network/0/inputs/0", "feature", "features"),
        ({"trainin": {}}, "/trainin", "trainin", "training"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest_one(
    changes: Any, pointer: str, received: str, nearest: str
) -> None:
    found = problem(**changes)
    assert found.pointer == pointer
    assert found.received == received
    assert nearest in str(found.fix)
    assert found.expected


def calls_of(action: Callable[[], Any]) -> int:
    """Return how many Python functions an action calls, which does not depend on the machine's speed."""
    count = 0

    def called(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(called)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def refuse(body: dict[str, Any]) -> None:
    with pytest.raises(SpecRefused):
        parse(body)


def test_thousands_of_unknown_members_cost_what_a_hundred_do() -> None:
    def unknown(count: int) -> dict[str, Any]:
        return {**BODY, **{f"trainig{number}": 1 for number in range(count)}}

    hundred, thousands = (calls_of(lambda count=count: refuse(unknown(count))) for count in (100, 5_000))
    assert thousands < 1.5 * hundred


def test_a_word_is_compared_with_the_likeliest_of_thousands() -> None:
    names = [f"some_column_name_{number}" for number in range(5_000)]
    hundred, thousands = (
        calls_of(lambda count=count: did_you_mean("some_colum_nme_7", names[:count])) for count in (100, 5_000)
    )
    assert thousands < 1.5 * hundred
    assert did_you_mean("some_colum_nme_7", names) == "Did you mean some_column_name_7?"
    assert did_you_mean("sme_column_name_4321", names) == "Did you mean some_column_name_4321?"


@pytest.mark.parametrize(
    ("changes", "detail", "fix"),
    [
        ({"epochs": 3}, "Spec has no epochs.", "Write it as training: {epochs: ...}."),
        ({"seed": 3}, "Spec has no seed.", "Write it as split: {seed: ...} or training: {seed: ...}"),
        ({"learning_rate": 0.1}, "learning_rate is an argument", "training: {optimizer: {Adam: {learning_rate: ...}}}"),
        ({"training": {"folds": 3}}, "training has no folds.", "folds stands beside dataset, not inside."),
        ({"split": {"shuffle": True}}, "split has no shuffle.", "Write it as training: {shuffle: ...}."),
        ({"task": "binary_classification"}, "`task`", "Did you mean binary?"),
    ],
)
def test_a_name_in_the_wrong_place_is_answered_with_the_right_one(
    changes: dict[str, Any], detail: str, fix: str
) -> None:
    refused = problem(**changes)
    assert detail in refused.detail
    assert refused.fix is not None
    assert fix in refused.fix


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({"network": [{"Dense": 0}]}, "/network/0/Dense", "greater than or equal to 1"),
        ({"network": [{"Dense": "8"}]}, "/network/0/Dense", "whole number"),
        ({"network": [{"Dense": {}}]}, "/network/0/Dense", "`units` is missing"),
        ({"network": [{"Dropout": 1.5}]}, "/network/0/Dropout", "less than 1"),
        ({"network": [{"Dense": True}]}, "/network/0/Dense", "whole number"),
        ({"network": [{"Dense": {"units": 3, "activation": "glu"}}]}, "/network/0/Dense/activation", "halves"),
        ({"network": [{"LSTM": 4}]}, "/network/0", "rank 2"),
        ({"network": [{"Reshape": [5, 2]}]}, "/network/0", "12 numbers"),
        (
            {"network": [{"Reshape": [4, 3]}, {"Conv1D": {"filters": 2, "kernel_size": 9}}]},
            "/network/1",
            "does not fit",
        ),
        ({"network": [{"Dense": 3, "name": "a"}, {"Dense": 3, "name": "a"}]}, "/network/1/name", "Two layers"),
        ({"network": [{"Add": {}}]}, "/network/0", "two or more inputs"),
        ({"network": [{"Dense": {"units": 3, "bias_initializer": "Orthogonal"}}]}, "/network/0", "rank at least 2"),
        (
            {"network": [{"Dense": {"units": 3, "bias_regularizer": "OrthogonalRegularizer"}}]},
            "/network/0",
            "the bias of this Dense",
        ),
        (
            {
                "network": [
                    {"Reshape": [4, 3]},
                    {"Conv1D": {"filters": 2, "kernel_size": 1, "kernel_regularizer": "OrthogonalRegularizer"}},
                ]
            },
            "/network/1",
            "compares the rows of a matrix",
        ),
        (
            {
                "network": [
                    {"Reshape": [4, 3]},
                    {"Dense": {"units": 2, "activity_regularizer": "OrthogonalRegularizer"}},
                ]
            },
            "/network/1",
            "the activity of this Dense",
        ),
        ({"network": [{"Softmax": {"axis": 0}}]}, "/network/0", "axis 0 is the batch"),
        ({"network": [{"UnitNormalization": {"axis": [0, 1]}}]}, "/network/0", "axis 0 is the batch"),
        (
            {"network": [{"Dense": {"units": 3, "kernel_constraint": {"MaxNorm": {"axis": [0, 2]}}}}]},
            "/network/0",
            "axis 2 is none of the kernel",
        ),
        (
            {"network": [{"Dense": {"units": 3, "bias_initializer": {"Constant": [[1, 2, 3]]}}}]},
            "/network/0",
            "has the shape [3]",
        ),
        (
            {"network": [{"Dense": {"units": 2, "bias_initializer": {"Constant": [1, [2]]}}}]},
            "/network/0/Dense/bias_initializer/Constant/value",
            "not an array",
        ),
        ({"network": [{"Input": [5]}, {"Dense": 3}]}, "/network/0", "features make (None, 12)"),
        ({"network": {"class_name": "Dense"}}, "/network", "list of layers"),
        (
            {"training": {"optimizer": {"Adam": {"clipnorm": 1, "clipvalue": 1}}}},
            "/training/optimizer/Adam",
            "only one",
        ),
        ({"training": {"learning_rate": 0.1}}, "/training", "argument of the optimizer"),
        ({"training": {"warmup": 5, "reduce_lr_on_plateau": True}}, "/training", "needs a learning rate"),
        ({"training": {"class_weight": "balanced"}}, "/training/class_weight", "labels"),
        ({"training": {"metrics": ["accuracy"]}}, "/training/metrics/0", "is a number"),
        (
            {"network": [], "training": {"validation_split": 0, "early_stopping": {"monitor": "val_loss"}}},
            "/training/early_stopping/monitor",
            "no rows",
        ),
        ({"training": {"loss": "BinaryCrossentropy"}}, "/training/loss", "from 0 to 1"),
        ({"training": {"loss": "CategoricalCrossentropy"}}, "/training/loss", "labels apart"),
        ({"training": {"loss": "Poisson"}}, "/training/loss", "no negative"),
        ({"training": {"sample_weight": "x0"}}, "/training/sample_weight", "0 and more"),
        ({"network": [], "training": {"stacked": [], "restarts": 2}}, "/training/stacked", "for one network"),
        ({"network": [], "training": {"stacked": ["momentum"]}}, "/training/stacked", "Adam has no argument momentum"),
        ({"features": ["x0", "price"]}, "/features/1", "is the target"),
        ({"features": [{"x0": "one_hots"}]}, "/features/0", "one_hots"),
        ({"dataset": "table@2"}, "/dataset", "this is table@1"),
        ({"dataset": {"ref": "table", "sha256": "1" * 64}}, "/dataset/sha256", "other content"),
        ({"target": {"column": "price", "task": "binary"}}, "/target", "at most 1000 labels"),
    ],
)
def test_a_misfit_is_refused_with_its_pointer(changes: Any, pointer: str, words: str) -> None:
    found = problem(**changes)
    assert found.pointer is not None
    assert found.pointer.startswith(pointer)
    assert words in found.detail


@pytest.mark.parametrize(
    ("target", "output", "training", "words"),
    [
        ("yes", {"Dense": {"units": 1, "activation": "softmax"}}, {}, "softmax with one unit is always 1"),
        ("colour", {"Dense": {"units": 2, "activation": "softmax"}}, {}, "needs 3, one for each of 3 labels"),
        ("yes", {"Dense": {"units": 1, "activation": "tanh"}}, {}, "takes probabilities"),
        ("price", {"Dense": 2}, {}, "has 2 units"),
        (
            "yes",
            {"Dense": {"units": 1, "activation": "sigmoid"}},
            {"loss": {"BinaryCrossentropy": {"from_logits": True}}},
            "takes logits",
        ),
        ({"columns": ["tag_a", "tag_b"]}, {"Dense": {"units": 2, "activation": "softmax"}}, {}, "can be true"),
    ],
)
def test_loss_output_and_target_are_checked_against_each_other(
    target: Any, output: Any, training: Any, words: str
) -> None:
    with pytest.raises(SpecRefused) as refused:
        resolved([{**output, "output": True}], target, **training)
    assert any(words in found.detail for found in refused.value.problems)
    assert all(found.pointer == "/network/0" for found in refused.value.problems)


BOMBS: dict[str, tuple[bytes, str]] = {
    "Lambda": (json.dumps({**BODY, "network": [{"Lambda": "lambda x: x"}]}).encode(), "/network/0/Lambda"),
    "load_model": (
        json.dumps({**BODY, "network": [{"class_name": "keras.models>load_model", "config": {}}]}).encode(),
        "/network/0/class_name",
    ),
    "registered": (
        json.dumps({**BODY, "network": [{"class_name": "Dense", "registered_name": "mine>Dense"}]}).encode(),
        "/network/0",
    ),
    "units": (json.dumps({**BODY, "network": [{"Dense": {"units": 1e9}}]}).encode(), "/network"),
    "layers": (json.dumps({**BODY, "network": [{"Dense": {"units": 8}}] * 10_000}).encode(), "/network"),
    "epochs": (json.dumps({**BODY, "training": {"epochs": 1e12}}).encode(), "/training/epochs"),
    "restarts": (json.dumps({**BODY, "training": {"restarts": 10**9}}).encode(), "/training/restarts"),
    "work": (
        json.dumps(
            {**BODY, "network": [{"Dense": 9000}] * 2, "training": {"epochs": 10**6, "restarts": 1000}}
        ).encode(),
        "/training/epochs",
    ),
    "activations": (
        json.dumps({**BODY, "network": [{"RepeatVector": 10**12}, "GlobalMaxPooling1D"]}).encode(),
        "/training/batch_size",
    ),
    "window": (
        json.dumps({**BODY, "network": [{"Reshape": [12, 1]}, {"UpSampling1D": 10**15}, {"LSTM": 10**9}]}).encode(),
        "/network",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_quickly_without_allocation(name: str) -> None:
    data, pointer = BOMBS[name]
    spent = min(_spent(data, pointer) for _ in range(5))
    assert spent < 0.05
    tracemalloc.start()
    _spent(data, pointer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000 + 30 * len(data)


def _spent(data: bytes, pointer: str) -> float:
    table, limits = facts(), Limits()
    begun = time.process_time()
    with pytest.raises(SpecRefused) as refused:
        resolve(parse_bytes(data, "application/json", limits), table, limits)
    spent = time.process_time() - begun
    assert refused.value.status == 422
    assert refused.value.problems[0].pointer == pointer
    return spent


DEEP = {
    "json lists": (b'{"network":' + b"[" * 100_000, "application/json"),
    "json mappings": (b'{"a":' * 100_000, "application/json"),
    "closed": (b"[" * 100_000 + b"]" * 100_000, "application/json"),
    "yaml lists": (b"a: " + b"[" * 100_000, "application/yaml"),
    "yaml spaced": (b"[ " * 100_000, "application/yaml"),
    "yaml dashes": (b"- " * 100_000, "application/yaml"),
    "yaml mappings": (b"{a: " * 50_000, "application/yaml"),
    "yaml indented": (b"\n".join(b" " * i + b"a:" for i in range(600)), "application/yaml"),
    "yaml laughs": (
        "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else '1'}]\n" for i in range(10)).encode(),
        "application/yaml",
    ),
    "yaml layers": (b"network:\n" + b"- Dense: 8\n" * 10_000, "application/yaml"),
    "yaml size": (b"a: " + b"x" * 300_000, "application/yaml"),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_or_wide_text_is_refused_quickly(name: str) -> None:
    data, kind = DEEP[name]
    times = []
    for _ in range(5):
        begun = time.process_time()
        with pytest.raises(SpecRefused) as refused:
            parse_bytes(data, kind)
        times.append(time.process_time() - begun)
        assert refused.value.status == 422
    assert min(times) < 0.1


def test_limits_are_named() -> None:
    with pytest.raises(SpecRefused, match="the limit parameters is 1000"):
        resolve(parse({**BODY, "network": [{"Dense": 500}]}), facts(), Limits(parameters=1000))
    with pytest.raises(SpecRefused, match="the limit layers is 2"):
        parse({**BODY, "network": ["Flatten"] * 3}, Limits(layers=2))


def test_a_stored_spec_is_read_under_higher_limits_than_the_defaults() -> None:
    """A worker reads specs that its deployment's limits allowed, and does not read those settings."""
    layers = Limits().layers + 1
    written = parse({**BODY, "network": ["Flatten"] * layers}, Limits(layers=layers))
    assert parse(written.to_json()) == written


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: 1\na: 2\n", "twice"),
        (b"!!python/object/apply:os.system [ls]", "tags"),
        (b"a: !!python/name:os.system", "tags"),
        (b"a: !custom 1", "tags"),
        (b"<<: {a: 1}", "merge"),
        (b"a: .nan", "finite"),
        (b"a: 1e999", "range"),
        (b"a: *b", "anchor"),
        (b"a: &x [*x]", "anchor"),
        (b"a: [1", "YAML"),
        (b"---\na: 1\n---\nb: 2\n", "one YAML document"),
        (b"[1, 2]: 3", "key"),
        (rb'a: "b\0"', "NUL"),
        (rb'"a\0": 1', "NUL"),
        (b"\xff", "UTF-8"),
    ],
)
def test_yaml_beyond_plain_values_is_malformed(text: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        parse_bytes(text, "application/yaml")


def test_a_key_of_a_mapping_is_shortened_and_escaped() -> None:
    name = "x\x1b" * 5000
    with pytest.raises(ValidationError) as refused:
        UploadOptions.model_validate({"formats": {name: {"colour": 1}}})
    (found,) = problems_from(refused.value.errors(), UploadOptions)
    assert found.detail.endswith(" has no colour.")
    assert len(found.detail) < 200
    assert "\x1b" not in found.detail


def test_json_with_repeated_keys_or_unusual_numbers_is_malformed() -> None:
    for text in (b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": 1e999}', b'{"a": ' + b"1" * 100_000 + b"}"):
        with pytest.raises(Malformed):
            parse_bytes(text, "application/json")


def test_another_content_type_is_unsupported() -> None:
    with pytest.raises(FitserveError) as refused:
        parse_bytes(b"{}", "application/x-python")
    assert refused.value.status == 415


def test_all_problems_are_reported() -> None:
    with pytest.raises(SpecRefused) as refused:
        parse({"network": [{"Dens": 1}, {"Dense": {"unit": 1}}], "training": {"epochs": 0, "optimizer": "Adams"}})
    pointers = [found.pointer for found in refused.value.problems]
    assert {"/network/0/Dens", "/network/1/Dense/unit", "/training/epochs", "/training/optimizer"} <= set(pointers)
    assert refused.value.as_problem()["errors"]
