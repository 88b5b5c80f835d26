"""Built-in tables: the six of TensorFlow Playground, the Titanic's people, and those that scikit-learn brings.

The Playground's are our own code, from a description of its `src/dataset.ts`; `noise` is a percentage, from 0 to 50.
The Titanic's are the counts that the British inquiry of 1912 published. scikit-learn's CSV files are read without
importing it.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import pyarrow as pa

from fitserve.dataset_facts import Kind
from fitserve.errors import NotFound, Unavailable
from fitserve.wire.datasets import SampleInfo

CLASSIFICATION_POINTS = 500
REGRESSION_POINTS = 1_200
Task = Literal["classification", "regression"]
Points = tuple[np.ndarray, np.ndarray, np.ndarray]  # x1, x2, label; float64, shape (rows,)


class SampleMissing(Unavailable):
    """scikit-learn, which brings this table, is not installed here."""

    slug = "sample-missing"
    title = "Sample not available"


@dataclass(frozen=True)
class BuiltInTable:
    """A built-in table. `make` takes noise, rows and seed; only the Playground's tables use them."""

    info: SampleInfo
    make: Callable[[float, int | None, int], pa.Table]
    kinds: dict[str, Kind] = field(default_factory=dict)  # stated because another kind would be inferred


def make_sample(
    name: str, *, noise: float = 0, rows: int | None = None, seed: int = 0, derived: bool = False
) -> tuple[BuiltInTable, pa.Table]:
    """Make a built-in table; `derived` adds the Playground's other features. Raises NotFound, SampleMissing."""
    sample = SAMPLES.get(name)
    if sample is None:
        raise NotFound(f"No sample {name[:63]!r}.", received=name[:63], expected=", ".join(SAMPLES))
    table = sample.make(noise, rows, seed)
    return sample, _add_derived(table, seed) if derived and sample.info.noise else table


# --- TensorFlow Playground's tables --------------------------------------------------------------------------------


def circle(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Draw an inner disc and an outer ring; noise moves the point at which the label is computed."""
    radius = 5.0
    half = rows // 2
    r = np.concatenate([random.uniform(0, radius * 0.5, half), random.uniform(radius * 0.7, radius, rows - half)])
    angle = random.uniform(0, 2 * np.pi, rows)
    x, y = r * np.sin(angle), r * np.cos(angle)
    moved_x, moved_y = (at + random.uniform(-radius, radius, rows) * noise for at in (x, y))
    return x, y, np.where(np.hypot(moved_x, moved_y) < radius * 0.5, 1.0, -1.0)


def exclusive_or(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Draw four quadrants with a margin of 0.3 around the axes."""
    x, y = random.uniform(-5, 5, (2, rows))
    x, y = x + np.where(x > 0, 0.3, -0.3), y + np.where(y > 0, 0.3, -0.3)
    n, m = random.uniform(-5, 5, (2, rows)) * noise
    return x, y, np.where((x + n) * (y + m) >= 0, 1.0, -1.0)


def gaussian(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Draw two clouds around (2, 2) and (-2, -2), of variance 0.5 + 7 noise."""
    half = rows // 2
    label = np.concatenate([np.ones(half), -np.ones(rows - half)])
    deviation = np.sqrt(0.5 + 7 * noise)
    x, y = random.normal(0, deviation, (2, rows)) + 2 * label
    return x, y, label


def spiral(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Draw two arms that wind 1.75 times."""
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
    """Label points with (x1 + x2) / 10; noise moves the point at which the label is computed."""
    x, y = random.uniform(-6, 6, (2, rows))
    n, m = random.uniform(-6, 6, (2, rows)) * noise
    return x, y, (x + n + y + m) / 10


def multi_gaussian(rows: int, noise: float, random: np.random.Generator) -> Points:
    """Label points with the height of the nearest of six hills and dales."""
    centres = ((-4, 2.5, 1), (0, 2.5, -1), (4, 2.5, 1), (-4, -2.5, -1), (0, -2.5, 1), (4, -2.5, -1))
    x, y = random.uniform(-6, 6, (2, rows))
    n, m = random.uniform(-6, 6, (2, rows)) * noise
    label = np.zeros(rows)
    for centre_x, centre_y, sign in centres:
        height = sign * np.clip(1 - np.hypot(x + n - centre_x, y + m - centre_y) / 2, 0, 1)
        label = np.where(np.abs(height) > np.abs(label), height, label)
    return x, y, label


def _add_derived(table: pa.Table, seed: int) -> pa.Table:
    """Insert the Playground's five other features before the label, and `draw`, a random number in [0, 1)."""
    x, y = (table.column(name).to_numpy() for name in ("x1", "x2"))
    # Uses its own generator, so that the points are the same with and without `derived`.
    draw = np.random.default_rng([seed, 1]).random(table.num_rows)
    more = {"x1_squared": x * x, "x2_squared": y * y, "x1_x2": x * y, "sin_x1": np.sin(x), "sin_x2": np.sin(y)}
    return pa.table({"x1": x, "x2": y, **more, "draw": draw, "label": table.column("label")})


def _playground(
    name: str, title: str, draw: Callable[[int, float, np.random.Generator], Points], *, regression: bool = False
) -> BuiltInTable:
    points = REGRESSION_POINTS if regression else CLASSIFICATION_POINTS

    def make(noise: float, rows: int | None, seed: int) -> pa.Table:
        x, y, label = draw(rows or points, noise / 100, np.random.default_rng(seed))
        return pa.table({"x1": x, "x2": y, "label": label if regression else label.astype(np.int64)})

    task = "regression" if regression else "classification"
    info = SampleInfo(sample=name, title=f"{title} (Playground)", task=task, target="label", rows=points, noise=True)
    return BuiltInTable(info, make, {} if regression else {"label": "categorical"})


# --- The Titanic ----------------------------------------------------------------------------------------------------

# Report on the Loss of the S.S. "Titanic" (British Board of Trade, 1912): how many were lost and saved.
_ABOARD = {
    ("first", "adult", "male"): (118, 57),
    ("first", "adult", "female"): (4, 140),
    ("first", "child", "male"): (0, 5),
    ("first", "child", "female"): (0, 1),
    ("second", "adult", "male"): (154, 14),
    ("second", "adult", "female"): (13, 80),
    ("second", "child", "male"): (0, 11),
    ("second", "child", "female"): (0, 13),
    ("third", "adult", "male"): (387, 75),
    ("third", "adult", "female"): (89, 76),
    ("third", "child", "male"): (35, 13),
    ("third", "child", "female"): (17, 14),
    ("crew", "adult", "male"): (670, 192),
    ("crew", "adult", "female"): (3, 20),
}


def _titanic(_name: str, target: str) -> pa.Table:
    """Return one row per person, shuffled."""
    people = [
        (*who, fate)
        for who, counts in _ABOARD.items()
        for fate, count in zip(("no", "yes"), counts, strict=True)
        for _ in range(count)
    ]
    order = np.random.default_rng(1912).permutation(len(people))
    columns = zip(*(people[index] for index in order), strict=True)
    return pa.table(dict(zip(("class", "age", "sex", target), map(list, columns), strict=True)))


# --- scikit-learn's tables -----------------------------------------------------------------------------------------

_CELLS = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points"),
    *("symmetry", "fractal dimension"),
)
_FEATURES = {
    "iris": ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
    "wine": (
        *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids"),
        *("nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines"),
        "proline",
    ),
    "breast_cancer": (
        *(f"mean {part}" for part in _CELLS),
        *(f"{part} error" for part in _CELLS),
        *(f"worst {part}" for part in _CELLS),
    ),
    "diabetes": ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
    "linnerud": ("Chins", "Situps", "Jumps", "Weight", "Waist", "Pulse"),
    "digits": tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8)),
}


def _open(name: str) -> TextIO:
    package = importlib.util.find_spec("sklearn")
    folders = list(package.submodule_search_locations or ()) if package else []
    path = Path(*folders[:1], "datasets", "data", name)
    if not folders or not path.is_file():
        raise SampleMissing(fix="pip install scikit-learn, or use one of the Playground's samples.")
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def _numbers(name: str, delimiter: str | None = ",", skip: int = 0) -> np.ndarray:
    """Return a file's numbers, float64 of shape (rows, columns)."""
    with _open(name) as file:
        return np.loadtxt(file, delimiter=delimiter, skiprows=skip, ndmin=2)


def _labelled(name: str, target: str) -> pa.Table:
    """Return a table whose last column is a code of the labels in the file's header: rows, features, labels."""
    file_name = "wine_data.csv" if name == "wine" else f"{name}.csv"
    with _open(file_name) as file:
        labels = file.readline().strip().split(",")[2:]
    values = _numbers(file_name, skip=1)
    features = dict(zip(_FEATURES[name], values.T, strict=False))
    return pa.table({**features, target: [labels[int(code)] for code in values[:, -1]]})


def _digits(name: str, target: str) -> pa.Table:
    values = _numbers("digits.csv.gz").astype(np.int64)
    return pa.table(dict(zip([*_FEATURES[name], target], values.T, strict=True)))


def _diabetes(name: str, target: str) -> pa.Table:
    values, progression = _numbers("diabetes_data_raw.csv.gz", None), _numbers("diabetes_target.csv.gz", None)
    features = dict(zip(_FEATURES[name], values.T, strict=True))
    return pa.table({**features, "sex": features["sex"].astype(np.int64), target: progression[:, 0]})


def _linnerud(name: str, _target: str) -> pa.Table:
    exercise, body = _numbers("linnerud_exercise.csv", None, 1), _numbers("linnerud_physiological.csv", None, 1)
    return pa.table(dict(zip(_FEATURES[name], np.hstack([exercise, body]).T, strict=True)))


def _bundled(
    name: str,
    title: str,
    target: str,
    rows: int,
    read: Callable[[str, str], pa.Table],
    *,
    regression: bool = False,
    **kinds: Kind,
) -> BuiltInTable:
    task: Task = "regression" if regression else "classification"
    info = SampleInfo(sample=name, title=title, task=task, target=target, rows=rows, noise=False)
    return BuiltInTable(info, lambda _noise, _rows, _seed: read(name, target), kinds)


_ALL = (
    _playground("circle", "Circle", circle),
    _playground("xor", "Exclusive or", exclusive_or),
    _playground("gauss", "Gaussian", gaussian),
    _playground("spiral", "Spiral", spiral),
    _playground("plane", "Plane", plane, regression=True),
    _playground("multi-gauss", "Multi Gaussian", multi_gaussian, regression=True),
    _bundled("titanic", "Titanic: who survived, by class, age and sex", "survived", 2201, _titanic),
    _bundled("iris", "Iris: three species by four lengths", "species", 150, _labelled),
    _bundled("wine", "Wine: three cultivars by 13 measurements", "cultivar", 178, _labelled),
    _bundled("breast_cancer", "Breast cancer (Wisconsin): 30 features of cells", "diagnosis", 569, _labelled),
    _bundled("digits", "Digits: 8 x 8 grey pixels", "digit", 1797, _digits, digit="categorical"),
    _bundled(
        "diabetes",
        "Diabetes: progression after a year",
        "progression",
        442,
        _diabetes,
        regression=True,
        sex="categorical",
    ),
    _bundled("linnerud", "Linnerud: three exercises, three measurements", "Weight", 20, _linnerud, regression=True),
)
SAMPLES = {sample.info.sample: sample for sample in _ALL}
