"""The parts that need no training: JSON Patch, comparisons over seeds, records, changes to a spec."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.findings import EpochRow, RunRecord, apply_patch, complexity, diagnose
from fitserve.findings.lineage import SeedScore, compare_scores, group_key, spec_changes
from fitserve.findings.spec_edit import PatchRefused
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse

FACTS = DatasetFacts(
    name="data",
    version=1,
    sha256="0" * 64,
    rows=100,
    columns=(
        ColumnFacts(
            name="x", kind="numeric", storage="float64", rows=100, distinct=90, min=0, max=1, mean=0.5, std=0.3
        ),
        ColumnFacts(
            name="z", kind="numeric", storage="float64", rows=100, distinct=90, min=0, max=1, mean=0.5, std=0.3
        ),
        ColumnFacts(
            name="y",
            kind="boolean",
            storage="bool",
            rows=100,
            distinct=2,
            labels=("false", "true"),
            label_counts=(50, 50),
        ),
    ),
)


def _spec(**training: Any) -> dict[str, Any]:
    return resolve(
        parse({"dataset": "data", "target": "y", "preset": "plain", "training": training}), FACTS
    ).spec.to_json()


def _record(train: list[float | None], validation: list[float | None] | None, **training: Any) -> RunRecord:
    rows = []
    for at, loss in enumerate(train):
        logs = {"loss": loss} if validation is None else {"loss": loss, "val_loss": validation[at]}
        rows.append(EpochRow(0, at + 1, logs))
    return RunRecord(_spec(**training), FACTS, rows)


# The examples of RFC 6902, appendix A.
@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/2"}],
            {"foo": ["all", "eat", "cows"]},
        ),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["a"]}], {"foo": ["bar", ["a"]]}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"a": 1}, [{"op": "add", "path": "", "value": [1]}], [1]),
    ],
)
def test_patches_follow_the_rfc(document: Any, patch: list[dict[str, Any]], expected: Any) -> None:
    before = repr(document)
    assert apply_patch(document, patch) == expected
    assert repr(document) == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/b"},
        {"op": "replace", "path": "/b", "value": 1},
        {"op": "add", "path": "/b/c", "value": 1},
        {"op": "add", "path": "/list/01", "value": 1},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "spin", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"op": "move", "from": "/a", "path": "/a/b"},
    ],
)
def test_a_patch_that_does_not_fit_is_refused_with_its_operation(operation: dict[str, Any]) -> None:
    with pytest.raises(PatchRefused) as refused:
        apply_patch({"a": 1, "list": [1]}, [{"op": "add", "path": "/x", "value": 1}, operation])
    assert refused.value.pointer == "/1"


def test_seeds_decide_between_better_worse_and_within_noise() -> None:
    def scores(*values: float) -> list[SeedScore]:
        return [SeedScore(seed, value) for seed, value in enumerate(values)]

    assert compare_scores(scores(0.5, 0.52, 0.51), scores(0.3, 0.31, 0.32)).verdict == "better"
    assert compare_scores(scores(0.3, 0.31, 0.32), scores(0.5, 0.52, 0.51)).verdict == "worse"
    assert compare_scores(scores(0.5, 0.3, 0.4), scores(0.45, 0.35, 0.38)).verdict == "within noise"
    assert compare_scores(scores(0.5), scores(0.3)).verdict == "undecided"
    assert compare_scores([], scores(0.3)).verdict == "undecided"
    same = [SeedScore(0, 0.5), SeedScore(0, 0.5), SeedScore(0, 0.5)]
    assert compare_scores(same, scores(0.3, 0.31)).verdict == "undecided"  # one seed, three times


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.lists(st.floats(0.1, 10), min_size=2, max_size=6))
def test_verdicts_mirror_each_other(a: list[float], b: list[float]) -> None:
    left, right = ([SeedScore(i, v) for i, v in enumerate(values)] for values in (a, b))
    mirrored = {"better": "worse", "worse": "better"}
    verdict = compare_scores(left, right).verdict
    assert compare_scores(right, left).verdict == mirrored.get(verdict, verdict)


def test_specs_that_differ_only_in_seed_are_one_group() -> None:
    one, other = _spec(seed=1, restarts=3), _spec(seed=2)
    assert group_key(one) == group_key(other)
    changed = _spec(epochs=7)
    assert group_key(changed) != group_key(one)
    assert spec_changes(one, changed) == [{"path": "/training/epochs", "from": 100, "to": 7}]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e6), st.just(math.inf)), max_size=40),
    st.booleans(),
)
def test_no_curve_makes_a_rule_raise(losses: list[float | None], held_out: bool) -> None:
    record = _record(losses, list(reversed(losses)) if held_out else None)
    for finding in diagnose(record):
        patched = apply_patch(record.spec, finding.patch)
        resolve(parse(patched), FACTS)
    complexity(record)


def test_the_turning_point_is_the_lowest_validation_loss_before_it_rose() -> None:
    train = [0.7 * 0.9**i for i in range(40)]
    validation = [0.7 * 0.9**i + 0.002 * i**1.5 for i in range(40)]
    drawn = complexity(_record(train, validation, epochs=40))
    assert drawn is not None
    lowest = min(range(40), key=lambda i: validation[i]) + 1
    assert drawn["turned_epoch"] == drawn["best_epoch"] == lowest
    assert drawn["kept_epoch"] == 40
    assert drawn["verdict"] == "overfitting"
    stopped = {"monitor": "val_loss", "patience": 10, "restore_best_weights": True}
    kept = complexity(_record(train, validation, epochs=40, early_stopping=stopped))
    assert kept is not None
    assert kept["kept_epoch"] == lowest
    assert kept["verdict"] == "just right"


def test_a_network_stuck_at_the_baseline_underfits() -> None:
    """Dead units hide the finding that they cause (stuck at the baseline), but not the verdict."""
    dead = {"penalty": 0.0, "layers": [{"name": "dense", "class": "Dense", "size": 3, "dead": 1.0}]}
    record = _record([0.69] * 10, [0.69] * 10, epochs=10)
    record = RunRecord(record.spec, FACTS, [replace(row, layers=dead) for row in record.rows])
    assert [finding.rule for finding in diagnose(record)] == ["dead_relus"]
    drawn = complexity(record)
    assert drawn is not None
    assert drawn["verdict"] == "underfitting"


def test_a_patched_spec_resolves_again() -> None:
    record = _record([5.0, 7.0, 9.0, 8.0, 9.0, 11.0], None, optimizer={"SGD": {"learning_rate": 3.0}})
    findings = {finding.rule: finding for finding in diagnose(record)}
    patched = apply_patch(record.spec, findings["learning_rate_too_high"].patch)
    assert patched["training"]["optimizer"]["SGD"]["learning_rate"] == 0.05
    resolved = resolve(parse(patched), FACTS).spec.to_json()
    assert resolved == patched


def test_a_network_that_is_no_better_than_a_constant_answer_is_told_so() -> None:
    """The admissions: accuracy 0.75 against 0.75, an AUC of 0.58 with an interval from 0.36 to 0.77."""
    insight = {
        "evaluated_on": "test",
        "against": {"baseline": {"difference": -0.01, "interval": [-0.05, 0.03], "verdict": "no different"}},
        "evaluation": {
            "test": {"rows": 40, "accuracy": 0.75, "roc_auc": 0.58, "intervals": {"roc_auc": [0.36, 0.77]}},
        },
        "reference_figures": {"baseline": {"accuracy": 0.75}},
    }
    record = _record([0.69, 0.66, 0.65, 0.649], [0.69, 0.66, 0.655, 0.655])
    sound = complexity(record)
    assert sound is not None
    assert sound["verdict"] == "just right"
    told = complexity(replace(record, insight=insight))
    assert told is not None
    assert told["verdict"] == "nothing learned"
    assert "accuracy is 0.75, against 0.75" in told["sentence"]
    assert "ROC AUC 0.58, its interval from 0.36 to 0.77" in told["sentence"]
    better = {**insight, "against": {"baseline": {"difference": -0.3, "interval": [-0.4, -0.2], "verdict": "better"}}}
    better["evaluation"] = {"test": {"rows": 40, "accuracy": 0.9, "roc_auc": 0.9, "intervals": {"roc_auc": [0.8, 1]}}}
    helped = complexity(replace(record, insight=better))
    assert helped is not None
    assert helped["verdict"] == "just right"


def test_a_slow_steady_fall_is_no_overshoot() -> None:
    falling = [9.0 * 0.99**epoch for epoch in range(40)]
    assert "learning_rate_too_high" not in {finding.rule for finding in diagnose(_record(falling, None))}


def test_the_answer_to_stopping_too_early_does_not_stop_earlier() -> None:
    falling = [1.0 - 0.02 * epoch for epoch in range(20)]
    record = _record(falling, falling, epochs=20)
    findings = {finding.rule: finding for finding in diagnose(record)}
    patched = apply_patch(record.spec, findings["stopped_too_early"].patch)
    stopping = patched["training"]["early_stopping"]
    assert stopping["start_from_epoch"] >= 20
    assert stopping["patience"] >= 10
    resolve(parse(patched), FACTS)
