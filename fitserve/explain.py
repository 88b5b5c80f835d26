"""Explain a network through its serving graph: surfaces over two columns, integrated gradients, Shapley values.

A network is a function of encoded inputs (`Predict`) or of raw rows (`PredictRows`); NumPy does the rest.

There are two attributions because they answer different questions. Integrated gradients take one unit's change from
a reference row to a row, by a path whose cost grows with the number of columns alone: a run's page asks for that, and
shows how exact it is. Shapley values tell for every output and unit at once what each column adds to not knowing it:
the serving protocols' `explain`, whose rows need not be near anything, and whose cost grows with the coalitions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve.encoder import Encoder
from fitserve.encoding.raw_column import RawColumn
from fitserve.errors import BadInput, NotFound, TooLarge

Array = NDArray[Any]
Inputs = Mapping[str, Array]
Predict = Callable[[Inputs], NDArray[np.float64]]  # (rows, units)
PredictRows = Callable[[list[list[Any]]], Mapping[str, Array]]  # rows by position; by output, (rows, units)
Row = Mapping[str, Any]

MAX_STEPS = 200
CHUNK = 4096  # rows of one call
PATH_STEPS = (8, 64)
PATH_ROWS = 200_000
EXACT_COLUMNS = 8  # up to this many columns, all coalitions are evaluated
PERMUTATION_PAIRS = 16  # with more columns: permutations, each with its reverse
MAX_EVALUATIONS = 200_000  # most rows that the network may infer for one request


# Surfaces


@dataclass(frozen=True, slots=True)
class Axis:
    """The raw values of a column along one side of a surface."""

    column: str
    values: tuple[Any, ...]


def axis_of(encoder: Encoder, name: str, steps: int, low: float | None = None, high: float | None = None) -> Axis:
    """Return an axis: numbers evenly from `low` to `high` (by default the training rows' range), or every label.

    Raises NotFound, and BadInput where the column is text or hashed, or the bounds are not usable.
    """
    column = column_of(encoder, name).leading
    if not 2 <= steps <= MAX_STEPS:
        raise BadInput("That many steps cannot be shown.", received=steps, expected=f"2 to {MAX_STEPS} steps")
    return Axis(name, tuple(column.axis_values(steps, low, high)[:MAX_STEPS]))


def column_of(encoder: Encoder, name: str) -> RawColumn:
    """Return the encoder's raw column of this name. Raises NotFound."""
    for column in encoder.raw_columns:
        if column.name == name:
            return column
    raise NotFound(
        f"The network reads no column {name[:80]!r}.", received=name[:80], expected=", ".join(encoder.names[:20])
    )


def surface(encoder: Encoder, reference: Row, predict: Predict, x: Axis, y: Axis) -> NDArray[np.float64]:
    """Return the predictions at every pair of values: (len(y), len(x), units). Other columns stay at the reference."""
    if x.column == y.column:
        raise BadInput("A surface needs two different columns.", received=x.column)
    base, _ = encoder.encode_rows([reference])
    rows = len(x.values) * len(y.values)
    grid = {name: np.repeat(values, rows, axis=0) for name, values in base.items()}
    across, down = np.tile(np.arange(len(x.values)), len(y.values)), np.repeat(np.arange(len(y.values)), len(x.values))
    for axis, indices in ((x, across), (y, down)):
        encoded, _ = encoder.encode_rows([{**reference, axis.column: value} for value in axis.values])
        for part in column_of(encoder, axis.column).parts:
            grid[part.input][:, part.part] = encoded[part.input][indices, part.part]
    return in_chunks(predict, grid).reshape(len(y.values), len(x.values), -1)


def in_chunks(predict: Predict, rows: Inputs) -> NDArray[np.float64]:
    """Call `predict` on some thousand rows at a time: bounded memory."""
    count = len(next(iter(rows.values())))
    parts = [
        predict({name: values[index : index + CHUNK] for name, values in rows.items()})
        for index in range(0, count, CHUNK)
    ]
    return np.concatenate([np.asarray(part, np.float64).reshape(len(part), -1) for part in parts])


# Integrated gradients


@dataclass(frozen=True, slots=True)
class Attribution:
    """Integrated gradients of one prediction. `contributions` (by column) sum to `output - reference_output`."""

    output: float
    reference_output: float
    contributions: dict[str, float]
    steps: int

    @property
    def completeness_error(self) -> float:
        """The difference between the contributions' sum and the change in output."""
        return abs(sum(self.contributions.values()) - (self.output - self.reference_output))


def attribute(encoder: Encoder, reference: Row, row: Row, predict: Predict, unit: int = 0) -> Attribution:
    """Return integrated gradients (Sundararajan, Taly and Yan 2017) from the reference to `row`, by raw column.

    The path is cut into steps; within each, columns are moved one after the other, forwards and backwards, and each
    is credited with the change in output that follows. The mean of both orders is the integral up to second order in
    the step, and the sum over columns is the change in output exactly. Integer inputs (embeddings) cannot move
    gradually: they jump in the middle of the path. Raises BadInput naming the column of an unreadable value.
    """
    start, _ = encoder.encode_rows([reference])
    end, _ = encoder.encode_rows([row])
    moved = [column for column in encoder.raw_columns if _differs(column, start, end)]
    steps = int(np.clip(PATH_ROWS // (2 * (len(moved) + 1)), *PATH_STEPS))
    steps -= steps % 2
    totals = np.zeros(len(moved))
    for order in (range(len(moved)), range(len(moved) - 1, -1, -1)):
        totals += (
            _changes_along(start, end, [moved[index] for index in order], predict, unit, steps)[np.argsort(order)] / 2
        )
    ends = in_chunks(predict, {name: np.concatenate([start[name], end[name]]) for name in start})[:, unit]
    contributions = dict.fromkeys(encoder.names, 0.0)
    contributions |= {column.name: float(total) for column, total in zip(moved, totals, strict=True)}
    return Attribution(float(ends[1]), float(ends[0]), contributions, steps)


def _differs(column: RawColumn, start: Inputs, end: Inputs) -> bool:
    return any(not np.array_equal(start[p.input][:, p.part], end[p.input][:, p.part]) for p in column.parts)


def _changes_along(
    start: Inputs, end: Inputs, moved: Sequence[RawColumn], predict: Predict, unit: int, steps: int
) -> NDArray[np.float64]:
    """Return the total change in output by each column, which move in this order in every step."""
    totals = np.zeros(len(moved))
    for step in range(steps):
        before, after = _point(start, end, step, steps), _point(start, end, step + 1, steps)
        rows = {name: np.repeat(values, len(moved) + 1, axis=0) for name, values in before.items()}
        for place, column in enumerate(moved):
            for part in column.parts:
                rows[part.input][place + 1 :, part.part] = after[part.input][:, part.part]
        totals += np.diff(in_chunks(predict, rows)[:, unit])
    return totals


def _point(start: Inputs, end: Inputs, step: int, steps: int) -> dict[str, Array]:
    """Return the encoded row after so many steps of the path."""
    point = {}
    for name, first in start.items():
        last, share = end[name], step / steps
        if step in (0, steps) or not np.issubdtype(first.dtype, np.floating):
            point[name] = last if step == steps or (step and share >= 0.5) else first
        else:
            point[name] = (first + (last - first) * np.float32(share)).astype(first.dtype)
    return point


# Shapley values


@dataclass(frozen=True, slots=True)
class ShapleyValues:
    """`contributions[output]` has shape (rows, columns, units); `baseline[output]`, the baseline's, (units,)."""

    baseline: dict[str, Array]
    contributions: dict[str, Array]


def shapley(rows: Sequence[Sequence[Any]], baseline: Sequence[Any], predict: PredictRows) -> ShapleyValues:
    """Return each column's contribution to each row's prediction, against the prediction for `baseline`.

    For every row the contributions add up to its prediction minus the baseline's. Up to EXACT_COLUMNS all coalitions
    are evaluated; beyond, permutations and their reverses are averaged, drawn with a fixed seed, so the sum still
    holds exactly and the same request gets the same answer. Raises BadInput, TooLarge.

    Sources: L. Shapley, "A value for n-person games" (1953); E. Strumbelj and I. Kononenko (2014) for sampling;
    R. Mitchell et al., "Sampling Permutations for Shapley Value Estimation" (2022) for reversed pairs.
    """
    width = len(baseline)
    coalitions = list(_coalitions(width))
    if len(rows) * len(coalitions) > MAX_EVALUATIONS:
        raise TooLarge(
            "These rows have too many columns to explain at once.",
            received=len(rows),
            expected=f"at most {MAX_EVALUATIONS // len(coalitions)} rows",
        )
    of_baseline = predict([list(baseline)])
    contributions: dict[str, list[Array]] = {name: [] for name in of_baseline}
    for row in rows:
        mixed = [
            [row[index] if taken >> index & 1 else baseline[index] for index in range(width)] for taken in coalitions
        ]
        for name, values in predict(mixed).items():
            contributions[name].append(_contributions(coalitions, values.astype(np.float64), width))
    return ShapleyValues(
        {name: values[0] for name, values in of_baseline.items()},
        {name: np.stack(parts) for name, parts in contributions.items()},
    )


def _coalitions(width: int) -> Iterator[int]:
    """Yield bit sets of the columns to take from the row: all of them, or the prefixes of permutations."""
    if width <= EXACT_COLUMNS:
        yield from range(1 << width)
        return
    generator = np.random.default_rng(0)
    for _ in range(PERMUTATION_PAIRS):
        order = generator.permutation(width).tolist()
        for one in (order, order[::-1]):
            taken = 0
            yield taken
            for column in one:
                taken |= 1 << column
                yield taken


def _contributions(coalitions: Sequence[int], values: Array, width: int) -> Array:
    """Turn `values` of shape (coalitions, units) into contributions of shape (columns, units)."""
    totals = np.zeros((width, values.shape[1]))
    if width <= EXACT_COLUMNS:
        for taken in coalitions:
            for index in range(width):
                if not taken >> index & 1:
                    size = taken.bit_count()
                    weight = math.factorial(size) * math.factorial(width - size - 1) / math.factorial(width)
                    totals[index] += weight * (values[taken | 1 << index] - values[taken])
        return totals
    for step, (before, after) in enumerate(itertools.pairwise(coalitions)):
        if (added := after & ~before) and before & ~after == 0:
            totals[added.bit_length() - 1] += values[step + 1] - values[step]
    return totals / (2 * PERMUTATION_PAIRS)
