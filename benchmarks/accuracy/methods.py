"""The methods: each takes training rows and returns predictions of test rows, and the seconds that it took.

Predictions are probabilities (rows, labels), or numbers (rows,). Scikit-learn's have scikit-learn's defaults, on
scaled and one-hot columns (linear models) or on numbers with codes for categories (trees).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from benchmarks.accuracy.tables import Loaded
from benchmarks.peers import NotInstalled, install
from fitserve.artifacts import onnx_session
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import labels_of, numbers_of
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from workers.trainer.interface import TrainingRequest

Predictions = NDArray[np.float64]
BOOSTED = {"lightgbm": ("lightgbm", "scikit-learn", "pandas", "pyarrow"), "catboost": ("catboost", "pandas", "pyarrow")}


@dataclass(frozen=True)
class Fold:
    """Training and test rows of a table. `truth` are label indices, or numbers, of the test rows."""

    loaded: Loaded
    train: pa.Table
    test: pa.Table
    labels: tuple[str, ...]  # a classification's labels, in the order of predictions
    truth: NDArray[Any]
    seed: int


def fold_of(loaded: Loaded, seed: int, share: float = 0.2) -> Fold:
    """Divide a table at random, the same for every method."""
    order = np.random.default_rng(seed).permutation(loaded.rows.num_rows)
    count = round(share * len(order))
    test, train = loaded.rows.take(np.sort(order[:count])), loaded.rows.take(np.sort(order[count:]))
    column = loaded.rows.column(loaded.table.target)
    if loaded.table.task == "regression":
        return Fold(loaded, train, test, (), numbers_of(test.column(loaded.table.target)), seed)
    labels = tuple(sorted(labels_of(column)[1]))
    codes, names = labels_of(test.column(loaded.table.target))
    return Fold(loaded, train, test, labels, np.array([labels.index(name) for name in names])[codes], seed)


def ours(**spec: Any) -> Callable[[Fold], Predictions]:
    """Return the method that trains a spec of ours, in this process, and predicts as the prediction service does."""

    def fit(fold: Fold) -> Predictions:
        from tests.trainer.requests import RecordingReporter
        from workers.trainer.train import train

        table, facts = fold.loaded.table, fold.loaded.facts(fold.train.num_rows)
        body = {"dataset": "data", "target": table.target, "split": {"test": 0}, "training": {"seed": fold.seed}}
        if table.task != "regression":
            body["target"] = {"column": table.target, "task": table.task}
        resolved = resolve(parse({**body, **spec}), facts).spec
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            path = folder / "table.parquet"
            pq.write_table(fold.train, path)
            facts_json = facts.model_dump(mode="json")
            request = TrainingRequest("run", 1, resolved.to_json(), facts_json, path, folder)
            result = train(request, RecordingReporter())
            session = onnx_session(result.files["onnx"])
            encoded = Encoder.from_json(result.manifest["encoder"]).encode(fold.test)
            inputs = {one.name: encoded[one.name] for one in session.get_inputs()}
            (served,) = session.run(None, inputs)
        predicted = np.asarray(served, np.float64)
        if not fold.labels:
            return predicted.reshape(len(predicted))
        if predicted.shape[1] == 1:
            predicted = np.hstack([1 - predicted, predicted])
        names = [str(label) for label in result.manifest["outputs"][0]["labels"]]
        return _in_order(predicted, names, fold.labels)

    return fit


def _in_order(predicted: Predictions, names: list[str], labels: tuple[str, ...]) -> Predictions:
    """Return probabilities in the order of `labels`; labels that the training rows lack get none."""
    ordered = np.zeros((len(predicted), len(labels)))
    ordered[:, [labels.index(name) for name in names]] = predicted
    return ordered


def frames(fold: Fold) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return the features of both parts, without texts and ids, and which are categories. Times are seconds."""
    facts = [c for c in fold.loaded.columns if c.name != fold.loaded.table.target and c.kind not in ("ignored", "text")]
    categories = [c.name for c in facts if c.kind in ("categorical", "boolean")]

    def frame(rows: pa.Table) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        for one in facts:
            if one.name in categories:
                codes, names = labels_of(rows.column(one.name))
                columns[one.name] = np.array([*names, "missing"], object)[codes]
            else:
                columns[one.name] = numbers_of(rows.column(one.name))
        return pd.DataFrame(columns)

    return frame(fold.train), frame(fold.test), categories


def _target(fold: Fold) -> NDArray[Any]:
    column = fold.train.column(fold.loaded.table.target)
    if not fold.labels:
        return numbers_of(column)
    codes, names = labels_of(column)
    return np.array(names, object)[codes]


def _scikit(model: Any, prepared: Any, fold: Fold) -> Predictions:
    train, test, _ = frames(fold)
    pipeline = make_pipeline(prepared, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.fit(train, _target(fold))
        if not fold.labels:
            return np.asarray(pipeline.predict(test), np.float64)
        return _in_order(pipeline.predict_proba(test), list(map(str, pipeline.classes_)), fold.labels)


def linear(fold: Fold) -> Predictions:
    """Fit logistic or ridge regression."""
    train, _, categories = frames(fold)
    numbers = [name for name in train.columns if name not in categories]
    prepared = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100), categories),
    )
    return _scikit(LogisticRegression(max_iter=1000) if fold.labels else Ridge(), prepared, fold)


def histogram_boosting(fold: Fold) -> Predictions:
    """Fit scikit-learn's HistGradientBoosting."""
    _, _, categories = frames(fold)
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=254)
    prepared = make_column_transformer((codes, categories), remainder="passthrough", verbose_feature_names_out=False)
    cls = HistGradientBoostingClassifier if fold.labels else HistGradientBoostingRegressor
    return _scikit(cls(categorical_features=list(range(len(categories))), random_state=fold.seed), prepared, fold)


def boosted(library: str, environments: Path) -> Callable[[Fold], Predictions]:
    """Return the method of a library in an environment of its own, made when it is first used."""

    def fit(fold: Fold) -> Predictions:
        python = install(environments / library, BOOSTED[library])
        train, test, categories = frames(fold)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            train.to_parquet(folder / "train.parquet")
            test.to_parquet(folder / "test.parquet")
            pd.DataFrame({"y": _target(fold)}).to_parquet(folder / "target.parquet")
            request = {"library": library, "categories": categories, "labels": list(fold.labels), "seed": fold.seed}
            (folder / "request.json").write_text(json.dumps(request))
            command = [python, str(Path(__file__).with_name("boosted.py")), name]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
            if done.returncode != 0:
                raise NotInstalled(" / ".join(done.stderr.strip().splitlines()[-2:])[-400:])
            return np.asarray(np.load(folder / "predictions.npy"), np.float64)

    return fit


def methods(environments: Path) -> dict[str, Callable[[Fold], Predictions]]:
    """Return all methods by name."""
    return {
        "ours": ours(),
        "one_member": ours(ensemble=False),
        "plain": ours(preset="plain"),
        "linear": linear,
        "hgb": histogram_boosting,
        "lightgbm": boosted("lightgbm", environments),
        "catboost": boosted("catboost", environments),
    }


def timed(fit: Callable[[Fold], Predictions], fold: Fold) -> tuple[Predictions, float]:
    """Return predictions, and the processor's seconds of this process and its children."""
    begun = os.times()
    predicted = fit(fold)
    ended = os.times()
    return predicted, sum(ended[:4]) - sum(begun[:4])
