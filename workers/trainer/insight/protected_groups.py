"""The groups of protected columns that each held-out row belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.decisions.held_out import HeldOutParts
from fitserve.encoding.coercion import labels_of, numbers_of
from fitserve.spec.protected import has_ranges
from workers.trainer.data.feeds import read_picked
from workers.trainer.insight.slice_columns import quantile_edges, written

RANGES = 4  # ranges of a numeric column


def with_groups(parts: HeldOutParts, columns: Sequence[str], path: Path, facts: DatasetFacts) -> HeldOutParts:
    """Return the held-out rows with the groups of these columns, which need not be features."""
    if not columns or not parts.parts:
        return parts
    rows = np.unique(np.concatenate([part.rows for part in parts.parts.values()]))
    table = read_picked(path, list(columns), rows)
    groups = {name: _groups(facts.by_name[name], table.column(name)) for name in columns}
    return HeldOutParts(
        {
            part: replace(own, groups={name: of[np.searchsorted(rows, own.rows)] for name, of in groups.items()})
            for part, own in parts.parts.items()
        },
        parts.conformal,
    )


def _groups(column: ColumnFacts, values: pa.ChunkedArray) -> NDArray[Any]:
    """Return the group of each row, a text, or None where the value is missing."""
    if not has_ranges(column):
        codes, labels = labels_of(values)
        return np.array([*labels, None], object)[codes]
    numbers = numbers_of(values)
    known = numbers[np.isfinite(numbers)]
    edges = quantile_edges(known, RANGES) if len(known) else known
    ends = [written(column, edge) for edge in edges]
    names = [f"{low} to < {high}" for low, high in pairwise(ends)]
    names = [f"< {ends[0]}", *names, f"≥ {ends[-1]}"] if ends else [str(written(column, one)) for one in known[:1]]
    places = np.where(np.isnan(numbers), len(names), np.searchsorted(edges, numbers, side="right"))
    return np.array([*names, None], object)[places]
