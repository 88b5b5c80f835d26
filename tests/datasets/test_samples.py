"""The built-in tables: the Playground's match their description, the Titanic its counts, scikit-learn's its loaders."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from fitserve.datasets.samples import SAMPLES, make_sample
from fitserve.errors import NotFound


def columns(name: str, **options: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, table = make_sample(name, **options)  # type: ignore[arg-type]
    x, y, label = (table.column(column).to_numpy() for column in ("x1", "x2", "label"))
    return x, y, label


def test_circle() -> None:
    x, y, label = columns("circle")
    radius = np.hypot(x, y)
    assert len(x) == 500
    assert (label == np.where(radius < 2.5, 1, -1)).all()
    assert not ((radius > 2.5) & (radius < 3.5)).any()
    assert (columns("circle", noise=50)[2] != np.where(np.hypot(*columns("circle", noise=50)[:2]) < 2.5, 1, -1)).any()


def test_exclusive_or() -> None:
    x, y, label = columns("xor")
    assert (label == np.where(x * y >= 0, 1, -1)).all()
    assert min(abs(x).min(), abs(y).min()) >= 0.3
    assert max(abs(x).max(), abs(y).max()) <= 5.3


@pytest.mark.parametrize(("noise", "variance"), [(0, 0.5), (50, 4.0)])
def test_gaussian(noise: float, variance: float) -> None:
    x, y, label = columns("gauss", noise=noise, rows=20_000)
    for sign in (1, -1):
        assert x[label == sign].mean() == pytest.approx(2 * sign, abs=0.1)
        assert y[label == sign].var() == pytest.approx(variance, rel=0.1)


def test_spiral() -> None:
    x, y, label = columns("spiral")
    share = np.arange(250) / 250
    angle = 1.75 * 2 * np.pi * share
    assert np.allclose(x[label == 1], 5 * share * np.sin(angle))
    assert np.allclose(y[label == -1], 5 * share * np.cos(angle + np.pi))


def test_plane_and_hills() -> None:
    x, y, label = columns("plane")
    assert len(x) == 1200
    assert np.allclose(label, (x + y) / 10)
    x, y, label = columns("multi-gauss", rows=20_000)
    near = np.hypot(x, y - 2.5) < 0.1
    assert label[near].max() < -0.9
    assert (label[np.hypot(x, y) > 7.8] == 0).all()
    assert abs(label).max() <= 1


def test_the_seed_decides() -> None:
    assert make_sample("xor", seed=1)[1].equals(make_sample("xor", seed=1)[1])
    assert not make_sample("xor", seed=1)[1].equals(make_sample("xor", seed=2)[1])


def test_tables_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    for name in ("iris", "wine", "breast_cancer", "digits", "diabetes"):
        options = {"scaled": False} if name == "diabetes" else {}
        bunch = getattr(datasets, f"load_{name}")(**options)
        sample, table = make_sample(name)
        assert table.num_rows == sample.info.rows
        features = np.stack([table.column(at).to_numpy() for at in range(table.num_columns - 1)], axis=1)
        assert np.allclose(features, bunch.data)
        target = table.column(sample.info.target).to_pylist()
        names = list(getattr(bunch, "target_names", []))
        labels = isinstance(target[0], str)
        assert target == [str(names[code]) for code in bunch.target] if labels else np.allclose(target, bunch.target)
        if name in ("iris", "wine", "breast_cancer"):
            assert table.column_names[:-1] == list(bunch.feature_names)


def test_the_titanic_has_the_inquiry_s_counts() -> None:
    _, table = make_sample("titanic")
    rows = table.to_pylist()
    assert (len(rows), sum(row["survived"] == "yes" for row in rows)) == (2201, 711)
    assert Counter(row["class"] for row in rows) == {"first": 325, "second": 285, "third": 706, "crew": 885}
    assert sum(row["sex"] == "female" for row in rows) == 470
    assert sum(row["age"] == "child" for row in rows) == 109


def test_every_sample_is_as_listed() -> None:
    for name, sample in SAMPLES.items():
        made, table = make_sample(name)
        assert isinstance(table, pa.Table)
        assert made.info.target in table.column_names
        assert table.num_rows == sample.info.rows
    with pytest.raises(NotFound):
        make_sample("nope")


def test_derived_features_leave_the_points_unchanged() -> None:
    _, plain = make_sample("spiral", noise=10, seed=3)
    _, table = make_sample("spiral", noise=10, seed=3, derived=True)
    for name in ("x1", "x2", "label"):
        assert table.column(name).equals(plain.column(name))
    x, y = (table.column(name).to_numpy() for name in ("x1", "x2"))
    expected = {"x1_squared": x**2, "x2_squared": y**2, "x1_x2": x * y, "sin_x1": np.sin(x), "sin_x2": np.sin(y)}
    for name, values in expected.items():
        assert np.allclose(table.column(name).to_numpy(), values)
    assert abs(np.corrcoef(table.column("draw").to_numpy(), table.column("label").to_numpy())[0, 1]) < 0.15
