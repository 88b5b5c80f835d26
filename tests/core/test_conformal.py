"""Intervals and sets from kept scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from fitserve import conformal
from fitserve.errors import BadInput

NUMBER = {"name": "y", "task": "regression", "labels": None}
LABELS = {"name": "y", "task": "multiclass", "labels": ["a", "b", "c"]}
TWO = {"name": "y", "task": "binary", "labels": ["no", "yes"]}


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
    assert len(kept["scores"]) <= conformal.MAX_SCORES
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


def test_intervals_are_mapies_and_sets_cover_between_its_two() -> None:
    regression = pytest.importorskip("mapie.regression", reason="mapie, an oracle of conformal prediction, is missing")
    from mapie.classification import SplitConformalClassifier
    from mapie.conformity_scores import AbsoluteConformityScore

    random = np.random.default_rng(0)
    x = random.normal(size=(1200, 3))
    y = x @ [1, 2, 3] + random.gumbel(size=1200)
    fitted, held, new = slice(0, 400), slice(400, 800), slice(800, 1200)
    linear = LinearRegression().fit(x[fitted], y[fitted])
    levels, signed = [0.8, 0.9, 0.95], AbsoluteConformityScore(sym=False)  # a tail on each side
    oracle = regression.SplitConformalRegressor(linear, confidence_level=levels, conformity_score=signed, prefit=True)
    _, ends = oracle.conformalize(x[held], y[held]).predict_interval(x[new])
    scores = y[held] - linear.predict(x[held])
    for at, level in enumerate(levels):
        (found,) = conformal.bounds(model(NUMBER, scores), {"y": linear.predict(x[new])[:, None]}, level)
        np.testing.assert_allclose(np.hstack([found.low, found.high]), ends[:, :, at], rtol=1e-12)

    labels = (x @ random.normal(size=(3, 3)) + random.gumbel(size=(1200, 3))).argmax(axis=1)
    logistic = LogisticRegression().fit(x[fitted], labels[fitted])
    shares = logistic.predict_proba(x)
    scores = conformal.likelier(shares[held])[np.arange(400), labels[held]]
    oracle = SplitConformalClassifier(logistic, confidence_level=levels, conformity_score="aps", prefit=True)
    oracle.conformalize(x[held], labels[held])
    with_last, without = (
        oracle.predict_set(x[new], conformity_score_params={"include_last_label": last})[1] for last in (True, False)
    )
    for at, level in enumerate(levels):
        (found,) = conformal.bounds(model(LABELS, scores), {"y": shares[new]}, level)
        assert without[:, :, at].sum(axis=1).mean() <= found.sizes().mean() <= with_last[:, :, at].sum(axis=1).mean()
        assert found.covers(labels[new]).mean() >= level - 2.6 * np.sqrt(level * (1 - level) * 2 / 400)


@pytest.mark.parametrize("few_bends", [0, 40])  # of a row's spread: by NumPy, and without
def test_a_few_rows_are_answered_as_many_are(few_bends: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.spread.FEW_BENDS", few_bends)
    random = np.random.default_rng(3)
    spread = {
        "kind": "inputs",
        "inputs": ["x"],
        "bias": 0.1,
        "linear": [0.3, -0.2, 0.1],
        "range": [-2.0, 2.0],
        "hinges": {"input": [0, 2], "knot": [0.2, 0.0], "weight": [0.5, -0.4]},
        "clipped": [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]],
    }
    scores = random.normal(size=300)
    kept = {
        **conformal.kept_scores(scores),
        "by_row": {"spread": spread, **conformal.kept_scores(scores)},
        "groups": {"a": {**conformal.kept_scores(scores), "by_row": conformal.kept_scores(scores * 3)}},
    }
    values, feeds = random.normal(size=(5, 1)), {"x": random.normal(size=(5, 2)).astype(np.float32)}
    groups = ["a", None, "b", "a", "b"]
    of_prediction = {**spread, "inputs": [], "linear": [0.4], "clipped": [[-1.0], [1.0]]}
    of_prediction["hinges"] = {"input": [0], "knot": [0.2], "weight": [0.5]}
    alone_said = {**kept, "by_row": {"spread": of_prediction, **conformal.kept_scores(scores)}}
    for output, manifest, rows, asked in (
        (NUMBER, {"outputs": [NUMBER], "conformal": {"y": kept}}, values, feeds),
        (NUMBER, {"outputs": [NUMBER], "conformal": {"y": alone_said}}, values, {}),
        (LABELS, model(LABELS, random.uniform(size=300)), random.dirichlet([1, 1, 1], 5), {}),
        (TWO, model(TWO, random.uniform(0.4, 0.8, size=300)), np.array([[0.5], [0.0], [1.0], [0.71], [0.3]]), {}),
    ):
        promises = conformal.Conformal(manifest)
        (many,) = promises.bounds({"y": rows}, 0.7, conformal.RowFacts(groups, asked))
        few = promises.few_rows(0.7, rows.tolist(), groups, asked)
        alone = [
            promises.few_rows(0.7, [row], [groups[at]], {name: feed[at : at + 1] for name, feed in asked.items()})[0]
            for at, row in enumerate(rows.tolist())
        ]
        for name, listed in many.listed().items():
            for answers in (few, alone):
                found = [row[name] for row in answers]
                assert found == (pytest.approx(listed, rel=1e-12) if output is NUMBER else listed)


@pytest.mark.parametrize("level", [0, 1, -0.5, "x", True, [], {}, None, 10**400, "1e400", float("nan")])
def test_a_level_is_a_share(level: Any) -> None:
    with pytest.raises(BadInput, match="share of the rows"):
        conformal.read_level(level)
