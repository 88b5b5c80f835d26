"""Batches of a Parquet file through flat memory.

An iteration of Arrow keeps every row group that it has read until it ends: in the end, the whole file. So each one
here covers a few row groups. Very small ones are read together, since each costs a call for every column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 262_144  # of row groups that are gone through together
BYTES = 64 * 1024 * 1024  # of them, uncompressed


def batches_of(file: pq.ParquetFile, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
    """Yield a file's batches of up to `rows` rows, in order. `options` go to `iter_batches`."""
    for groups in _some_at_once(file.metadata):
        yield from file.iter_batches(rows, row_groups=groups, **options)


def _some_at_once(metadata: pq.FileMetaData) -> Iterator[Sequence[int]]:
    """Yield sequences of row groups: one large group, or several that are small together."""
    run: list[int] = []
    rows = size = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if run and (rows + group.num_rows > ROWS or size + group.total_byte_size > BYTES):
            yield run
            run, rows, size = [], 0, 0
        run.append(index)
        rows, size = rows + group.num_rows, size + group.total_byte_size
    if run:
        yield run
