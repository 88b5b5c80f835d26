"""The tables: those examined while the defaults were chosen (`development`), and those used only afterwards.

Those with a file lie in `../shared/data` (or `--data`), the others are bundled with scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn import datasets

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.datasets.ingest import ingest
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Table:
    """A public table. `leaks` are columns that hold the answer, or identify a row."""

    name: str
    target: str
    task: Task
    development: bool
    leaks: tuple[str, ...] = ()
    file: str | None = None
    options: tuple[tuple[str, Any], ...] = ()


TABLES = (
    Table("student_data", "admit", "binary", True, (), "student_data.csv"),
    Table("titanic", "Survived", "binary", True, ("PassengerId", "Ticket", "Name", "Cabin"), "titanic.csv"),
    Table("bank_additional", "y", "binary", True, ("duration",), "bank_additional.csv"),
    Table("auto_mpg", "mpg", "regression", True, ("name",), "auto_mpg.csv"),
    Table("winequality_red", "quality", "regression", True, (), "winequality_red.csv"),
    Table("bike_hour", "cnt", "regression", True, ("instant", "casual", "registered"), "bike_hour.csv"),
    Table("wine", "target", "multiclass", True),
    Table("diabetes", "target", "regression", True),
    Table("pima_diabetes", "column_9", "binary", False, (), "pima_diabetes.csv", (("header", False),)),
    Table("penguins", "species", "multiclass", False, (), "penguins.csv"),
    Table("insurance", "charges", "regression", False, (), "insurance.csv"),
    Table("nyc_taxis", "fare", "regression", False, ("total",), "nyc_taxis.csv"),
    Table("winequality_red_classes", "quality", "multiclass", False, (), "winequality_red.csv"),
    Table("breast_cancer", "target", "binary", False),
    Table("iris", "target", "multiclass", False),
    Table("digits", "target", "multiclass", False),
)


@dataclass(frozen=True)
class Loaded:
    """All rows of a table, as an upload reads them, without the columns that leak."""

    table: Table
    rows: pa.Table
    columns: tuple[ColumnFacts, ...]

    def facts(self, rows: int) -> DatasetFacts:
        """Return the table's facts, for `rows` of its rows."""
        columns = [c.model_copy(update={"rows": rows, "missing": min(c.missing, rows)}) for c in self.columns]
        return DatasetFacts(name="data", version=1, sha256="0" * 64, rows=rows, columns=tuple(columns))


def load(table: Table, data: Path, folder: Path) -> Loaded:
    """Read a table as an upload would. `folder` is scratch."""
    folder.mkdir(parents=True, exist_ok=True)
    path = data / table.file if table.file else _bundled(table.name, folder)
    ingested = ingest(path, UploadOptions.model_validate(dict(table.options)), Limits(), folder)
    columns = [ColumnFacts.from_stored(column) for column in ingested.columns]
    rows = pq.read_table(ingested.parquet)
    target = table.target
    if target not in rows.column_names:  # the file has no header
        target = rows.column_names[-1]
        rows = rows.rename_columns([table.target if name == target else name for name in rows.column_names])
        columns = [c.model_copy(update={"name": table.target}) if c.name == target else c for c in columns]
    known = rows.column(table.target).is_valid()
    rows = rows.filter(known).drop_columns([name for name in table.leaks if name in rows.column_names])
    return Loaded(table, rows, tuple(c for c in columns if c.name in rows.column_names))


def _bundled(name: str, folder: Path) -> Path:
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    return path
