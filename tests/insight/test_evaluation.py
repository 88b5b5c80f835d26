"""Figures equal scikit-learn's on the same arrays; intervals have their coverage; comparisons are significant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from fitserve.spec.feature import EncodedInput
from workers.trainer.insight import intervals, references
from workers.trainer.insight.evaluation import best_threshold, classification, compare, regression
from workers.trainer.insight.hardest_rows import hardest_labels, hardest_numbers
from workers.trainer.insight.intervals import Resamples


def _binary(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    positive = 1 / (1 + np.exp(-(rng.normal(size=rows) + 1.5 * truth - 0.75)))
    return truth, np.stack([1 - positive, positive], 1)


def test_binary_figures_are_scikit_learns() -> None:
    truth, shares = _binary()
    threshold = best_threshold(*_half(truth, shares[:, 1]))
    figures = classification(truth, shares, ["no", "yes"], threshold=threshold)
    chosen = (shares[:, 1] >= 0.5).astype(int)
    near = lambda value: pytest.approx(value, rel=1e-6)  # noqa: E731
    assert figures["accuracy"] == near(metrics.accuracy_score(truth, chosen))
    assert figures["balanced_accuracy"] == near(metrics.balanced_accuracy_score(truth, chosen))
    assert figures["log_loss"] == near(metrics.log_loss(truth, shares))
    assert figures["brier"] == near(metrics.brier_score_loss(truth, shares[:, 1]))
    assert figures["roc_auc"] == near(metrics.roc_auc_score(truth, shares[:, 1]))
    assert figures["average_precision"] == near(metrics.average_precision_score(truth, shares[:, 1]))
    assert figures["confusion"] == metrics.confusion_matrix(truth, chosen).tolist()
    yes = figures["by_label"][1]
    assert yes["precision"] == near(metrics.precision_score(truth, chosen))
    assert yes["recall"] == near(metrics.recall_score(truth, chosen))
    assert yes["f1"] == near(metrics.f1_score(truth, chosen))
    at = (shares[:, 1] >= threshold).astype(int)
    assert figures["best_threshold"]["f1"] == near(metrics.f1_score(truth, at))


def _half(truth: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return truth[: len(truth) // 2], positive[: len(truth) // 2]


def test_figures_of_several_labels_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 300)
    shares = rng.dirichlet(np.ones(3), 300) + 0.8 * np.eye(3)[truth]
    shares /= shares.sum(1, keepdims=True)
    figures = classification(truth, shares, list("abc"))
    chosen = shares.argmax(1)
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(truth, chosen))
    assert figures["f1_macro"] == pytest.approx(metrics.f1_score(truth, chosen, average="macro"))
    assert figures["log_loss"] == pytest.approx(metrics.log_loss(truth, shares))
    assert figures["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, shares, multi_class="ovr"), rel=1e-6)
    assert figures["brier"] == pytest.approx(((shares - np.eye(3)[truth]) ** 2).sum(1).mean())


def test_regression_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(100, 20, 500)
    predicted = truth + rng.normal(0, 5, 500)
    figures = regression(truth, predicted)
    assert figures["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, predicted))
    assert figures["mae"] == pytest.approx(metrics.mean_absolute_error(truth, predicted))
    assert figures["r2"] == pytest.approx(metrics.r2_score(truth, predicted))
    assert len(figures["residuals"]) == 10
    assert sum(row["rows"] for row in figures["residuals"]) == 500
    low, high = figures["intervals"]["rmse"]
    assert low < figures["rmse"] < high


def test_vectorised_figures_of_resamples_are_scikit_learns() -> None:
    truth, shares = _binary(60)
    shares = shares.round(1)  # with equal scores
    drawn = Resamples.of(60, 0)
    assert (drawn.weights.sum(1) == 60).all()
    roc, precision = intervals.areas(drawn, truth == 1, shares[:, 1])
    for at, counts in enumerate(drawn.weights[:20]):
        rows = np.repeat(np.arange(60), counts.astype(int))
        assert roc[at] == pytest.approx(metrics.roc_auc_score(truth[rows], shares[rows, 1]))
        assert precision[at] == pytest.approx(metrics.average_precision_score(truth[rows], shares[rows, 1]))


def test_intervals_are_percentiles_of_scikit_learns_figures_on_the_rows_drawn() -> None:
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 3, 90)
    shares = rng.dirichlet(np.ones(3), 90) + 0.6 * np.eye(3)[truth]
    shares /= shares.sum(1, keepdims=True)
    figures, chosen = classification(truth, shares, list("abc"), seed=7), shares.argmax(1)
    draws = [np.repeat(np.arange(90), counts.astype(int)) for counts in Resamples.of(90, 7).weights[1:]]

    def expected(figure: Callable[[np.ndarray], float]) -> Any:
        return pytest.approx(np.percentile([figure(rows) for rows in draws], [2.5, 97.5]), rel=1e-6)

    f1 = lambda rows: metrics.f1_score(truth[rows], chosen[rows], average=None, labels=[0, 1, 2])  # noqa: E731
    balanced = expected(lambda rows: metrics.balanced_accuracy_score(truth[rows], chosen[rows]))
    assert figures["intervals"]["balanced_accuracy"] == balanced
    assert figures["intervals"]["f1_macro"] == expected(lambda rows: float(np.mean(f1(rows))))
    assert figures["intervals"]["log_loss"] == expected(lambda rows: metrics.log_loss(truth[rows], shares[rows]))
    assert figures["by_label"][1]["intervals"]["f1"] == expected(lambda rows: f1(rows)[1])
    predicted = truth + rng.normal(0, 1, 90)
    regressed = regression(truth.astype(float), predicted, seed=7)
    assert regressed["intervals"]["r2"] == expected(lambda rows: metrics.r2_score(truth[rows], predicted[rows]))
    rmse = expected(lambda rows: metrics.root_mean_squared_error(truth[rows], predicted[rows]))
    assert regressed["intervals"]["rmse"] == rmse


def test_the_interval_of_very_many_rows_is_that_of_so_many() -> None:
    values = np.random.default_rng(8).normal(1.0, 2.0, 100_000)
    low, high = intervals.mean(values, 0) or (0.0, 0.0)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 100_000**0.5, rel=0.2)


def test_curves_are_scikit_learns() -> None:
    truth, shares = _binary(150)
    yes = classification(truth, shares, ["no", "yes"])["by_label"][1]
    false, true, _ = metrics.roc_curve(truth, shares[:, 1])
    assert yes["roc"] == {"false_positive": pytest.approx(false), "true_positive": pytest.approx(true)}
    assert metrics.auc(yes["roc"]["false_positive"], yes["roc"]["true_positive"]) == pytest.approx(yes["roc_auc"])
    precision, recall, _ = metrics.precision_recall_curve(truth, shares[:, 1])
    assert yes["pr"] == {"precision": pytest.approx(precision), "recall": pytest.approx(recall)}
    observed, predicted = calibration_curve(truth, shares[:, 1], n_bins=10)
    assert yes["calibration"]["observed"] == pytest.approx(observed)
    assert yes["calibration"]["predicted"] == pytest.approx(predicted)
    assert sum(yes["calibration"]["rows"]) == 150


def test_residuals_by_tenth_are_those_of_the_rows_in_it() -> None:
    rng = np.random.default_rng(9)
    truth = rng.normal(size=200)
    predicted = truth + rng.normal(0, 0.3, 200)
    figures = regression(truth, predicted)
    highest = np.argsort(predicted)[-20:]
    last = figures["residuals"][-1]
    assert last["rows"] == 20
    assert last["mean"] == pytest.approx((predicted - truth)[highest].mean())
    assert last["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth[highest], predicted[highest]))
    assert figures["predicted_actual"]["actual"] == pytest.approx(truth)
    assert figures["median_absolute_error"] == pytest.approx(metrics.median_absolute_error(truth, predicted))


def test_intervals_have_about_their_nominal_coverage() -> None:
    covered = 0
    for seed in range(200):
        low, high = intervals.mean((np.random.default_rng(seed).random(200) < 0.7).astype(float), seed) or (0, 0)
        covered += low <= 0.7 <= high
    assert 180 <= covered < 200


def test_a_label_that_never_occurs_makes_no_figure_fail() -> None:
    truth = np.zeros(20, int)
    figures = classification(truth, np.tile([0.9, 0.1, 0.0], (20, 1)), list("abc"))
    assert figures["accuracy"] == 1.0
    assert figures["roc_auc"] is None
    one = classification(np.ones(5, int), np.tile([0.4, 0.6], (5, 1)), ["no", "yes"], threshold=0.5)
    assert one["average_precision"] is None


def test_the_baseline_is_fitted_where_a_linear_model_would_take_long() -> None:
    words = EncodedInput("words", "int32", (3,), 30_000)
    rng = np.random.default_rng(10)
    matrix, truth = references.design([words], {"words": rng.integers(0, 30_000, (50, 3))}), rng.integers(0, 2, 50)
    found = references.fit_all(matrix, truth, 2, 1.0, 0)
    assert set(found) == {"baseline"}
    np.testing.assert_allclose(found["baseline"].predict(matrix)[0], np.bincount(truth) / 50)
    few = EncodedInput("words", "int32", (3,), 40)
    beside = references.fit_all(references.design([few], {"words": rng.integers(0, 40, (50, 3))}), truth, 2, 1.0, 0)
    assert set(beside) == {"baseline", "linear"}  # trees take no sparse columns


def test_models_are_compared_row_by_row() -> None:
    rng = np.random.default_rng(3)
    hard = rng.gamma(1.0, 1.0, 300)
    assert compare(hard, hard + rng.normal(0.2, 0.3, 300))["verdict"] == "better"
    assert compare(hard, hard + rng.normal(0.0, 0.3, 300))["verdict"] == "no different"
    assert compare(hard + 0.5, hard)["verdict"] == "worse"


def test_flipped_labels_are_found_by_row_number() -> None:
    rng = np.random.default_rng(4)
    rows = 400
    truth = rng.integers(0, 2, rows)
    positive = np.clip(0.85 * truth + 0.075 + rng.normal(0, 0.05, rows), 0.01, 0.99)
    flipped = rng.choice(rows, 20, replace=False)
    given = truth.copy()
    given[flipped] = 1 - given[flipped]
    parts = np.where(np.arange(rows) < 240, "train", "test")
    figures = hardest_labels(np.arange(1, rows + 1), parts, given, np.stack([1 - positive, positive], 1), ["no", "yes"])
    found = {entry["row"] - 1 for entry in figures["mislabelled"]}
    assert found <= set(flipped)
    assert len(found) >= 10
    assert {entry["row"] - 1 for entry in figures["hardest"][:20]} == set(flipped)


def test_far_residuals_are_suspect() -> None:
    rng = np.random.default_rng(5)
    truth = rng.normal(size=300)
    predicted = truth + rng.normal(0, 0.1, 300)
    truth[[7, 70]] += 5
    figures = hardest_numbers(np.arange(1, 301), np.full(300, "test"), truth, predicted)
    assert [entry["row"] for entry in figures["mislabelled"]] in ([8, 71], [71, 8])
