"""Columns divided into cells for slices, and the conditions that a few neighbouring cells form.

A numeric column or a date is divided at its quantiles, any other column into its most frequent categories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoding.coercion import labels_of, numbers_of
from fitserve.spec.spec import Spec
from workers.trainer.data.feeds import read_picked
from workers.trainer.data.preparation import PreparedData

RANGES = 8  # ranges of a numeric column
CATEGORIES = 20  # most frequent values of any other column
FEW_VALUES = 50  # most distinct values of a column that is not a feature, to be examined too
MAX_OTHERS = 60  # such columns

Array = NDArray[Any]
Condition = dict[str, Any]  # column and equals; or column, from and to; or column and missing; or column and others


@dataclass(frozen=True, slots=True)
class Group:
    """The cells from `first` up to, but without, `last`."""

    first: int
    last: int
    condition: Condition


@dataclass(frozen=True, slots=True)
class SlicedColumn:
    """`groups` are the conditions that are tried, `listed` those that divide the rows."""

    name: str
    cells: NDArray[np.int16]  # (rows,)
    count: int  # number of cells
    groups: tuple[Group, ...]
    listed: tuple[Group, ...]

    def holds(self, group: Group) -> NDArray[np.bool_]:
        """Return for which rows a condition holds, (rows,)."""
        return np.asarray((self.cells >= group.first) & (self.cells < group.last))


def raw_columns(
    prepared: PreparedData, path: Path, facts: DatasetFacts, spec: Spec, rows: Array
) -> Iterator[tuple[ColumnFacts, pa.ChunkedArray]]:
    """Yield columns with their values in some rows of `prepared.table`: features, protected columns, small others."""
    targets = {column for target in spec.target for column in target.columns}
    features = dict.fromkeys(feature.column for feature in spec.features or ())
    for name in features:
        yield facts.by_name[name], prepared.table.column(name).take(rows)
    small = [column.name for column in facts.columns if _is_small(column)][:MAX_OTHERS]
    others = [name for name in dict.fromkeys([*spec.protected, *small]) if name not in features and name not in targets]
    if others:
        numbers = rows if prepared.sampled is None else prepared.sampled[rows]
        order = np.argsort(numbers, kind="stable")
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        table = read_picked(path, others, numbers[order])
        for name in others:
            yield facts.by_name[name], table.column(name).take(back)


def _is_small(column: ColumnFacts) -> bool:
    return column.distinct + (column.missing > 0) > 1 and column.distinct <= FEW_VALUES


def sliced(column: ColumnFacts, values: pa.ChunkedArray, least: int) -> SlicedColumn | None:
    """Divide a column into groups of at least `least` rows; None if it cannot be divided."""
    numeric = column.kind in ("numeric", "datetime") or (
        column.kind == "ignored" and column.storage in ("int64", "float64", "timestamp") and column.distinct > RANGES
    )
    parts = _ranges(column, values) if numeric else _categories(column, values, least)
    sizes = np.concatenate([[0], np.cumsum(np.bincount(parts.cells, minlength=parts.count))])

    def large(groups: Sequence[Group]) -> tuple[Group, ...]:
        return tuple(one for one in groups if sizes[one.last] - sizes[one.first] >= least)

    listed = large(parts.listed)
    if len(listed) < 2:
        return None
    return SlicedColumn(parts.name, parts.cells, parts.count, large(parts.groups), listed)


def _ranges(column: ColumnFacts, values: pa.ChunkedArray) -> SlicedColumn:
    numbers = numbers_of(values)
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return SlicedColumn(column.name, np.zeros(len(numbers), np.int16), 1, (), ())
    numbers = np.clip(numbers, known.min(), known.max())  # infinite ones are in the outermost ranges
    edges = quantile_edges(known, RANGES)
    bins = len(edges) + 1
    cells = np.where(np.isnan(numbers), bins, np.searchsorted(edges, numbers, side="right")).astype(np.int16)
    missing = [Group(bins, bins + 1, {"column": column.name, "missing": True})]

    def group(first: int, last: int) -> Group:
        low = None if first == 0 else written(column, edges[first - 1])
        high = None if last == bins else written(column, edges[last - 1])
        return Group(first, last, {"column": column.name, "from": low, "to": high})

    whole = (0, bins) if not (cells == bins).any() else None  # every row, unless values are missing
    pairs = [(first, last) for first in range(bins) for last in range(first + 1, bins + 1) if (first, last) != whole]
    parts = [group(index, index + 1) for index in range(bins)] if bins > 1 else [group(0, 1)]
    return SlicedColumn(column.name, cells, bins + 1, (*(group(*pair) for pair in pairs), *missing), (*parts, *missing))


def quantile_edges(known: Array, ranges: int) -> Array:
    """Return the starts of ranges with about as many rows each, without the first; of few values, one range each."""
    distinct = np.unique(known)
    if len(distinct) <= ranges:
        return distinct[1:]
    cuts = np.quantile(known, np.linspace(0, 1, ranges + 1)[1:-1], method="higher")
    return np.unique(cuts[cuts > distinct[0]])


def written(column: ColumnFacts, number: float) -> int | float | str:
    """Return the end of a range for JSON: a number, or a day or time in ISO 8601."""
    if column.storage == "timestamp":
        moment = datetime.fromtimestamp(float(number), UTC).replace(tzinfo=None)
        return moment.date().isoformat() if column.date_only else moment.isoformat()
    return int(number) if float(number).is_integer() and abs(number) < 1 << 53 else float(number)


def _categories(column: ColumnFacts, values: pa.ChunkedArray, least: int) -> SlicedColumn:
    codes, labels = labels_of(values)
    counts = np.bincount(codes[codes >= 0], minlength=len(labels))
    largest = [int(index) for index in np.argsort(-counts, kind="stable")[:CATEGORIES] if counts[index] >= least]
    cell = np.full(len(labels) + 1, len(largest), np.int16)  # the others
    cell[-1] = len(largest) + 1  # missing, of code -1
    cell[largest] = np.arange(len(largest))
    name, others = column.name, len(labels) - len(largest)
    groups = [Group(index, index + 1, {"column": name, "equals": labels[code]}) for index, code in enumerate(largest)]
    groups.append(Group(len(largest) + 1, len(largest) + 2, {"column": name, "missing": True}))
    rest = Group(len(largest), len(largest) + 1, {"column": name, "others": others})
    return SlicedColumn(name, cell[codes], len(largest) + 2, tuple(groups), (*groups[:-1], rest, groups[-1]))
