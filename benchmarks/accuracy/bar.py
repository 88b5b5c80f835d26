"""Check that the default network of each real table reaches the minimum of a sound model.

`python -m benchmarks.accuracy.bar`. A table is taken raw, with every column that it has, by name and target alone:
80% of its rows train, the others are predicted. A classification passes with an accuracy of at least
max(majority + 2 SE, our own linear model - 2 SE), SE = sqrt(p (1 - p) / rows); a regression with a root mean squared
error of at most 1.1 times that of scikit-learn's network of 64 and 32 units. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.accuracy.methods import Fold, fold_of, frames, ours, timed
from benchmarks.accuracy.tables import Table, load
from fitserve.encoding.coercion import numbers_of

FEW_ROWS = 5000  # small tables: a single test part of a fifth would say little
RAW = (
    Table("student_data", "admit", "binary", True, file="student_data.csv"),
    Table("titanic", "Survived", "binary", True, file="titanic.csv"),
    Table("bank_additional", "y", "binary", True, file="bank_additional.csv"),
    Table("auto_mpg", "mpg", "regression", True, file="auto_mpg.csv"),
    Table("winequality_red", "quality", "regression", True, file="winequality_red.csv"),
    Table("bike_hour", "cnt", "regression", True, file="bike_hour.csv"),
    Table("pima_diabetes", "column_9", "binary", False, file="pima_diabetes.csv", options=(("header", False),)),
    Table("penguins", "species", "multiclass", False, file="penguins.csv"),
    Table("insurance", "charges", "regression", False, file="insurance.csv"),
    Table("nyc_taxis", "fare", "regression", False, file="nyc_taxis.csv"),
    Table("sms_spam", "type", "binary", False, file="sms_spam.csv"),
    Table("mnist_10k", "label", "multiclass", False, file="mnist_10k.csv.gz"),
    Table("imdb_train", "sentiment", "binary", False, file="imdb_train.csv.gz"),
    Table("kddcup99_10pct", "label", "multiclass", False, file="kddcup99_10pct.csv.gz"),
)


def correct(fold: Fold, predicted: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for which test rows the most probable label is right."""
    return np.asarray(predicted.argmax(axis=1) == fold.truth)


def multilayer_perceptron(fold: Fold) -> NDArray[np.float64]:
    """Predict with scikit-learn's network: standardised numbers, one-hot categories, scaled target."""
    train, test, categories = frames(fold)
    numbers = [name for name in train.columns if name not in categories]
    prepared = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100), categories),
    )
    network = MLPRegressor(hidden_layer_sizes=(64, 32), max_iter=500, early_stopping=True, random_state=fold.seed)
    model = TransformedTargetRegressor(make_pipeline(prepared, network), transformer=StandardScaler())
    predicted = model.fit(train, numbers_of(fold.train.column(fold.loaded.table.target))).predict(test)
    return np.asarray(predicted, np.float64)


def measured(folds: Sequence[Fold]) -> dict[str, Any]:
    """Return our figure over the test rows of all folds, the bar, and whether it is met."""
    done = [timed(ours(), fold) for fold in folds]
    table, rows = folds[0].loaded.table, folds[0].train.num_rows
    cell: dict[str, Any] = {"table": table.name, "rows": rows, "seconds": round(done[0][1], 1)}
    if table.task == "regression":
        figure = _root_mean_square([predicted - fold.truth for (predicted, _), fold in zip(done, folds, strict=True)])
        reference = _root_mean_square([multilayer_perceptron(fold) - fold.truth for fold in folds])
        return {**cell, "rmse": figure, "mlp": reference, "bar": 1.1 * reference, "met": figure <= 1.1 * reference}
    figure, _ = _share([correct(fold, predicted) for (predicted, _), fold in zip(done, folds, strict=True)])
    guess, guess_error = _share([fold.truth == np.bincount(fold.truth).argmax() for fold in folds])
    linear, linear_error = _share([correct(fold, ours(network=[])(fold)) for fold in folds])
    bar = max(guess + 2 * guess_error, linear - 2 * linear_error)
    return {**cell, "accuracy": figure, "majority": guess, "linear": linear, "bar": bar, "met": figure >= bar}


def _root_mean_square(differences: Sequence[NDArray[np.float64]]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(differences) ** 2)))


def _share(hits: Sequence[NDArray[np.bool_]]) -> tuple[float, float]:
    """Return a share and its standard error."""
    share = float(np.concatenate(hits).mean())
    return share, float(np.sqrt(share * (1 - share) / sum(map(len, hits))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared, help="folder of the tables")
    parser.add_argument("--tables", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=5, help=f"of a table with less than {FEW_ROWS} rows")
    arguments = parser.parse_args()
    cells = []
    for table in RAW:
        if arguments.tables and table.name not in arguments.tables:
            continue
        if not (arguments.data / str(table.file)).exists():
            print(f"{table.name}: {table.file} is not in {arguments.data}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            loaded = load(table, arguments.data, Path(folder))
            seeds = arguments.seeds if loaded.rows.num_rows < FEW_ROWS else 1
            cells.append(measured([fold_of(loaded, seed) for seed in range(seeds)]))
            print(json.dumps(cells[-1]), flush=True)
    print(json.dumps({"tables": len(cells), "met": sum(cell["met"] for cell in cells)}))


if __name__ == "__main__":
    main()
