"""Ablations: which parts a spec has, what is left without one, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.errors import BadInput
from fitserve.spec.ablation import parts_of
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.resolve_search import resolve_search, trial_spec
from fitserve.spec.search import LEFT_OUT, SEED, SearchSpec, is_search, read_search
from fitserve.spec.spec import Spec, parse
from tests.trainer.requests import facts_of

RNG = np.random.default_rng(2)
TABLE = pa.table(
    {
        "a": RNG.normal(size=60),
        "b": RNG.normal(size=60),
        "c": RNG.choice(list("uvwxyz"), size=60),
        "y": RNG.normal(size=60),
    }
)
FACTS = facts_of(TABLE)
NETWORK: list[Any] = [
    {"Dense": {"units": 8, "kernel_regularizer": {"L2": 0.1}}},
    "BatchNormalization",
    {"Dropout": 0.2},
    {"Dense": {"units": 3}, "name": "last"},
]


def _ablation(ablate: Any, **more: Any) -> SearchSpec:
    body = {"dataset": "data", "target": "y", "network": NETWORK, "ablate": ablate, **more}
    assert is_search(body)
    search, problems = read_search(body)
    if search is None:
        raise BadInput(problems[0].detail, pointer=problems[0].pointer)
    return resolve_search(search, FACTS).search


def _layers(spec: Spec) -> list[str]:
    return [type(entry.layer).__name__ for entry in spec.network]


def test_all_is_every_part_once() -> None:
    search = _ablation("all")
    assert search.ablation is not None
    parts = list(search.ablation.parts)
    assert parts == [
        *("dropout", "batch_norm", "regularizers"),
        *("early_stopping", "feature:a", "feature:b", "feature:c", "layer:1", "layer:4"),
    ]
    assert search.trials == 5 * (1 + len(parts))
    whole = {at: trial_spec(search, {LEFT_OUT: at, SEED: 1}, FACTS).spec for at in range(len(parts) + 1)}
    assert _layers(whole[0]) == ["Input", "Dense", "BatchNormalization", "Dropout", "Dense", "Dense"]
    assert _layers(whole[1]) == ["Input", "Dense", "BatchNormalization", "Dense", "Dense"]
    assert _layers(whole[2]) == ["Input", "Dense", "Dropout", "Dense", "Dense"]
    assert whole[0].network[1].layer.kernel_regularizer is not None  # type: ignore[attr-defined]
    assert whole[3].network[1].layer.kernel_regularizer is None  # type: ignore[attr-defined]
    assert whole[4].training.early_stopping is None
    assert {one.column for one in whole[7].features or ()} == {"a", "b"}
    assert whole[7].network[0].layer.shape == [2]  # type: ignore[attr-defined]
    assert _layers(whole[8]) == ["Input", "BatchNormalization", "Dropout", "Dense", "Dense"]
    assert {(spec.training.seed, spec.split.seed) for spec in whole.values()} == {(1, 1)}


def test_the_default_network_can_be_ablated() -> None:
    search, _ = read_search({"dataset": "data", "target": "y", "ablate": ["dropout", "feature:a", "layer:deep"]})
    assert search is not None
    found = resolve_search(search, FACTS).search
    specs = [trial_spec(found, {LEFT_OUT: at, SEED: 0}, FACTS).spec for at in range(4)]
    assert "Dropout" not in _layers(specs[1])
    assert specs[0].ensemble is None
    assert "layer:2" not in parts_of(resolve(parse({"dataset": "data", "target": "y"}), FACTS).spec.to_json())


@pytest.mark.parametrize(
    ("ablate", "more", "says"),
    [
        (["dropuot"], {}, "no part 'dropuot'"),
        (["feature:zzz"], {}, "no part 'feature:zzz'"),
        (["layer:9"], {}, "no part 'layer:9'"),
        (["label_smoothing"], {}, "no part 'label_smoothing'"),
        (["dropout", "dropout"], {}, "twice"),
        ([], {}, "at least one part"),
        ({"parts": ["dropout"], "seeds": 1}, {}, "3"),
        ("all", {"training": {"seed": {"search": [1, 2]}}}, "one configuration"),
        ("all", {"search": {"trials": 4}}, "takes no trials"),
        ("all", {"training": {"restarts": 3}}, "cannot be combined"),
    ],
)
def test_what_cannot_be_ablated_is_refused(ablate: Any, more: Any, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        _ablation(ablate, **more)
    assert says in str(
        [
            refused.value.detail,
            *[one.detail for one in refused.value.problems or ()],
            refused.value.expected,
            [one.expected for one in refused.value.problems or ()],
        ]
    )


def test_checks_and_folds_are_resolved_or_refused() -> None:
    body: dict[str, Any] = {"dataset": "data", "target": "y", "network": [{"Dense": 4}]}

    def resolved(**more: Any) -> Resolved:
        found = resolve(parse({**body, **more}), FACTS)
        assert resolve(found.spec, FACTS).spec == found.spec  # a resolved spec resolves to itself
        return found

    folds = resolved(folds={"count": 4, "method": "group", "by": "c", "then": "refit"}).spec
    assert folds.ensemble is not None
    assert (folds.ensemble.members, folds.split.method, folds.split.by) == (4, "group", "c")
    long = {"epochs": 100_000}
    check = resolved(check="range_test", training=long)
    assert check.spec.ensemble is None
    assert check.estimates.seconds < resolved(training=long).estimates.seconds / 3
    refused: list[tuple[dict[str, Any], str]] = [
        ({"check": "range_test", "model": "m"}, "keeps no network"),
        ({"check": "sanity", "ensemble": 3}, "one network"),
        ({"check": "sanity", "folds": 3}, "no folds"),
        ({"check": {}}, "name what to check"),
        ({"check": {"range_test": {"low": 1, "high": 0.1}}}, "low must be below high"),
        ({"folds": 1}, "2"),
        ({"folds": 59}, "/folds: 59 folds need more than"),
        ({"folds": 3, "ensemble": {"members": 5}}, "3 folds"),
        ({"folds": {"count": 3, "method": "group", "by": "c"}, "split": "stratified"}, "folds are group"),
        ({"folds": {"count": 3, "method": "group"}}, "`by`"),
        ({"folds": {"count": 3, "method": "time", "by": "nothing"}}, "nothing"),
    ]
    for more, says in refused:
        with pytest.raises(BadInput) as found:
            resolved(**more)
        problems = found.value.problems or ()
        said = [f"{one.pointer}: {one.detail} {one.expected}" for one in problems]
        assert says in str([found.value.detail, found.value.expected, said])
