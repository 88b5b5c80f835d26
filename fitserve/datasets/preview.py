"""A stored table's rows as JSON values, as CSV and as a sample."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.datasets.parquet_batches import batches_of
from fitserve.excerpts import escape_formula

BATCH_ROWS = 8_192


def read_rows(path: Path, offset: int, limit: int) -> tuple[list[str], list[list[Any]]]:
    """Return the column names, and rows from `offset` on as JSON values."""
    file = pq.ParquetFile(path)
    rows: list[list[Any]] = []
    for batch in _slices(file, offset, limit):
        rows += [list(row) for row in zip(*map(json_values, batch.columns), strict=True)]
    return list(file.schema_arrow.names), rows


def read_slice(path: Path, offset: int, limit: int) -> pa.Table:
    """Return rows from `offset` on as they are stored."""
    file = pq.ParquetFile(path)
    return pa.Table.from_batches(_slices(file, offset, limit), file.schema_arrow)


def _slices(file: pq.ParquetFile, offset: int, limit: int) -> Iterator[pa.RecordBatch]:
    """Yield `limit` rows from `offset` on, as slices of the batches that hold them."""
    first, left = 0, limit  # first row of the row group, then of the batch
    for group in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        if end <= offset:  # no requested row is in it, so it is not read
            first = end
            continue
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
            begin = min(max(0, offset - first), batch.num_rows)  # Arrow aborts on a slice beyond the end
            part = batch.slice(begin, left)
            first, left = first + batch.num_rows, left - part.num_rows
            yield part
            if left <= 0:
                return


def json_values(column: pa.Array) -> list[Any]:
    """Return a column's values for JSON, all of one type; decimals are numbers if float64 keeps all digits of all."""
    if not pa.types.is_decimal(column.type):
        return [json_value(value) for value in column.to_pylist()]
    values = column.to_pylist()
    if column.type.scale <= 0:
        return [None if value is None else int(value) for value in values]
    read = float if column.type.precision <= 15 else "{:f}".format
    return [None if value is None else read(value) for value in values]


def json_value(value: Any) -> Any:
    """Return a value for JSON: NaN is null, an infinity its name, a time ISO 8601."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value


def sample_rows(path: Path, most: int = 20_000) -> pa.Table:
    """Return about `most` rows at most, spread evenly over the table, from up to eight row groups."""
    file = pq.ParquetFile(path)
    groups = file.metadata.num_row_groups
    chosen = sorted({round(position) for position in np.linspace(0, groups - 1, min(groups, 8))})
    share = max(1, most // len(chosen))
    parts = []
    for group in chosen:
        table = file.read_row_group(group, use_threads=False)
        stride = max(1, -(-table.num_rows // share))
        parts.append(table.take(np.arange(0, table.num_rows, stride)))
    return pa.concat_tables(parts)


def stream_csv(path: Path) -> Iterator[bytes]:
    """Yield the table as CSV in UTF-8.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    texts = [pa.types.is_string(field.type) or pa.types.is_large_string(field.type) for field in schema]
    yield _csv_lines([[_csv_field(name, True) for name in schema.names]])
    for batch in batches_of(file, BATCH_ROWS, use_threads=False):
        columns = [
            [_csv_field(value, is_text) for value in json_values(column)]
            for column, is_text in zip(batch.columns, texts, strict=True)
        ]
        yield _csv_lines(zip(*columns, strict=True))


def _csv_field(value: Any, is_text: bool) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape_formula(value) if is_text else value


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "replace")
