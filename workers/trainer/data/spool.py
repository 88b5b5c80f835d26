"""Encoded rows on the scratch disk: read from Parquet and encoded once, then read back in any order.

Decoding Parquet again in each epoch takes longer than a small network's training. One file an array, its
rows one after the other, as they are in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from workers.trainer.data.encoded_rows import Encoded

SPARE = 1.2  # of the space that is needed must be free
KINDS = ("x", "y", "weight")


class Spool:
    """Pieces of encoded rows, written in order."""

    def __init__(self, folder: Path, pieces: Iterable[Encoded], progress: Callable[[], None]) -> None:
        """`progress` is called after each piece."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._starts = [0]
        self._shapes: dict[tuple[str, str], tuple[Path, Any, tuple[int, ...]]] = {}
        files: dict[tuple[str, str], Any] = {}
        try:
            for piece in pieces:
                for key, array in _arrays(piece).items():
                    if key not in files:
                        path = folder / f"{len(files)}.rows"
                        files[key] = path.open("wb")
                        self._shapes[key] = (path, array.dtype, array.shape[1:])
                    files[key].write(np.ascontiguousarray(array).data)
                self._starts.append(self._starts[-1] + piece.rows)
                progress()
        finally:
            for file in files.values():
                file.close()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, piece: int) -> Encoded:
        """One of the pieces."""
        start, stop = self._starts[piece : piece + 2]
        parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
        for (kind, name), (path, dtype, shape) in self._shapes.items():
            size = int(np.prod(shape))
            flat = np.fromfile(path, dtype, (stop - start) * size, offset=start * size * dtype.itemsize)
            parts[kind][name] = flat.reshape(stop - start, *shape)
        return Encoded(parts["x"], parts["y"], parts["weight"] or None)


def fits(folder: Path, size: int) -> bool:
    """Whether the disk has room for so many bytes."""
    return shutil.disk_usage(folder).free > SPARE * size


def _arrays(part: Encoded) -> dict[tuple[str, str], np.ndarray]:
    return {(kind, name): array for kind in KINDS for name, array in (getattr(part, kind) or {}).items()}
