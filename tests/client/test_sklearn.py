"""scikit-learn's estimators on a real server: its own checks, pipelines, cross-validation, grid search."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fitserve.client import Client
from fitserve.errors import NotFound
from fitserve.sklearn import FitserveClassifier, FitserveRegressor
from tests.client.conftest import circle
from tests.conftest import Server

# What networks cannot pass, and why.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "the rows of a batch, and which of them are for validation, "
    "depend on the number of rows, so a row with weight 2 is not the same as two rows",
}
# Those of scikit-learn's checks that train nothing or once: the short form.
SHORT = {
    *("check_no_attributes_set_in_init", "check_estimator_cloneable", "check_parameters_default_constructible"),
    *("check_do_not_raise_errors_in_init_or_set_param", "check_complex_data", "check_estimators_unfitted"),
    *("check_estimators_empty_data_messages", "check_fit1d", "check_estimator_sparse_tag", "check_requires_y_none"),
    *("check_classifiers_one_label", "check_supervised_y_no_nan", "check_set_params", "check_get_params_invariance"),
}
NETWORK = [{"Dense": {"units": 32, "activation": "relu"}}]
OPTIMIZER = {"Adam": {"learning_rate": 0.02}}


@pytest.fixture(autouse=True)
def _address(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FITSERVE_URL", server.base_url)
    monkeypatch.setenv("FITSERVE_API_KEY", server.token)
    yield
    gc.collect()  # models are deleted while their server is named


def estimators() -> list[BaseEstimator]:
    return [cls(NETWORK, epochs=60, optimizer=OPTIMIZER) for cls in (FitserveClassifier, FitserveRegressor)]


@pytest.mark.parametrize("estimator", estimators(), ids=lambda one: type(one).__name__)
def test_the_checks_that_train_little_pass(estimator: BaseEstimator) -> None:
    from sklearn.utils.estimator_checks import estimator_checks_generator  # 0.4 s, where a test needs it

    names = set()
    for subject, check in estimator_checks_generator(estimator):
        if (name := check.func.__name__) in SHORT:  # type: ignore[attr-defined]
            check(subject)
            names.add(name)
    assert len(names) >= len(SHORT) - 2  # those of classifiers, or of regressors


@pytest.mark.long
@pytest.mark.parametrize("estimator", estimators(), ids=lambda one: type(one).__name__)
def test_check_estimator_passes(estimator: BaseEstimator) -> None:
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        results = check_estimator(estimator, expected_failed_checks=EXPECTED_FAILURES)
    assert {one["check_name"] for one in results if one["status"] == "xfail"} == set(EXPECTED_FAILURES)
    skipped = {one["check_name"] for one in results if one["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}  # which needs SCIPY_ARRAY_API


def test_frames_pipelines_cross_validation_and_grids(client: Client) -> None:
    frame = circle(120)
    X, y = frame[["x", "y", "colour"]], frame["side"]
    scaled = make_column_transformer((StandardScaler(), ["x", "y"]), (OneHotEncoder(sparse_output=False), ["colour"]))
    search = GridSearchCV(
        make_pipeline(scaled, FitserveClassifier(NETWORK, optimizer=OPTIMIZER, random_state=1)),
        {"fitserveclassifier__epochs": [1, 60]},
        cv=2,
        error_score="raise",
    )
    search.fit(X, y)
    assert search.best_params_ == {"fitserveclassifier__epochs": 60}
    assert list(search.classes_) == ["in", "out"]
    assert search.score(X, y) > 0.8
    probabilities = search.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (search.classes_[probabilities.argmax(axis=1)] == search.predict(X)).all()
    regressor = FitserveRegressor(NETWORK, epochs=40, optimizer=OPTIMIZER)
    assert cross_val_score(regressor, X, frame["x"] * 3 - frame["y"], cv=2, error_score="raise").min() > 0.5
    left = {model.name for model in client.models.list() if model.name.startswith("sklearn-")}
    assert left == {search.best_estimator_[-1].model_}, "the models of the folds went with their estimators"


def test_kinds_of_tables_labels_and_copies(client: Client) -> None:
    frame = circle(80)
    frame["colour"] = frame["colour"].astype("category")
    frame.loc[::9, "x"] = np.nan
    labels = np.where(frame["side"] == "in", "NA", " yes ")  # which a table would read as missing, and trim
    estimator = clone(FitserveClassifier(spec={"training": {"epochs": 3}}, network=[{"Dense": 4}]))
    with pytest.raises(NotFittedError):
        estimator.predict(frame)
    estimator.fit(frame[["x", "y", "colour"]], labels, sample_weight=np.arange(1, 81))
    assert list(estimator.classes_) == [" yes ", "NA"]
    assert list(estimator.feature_names_in_) == ["x", "y", "colour"]
    expected = estimator.predict_proba(frame[["x", "y", "colour"]])
    as_polars = pl.from_pandas(frame[["x", "y", "colour"]])
    np.testing.assert_array_equal(estimator.predict_proba(as_polars), expected)
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(frame[["y", "x", "colour"]])
    copied = copy.deepcopy(estimator)  # as pickling does, by its state
    model = estimator.model_
    del estimator
    gc.collect()
    np.testing.assert_array_equal(copied.predict_proba(frame[["x", "y", "colour"]]), expected)
    copied.delete()
    with pytest.raises(NotFound):
        client.models.get(model)
    with pytest.raises(TypeError, match="string names"):
        FitserveRegressor().fit(pd.DataFrame({"a": [1.0, 2.0], 3: [1.0, 2.0]}), [1.0, 2.0])
    with pytest.raises(TypeError, match="string or a number"):
        FitserveRegressor().fit(np.array([[{}], [1]], dtype=object), [1.0, 2.0])


def test_a_named_model_stays_and_has_versions(client: Client) -> None:
    X = np.array([[n, chr(97 + n % 3)] for n in range(60)], dtype=object)
    y = [float(n) for n in range(60)]
    estimator = FitserveRegressor([{"Dense": 2}], epochs=1, model="sklearn-named")
    assert estimator.fit(X, y).version_ == 1
    assert estimator.fit(X, y).version_ == 2
    assert estimator.predict(X[:3]).shape == (3,)
    del estimator
    gc.collect()
    assert client.models.get("sklearn-named").serving == 2
    client.models.delete("sklearn-named")
