"""Defaults for what a spec leaves out: the recipe, ensembles, the time budget, the plain preset."""

from __future__ import annotations

from typing import Any

import pytest

from fitserve.spec import default_network
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.spec import SpecRefused, parse
from tests.spec.table import FEATURES, facts

TARGET = {"dataset": "table", "target": "price", "features": FEATURES}


def resolved(rows: int = 400, pace: float = 1.0, **body: Any) -> Resolved:
    """Resolve a spec over the table, and check that it resolves to itself."""
    run = resolve(parse({**TARGET, **body}), facts(rows), pace=pace)
    assert resolve(run.spec, facts(rows), pace=pace).spec == run.spec
    assert resolve(parse(run.spec.to_json()), facts(rows), pace=pace).spec == run.spec
    return run


def layers(run: Resolved) -> list[str]:
    return [next(iter(node.model_dump())) for node in run.spec.network]


def test_a_table_and_a_column_are_enough() -> None:
    spec = resolved().spec
    assert layers(resolved()) == ["Input", "Dense", "Dropout", "Dense", "Dropout", "Concatenate", "Dense"]
    assert spec.network[-2].inputs == ("deep", "features")
    hidden, output = spec.network[1].model_dump()["Dense"], spec.network[-1].model_dump()["Dense"]
    assert (hidden["units"], hidden["activation"], output["units"]) == (64, "relu", 1)
    assert list(hidden["kernel_initializer"]) == ["HeNormal"]
    assert list(output["kernel_initializer"]) == ["GlorotUniform"]
    assert spec.network[2].model_dump()["Dropout"]["rate"] == 0.1
    assert spec.training.optimizer.arguments()["learning_rate"] == 0.001
    assert (spec.training.batch_size, spec.training.epochs) == (32, 200)
    stopping = spec.training.early_stopping
    assert stopping is not None
    assert (stopping.monitor, stopping.patience, stopping.restore_best_weights) == ("val_loss", 20, True)
    assert spec.ensemble is not None
    assert spec.ensemble.model_dump() == {"members": 8, "validation": "folds", "combine": "mean"}
    assert spec.split.validation == 0.0
    assert (spec.target[0].standardize, spec.target[0].clip) == (True, True)
    assert (spec.time_budget, spec.shrunk) == (120.0, {})


def test_only_a_number_is_also_a_sum_of_its_features() -> None:
    assert layers(resolved(target="colour")) == ["Input", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    body = {"dataset": "table", "target": "price"}
    features = resolve(parse(body), facts()).spec.features or ()
    of_x1 = [feature.encoding.type for feature in features if feature.column == "x1"]  # type: ignore[union-attr]
    assert of_x1 == ["robust", "piecewise_linear", "standardize"]
    named_deep = {"name": "deep", "column": "price"}
    assert "deep_" in [node.name for node in resolved(target=named_deep).spec.network]


def test_a_network_alone_is_one_network_that_stops_early() -> None:
    spec = resolved(network=[{"Dense": 8}]).spec
    assert spec.ensemble is None
    assert (spec.training.batch_size, spec.training.epochs) == (32, 100)
    assert spec.training.early_stopping is not None
    assert (spec.training.early_stopping.patience, spec.training.early_stopping.restore_best_weights) == (20, True)
    assert (spec.target[0].clip, spec.split.validation) == (False, 0.2)


@pytest.mark.parametrize(
    "more",
    [
        {"training": {"epochs": 50}},
        {"training": {"keep_epochs": [3]}},
        {"training": {"early_stopping": False}},
        {"training": {"early_stopping": None}},
        {"split": {"validation": 0}},
        {"preset": "plain"},
    ],
)
def test_a_network_trains_to_the_end_where_the_spec_says_so(more: dict[str, Any]) -> None:
    assert resolved(network=[{"Dense": 8}], **more).spec.training.early_stopping is None


def test_the_plain_preset_is_the_bare_network_of_a_course() -> None:
    run = resolved(preset="plain")
    assert layers(run) == ["Input", "Dense", "Dense", "Dense"]
    assert [node.model_dump()["Dense"]["units"] for node in run.spec.network[1:]] == [64, 32, 1]
    assert (run.spec.training.batch_size, run.spec.training.epochs) == (32, 100)
    assert run.spec.training.early_stopping is None
    assert run.spec.ensemble is None
    assert (run.spec.preset, run.spec.target[0].clip) == (None, False)
    assert resolved(preset="plain", ensemble=3).spec.ensemble is not None


@pytest.mark.parametrize(
    ("body", "members", "validation"),
    [
        ({"ensemble": True}, 8, "folds"),
        ({"ensemble": 5}, 5, "folds"),
        ({"ensemble": "holdout"}, 8, "holdout"),
        ({"ensemble": {"members": 3, "validation": "holdout"}, "network": []}, 3, "holdout"),
        ({"split": {"validation": 0.3}}, 8, "holdout"),
        ({"training": {"validation_split": 0.3}}, 8, "holdout"),
        ({"split": {"method": "column", "by": "colour"}}, 8, "holdout"),
        ({"split": {"method": "column", "by": "colour"}, "ensemble": "folds"}, 8, "folds"),
        ({"split": {"validation": 0}}, 8, "folds"),
        ({"split": {"group": "colour"}}, 2, "folds"),
        ({"split": {"method": "time", "by": "x1"}}, 8, "folds"),
        ({"split": {"method": "group", "by": "colour", "test": 0}}, 3, "folds"),
    ],
)
def test_an_ensemble_follows_from_what_is_said(body: dict[str, Any], members: int, validation: str) -> None:
    spec = resolved(**body).spec
    assert spec.ensemble is not None
    assert (spec.ensemble.members, spec.ensemble.validation) == (members, validation)
    assert spec.training.early_stopping is not None


@pytest.mark.parametrize("body", [{"ensemble": False}, {"ensemble": 1}, {"training": {"restarts": 4}}])
def test_a_single_network_where_the_spec_says_so(body: dict[str, Any]) -> None:
    assert resolved(**body).spec.ensemble is None


def test_few_rows_are_not_folded() -> None:
    assert resolved(20).spec.ensemble is None
    assert resolved(20).spec.training.early_stopping is not None


@pytest.mark.parametrize(
    ("body", "pointer", "text"),
    [
        ({"ensemble": 2, "training": {"restarts": 4}}, "/training/restarts", "an ensemble averages"),
        ({"ensemble": "holdout", "split": {"validation": 0}}, "/ensemble/validation", "No rows are held out"),
        ({"ensemble": "folds", "split": {"validation": 0.2}}, "/ensemble/validation", "Folds hold out every row"),
        ({"ensemble": {"members": 1, "validation": "folds"}}, "/ensemble/members", "One fold"),
        ({"ensemble": 4, "split": {"group": "colour"}}, "/ensemble/members", "groups of 'colour'"),
        ({"ensemble": 5000}, "/ensemble/members", "the limit trials is 1000"),
        ({"ensemble": 0}, "/ensemble", "greater than or equal to 1"),
        ({"ensemble": "fold"}, "/ensemble", "'folds' or 'holdout'"),
        ({"target": "yes", "clip": True}, None, None),
        ({"target": {"column": "yes", "clip": True}}, "/target/clip", "Only the answers of a regression"),
        ({"time_budget": 0}, "/time_budget", "greater than 0"),
        ({"preset": "fancy"}, "/preset", "plain"),
    ],
)
def test_what_cannot_be_is_refused_by_name(body: dict[str, Any], pointer: str | None, text: str | None) -> None:
    if pointer is None:  # the shorthand is for the targets that are numbers
        assert resolved(**body).spec.target[0].clip is False
        return
    with pytest.raises(SpecRefused) as refused:
        resolved(**body)
    problem = refused.value.problems[0]
    assert problem.pointer == pointer
    assert str(text) in f"{problem.detail} {problem.expected}"


def test_batches_grow_with_the_rows() -> None:
    sizes = [resolved(rows, time_budget=None).spec.training.batch_size for rows in (1000, 7000, 15_000, 60_000, 10**6)]
    assert sizes == [32, 64, 128, 256, 1024]


def test_a_time_budget_gives_up_members_then_epochs_and_says_so() -> None:
    whole = resolved(2000)
    fewer = resolved(2000, time_budget=0.7 * whole.estimates.seconds)
    assert whole.spec.shrunk == {}
    assert fewer.spec.ensemble is not None
    assert 4 <= (fewer.spec.ensemble.members or 0) < 8
    assert fewer.spec.shrunk == {"members": 8}
    assert fewer.estimates.seconds <= 0.7 * whole.estimates.seconds
    fewest = resolved(2000, time_budget=0.3 * whole.estimates.seconds)
    assert fewest.spec.ensemble is not None
    assert fewest.spec.ensemble.members == 4
    assert fewest.spec.training.epochs < 200
    assert fewest.spec.shrunk == {"members": 8, "epochs": 200}
    assert any(warning.code == "shrunk" for warning in fewest.warnings)


def test_what_is_said_is_not_shrunk() -> None:
    run = resolved(2000, time_budget=4, ensemble=8, training={"epochs": 200})
    assert run.spec.ensemble is not None
    assert (run.spec.ensemble.members, run.spec.training.epochs, run.spec.shrunk) == (8, 200, {})
    assert any(warning.code == "over-budget" for warning in run.warnings)
    assert resolved(10**6, network=[{"Dense": 64}]).spec.training.epochs == 100


def test_a_slow_worker_shrinks_sooner() -> None:
    quick, slow = resolved(6000), resolved(6000, pace=12.0)
    assert slow.spec.shrunk
    assert not quick.spec.shrunk
    assert slow.estimates.seconds <= 120


@pytest.mark.parametrize(
    ("rows", "members", "validation"), [(30_000, 8, "folds"), (90_000, 8, "folds"), (200_000, 4, "holdout")]
)
def test_many_rows_have_folds_while_the_budget_lasts(rows: int, members: int, validation: str) -> None:
    spec = resolved(rows, time_budget=10**6).spec
    assert spec.ensemble is not None
    assert (spec.ensemble.members, spec.ensemble.validation) == (members, validation)
    if validation == "folds":
        tight = resolved(rows, time_budget=20).spec
        assert tight.ensemble is not None
        assert (tight.ensemble.members, tight.ensemble.validation, tight.split.validation) == (4, "holdout", 0.2)


def test_whole_numbers_get_an_embedding_of_their_own() -> None:
    run = resolve(parse({"dataset": "table", "target": "price", "features": ["x1", {"colour": "index"}]}), facts())
    assert layers(run)[:6] == ["Input", "Input", "Embedding", "Flatten", "Concatenate", "Dense"]
    alone = resolve(parse({"dataset": "table", "target": "price", "features": [{"words": "sequence"}]}), facts())
    assert layers(alone)[:4] == ["Input", "Embedding", "GlobalAveragePooling1D", "Dense"]


def test_bins_are_given_up_last() -> None:
    body = {"dataset": "table", "target": "price", "features": [f"x{at}" for at in range(12)]}
    whole = resolve(parse({**body, "time_budget": None}), facts(2 * 10**6))
    tight = resolve(parse({**body, "time_budget": 35}), facts(2 * 10**6))
    assert tight.spec.ensemble is None
    assert 20 <= tight.spec.training.epochs < 40
    assert set(tight.spec.shrunk) == {"members", "epochs", "bins"}
    assert tight.spec.shrunk["bins"] == 16
    bins = [max(getattr(one.encoding, "bins", 0) or 0 for one in run.spec.features or ()) for run in (whole, tight)]
    assert bins[0] == 16 > bins[1]
    assert sum(warning.code == "shrunk" for warning in tight.warnings) == 1
    assert resolve(tight.spec, facts(2 * 10**6)).spec == tight.spec


@pytest.mark.parametrize(("rows", "epochs"), [(200, 20), (200_000, 20), (200_001, 10), (1_000_001, 5)])
def test_early_stopping_waits_for_fewer_epochs_where_they_are_long(rows: int, epochs: int) -> None:
    assert default_network.patience(rows) == epochs
