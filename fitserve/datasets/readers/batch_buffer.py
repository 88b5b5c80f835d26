"""Joins a parser's small batches to larger ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fitserve.settings import MB

BATCH_BYTES = 4 * MB
BATCH_ROWS = 32_768


class BatchBuffer:
    """Gathers batches, and the numbers of their rows, until there are enough for a large one."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, pa.RecordBatch]] = []
        self.rows = self.bytes = 0

    def add(self, numbers: np.ndarray, batch: pa.RecordBatch) -> bool:
        """Add a batch; return whether the buffer is full."""
        if batch.num_rows:
            self._parts.append((numbers, batch))
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
        return self.rows >= BATCH_ROWS or self.bytes >= BATCH_BYTES

    def drain(self) -> tuple[np.ndarray, pa.RecordBatch]:
        """Return all rows as one batch and empty the buffer."""
        parts, self._parts, self.rows, self.bytes = self._parts, [], 0, 0
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([numbers for numbers, _ in parts]), pa.concat_batches([batch for _, batch in parts])
