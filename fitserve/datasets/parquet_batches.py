"""Read a Parquet file in batches with constant memory.

Arrow's iterator keeps all row groups that it has read until it ends, in the end the whole file. Each iterator here
therefore covers only a few row groups; very small ones are read together, because each costs a call per column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 262_144  # most rows in the row groups that share an iterator
BYTES = 64 * 1024 * 1024  # most bytes in them, uncompressed


def batches_of(file: pq.ParquetFile, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
    """Yield a file's batches of up to `rows` rows, in order. `options` go to `iter_batches`."""
    for groups in _some_at_once(file.metadata):
        yield from file.iter_batches(rows, row_groups=groups, **options)


def _some_at_once(metadata: pq.FileMetaData) -> Iterator[Sequence[int]]:
    """Yield runs of row groups: a single large one, or several whose sum is small."""
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
