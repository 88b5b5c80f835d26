"""Intervals and sets from kept scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fitserve import conformal
from fitserve.errors import BadInput

NUMBER = {"name": "y", "task": "regression", "labels": None}
LABELS = {"name": "y", "task": "multiclass", "labels": ["a", "b", "c"]}


def model(output: dict[str, Any], scores: np.ndarray) -> dict[str, Any]:
    return {"outputs": [output], "conformal": {"y": conformal.kept_scores(scores)}}


@pytest.mark.parametrize("rows", [39, 500, 20_000])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_an_interval_covers_its_share_of_new_rows(rows: int, level: float) -> None:
    random = np.random.default_rng(rows)
    shares = []
    for _ in range(40):
        (found,) = conformal.bounds(model(NUMBER, random.gumbel(size=rows)), {"y": np.zeros((1, 1))}, level)
        truth = random.gumbel(size=4000)
        assert found.low is not None
        assert found.high is not None
        shares.append(((truth >= found.low[0, 0]) & (truth <= found.high[0, 0])).mean())
    error = np.sqrt(level * (1 - level) / rows / 40)
    assert level - 4 * error <= np.mean(shares) <= level + 2 / (rows + 1) + 4 * error + 0.004


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_a_set_covers_its_share_and_is_never_empty(level: float) -> None:
    random = np.random.default_rng(1)
    shares = random.dirichlet([1, 1, 1], 40_000)
    truth = (shares.cumsum(axis=1) < random.random((40_000, 1))).sum(axis=1)
    scores = conformal.likelier(shares[:2000])[np.arange(2000), truth[:2000]]
    (found,) = conformal.bounds(model(LABELS, scores), {"y": shares[2000:]}, level)
    assert found.members is not None
    sizes = found.members.sum(axis=1)
    assert sizes.min() >= 1
    assert found.members[np.arange(38_000), truth[2000:]].mean() >= level - 0.02
    assert level < 0.9 or sizes.mean() > 1


def test_kept_scores_are_bounded_and_round_outwards() -> None:
    scores = np.random.default_rng(2).normal(size=200_000)
    kept = conformal.kept_scores(scores)
    assert len(kept["scores"]) <= conformal.MOST_SCORES
    for level in (0.5, 0.9, 0.99, 0.999):
        (found,) = conformal.bounds({"outputs": [NUMBER], "conformal": {"y": kept}}, {"y": np.zeros((1, 1))}, level)
        (exact,) = np.quantile(scores, [1 - (1 - level) / 2])
        assert found.high is not None
        assert exact - 1e-6 <= found.high[0, 0] <= exact + 0.1


@pytest.mark.parametrize(("output", "level", "rows"), [(NUMBER, 0.9, 19), (LABELS, 0.9, 9), (NUMBER, 0.95, 39)])
def test_too_few_rows_for_a_level_say_how_many_it_takes(output: dict[str, Any], level: float, rows: int) -> None:
    outputs = {"y": np.full((1, 3), 1 / 3)}
    assert conformal.bounds(model(output, np.arange(rows) / rows), outputs, level)
    with pytest.raises(BadInput, match=f"needs {rows} held-out rows; 'y' has {rows - 1}"):
        conformal.bounds(model(output, np.arange(rows - 1) / rows), outputs, level)
    with pytest.raises(BadInput, match="keeps no held-out scores"):
        conformal.bounds({"outputs": [output]}, outputs, level)
    with pytest.raises(BadInput, match="no output with an interval"):
        conformal.bounds({"outputs": [{**output, "task": "multilabel"}]}, outputs, level)
