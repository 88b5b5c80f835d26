"""Which columns matter: how much worse the loss becomes when a column's values are dealt out anew (Breiman 2001)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.encoding import FittedColumn

Encoded = Mapping[str, NDArray[Any]]
RowLosses = Callable[[Encoded, NDArray[np.int64]], NDArray[np.float64]]
REPEATS = 10
ROWS, LEAST_ROWS = 2_000, 300  # of many columns, fewer rows are asked about
MANY_COLUMNS = 50


def permutation(
    columns: Sequence[FittedColumn], encoded: Encoded, losses: RowLosses, *, seconds: float, seed: int = 0
) -> list[dict[str, Any]]:
    """Each raw column's importance, the most important first.

    Args:
        columns: of the encoder, which say what part of which input they fill; those that matter most first.
        encoded: network inputs of held-out rows.
        losses: gives the loss of each row, (rows,) float64, for such inputs of the rows with these numbers.
        seconds: stops after about so long; columns that were not reached are left out.
        seed: of the permutations.

    Returns entries `{"column", "importance", "low", "high", "repeats"}`: the mean rise of the mean loss over repeats,
    with a 95% interval of that mean (normal, over rows and repeats).
    """
    generator = np.random.default_rng(seed)
    rows = len(next(iter(encoded.values())))
    most = int(np.clip(ROWS * MANY_COLUMNS // max(1, len(columns)), LEAST_ROWS, ROWS))
    kept = np.sort(generator.choice(rows, most, replace=False)) if rows > most else np.arange(rows)
    whole = {name: np.array(values[kept]) for name, values in encoded.items()}
    plain = losses(whole, kept)
    rises: dict[str, list[NDArray[np.float64]]] = {column.name: [] for column in columns}
    deadline = time.perf_counter() + seconds
    for repeat in range(REPEATS):
        for column in columns:
            if time.perf_counter() > deadline and (repeat or column is not columns[0]):
                return _entries(rises)
            part = column.part
            before = whole[column.input][:, part].copy()
            whole[column.input][:, part] = before[generator.permutation(len(kept))]
            rises[column.name].append(losses(whole, kept) - plain)
            whole[column.input][:, part] = before
    return _entries(rises)


def _entries(rises: Mapping[str, Sequence[NDArray[np.float64]]]) -> list[dict[str, Any]]:
    entries = []
    for name, found in rises.items():
        if not found:
            continue
        by_row = np.mean(found, axis=0)
        mean = float(by_row.mean())
        error = float(by_row.std(ddof=1) / np.sqrt(len(by_row))) if len(by_row) > 1 else 0.0
        again = float(np.std([one.mean() for one in found], ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
        half = 1.96 * float(np.hypot(error, again))
        entry = {"column": name, "importance": mean, "low": mean - half, "high": mean + half, "repeats": len(found)}
        entries.append({key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in entry.items()})
    return sorted(entries, key=lambda entry: -entry["importance"])
