"""Five real tables, served over HTTP: training rows do not drift, shifted ones do."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitserve import artifacts, db, monitoring, registry
from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.datasets.ingest import ingest
from fitserve.drift import training_distribution
from fitserve.encoder import Encoder
from fitserve.settings import Limits
from fitserve.spec.feature import Feature
from fitserve.wire.datasets import UploadOptions
from tests.predict.toy_registry import PAIR, RunningService, ToyRegistry, eventually, graph, run_service
from tests.telemetry.drifting import ToyWithDistributions
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("live")
# Features by table: what a network would be given (no identifiers, no free text).
TABLES = {
    "penguins": ("island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "sex"),
    "insurance": ("age", "sex", "bmi", "children", "smoker", "region"),
    "winequality_red": ("fixed acidity", "volatile acidity", "residual sugar", "density", "pH", "alcohol"),
    "bike_hour": ("dteday", "hr", "holiday", "weathersit", "temp", "hum", "windspeed"),
    "nyc_taxis": ("pickup", "passengers", "distance", "color", "payment", "pickup_borough"),
}
ROWS = 1_500
RNG = np.random.default_rng(11)


def prepare(path: Path, names: tuple[str, ...]) -> tuple[ToyWithDistributions, list[dict[str, Any]]]:
    """Return a network with random weights on the table's encoder, and its training rows as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "body"
        copy.write_bytes(path.read_bytes())
        ingested = ingest(copy, UploadOptions(), Limits(), Path(folder))
        table = pq.read_table(ingested.parquet).select(list(names))
    facts = DatasetFacts(
        name=path.stem,
        version=1,
        sha256="0" * 64,
        rows=ingested.rows,
        columns=tuple(ColumnFacts.from_stored(column) for column in ingested.columns),
    )
    training = table.take(RNG.permutation(table.num_rows)[: table.num_rows * 4 // 5])
    encoder = Encoder.fit([Feature(column=name) for name in names], training, facts)
    (one,) = encoder.inputs
    extra = {"training_distribution": training_distribution(encoder.columns, training)}
    return ToyWithDistributions(encoder, graph(one.shape[0], PAIR), PAIR, extra=extra), rows_of(training)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    text = json.dumps(table.to_pylist(), default=str)
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


@pytest.fixture(scope="module")
def five_tables(
    tmp_path_factory: pytest.TempPathFactory, data_folder: Path
) -> Iterator[tuple[RunningService, dict[str, list[Any]]]]:
    toys = ToyRegistry(tmp_path_factory.mktemp("tables"))
    rows = {}
    for name, columns in TABLES.items():
        toy, rows[name] = prepare(data_folder / f"{name}.csv", columns)
        toys.register(name.replace("_", "-"), toy)
        toys.register(f"{name.replace('_', '-')}-moved", toy)
    with run_service(toys, FITSERVE_DRIFT_WRITE_SECONDS="0.3") as served:
        yield served, rows


def psi_after(served: RunningService, model: str, rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Predict rows, slowly enough that none is skipped by sampling; return each column's PSI."""
    with httpx2.Client(base_url=served.url, headers=served.headers, timeout=PATIENCE) as client:
        for start in range(0, len(rows), 500):
            batch = rows[start : start + 500]
            answer = client.post(f"/v1/models/{model}:predict", json={"instances": batch})
            assert answer.status_code == 200, answer.text
            time.sleep(0.5)
    eventually(lambda: totals(served, model).rows >= 450)
    with db.reading(served.toys.engine) as session:
        artifact = registry.version(session, model, 1).artifact
    training = artifacts.read(served.toys.blobs, artifact).manifest["training_distribution"]
    return {one["column"]: one["psi"] for one in monitoring.column_drift(training, totals(served, model))}


def totals(served: RunningService, model: str) -> monitoring.WindowTotals:
    with db.reading(served.toys.engine) as session:
        return monitoring.window_totals(session, model, registry.version(session, model, 1).artifact, 3600)


def shifted(rows: list[dict[str, Any]], sample: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shift rows: numbers by two standard deviations, times by three years, the rarer of two values, a new label."""
    change: dict[str, Callable[[Any], Any]] = {}
    for column in rows[0]:
        values = [row[column] for row in rows if row[column] is not None]
        counts = Counter(values)
        if len(counts) == 2 and set(map(str, counts)) <= {"0", "1", "yes", "no", "True", "False"}:
            change[column] = partial(_always, min(counts, key=lambda value: counts[value]))
        elif isinstance(values[0], int | float):
            change[column] = partial(_added, 2 * float(np.std(values)))
        else:
            change[column] = _later_or_new_label
    return [{column: change[column](value) for column, value in row.items()} for row in sample]


def _always(value: Any, _value: Any) -> Any:
    return value


def _added(step: float, value: Any) -> Any:
    return None if value is None else value + step


def _later_or_new_label(value: Any) -> Any:
    try:
        return (datetime.fromisoformat(value) + timedelta(days=1_100)).isoformat(" ")
    except (TypeError, ValueError):
        return "a new label"


@pytest.mark.parametrize("name", TABLES)
def test_training_rows_do_not_drift_and_shifted_ones_do(five_tables: Any, name: str) -> None:
    served, by_table = five_tables
    rows = by_table[name]
    model = name.replace("_", "-")
    sample = [rows[at] for at in RNG.integers(0, len(rows), ROWS)]
    same = psi_after(served, model, sample)
    assert set(same) == set(TABLES[name])
    assert all(index is not None and index < 0.1 for index in same.values()), same
    other = psi_after(served, f"{model}-moved", shifted(rows, sample))
    assert all(index is not None and index > 0.25 for index in other.values()), other
