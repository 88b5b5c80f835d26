"""What the reading of every format has in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from fitserve.datasets.judge import Plan
from fitserve.errors import Problem


class Restart(Exception):
    """The file must be read again from the start, under the same plans."""


class Reader(Protocol):
    """A file in one of the formats."""

    names: Sequence[str]
    typed: bool  # values come with their types (Parquet, Arrow), else as text
    problems: list[Problem]
    refused: int

    def plans(self) -> list[Plan]:
        """A plan for each column, from a look at the file."""
        ...

    def batches(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers from 1, and the rows."""
        ...

    def locate(self, problems: list[Problem]) -> list[Problem]:
        """The problems with the file's lines."""
        ...
