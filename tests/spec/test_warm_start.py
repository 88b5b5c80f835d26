"""`initial_weights` in a spec: what is taken from the source, what is refused, and the suggested fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fitserve.errors import Problem
from fitserve.spec.feature import encoded_inputs
from fitserve.spec.graph import build_graph
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.spec import SpecRefused, parse
from fitserve.spec.warm_start import WeightsSource, tensors_of
from tests.spec.table import FEATURES, facts

BODY = {"dataset": "table", "target": "price"}
NETWORK = [{"Dense": 8}, {"Dropout": 0.1}, {"Dense": 4}]
BEGINS = {"initial_weights": "house@2"}


def _source(**more: Any) -> WeightsSource:
    own = resolve(parse({**BODY, "features": FEATURES, "network": NETWORK, **more}), facts()).spec
    inputs = encoded_inputs(own.features or (), facts())
    tensors = tensors_of(build_graph(own.network, inputs, own.target))
    return WeightsSource("the model house@2", "a" * 64, tensors, run="run_1", model="house@2", spec=own, inputs=inputs)


SOURCE = _source()


def begun(source: WeightsSource = SOURCE, **changes: Any) -> Resolved:
    return resolve(parse({**BODY, **BEGINS, **changes}), facts(), source=source)


def refused(source: WeightsSource = SOURCE, **changes: Any) -> Problem:
    with pytest.raises(SpecRefused) as error:
        begun(source, **changes)
    return error.value.problems[0]


def test_what_is_left_out_is_the_sources_and_resolves_to_itself() -> None:
    found = begun()
    assert SOURCE.spec is not None
    assert found.spec.features == SOURCE.spec.features
    assert found.spec.network == SOURCE.spec.network
    initial = found.spec.initial_weights
    assert initial is not None
    assert (initial.run, initial.model, initial.encoding) == ("run_1", "house@2", "source")
    assert resolve(parse(found.spec.to_json()), facts(), source=SOURCE).spec == found.spec


def test_the_summary_says_what_is_frozen_and_where_weights_are_from() -> None:
    found = begun(initial_weights={"model": "house", "freeze": "dense", "reinitialize": "dense_1"})
    rows = {row.name: row for row in found.summary}
    assert [(rows[name].frozen, rows[name].begins) for name in ("dense", "dense_1", "dropout")] == [
        (True, "source"),
        (False, "seed"),
        (False, None),
    ]
    assert rows["dense"].trainable == 0
    assert found.estimates.trainable_parameters == found.estimates.parameters - rows["dense"].parameters


def test_features_of_ones_own_are_encoded_anew() -> None:
    found = begun(features=FEATURES[:2], initial_weights={"model": "house", "reinitialize": "dense"})
    assert found.spec.initial_weights is not None
    assert found.spec.initial_weights.encoding == "fit"


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({"network": [{"Dense": 9}, {"Dense": 4}]}, "/network/0", "reinitialize: [dense]"),
        ({"network": [{"Dense": 8}, {"Dense": 4}, {"Dense": 4}]}, "/network/2", "reinitialize: [dense_2]"),
        ({"network": [{"Dense": {"units": 8, "use_bias": False}}]}, "/network/0", "1 arrays"),
        ({"features": FEATURES[:2]}, "/network/0", "Leave features out"),
        ({"features": FEATURES[:2], "initial_weights": {"model": "m", "encoding": "source"}}, "/features", "fit"),
        ({"initial_weights": {"model": "m", "freeze": ["dens"]}}, "/initial_weights/freeze/0", "dense"),
        ({"initial_weights": {"model": "m", "freeze": ["*"]}}, "/initial_weights/freeze", "Freeze fewer"),
        ({"initial_weights": {"model": "m", "reinitialize": ["*"]}}, "/initial_weights/reinitialize", "Leave"),
        (
            {"initial_weights": {"model": "m", "freeze": "dense", "reinitialize": "dense"}},
            "/initial_weights/freeze",
            "Freeze it, or",
        ),
        ({"initial_weights": {"model": "m", "run": "run_1"}}, "/initial_weights", "one of run, model and upload"),
        ({"initial_weights": {}}, "/initial_weights", "one of run, model and upload"),
        ({"initial_weights": {"model": "../x"}}, "/initial_weights/model", ""),
        ({"initial_weights": {"model": "m", "artifact": "b" * 64}}, "/initial_weights/artifact", "Leave artifact"),
        ({"check": "sanity"}, "/check", "range_test"),
    ],
)
def test_a_source_that_does_not_fit_is_refused_with_the_fix(changes: Any, pointer: str, words: str) -> None:
    found = refused(**changes)
    assert found.pointer == pointer
    assert words in f"{found.detail} {found.expected} {found.fix}"


def test_new_labels_need_a_new_output_and_the_fix_gives_one() -> None:
    source = _source(target="colour")
    column = facts().by_name["colour"].model_copy(update={"labels": ("blue", "green", "grey", "red"), "distinct": 4})
    columns = tuple(column if one.name == "colour" else one for one in facts().columns)
    more = facts().model_copy(update={"columns": columns, "version": 2})

    def begin(**changes: Any) -> Resolved:
        return resolve(parse({**BODY, "target": "colour", **BEGINS, **changes}), more, source=source)

    with pytest.raises(SpecRefused, match="also has 'grey'") as refused:
        begin()
    target = {"column": "colour", "task": "multiclass"}
    assert "reinitialize: [colour]" in str(refused.value.fix)
    with pytest.raises(SpecRefused, match="in the model house@2 it is"):
        begin(target=target)
    found = begin(target=target, initial_weights={"model": "house", "reinitialize": ["colour"]}).spec.initial_weights
    assert found is not None
    assert (found.reinitialize, found.encoding) == (("colour",), "source")


def test_an_ensemble_begins_with_as_many_members() -> None:
    several = replace(SOURCE, members=3)
    assert refused(several).fix == "ensemble: {members: 3}"
    assert begun(several, ensemble={"members": 3}).spec.ensemble is not None
    assert refused(several, folds={"count": 3, "then": "refit"}).pointer == "/folds/then"
    assert begun(ensemble={"members": 2}).spec.initial_weights is not None  # each begins with the one network


def test_uploaded_weights_need_their_network() -> None:
    upload = WeightsSource("the upload wts_1", "c" * 64, SOURCE.tensors, upload="wts_1")
    assert refused(upload, initial_weights="wts_1").pointer == "/network"
    found = begun(upload, initial_weights="wts_1", network=NETWORK, features=FEATURES).spec.initial_weights
    assert found is not None
    assert (found.upload, found.encoding) == ("wts_1", "fit")


def test_what_may_be_too_good_is_said() -> None:
    codes = {one.code for one in begun(training={"seed": 3}).warnings}
    assert "rows-seen-before" in codes
    assert "rows-seen-before" not in {one.code for one in begun().warnings}
