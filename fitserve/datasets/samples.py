"""Built-in tables: the six of TensorFlow Playground, and those that scikit-learn brings.

The Playground's are re-implemented from a description of its `src/dataset.ts`; `noise` is in its percent (0 to 50).
scikit-learn's CSV files are read as files, without importing it.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from fitserve.dataset_facts import Kind
from fitserve.errors import NotFound, Unavailable
from fitserve.wire.datasets import SampleInfo

CLASSIFICATION_POINTS = 500
REGRESSION_POINTS = 1_200
Points = tuple[np.ndarray, np.ndarray, np.ndarray]  # x1, x2, label; float64, shape (rows,)


class SampleMissing(Unavailable):
    """scikit-learn, which brings this table, is not installed here."""

    slug = "sample-missing"
    title = "Sample not available"


@dataclass(frozen=True)
class Sample:
    """A built-in table; `kinds` are said where they could be told otherwise."""

    info: SampleInfo
    make: Callable[[float, int | None, int], pa.Table]
    kinds: dict[str, Kind]


def circle(rows: int, noise: float, random: np.random.Generator) -> Points:
    """An inner disc and an outer ring; noise moves the point at which the label is computed."""
    radius = 5.0
    half = rows // 2
    r = np.concatenate([random.uniform(0, radius * 0.5, half), random.uniform(radius * 0.7, radius, rows - half)])
    angle = random.uniform(0, 2 * np.pi, rows)
    x, y = r * np.sin(angle), r * np.cos(angle)
    moved_x, moved_y = (at + random.uniform(-radius, radius, rows) * noise for at in (x, y))
    return x, y, np.where(np.hypot(moved_x, moved_y) < radius * 0.5, 1.0, -1.0)


def exclusive_or(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Quadrants, a margin of 0.3 around the axes."""
    x, y = random.uniform(-5, 5, (2, rows))
    x, y = x + np.where(x > 0, 0.3, -0.3), y + np.where(y > 0, 0.3, -0.3)
    n, m = random.uniform(-5, 5, (2, rows)) * noise
    return x, y, np.where((x + n) * (y + m) >= 0, 1.0, -1.0)


def gaussian(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Two clouds around (2, 2) and (-2, -2), of variance 0.5 + 7 noise."""
    half = rows // 2
    label = np.concatenate([np.ones(half), -np.ones(rows - half)])
    deviation = np.sqrt(0.5 + 7 * noise)
    x, y = random.normal(0, deviation, (2, rows)) + 2 * label
    return x, y, label


def spiral(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Two arms that wind 1.75 times."""
    parts = []
    for label, turn, count in ((1.0, 0.0, rows // 2), (-1.0, np.pi, rows - rows // 2)):
        share = np.arange(count) / count
        r, t = 5 * share, 1.75 * 2 * np.pi * share + turn
        x = r * np.sin(t) + random.uniform(-1, 1, count) * noise
        y = r * np.cos(t) + random.uniform(-1, 1, count) * noise
        parts.append((x, y, np.full(count, label)))
    x, y, label_of = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return x, y, label_of


def plane(rows: int, noise: float, random: np.random.Generator) -> Points:
    """(x1 + x2) / 10 at a point that noise moves."""
    x, y = random.uniform(-6, 6, (2, rows))
    n, m = random.uniform(-6, 6, (2, rows)) * noise
    return x, y, (x + n + y + m) / 10


def multi_gaussian(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Six hills and dales; the nearest one's height counts."""
    centres = ((-4, 2.5, 1), (0, 2.5, -1), (4, 2.5, 1), (-4, -2.5, -1), (0, -2.5, 1), (4, -2.5, -1))
    x, y = random.uniform(-6, 6, (2, rows))
    n, m = random.uniform(-6, 6, (2, rows)) * noise
    label = np.zeros(rows)
    for centre_x, centre_y, sign in centres:
        height = sign * np.clip(1 - np.hypot(x + n - centre_x, y + m - centre_y) / 2, 0, 1)
        label = np.where(np.abs(height) > np.abs(label), height, label)
    return x, y, label


def _playground(
    name: str, title: str, draw: Callable[[int, float, np.random.Generator], Points], regression: bool
) -> Sample:
    usual = REGRESSION_POINTS if regression else CLASSIFICATION_POINTS

    def make(noise: float, rows: int | None, seed: int) -> pa.Table:
        x, y, label = draw(rows or usual, noise / 100, np.random.default_rng(seed))
        return pa.table({"x1": x, "x2": y, "label": label if regression else label.astype(np.int64)})

    info = SampleInfo(
        sample=name,
        title=title,
        task="regression" if regression else "classification",
        target="label",
        rows=usual,
        noise=True,
    )
    return Sample(info, make, {} if regression else {"label": "categorical"})


# --- scikit-learn's tables -----------------------------------------------------------------------------------------

_IRIS = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")
_WINE = (
    *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids"),
    *("nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline"),
)
_CELL = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points")
_CELLS = (*_CELL, "symmetry", "fractal dimension")
_CANCER = (*(f"mean {part}" for part in _CELLS), *(f"{part} error" for part in _CELLS), *(f"worst {p}" for p in _CELLS))
_DIABETES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")


def _folder() -> Path:
    found = importlib.util.find_spec("sklearn")
    places = list(found.submodule_search_locations or ()) if found else []
    folder = Path(places[0]) / "datasets" / "data" if places else Path()
    if not places or not folder.is_dir():
        raise SampleMissing(fix="pip install scikit-learn, or use one of the Playground's samples.")
    return folder


def _read(name: str, delimiter: str | None = ",", skip: int = 0) -> np.ndarray:
    """A bundled file's numbers: float64 (rows, columns)."""
    path = _folder() / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return np.loadtxt(file, delimiter=delimiter, skiprows=skip, ndmin=2)


def _labelled(name: str, columns: tuple[str, ...], labels: tuple[str, ...], target: str) -> Callable[..., pa.Table]:
    def make(_noise: float, _rows: int | None, _seed: int) -> pa.Table:
        values = _read(name, skip=1)
        table = {column: values[:, at] for at, column in enumerate(columns)}
        return pa.table({**table, target: [labels[int(code)] for code in values[:, -1]]})

    return make


def _digits(_noise: float, _rows: int | None, _seed: int) -> pa.Table:
    values = _read("digits.csv.gz").astype(np.int64)
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    return pa.table({**{name: values[:, at] for at, name in enumerate(names)}, "digit": values[:, 64]})


def _diabetes(_noise: float, _rows: int | None, _seed: int) -> pa.Table:
    values, target = _read("diabetes_data_raw.csv.gz", None), _read("diabetes_target.csv.gz", None)
    table: dict[str, np.ndarray] = {name: values[:, at] for at, name in enumerate(_DIABETES)}
    table["sex"] = table["sex"].astype(np.int64)
    return pa.table({**table, "progression": target[:, 0]})


def _linnerud(_noise: float, _rows: int | None, _seed: int) -> pa.Table:
    exercise, body = _read("linnerud_exercise.csv", None, 1), _read("linnerud_physiological.csv", None, 1)
    names = ("Chins", "Situps", "Jumps", "Weight", "Waist", "Pulse")
    return pa.table(dict(zip(names, np.hstack([exercise, body]).T, strict=True)))


def _bundled(
    name: str, title: str, make: Callable[..., pa.Table], target: str, rows: int, kinds: dict[str, Kind] | None = None
) -> Sample:
    task = "classification" if name in ("iris", "wine", "breast_cancer", "digits") else "regression"
    info = SampleInfo.model_validate(
        {"sample": name, "title": title, "task": task, "target": target, "rows": rows, "noise": False}
    )
    return Sample(info, make, kinds or {})


_ALL = (
    _playground("circle", "Circle (Playground)", circle, regression=False),
    _playground("xor", "Exclusive or (Playground)", exclusive_or, regression=False),
    _playground("gauss", "Gaussian (Playground)", gaussian, regression=False),
    _playground("spiral", "Spiral (Playground)", spiral, regression=False),
    _playground("plane", "Plane (Playground)", plane, regression=True),
    _playground("multi-gauss", "Multi Gaussian (Playground)", multi_gaussian, regression=True),
    _bundled(
        "iris",
        "Iris: three species by four lengths",
        _labelled("iris.csv", _IRIS, ("setosa", "versicolor", "virginica"), "species"),
        "species",
        150,
    ),
    _bundled(
        "wine",
        "Wine: three cultivars by 13 measurements",
        _labelled("wine_data.csv", _WINE, ("class_0", "class_1", "class_2"), "cultivar"),
        "cultivar",
        178,
    ),
    _bundled(
        "breast_cancer",
        "Breast cancer (Wisconsin): 30 features of cells",
        _labelled("breast_cancer.csv", _CANCER, ("malignant", "benign"), "diagnosis"),
        "diagnosis",
        569,
    ),
    _bundled("digits", "Digits: 8 x 8 grey pixels", _digits, "digit", 1797, {"digit": "categorical"}),
    _bundled("diabetes", "Diabetes: progression after a year", _diabetes, "progression", 442, {"sex": "categorical"}),
    _bundled("linnerud", "Linnerud: three exercises, three measurements", _linnerud, "Weight", 20),
)
SAMPLES = {sample.info.sample: sample for sample in _ALL}


def make_sample(
    name: str, *, noise: float = 0, rows: int | None = None, seed: int = 0, derived: bool = False
) -> tuple[Sample, pa.Table]:
    """A built-in table; `derived`, for the Playground's, adds its other features. Raises NotFound, SampleMissing."""
    sample = SAMPLES.get(name)
    if sample is None:
        raise NotFound(f"No sample {name[:63]!r}.", received=name[:63], expected=", ".join(SAMPLES))
    table = sample.make(noise, rows, seed)
    return sample, _derived(table, seed) if derived and sample.info.noise else table


def _derived(table: pa.Table, seed: int) -> pa.Table:
    """The Playground's five other features before the label, and `draw`: each row's place in a shuffled order."""
    x, y = (table.column(name).to_numpy() for name in ("x1", "x2"))
    # A generator of its own: the points are the same with and without.
    draw = np.random.default_rng([seed, 1]).random(table.num_rows)
    more = {"x1_squared": x * x, "x2_squared": y * y, "x1_x2": x * y, "sin_x1": np.sin(x), "sin_x2": np.sin(y)}
    return pa.table({"x1": x, "x2": y, **more, "draw": draw, "label": table.column("label")})
