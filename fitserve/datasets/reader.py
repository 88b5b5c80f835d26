"""What the reading of every format has in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from fitserve.datasets.column_types import Plan
from fitserve.errors import Problem


class Restart(Exception):
    """The file must be read again from the start, under the same plans."""


class Reader(Protocol):
    """A file in one of the formats."""

    problems: list[Problem]
    refused: int

    @property
    def names(self) -> Sequence[str]:
        """The columns; may grow when a Restart is raised."""
        ...

    def plans(self) -> list[Plan]:
        """A plan for each column, from a look at the file."""
        ...

    def batches(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers from 1, and the rows."""
        ...

    def locate(self, problems: list[Problem]) -> list[Problem]:
        """The problems with the file's lines."""
        ...
