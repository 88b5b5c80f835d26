"""Feeds: the rows of each epoch, from memory or streamed from the dataset's file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitserve.datasets.parquet_batches import batches_of
from fitserve.settings import MB
from workers.trainer.engine.compiled import RowTensors
from workers.trainer.engine.loop import Block

PIECE = 8_192  # rows read at once
SIDE_BY_SIDE = 8  # row groups read at once where there is no spool
BLOCK_BYTES = 16 * MB  # most bytes of encoded rows in a block
FREE_SPACE_FACTOR = 1.2  # free space that a spool must find, as a multiple of its size

Order = Callable[[int, int], NDArray[np.int32]]
"""`(rows, epoch)` to an int32 permutation of the rows."""


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Encoded rows as arrays: inputs and targets by name, and weights by target, if there are any."""

    x: Mapping[str, np.ndarray]
    y: Mapping[str, np.ndarray]
    weight: Mapping[str, np.ndarray] | None

    @property
    def rows(self) -> int:
        return len(next(iter(self.y.values())))

    def __getitem__(self, rows: Any) -> EncodedRows:
        """Return some of the rows, by a slice or by their numbers."""
        x, y, weight = (
            None if part is None else {name: array[rows] for name, array in part.items()}
            for part in (self.x, self.y, self.weight)
        )
        return EncodedRows(x or {}, y or {}, weight)

    @classmethod
    def concatenate(cls, pieces: Sequence[EncodedRows]) -> EncodedRows:
        if len(pieces) == 1:
            return pieces[0]

        def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        weights = [piece.weight for piece in pieces if piece.weight is not None]
        x, y = joined([piece.x for piece in pieces]), joined([piece.y for piece in pieces])
        return cls(x, y, joined(weights) if weights else None)


# --- in memory -----------------------------------------------------------------------------------------


def shuffled(seed: int) -> Order:
    """Return an Order that depends only on seed and epoch, so that a resumed run continues with the same order."""

    def order(rows: int, epoch: int) -> NDArray[np.int32]:
        return np.random.Generator(np.random.Philox([seed, epoch])).permutation(rows).astype(np.int32)

    return order


def in_file_order(rows: int, epoch: int) -> NDArray[np.int32]:
    """Return the rows in the dataset's order, the same in every epoch."""
    return np.arange(rows, dtype=np.int32)


def partial_epochs(order: Order, take: int) -> Order:
    """Return an Order with epochs of `take` rows, each continuing where the last one ended, pass after pass."""

    def part(rows: int, epoch: int) -> NDArray[np.int32]:
        taken: list[NDArray[np.int32]] = []
        at, stop = epoch * take, (epoch + 1) * take
        while at < stop:
            whole, begin = divmod(at, rows)
            taken.append(order(rows, whole)[begin : begin + stop - at])
            at += len(taken[-1])
        return np.concatenate(taken)

    return part


class Resident:
    """A Feed of rows in memory, as tensors. An epoch has `take` rows, or all of them."""

    def __init__(self, rows: RowTensors, order: Order = in_file_order, take: int | None = None) -> None:
        self._rows, self._order = rows, order if take is None else partial_epochs(order, take)
        self._count = rows.count
        self.rows, self.resident = take or rows.count, True

    @classmethod
    def of_some(cls, rows: RowTensors, picked: NDArray[np.int64], order: Order, take: int) -> Resident:
        """Return a Feed of the rows with these numbers, `take` of them in an epoch."""
        drawn = partial_epochs(order, take)
        feed = cls(rows, lambda _, epoch: picked[drawn(len(picked), epoch)].astype(np.int32))
        feed.rows = take
        return feed

    def sample(self) -> RowTensors:
        return self._rows

    def blocks(self, epoch: int) -> Iterator[Block]:
        yield Block(self._rows, self._order(self._count, epoch), last=True)


# --- streamed ------------------------------------------------------------------------------------------


def free_bytes(folder: Path) -> int:
    """Return the free bytes of a folder's disk."""
    return shutil.disk_usage(folder).free


class Spool:
    """Encoded rows on the scratch disk, one file for each array: encoded once, read back in any order.

    Decoding Parquet again in each epoch would take longer than training a small network.
    """

    PARTS = ("x", "y", "weight")

    def __init__(self, folder: Path, pieces: Iterable[EncodedRows], progress: Callable[[], None]) -> None:
        """Write the pieces in order, calling `progress` after each."""
        folder.mkdir(parents=True, exist_ok=True)
        self._starts = [0]
        self._arrays: dict[tuple[str, str], tuple[Path, Any, tuple[int, ...]]] = {}  # file, dtype, shape of a row
        files: dict[tuple[str, str], Any] = {}
        try:
            for piece in pieces:
                named = {(part, name): a for part in self.PARTS for name, a in (getattr(piece, part) or {}).items()}
                for key, array in named.items():
                    if key not in files:
                        path = folder / f"{len(files)}.rows"
                        files[key] = path.open("wb")
                        self._arrays[key] = (path, array.dtype, array.shape[1:])
                    files[key].write(np.ascontiguousarray(array).data)
                self._starts.append(self._starts[-1] + piece.rows)
                progress()
        finally:
            for file in files.values():
                file.close()

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._starts) - 1

    def read(self, piece: int, mask: NDArray[np.bool_] | None = None) -> EncodedRows:
        """Return the rows of a piece, or those that `mask` selects."""
        start, stop = self._starts[piece : piece + 2]
        parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in self.PARTS}
        for (part, name), (path, dtype, shape) in self._arrays.items():
            size = int(np.prod(shape))
            flat = np.fromfile(path, dtype, (stop - start) * size, offset=start * size * dtype.itemsize)
            parts[part][name] = flat.reshape(stop - start, *shape)
        rows = EncodedRows(parts["x"], parts["y"], parts["weight"] or None)
        return rows if mask is None else rows[mask[start:stop]]

    @staticmethod
    def fits(free: int, size: int) -> bool:
        """Return whether a disk with `free` bytes has room for a spool of `size` bytes."""
        return free > FREE_SPACE_FACTOR * size


class Streamed:
    """A Feed of rows that do not fit into memory: read in every epoch, through a shuffle buffer.

    Rows come from a spool in pieces whose order changes with each epoch; without room for a spool, from several row
    groups of the Parquet file side by side, drawn again in each epoch. The pieces fill a buffer, which is shuffled,
    half of it is trained on, and it is filled again. A thread prepares the next block while the network trains on this
    one. Memory holds a few blocks, however long the file.
    """

    resident = False

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        picked: NDArray[np.int64],
        encode: Callable[[pa.Table], EncodedRows],
        as_tensors: Callable[[EncodedRows], RowTensors],
        batch_size: int,
        seed: int | None = None,
        take: int | None = None,
        spool: Spool | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Stream some rows of a Parquet file.

        Args:
            picked: sorted row numbers, from 0.
            mask: which of the picked rows are used; left out: all. The spool has all of them.
            batch_size: rows of every batch but the epoch's last.
            seed: shuffles the rows; without one they come in the file's order.
            take: rows of an epoch, at most as many as are picked.
        """
        self._path, self._columns = path, list(columns)
        self._picked = picked if mask is None or spool is not None else picked[mask]
        self._encode, self._as_tensors, self._seed = encode, as_tensors, seed
        self._spool, self._mask = spool, mask
        self.rows = take or (len(picked) if mask is None else int(mask.sum()))
        first = next(self._pieces(None))
        self._sample = as_tensors(first[:2])
        row_bytes = sum(array[:1].nbytes for array in (*first.x.values(), *first.y.values()))
        self._block_rows = max(1, BLOCK_BYTES // max(1, row_bytes) // batch_size) * batch_size

    def sample(self) -> RowTensors:
        """Return two rows."""
        return self._sample

    def spooled(self, folder: Path, progress: Callable[[], None]) -> Spool:
        """Write all rows to a spool, in the file's order."""
        return Spool(folder, self._pieces(None), progress)

    def blocks(self, epoch: int) -> Iterator[Block]:
        """Yield the epoch's blocks, preparing the next one while the current one is used."""
        blocks = self._read_blocks(epoch)
        with ThreadPoolExecutor(1, "stream") as pool:
            coming, left = pool.submit(next, blocks, None), self.rows
            while (block := coming.result()) is not None:
                coming = pool.submit(next, blocks, None)
                left -= len(block.order)
                if left <= 0:
                    yield Block(block.rows, block.order[: len(block.order) + left], last=True)
                    return
                yield block

    def _read_blocks(self, epoch: int) -> Iterator[Block]:
        generator = np.random.Generator(np.random.Philox([self._seed or 0, epoch]))
        shuffle = self._seed is not None
        buffer_rows = self._block_rows * (2 if shuffle else 1)
        buffer: list[EncodedRows] = []

        def ordered() -> tuple[EncodedRows, Any]:
            rows = EncodedRows.concatenate(buffer)
            return rows, generator.permutation(rows.rows) if shuffle else np.arange(rows.rows)

        for piece in self._pieces(generator if shuffle else None):
            if buffer and sum(part.rows for part in buffer) >= buffer_rows:
                rows, order = ordered()
                used, left = order[: self._block_rows], order[self._block_rows :]
                buffer = [rows[left]] if len(left) else []
                yield Block(self._as_tensors(rows), used.astype(np.int32), last=False)
            buffer.append(piece)
        rows, order = ordered()
        yield Block(self._as_tensors(rows), order.astype(np.int32), last=True)

    def _pieces(self, generator: np.random.Generator | None) -> Iterator[EncodedRows]:
        """Yield encoded pieces; with a generator, in random order."""
        if self._spool is not None:
            count = len(self._spool)
            for piece in generator.permutation(count) if generator is not None else range(count):
                rows = self._spool.read(int(piece), self._mask)
                if rows.rows:
                    yield rows
            return
        with pq.ParquetFile(self._path, memory_map=True) as file:
            groups = np.arange(file.num_row_groups)
            sizes = [file.metadata.row_group(int(group)).num_rows for group in groups]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            waiting = list(generator.permutation(groups) if generator is not None else groups)
            open_groups: list[Iterator[pa.Table]] = []
            while waiting or open_groups:
                while waiting and len(open_groups) < (SIDE_BY_SIDE if generator is not None else 1):
                    group = int(waiting.pop(0))
                    open_groups.append(self._group(file, group, int(starts[group]), int(starts[group + 1])))
                index = int(generator.integers(len(open_groups))) if generator is not None else 0
                table = next(open_groups[index], None)
                if table is None:
                    open_groups.pop(index)
                else:
                    yield self._encode(table)

    def _group(self, file: pq.ParquetFile, group: int, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the picked rows of a row group, which holds the rows from `start` to `stop`."""
        low, high = np.searchsorted(self._picked, [start, stop])
        if low < high:
            batches = file.iter_batches(PIECE, row_groups=[group], columns=self._columns, use_threads=False)
            yield from _take_picked(batches, self._picked[low:high] - start)


def read_picked(path: Path, columns: Sequence[str], picked: NDArray[np.int64]) -> pa.Table:
    """Read some rows of a Parquet file (sorted row numbers from 0), holding no more than a piece of the others."""
    with pq.ParquetFile(path, memory_map=True) as file:
        tables = list(_take_picked(batches_of(file, PIECE * 8, columns=list(columns)), picked))
        return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table().select(list(columns))


def _take_picked(batches: Iterable[pa.RecordBatch], picked: NDArray[np.int64]) -> Iterator[pa.Table]:
    passed = 0
    for batch in batches:
        first, last = np.searchsorted(picked, [passed, passed + batch.num_rows])
        if first < last:
            yield pa.Table.from_batches([batch]).take(picked[first:last] - passed)
        passed += batch.num_rows
