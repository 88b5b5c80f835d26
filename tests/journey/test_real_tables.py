"""Real tables: by name and target alone they are uploaded, trained and served, and their own lines are answered.

Each is sent to `:predict` as it stood in the file, as JSON objects and as CSV; the answers are those of the dataset's
rows, predicted as a whole. The short form trains one epoch on a table's first lines, the long one as a user would.
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.conftest import Server
from tests.journey.test_journey import wait
from tests.waiting import PATIENCE, wait_until

LINES = 300  # of a table, in the short form
MOST = 20_000  # rows sent to :predict
SENT = 500  # rows of one request
LONGEST_RUN = 3600.0  # seconds that a whole table may take: half a million rows, by default, some ten minutes
SHORT: dict[str, Any] = {"preset": "plain", "training": {"epochs": 1}}


@dataclass(frozen=True)
class RealTable:
    """A file of the folder of real tables, and what a person knows of it."""

    file: str
    target: str
    task: str
    delimiter: str = ","
    header: bool = True
    step: int = 1  # which lines the short form takes: a table may be sorted by its label


TABLES = {
    "student": RealTable("student_data.csv", "admit", "binary"),
    "imdb": RealTable("imdb_train.csv.gz", "sentiment", "binary"),
    "titanic": RealTable("titanic.csv", "Survived", "binary"),
    "bank": RealTable("bank_additional.csv", "y", "binary", ";"),
    "pima": RealTable("pima_diabetes.csv", "column_9", "binary", header=False),
    "penguins": RealTable("penguins.csv", "species", "multiclass"),
    "winequality": RealTable("winequality_red.csv", "quality", "regression", ";"),
    "mnist": RealTable("mnist_10k.csv.gz", "label", "multiclass", step=80),
    "sms": RealTable("sms_spam.csv", "type", "binary"),
    "mpg": RealTable("auto_mpg.csv", "mpg", "regression"),
    "insurance": RealTable("insurance.csv", "charges", "regression"),
    "bike": RealTable("bike_hour.csv", "cnt", "regression"),
    "taxis": RealTable("nyc_taxis.csv", "fare", "regression"),
    "kddcup": RealTable("kddcup99_10pct.csv.gz", "label", "multiclass", step=1_500),
}


def raw_lines(path: Path, most: int | None = None, step: int = 1) -> bytes:
    """Return a file's lines; or its first one and up to `most` of the others, each `step`-th."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read() if most is None else b"".join([next(file), *islice(file, 0, most * step, step)])


def check(
    server: Server,
    table: RealTable,
    data: bytes,
    name: str,
    spec: dict[str, Any],
    most: int,
    patience: float = PATIENCE,
) -> None:
    """Upload, train, serve, and compare the answers to the file's own lines with those to the dataset's rows."""
    api = httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=max(300, patience))
    made = api.put(f"/datasets/{name}", content=data)
    assert made.status_code == 201, made.text
    run = api.post("/runs", json={"dataset": name, "target": table.target, "model": name, **spec})
    assert run.status_code == 202, run.text
    ended = wait(api, run.json()["id"], patience)
    assert ended["state"] == "succeeded", ended["error"]
    (output,) = api.get(f"/models/{name}/versions/1/manifest").json()["outputs"]
    assert output["task"] == table.task

    batch = api.post(f"/models/{name}/predictions", json={"dataset": name, "name": f"{name}-out"}).json()
    assert wait(api, batch["id"], patience)["state"] == "succeeded"
    expected = predictions(api, f"{name}-out", most)
    lines = list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=table.delimiter))
    header = lines.pop(0) if table.header else [column["name"] for column in made.json()["columns"]]
    assert made.json()["rows"] == len(lines)

    client = httpx2.Client(base_url=server.predict_url, headers=server.headers, timeout=patience)
    wait_until(
        lambda: client.get(f"/v1/models/{name}").status_code == 200, f"{name} is served", patience=patience, pause=0.1
    )
    path = f"/v1/models/{name}/versions/1:predict"
    for start in range(0, min(len(lines), most), SENT):
        rows = lines[start : start + SENT]
        objects = [dict(zip(header, row, strict=True)) for row in rows]
        compare(client.post(path, json={"instances": objects}), expected[start : start + SENT])
        body = io.StringIO()
        csv.writer(body, delimiter=table.delimiter, lineterminator="\n").writerows([header, *rows])
        as_csv = client.post(path, content=body.getvalue().encode(), headers={"Content-Type": "text/csv"})
        compare(as_csv, expected[start : start + SENT])


def predictions(api: httpx2.Client, name: str, most: int) -> np.ndarray:
    """Return the predicted numbers of a predicted dataset's rows: (rows, units)."""
    rows: list[list[Any]] = []
    columns: list[str] = []
    while len(rows) < most:
        page = api.get(f"/datasets/{name}/rows", params={"offset": len(rows), "limit": 5_000}).json()
        columns = page["columns"]
        rows += page["rows"]
        if not page["rows"] or len(rows) >= page["total"]:
            break
    chosen = [at for at, column in enumerate(columns) if column.startswith("predicted_")]
    numbers = [at for at in chosen if len(chosen) == 1 or columns[at] != columns[chosen[0]]]
    return np.array([[row[at] for at in numbers] for row in rows], np.float64)


def compare(answer: httpx2.Response, expected: np.ndarray) -> None:
    assert answer.status_code == 200, answer.text[:1000]
    found = np.array(answer.json()["predictions"], np.float64).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


# Half a minute for one epoch of 784 columns, which other tests encode and serve.
SLOWEST = frozenset(("mnist",))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in SLOWEST else name for name in TABLES]
)
def test_a_tables_own_lines_are_answered_as_training_saw_them(server: Server, data_folder: Path, name: str) -> None:
    table = TABLES[name]
    check(server, table, raw_lines(data_folder / table.file, LINES, table.step), f"head-{name}", SHORT, LINES)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", TABLES)
def test_a_whole_table_is_trained_and_answered(server: Server, data_folder: Path, name: str) -> None:
    table = TABLES[name]
    check(server, table, raw_lines(data_folder / table.file), f"whole-{name}", {}, MOST, LONGEST_RUN)
