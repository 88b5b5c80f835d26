"""Where an epoch's rows come from, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.trainer.engine.compiled import Rows

Order = Callable[[int, int], NDArray[np.int32]]
"""`(rows, epoch)` to an int32 permutation of the rows."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows held in memory and the order to take them in. Batches never cross a block's end."""

    rows: Rows
    order: NDArray[np.int32]
    last: bool  # of the epoch


class Feed(Protocol):
    """The rows of an epoch, block by block."""

    rows: int
    resident: bool  # one block an epoch, already in memory

    def sample(self) -> Rows:
        """A few rows, for their structure, dtypes and shapes."""

    def blocks(self, epoch: int) -> Iterator[Block]:
        """The blocks of epoch `epoch`, counted from 0: the same for the same epoch, always."""
        ...


def shuffled(seed: int) -> Order:
    """A new order each epoch, known from the seed and the epoch alone, so that a resumed run goes on with it."""

    def order(rows: int, epoch: int) -> NDArray[np.int32]:
        return np.random.Generator(np.random.Philox([seed, epoch])).permutation(rows).astype(np.int32)

    return order


def in_file_order(rows: int, epoch: int) -> NDArray[np.int32]:
    """The order of the rows in the dataset, each epoch."""
    return np.arange(rows, dtype=np.int32)


def cut(order: Order, take: int) -> Order:
    """Epochs of `take` rows: each goes on where the last one ended, pass after pass over all rows."""

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
    """All rows in memory, as tensors. An epoch has `take` rows, or all of them."""

    def __init__(self, rows: Rows, order: Order = in_file_order, take: int | None = None) -> None:
        self._rows, self._order = rows, order if take is None else cut(order, take)
        self._all = rows.count
        self.rows, self.resident = take or rows.count, True

    def sample(self) -> Rows:
        return self._rows

    def blocks(self, epoch: int) -> Iterator[Block]:
        yield Block(self._rows, self._order(self._all, epoch), last=True)
