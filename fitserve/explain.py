"""Questions to a trained network through its serving graph: surfaces over two columns, and integrated gradients.

A network is a function from encoded inputs to outputs (`Predict`); NumPy does the rest. Rows that are asked about
differ from a reference row, every column's median or most frequent value on the training rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.encoder import Encoder
from fitserve.encoding.fitted_column import TEXTS, FittedColumn
from fitserve.errors import BadInput, NotFound

Inputs = Mapping[str, NDArray[Any]]
Predict = Callable[[Inputs], NDArray[np.float64]]  # (rows, units)
Row = Mapping[str, Any]

MOST_STEPS = 200
CHUNK = 4096  # rows of one call
PATH_STEPS = (8, 64)
PATH_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class Axis:
    """The raw values of a column that a surface is asked at."""

    column: str
    values: tuple[Any, ...]


def axis_of(encoder: Encoder, name: str, steps: int, low: float | None = None, high: float | None = None) -> Axis:
    """An axis: numbers evenly from `low` to `high` (left out: as the training rows went), or every label.

    Raises NotFound, and BadInput where the column is text or the bounds are none.
    """
    column = column_of(encoder, name)
    if column.type in TEXTS or column.type == "hashing":
        raise BadInput(
            f"{name!r} is {column.type}: its values have no order and no list.",
            received=name,
            expected="a numeric, boolean, categorical or datetime column",
        )
    if not 2 <= steps <= MOST_STEPS:
        raise BadInput("That many steps cannot be shown.", received=steps, expected=f"2 to {MOST_STEPS} steps")
    if column.type in ("one_hot", "index"):
        return Axis(name, tuple(column.fitted["labels"][:MOST_STEPS]))
    if column.type == "boolean":
        return Axis(name, (column.fitted["false"], column.fitted["true"]))
    first = column.fitted.get("min", 0.0) if low is None else low
    last = column.fitted.get("max", 86_400.0 * 366) if high is None else high
    if not (math.isfinite(first) and math.isfinite(last) and first <= last):
        raise BadInput("These are no bounds of an axis.", received=[low, high], expected="two numbers, the lower first")
    if first == last:
        first, last = first - 1.0, last + 1.0
    return Axis(name, tuple(float(value) for value in np.linspace(first, last, steps)))


def column_of(encoder: Encoder, name: str) -> FittedColumn:
    """The encoder's column of this name. Raises NotFound."""
    for column in encoder.columns:
        if column.name == name:
            return column
    raise NotFound(
        f"The network reads no column {name[:80]!r}.", received=name[:80], expected=", ".join(encoder.names[:20])
    )


def surface(encoder: Encoder, reference: Row, predict: Predict, x: Axis, y: Axis) -> NDArray[np.float64]:
    """What the network says at every pair of values: (len(y), len(x), units). Others stay at the reference."""
    if x.column == y.column:
        raise BadInput("A surface needs two different columns.", received=x.column)
    base, _ = encoder.encode_rows([reference])
    rows = len(x.values) * len(y.values)
    grid = {name: np.repeat(values, rows, axis=0) for name, values in base.items()}
    across, down = np.tile(np.arange(len(x.values)), len(y.values)), np.repeat(np.arange(len(y.values)), len(x.values))
    for axis, places in ((x, across), (y, down)):
        column = column_of(encoder, axis.column)
        encoded, _ = encoder.encode_rows([{**reference, axis.column: value} for value in axis.values])
        part = slice(column.offset, column.offset + column.width)
        grid[column.input][:, part] = encoded[column.input][places, part]
    said = in_chunks(predict, grid)
    return said.reshape(len(y.values), len(x.values), -1)


@dataclass(frozen=True, slots=True)
class Attribution:
    """Integrated gradients of one prediction. `contributions` (by column) sum to `output - reference_output`."""

    output: float
    reference_output: float
    contributions: dict[str, float]
    steps: int

    @property
    def completeness_error(self) -> float:
        """How far the sum misses the change in output."""
        return abs(sum(self.contributions.values()) - (self.output - self.reference_output))


def attribute(encoder: Encoder, reference: Row, row: Row, predict: Predict, unit: int = 0) -> Attribution:
    """Integrated gradients (Sundararajan, Taly and Yan 2017) from the reference to `row`, by raw column.

    The path is cut into steps; within each, columns are moved one after the other, forwards and backwards, and what
    the output changes by is theirs. The mean of both orders is the integral up to second order in the step, and the sum
    over columns is the change in output exactly. Integer inputs (embeddings) cannot move gradually: they jump in the
    middle of the path. Raises BadInput naming the column of a value that cannot be read.
    """
    start, _ = encoder.encode_rows([reference])
    end, _ = encoder.encode_rows([row])
    moved = [column for column in encoder.columns if _moves(column, start, end)]
    steps = int(np.clip(PATH_ROWS // (2 * (len(moved) + 1)), *PATH_STEPS))
    steps -= steps % 2
    totals = np.zeros(len(moved))
    for order in (range(len(moved)), range(len(moved) - 1, -1, -1)):
        totals += _along(start, end, [moved[at] for at in order], predict, unit, steps)[np.argsort(order)] / 2
    ends = in_chunks(predict, {name: np.concatenate([start[name], end[name]]) for name in start})[:, unit]
    given = dict.fromkeys(encoder.names, 0.0)
    given |= {column.name: float(total) for column, total in zip(moved, totals, strict=True)}
    return Attribution(float(ends[1]), float(ends[0]), given, steps)


def _moves(column: FittedColumn, start: Inputs, end: Inputs) -> bool:
    part = slice(column.offset, column.offset + column.width)
    return not np.array_equal(start[column.input][:, part], end[column.input][:, part])


def _along(
    start: Inputs, end: Inputs, moved: Sequence[FittedColumn], predict: Predict, unit: int, steps: int
) -> NDArray[np.float64]:
    """What each column changes in total when in every step the columns move in this order."""
    totals = np.zeros(len(moved))
    for step in range(steps):
        here, there = _point(start, end, step, steps), _point(start, end, step + 1, steps)
        rows = {name: np.repeat(values, len(moved) + 1, axis=0) for name, values in here.items()}
        for place, column in enumerate(moved):
            part = slice(column.offset, column.offset + column.width)
            rows[column.input][place + 1 :, part] = there[column.input][:, part]
        totals += np.diff(in_chunks(predict, rows)[:, unit])
    return totals


def _point(start: Inputs, end: Inputs, step: int, steps: int) -> dict[str, NDArray[Any]]:
    point = {}
    for name, first in start.items():
        last, share = end[name], step / steps
        if step in (0, steps) or not np.issubdtype(first.dtype, np.floating):
            point[name] = last if step == steps or (step and share >= 0.5) else first
        else:
            point[name] = (first + (last - first) * np.float32(share)).astype(first.dtype)
    return point


def in_chunks(predict: Predict, rows: Inputs) -> NDArray[np.float64]:
    """`predict`, some thousand rows at a time: bounded memory."""
    count = len(next(iter(rows.values())))
    parts = [predict({name: values[at : at + CHUNK] for name, values in rows.items()}) for at in range(0, count, CHUNK)]
    return np.concatenate([np.asarray(part, np.float64).reshape(len(part), -1) for part in parts])
