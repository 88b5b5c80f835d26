"""Fixed divisions of a table's rows into parts and chunks, and work on them in several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 20_000  # rows predicted in one call
PART_ROWS = 100_000  # rows of a part, which is written in one transaction or as one object
MAX_PARTS = 500  # most parts of one table; of larger tables, each part has more rows


def rows_per_part(rows: int) -> int:
    """Return the number of rows in each part of a table, except the last."""
    return max(PART_ROWS, -(-rows // MAX_PARTS))


def part_chunks(path: Path, first: int, last: int) -> Iterator[pa.Table]:
    """Yield rows `first` to `last` (not included) of a Parquet file, CHUNK at a time, without reading the others."""
    with pq.ParquetFile(path) as file:
        groups: list[int] = []
        at = start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if at < last and at + rows > first:
                start = at if not groups else start
                groups.append(group)
            at += rows
        at = start
        for batch in file.iter_batches(CHUNK, row_groups=groups):
            begin, end = max(first - at, 0), min(last - at, batch.num_rows)
            at += batch.num_rows
            if begin < end:
                yield pa.Table.from_batches([batch.slice(begin, end - begin)])


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, computed by `threads` threads, at most as many items ahead.

    Raises the error of the first item that failed.
    """
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="chunk") as pool:
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
