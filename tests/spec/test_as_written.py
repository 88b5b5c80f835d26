"""A changed spec keeps its author's notation, and contains exactly the change."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.findings import apply_patch, spec_edit
from fitserve.spec.as_written import as_sent, rewrite
from fitserve.spec.fork import fork
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse

NUMBERS = {"kind": "numeric", "storage": "float64", "rows": 200, "distinct": 150, "min": 0.0, "max": 9.0, "mean": 4.0}
COLUMNS = [ColumnFacts(name=name, std=2.0, **NUMBERS) for name in ("a", "b", "c")]
LABELS = ColumnFacts(name="kind", kind="categorical", storage="string", rows=200, distinct=2, labels=("no", "yes"))
FACTS = DatasetFacts(name="d", version=1, sha256="0" * 64, rows=200, columns=(*COLUMNS, LABELS))
DENSE = {"Dense": {"units": 4, "activation": "tanh"}}
WRITTEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a preset": {"preset": "plain"},
    "a network": {"network": [DENSE], "training": {"epochs": 6}},
    "short forms": {"network": [{"Dense": 4}, {"Dropout": 0.5}, "Flatten"], "training": {"optimizer": "sgd"}},
    "its own output": {"network": [DENSE, {"Dense": {"units": 1, "activation": "sigmoid"}}]},
    "branches": {
        "network": [
            {"Dense": 4, "name": "left", "inputs": ["features"]},
            {"Dense": 3, "name": "right", "inputs": ["features"]},
            {"Concatenate": {}, "inputs": ["left", "right"]},
        ]
    },
}


def resolved(spec: Any) -> dict[str, Any]:
    return resolve(parse(spec), FACTS).spec.to_json()


def changes(spec: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        "learning rate": list(spec_edit.lower_learning_rate(spec)),
        "dropout": list(spec_edit.reduce_dropout(spec)),
        "wider": list(spec_edit.widen(spec, 8, 64, below=64)),
        "deeper": list(spec_edit.add_hidden_layers(spec, (64, 32))),
        "activation": list(spec_edit.replace_activations(spec, None, ("tanh", "relu"), "selu", "LecunNormal")),
        "fewer columns": list(spec_edit.drop_features(spec, ["a"], FACTS)),
        "more bins": list(spec_edit.add_bins(spec, FACTS)),
        "epochs": [spec_edit.set_value("/training/epochs", 1000)],
        "early stopping": [spec_edit.set_value("/training/early_stopping", {"monitor": "val_loss", "patience": 9})],
    }


def unnamed(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved spec without the names of its layers, which differ where one is inserted."""
    layers = [
        {key: value for key, value in entry.items() if key not in ("name", "inputs")} for entry in spec["network"]
    ]
    return {**spec, "network": layers}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_change_means_the_same_as_the_patch_and_is_shorter(name: str) -> None:
    written = {"dataset": "d", "target": "kind", **WRITTEN[name]}
    before = resolved(written)
    for change, patch in changes(before).items():
        if not patch:
            continue
        patched = apply_patch(copy.deepcopy(before), patch)
        found = rewrite(written, patched, resolved)
        assert unnamed(resolved(found)) == unnamed(resolved(patched)), change
        assert len(str(found)) < len(str(patched)) / 2, change


def test_a_fork_names_the_arguments_that_it_sets() -> None:
    written = {"dataset": "d", "target": "kind", "training": {"epochs": 6}}
    once = rewrite(written, fork(resolved(written), 2, learning_rate=0.0001), resolved)
    switch = {"after": 2, "optimizer": {"Adam": {"learning_rate": 0.0001}}}
    assert once == {**written, "training": {"epochs": 6, "switches": [switch]}}
    sgd = {"SGD": {"momentum": 0.9}}
    twice = rewrite(once, fork(resolved(once), 4, optimizer=sgd), resolved)
    assert twice["training"]["switches"] == [switch, {"after": 4, "optimizer": sgd}]


def test_what_was_written_stays() -> None:
    written = {"dataset": "d", "target": "kind", "network": [DENSE], "training": {"optimizer": "sgd", "epochs": 6}}
    before = resolved(written)
    patch = [
        *spec_edit.lower_learning_rate(before),
        *spec_edit.widen(before, 8, 64, below=64),
        *spec_edit.drop_features(before, ["a"], FACTS),
    ]
    found = rewrite(written, apply_patch(copy.deepcopy(before), patch), resolved)
    (rate,) = [one["value"] for one in patch if one["path"].endswith("learning_rate")]
    assert found == {
        "dataset": "d",
        "target": "kind",
        "features": ["b", "c"],
        "network": [{"Dense": {"units": 64, "activation": "tanh"}}],
        "training": {"optimizer": {"SGD": {"learning_rate": rate}}, "epochs": 6},
    }


@pytest.mark.parametrize(
    "more",
    [
        {"training": {"optimizer": {"SGD": {"learning_rate": {"search": [0.1, 0.2]}}}}},
        {"search": {"trials": 4}},
        {"ablate": "all"},
        {"check": "sanity"},
    ],
)
def test_a_spec_that_asks_for_several_networks_gives_way_to_the_one_that_is_meant(more: dict[str, Any]) -> None:
    changed = resolved({"dataset": "d", "target": "kind", "network": [DENSE]})
    assert rewrite({"dataset": "d", "target": "kind", "network": [DENSE], **more}, changed, resolved) is changed


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_stored_of_a_spec_is_short_and_means_the_same(name: str) -> None:
    spec = {"dataset": "d", "target": "kind", "features": ["a", {"b": "robust"}], **WRITTEN[name]}
    sent = as_sent(parse(spec))
    assert parse(sent) == parse(spec)
    assert (sent["dataset"], sent["target"], sent["features"][0]) == ("d", "kind", "a")
    assert len(json.dumps(sent)) < len(json.dumps(spec)) + 150  # no default is written out
