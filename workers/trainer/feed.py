"""Where an epoch's rows come from, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.trainer.compiled import Rows

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


class Resident:
    """All rows in memory, as tensors."""

    def __init__(self, rows: Rows, order: Order = in_file_order) -> None:
        self._rows, self._order = rows, order
        self.rows, self.resident = rows.count, True

    def sample(self) -> Rows:
        return self._rows

    def blocks(self, epoch: int) -> Iterator[Block]:
        yield Block(self._rows, self._order(self.rows, epoch), last=True)
