"""Rows that do not fit into memory: read in every epoch, through a shuffle buffer.

They are read from Parquet and encoded once, into a spool on the scratch disk, and each epoch takes its pieces in
a new order; where the disk has no room, several row groups, drawn anew each epoch, are read side by side.
The pieces fill a buffer, which is shuffled, half of it trained on, and filled up again. A thread reads the
next block while the network trains on this one. Memory holds a few blocks, however long the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from workers.trainer.data.encoded_rows import Encoded
from workers.trainer.data.feed import Block
from workers.trainer.data.spool import Spool
from workers.trainer.engine.compiled import Rows

PIECE = 8_192  # rows
SIDE_BY_SIDE = 8  # row groups read at once
BLOCK_BYTES = 16 * 1024 * 1024  # of encoded rows in a block

Encode = Callable[[pa.Table], Encoded]
AsRows = Callable[[Encoded], Rows]


class Streamed:
    """A Feed of some rows of a Parquet file.

    `picked` are the row numbers (from 0), sorted. With a `seed`, rows are shuffled; without, they come in
    the file's order. Batches have `batch_size` rows but for the epoch's last. An epoch ends after `take`
    rows (at most once over the file), where that is given.
    """

    resident = False

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        picked: NDArray[np.int64],
        encode: Encode,
        as_rows: AsRows,
        batch_size: int,
        seed: int | None = None,
        take: int | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._path, self._columns, self._picked = path, list(columns), picked
        self._encode, self._as_rows, self._seed = encode, as_rows, seed
        self._spool = spool
        self.rows = take or len(picked)
        first = next(self._pieces(None))
        self._sample = as_rows(_sliced(first, slice(0, 2)))
        row_bytes = sum(array[:1].nbytes for array in (*first.x.values(), *first.y.values()))
        self._block = max(1, BLOCK_BYTES // max(1, row_bytes) // batch_size) * batch_size

    def sample(self) -> Rows:
        """Two rows."""
        return self._sample

    def spooled(self, folder: Path, progress: Callable[[], None]) -> Spool:
        """All its rows in a spool, in the file's order."""
        return Spool(folder, self._pieces(None), progress)

    def blocks(self, epoch: int) -> Iterator[Block]:
        """The epoch's blocks, the next one being prepared while one is used."""
        made = self._made(epoch)
        with ThreadPoolExecutor(1, "stream") as pool:
            coming, left = pool.submit(next, made, None), self.rows
            while (block := coming.result()) is not None:
                coming = pool.submit(next, made, None)
                left -= len(block.order)
                if left <= 0:
                    yield Block(block.rows, block.order[: len(block.order) + left], last=True)
                    return
                yield block

    def _made(self, epoch: int) -> Iterator[Block]:
        generator = np.random.Generator(np.random.Philox([self._seed or 0, epoch]))
        shuffle = self._seed is not None
        wanted = self._block * (2 if shuffle else 1)
        held: list[Encoded] = []
        for piece in self._pieces(generator if shuffle else None):
            if held and sum(part.rows for part in held) >= wanted:
                whole = _joined(held)
                order = generator.permutation(whole.rows) if shuffle else np.arange(whole.rows)
                used, left = order[: self._block], order[self._block :]
                held = [_sliced(whole, left)] if len(left) else []
                yield Block(self._as_rows(whole), used.astype(np.int32), last=False)
            held.append(piece)
        whole = _joined(held)
        order = generator.permutation(whole.rows) if shuffle else np.arange(whole.rows)
        yield Block(self._as_rows(whole), order.astype(np.int32), last=True)

    def _pieces(self, generator: np.random.Generator | None) -> Iterator[Encoded]:
        """Encoded pieces; with a generator, in a random order."""
        if self._spool is not None:
            count = len(self._spool)
            for piece in generator.permutation(count) if generator is not None else range(count):
                yield self._spool.read(int(piece))
            return
        with pq.ParquetFile(self._path, memory_map=True) as file:
            groups = np.arange(file.num_row_groups)
            sizes = [file.metadata.row_group(int(group)).num_rows for group in groups]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            waiting = list(generator.permutation(groups) if generator is not None else groups)
            open_now: list[Iterator[pa.Table]] = []
            while waiting or open_now:
                while waiting and len(open_now) < (SIDE_BY_SIDE if generator is not None else 1):
                    group = int(waiting.pop(0))
                    open_now.append(self._group(file, group, int(starts[group]), int(starts[group + 1])))
                place = int(generator.integers(len(open_now))) if generator is not None else 0
                table = next(open_now[place], None)
                if table is None:
                    open_now.pop(place)
                else:
                    yield self._encode(table)

    def _group(self, file: pq.ParquetFile, group: int, start: int, stop: int) -> Iterator[pa.Table]:
        """This part's rows of a row group."""
        low, high = np.searchsorted(self._picked, [start, stop])
        if low == high:
            return
        picked, seen = self._picked[low:high] - start, 0
        for batch in file.iter_batches(PIECE, row_groups=[group], columns=self._columns, use_threads=False):
            first, last = np.searchsorted(picked, [seen, seen + batch.num_rows])
            if first < last:
                yield pa.Table.from_batches([batch]).take(picked[first:last] - seen)
            seen += batch.num_rows


def read_some(path: Path, columns: Sequence[str], picked: NDArray[np.int64]) -> pa.Table:
    """Some rows of a Parquet file (sorted row numbers from 0), without holding more than a piece of the others."""
    tables, seen = [], 0
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(PIECE * 8, columns=list(columns)):
            first, last = np.searchsorted(picked, [seen, seen + batch.num_rows])
            if first < last:
                tables.append(pa.Table.from_batches([batch]).take(picked[first:last] - seen))
            seen += batch.num_rows
        return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table().select(list(columns))


def _sliced(part: Encoded, rows: Any) -> Encoded:
    weight = None if part.weight is None else {name: array[rows] for name, array in part.weight.items()}
    return Encoded({n: a[rows] for n, a in part.x.items()}, {n: a[rows] for n, a in part.y.items()}, weight)


def _joined(parts: Sequence[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]

    def joined(get: Callable[[Encoded], Any]) -> Any:
        return {name: np.concatenate([get(part)[name] for part in parts]) for name in get(parts[0])}

    weight = None if parts[0].weight is None else joined(lambda part: part.weight)
    return Encoded(joined(lambda part: part.x), joined(lambda part: part.y), weight)
