"""Looking into a stored table: pages of rows, a sample, text to download."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 8_192
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def page(path: Path, offset: int, limit: int, columns: list[str] | None = None) -> tuple[list[str], list[list[Any]]]:
    """Names and rows from `offset` on, as JSON values: null is missing, times are ISO 8601."""
    file = pq.ParquetFile(path)
    names = columns or list(file.schema_arrow.names)
    rows: list[list[Any]] = []
    first = 0
    for group in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        start = max(0, offset - first)
        if start < count and len(rows) < limit:
            rows += _rows_of_group(file, group, start, limit - len(rows), names)
        first += count
        if len(rows) >= limit:
            break
    return names, rows


def _rows_of_group(file: pq.ParquetFile, group: int, start: int, limit: int, names: list[str]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    first = 0
    for batch in file.iter_batches(BATCH, row_groups=[group], columns=names, use_threads=False):
        begin = max(0, start - first)
        if begin < batch.num_rows:
            part = batch.slice(begin, limit - len(rows))
            values = [[plain(value) for value in part.column(name).to_pylist()] for name in names]
            rows += [list(row) for row in zip(*values, strict=True)]
        first += batch.num_rows
        if len(rows) >= limit:
            break
    return rows


def plain(value: Any) -> Any:
    """A value as JSON: NaN is null, an infinity its name, a time ISO 8601, a decimal a number where that is exact."""
    if isinstance(value, float):
        return (
            None if math.isnan(value) else value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
        )
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value) if Decimal(float(value)) == value else str(value)
    return value


def sample_rows(path: Path, most: int = 20_000) -> pa.Table:
    """Rows spread evenly over the table, at most `most`: read from at most eight row groups."""
    file = pq.ParquetFile(path)
    groups = file.metadata.num_row_groups
    chosen = sorted({round(at) for at in np.linspace(0, groups - 1, min(groups, 8))})
    share = max(1, most // len(chosen))
    parts = []
    for group in chosen:
        table = file.read_row_group(group, use_threads=False)
        stride = max(1, -(-table.num_rows // share))
        parts.append(table.take(np.arange(0, table.num_rows, stride)))
    return pa.concat_tables(parts)


def csv_text(path: Path) -> Iterator[bytes]:
    """The table as CSV, UTF-8. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    texts = [pa.types.is_string(field.type) or pa.types.is_large_string(field.type) for field in file.schema_arrow]
    yield _lines([[_guarded(name, True) for name in names]])
    for batch in file.iter_batches(BATCH, use_threads=False):
        columns = [
            [_guarded(plain(value), text) for value in column.to_pylist()]
            for column, text in zip(batch.columns, texts, strict=True)
        ]
        yield _lines([list(row) for row in zip(*columns, strict=True)])


def _guarded(value: Any, text: bool) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value if text and value.startswith(_FORMULA) else value


def _lines(rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "replace")
