"""Sound specs on real tables and samples have no findings: a false alarm is worse than no rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import datasets as bundled

from fitserve.datasets.samples import make_sample
from tests.insight.rule_cases import dense
from tests.insight.trained_runs import circle, dataset, facts_of, run, xor

pytestmark = pytest.mark.tensorflow

Json = dict[str, Any]
PATIENT: Json = {
    "epochs": 200,
    "early_stopping": {"monitor": "val_loss", "patience": 15, "restore_best_weights": True},
}
LABELS: Json = {"split": {"method": "stratified", "validation": 0.2, "test": 0.2}}
NUMBERS: Json = {"split": {"validation": 0.2, "test": 0.2}}
TWO: Json = {"network": [dense(64), dense(32)]}


def _sample(load: Callable[..., Any], regression: bool = False) -> pa.Table:
    """Return one of scikit-learn's bundled tables, with the target `y`."""
    bundle = load()
    names = [str(name).replace(" ", "_") for name in bundle.feature_names]
    y = bundle.target.astype(float) if regression else [f"label {value}" for value in bundle.target]
    return pa.table({**{name: bundle.data[:, at].astype(float) for at, name in enumerate(names)}, "y": y})


def _training(**more: Any) -> Json:
    return {"training": {**PATIENT, **more}}


BUNDLED: dict[str, tuple[Callable[[], pa.Table], Json]] = {
    "iris": (lambda: _sample(bundled.load_iris), {**LABELS, **TWO, **_training(optimizer={"Adam": 0.003})}),
    "wine": (lambda: _sample(bundled.load_wine), {**LABELS, **TWO, **_training()}),
    "wine, elu and batch normalisation": (
        lambda: _sample(bundled.load_wine),
        {**LABELS, "network": [dense(32, "elu"), "BatchNormalization", dense(16, "elu")], **_training()},
    ),
    "breast cancer": (lambda: _sample(bundled.load_breast_cancer), {**LABELS, **TWO, **_training()}),
    "breast cancer, momentum": (
        lambda: _sample(bundled.load_breast_cancer),
        {
            **LABELS,
            "network": [dense(16)],
            **_training(optimizer={"SGD": {"learning_rate": 0.05, "momentum": 0.9}}),
        },
    ),
    "digits": (lambda: _sample(bundled.load_digits), {**LABELS, **TWO, **_training()}),
    "digits, dropout": (
        lambda: _sample(bundled.load_digits),
        {**LABELS, "network": [dense(128), {"Dropout": 0.2}, dense(64)], **_training()},
    ),
    "diabetes": (lambda: _sample(bundled.load_diabetes, regression=True), {**NUMBERS, **TWO, **_training()}),
    "circle": (
        circle,
        {**NUMBERS, "network": [dense(32)], **_training(optimizer={"Adam": 0.01}, epochs=300)},
    ),
    "exclusive or, restarts": (
        xor,
        {**NUMBERS, "network": [dense(16, "tanh")], **_training(optimizer={"Adam": 0.02}, restarts=3)},
    ),
}

STRATIFIED: Json = {"target": "label", **LABELS}
MEASURED: Json = {"target": "label", **NUMBERS}
DERIVED = ["x1", "x2", "x1_squared", "x2_squared", "x1_x2", "sin_x1", "sin_x2"]

# Sample, noise, spec: the product's own.
PLAYGROUND: dict[str, tuple[str, float, Json]] = {
    "circle": ("circle", 10, {**STRATIFIED, "network": [dense(16, "tanh")], **_training(optimizer={"Adam": 0.02})}),
    "circle, derived features": (
        "circle",
        20,
        {**STRATIFIED, "features": DERIVED, "network": [dense(8)], **_training(optimizer={"Adam": 0.02})},
    ),
    "exclusive or": (
        "xor",
        10,
        {
            **STRATIFIED,
            "network": [dense(16), dense(8)],
            **_training(optimizer={"SGD": {"learning_rate": 0.1, "momentum": 0.9}}),
        },
    ),
    "exclusive or, leaky ReLU": (
        "xor",
        20,
        {**STRATIFIED, "network": [dense(24, "leaky_relu")], **_training(optimizer={"Adam": 0.02})},
    ),
    "gauss": ("gauss", 0, {**STRATIFIED, "network": [dense(8)], **_training(optimizer={"Adam": 0.01})}),
    "gauss, restarts": (
        "gauss",
        40,
        {**STRATIFIED, "network": [dense(8, "tanh")], **_training(optimizer={"Adam": 0.01}, restarts=4)},
    ),
    "spiral": (
        "spiral",
        5,
        {**STRATIFIED, "network": [dense(48), dense(24)], **_training(optimizer={"Adam": 0.01}, epochs=300)},
    ),
    "plane": ("plane", 10, {**MEASURED, "network": [dense(16)], **_training(optimizer={"Adam": 0.005}, epochs=60)}),
    "plane, SGD and L2": (
        "plane",
        0,
        {
            **MEASURED,
            "network": [dense(8, "tanh", kernel_regularizer={"L2": 1e-4})],
            **_training(optimizer={"SGD": {"learning_rate": 0.05, "momentum": 0.9}}, epochs=60),
        },
    ),
    "multi-gauss": (
        "multi-gauss",
        0,
        {**MEASURED, "network": [dense(64), dense(32)], **_training(optimizer={"Adam": 0.005}, epochs=60)},
    ),
}

TITANIC = ["Pclass", "Sex", "Age", "SibSp", "Parch", "Fare", "Embarked"]
MPG = ["cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year", "origin"]
BIKE = ["season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "hum", "windspeed"]
TAXI = ["pickup", "passengers", "distance", "color", "payment", "pickup_borough", "dropoff_borough"]

FILES: dict[str, tuple[str, Json]] = {
    "penguins": ("penguins.csv", {"target": "species", **LABELS, **TWO, **_training()}),
    "titanic": (
        "titanic.csv",
        {
            "target": "Survived",
            "features": TITANIC,
            **LABELS,
            "network": [dense(16, kernel_regularizer={"L2": 0.001})],
            **_training(),
        },
    ),
    "titanic, tanh": (
        "titanic.csv",
        {"target": "Survived", "features": TITANIC, **LABELS, "network": [dense(16, "tanh")], **_training()},
    ),
    "admissions": ("student_data.csv", {"target": "admit", **LABELS, "network": [dense(16)], **_training()}),
    "bank": (
        "bank_additional.csv",
        {
            "target": "y",
            **LABELS,
            "network": [dense(32), {"Dropout": 0.2}],
            **_training(class_weight="balanced", epochs=60),
        },
    ),
    "red wine": (
        "winequality_red.csv",
        {"target": "quality", "task": "regression", **NUMBERS, **TWO, **_training()},
    ),
    "miles per gallon": ("auto_mpg.csv", {"target": "mpg", "features": MPG, **NUMBERS, **TWO, **_training()}),
    "insurance": ("insurance.csv", {"target": "charges", **NUMBERS, **TWO, **_training()}),
    "taxis": (
        "nyc_taxis.csv",
        {"target": "fare", "features": TAXI, **NUMBERS, "network": [dense(32), dense(16)], **_training(epochs=60)},
    ),
    "bikes": (
        "bike_hour.csv",
        {
            "target": "cnt",
            "features": BIKE,
            **NUMBERS,
            "network": [dense(128), dense(64)],
            **_training(epochs=80, batch_size=128, optimizer={"Adam": 0.003}),
        },
    ),
}


# One of each kind of table and of network; the others repeat them.
REPRESENTATIVE = frozenset(
    ("wine, elu and batch normalisation", "digits, dropout", "diabetes", "circle", "gauss, restarts", "plane")
).union(("titanic", "titanic, tanh", "bank", "red wine"))


def cases(names: Iterable[str]) -> list[Any]:
    """Return one parameter for each name, `long` where another case is as good."""
    return [pytest.param(name, marks=[] if name in REPRESENTATIVE else [pytest.mark.long]) for name in names]


def _check_no_findings(table: pa.Table, spec: Json, facts: Any) -> None:
    trained = run(table, {"target": "y", **spec}, facts)
    # That trees are better is no fault of a spec.
    found = [(name, one.sentence) for name, one in trained.findings.items() if name != "better_reference"]
    assert found == []
    loss, trivial = trained.loss("test"), trained.record.mean_loss("baseline", "test")
    assert trivial is not None
    assert np.isfinite(loss)
    if spec.get("training", {}).get("class_weight") is None:
        assert loss < 1.05 * trivial


@pytest.mark.parametrize("name", cases(BUNDLED))
def test_a_bundled_table_has_no_findings(name: str) -> None:
    make, spec = BUNDLED[name]
    table = make()
    _check_no_findings(table, spec, facts_of(table))


@pytest.mark.parametrize("name", cases(PLAYGROUND))
def test_a_playground_sample_has_no_findings(name: str) -> None:
    sample, noise, spec = PLAYGROUND[name]
    made, table = make_sample(sample, noise=noise, derived="features" in spec)
    _check_no_findings(table, spec, facts_of(table, dict(made.kinds)))


def test_at_least_twenty_cases_need_no_files() -> None:
    assert len(BUNDLED) + len(PLAYGROUND) >= 20


@pytest.mark.parametrize("name", cases(FILES))
def test_a_real_table_has_no_findings(name: str, data_folder: Path) -> None:
    file, spec = FILES[name]
    _check_no_findings(*_arguments(data_folder / file, spec))


def _arguments(path: Path, spec: Json) -> tuple[pa.Table, Json, Any]:
    table, facts = dataset(path)
    return table, spec, facts


@pytest.mark.parametrize(
    ("file", "spec", "column"),
    [
        ("bike_hour.csv", {"target": "cnt", "features": ["registered", "temp", "hum", "hr"]}, "registered"),
    ],
)
def test_real_leaks_are_found(file: str, spec: Json, column: str, data_folder: Path) -> None:
    table, facts = dataset(data_folder / file)
    training = {"training": {"epochs": 3, "batch_size": 256}}
    trained = run(table, {**spec, **training}, facts)
    assert trained.insight is not None
    assert "leaking_column" in trained.findings, trained.record.insight["alone"]  # type: ignore[index]
    assert column in trained.findings["leaking_column"].values["explained"]
