"""Contributions of each raw column to an answer: Shapley values against a typical row.

For every row the contributions add up to the answer minus the baseline's answer. Up to EXACT columns all
coalitions are computed; beyond, permutations and their reverses are averaged, drawn with a fixed seed, so the
sum still holds exactly and the same request gets the same answer.

Sources: L. Shapley, "A value for n-person games" (1953); E. Strumbelj and I. Kononenko (2014) for sampling;
R. Mitchell et al., "Sampling Permutations for Shapley Value Estimation" (2022) for reversed pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitserve.errors import TooLarge
from services.predict.catalog.loaded_model import Network
from services.predict.serving.rows import Rows

EXACT = 8  # columns
PAIRS = 16  # permutations, each with its reverse
MOST_EVALUATIONS = 200_000  # rows inferred for one request

Floats = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`contributions[output]` has shape (rows, columns, units); `baseline[output]` has shape (units,)."""

    columns: tuple[str, ...]
    baseline_row: list[Any]
    baseline: dict[str, Floats]
    contributions: dict[str, Floats]


def explain(network: Network, rows: Rows) -> Explanation:
    """The contributions of each column, for each row. Raises BadInput, TooLarge."""
    width = len(network.columns.names)
    plans = list(_coalitions(width))
    if rows.count * len(plans) > MOST_EVALUATIONS:
        raise TooLarge(
            "These rows have too many columns to explain at once.",
            received=rows.count,
            expected=f"at most {MOST_EVALUATIONS // len(plans)} rows",
        )
    typical = baseline_row(network)
    base = network.predict(Rows([typical])).outputs
    found: dict[str, list[Floats]] = {output.name: [] for output in network.outputs}
    for row in positional(network, rows):
        mixed = [[row[at] if chosen >> at & 1 else typical[at] for at in range(width)] for chosen in plans]
        answers = network.predict(Rows(mixed)).outputs
        for name, values in answers.items():
            found[name].append(_shapley(plans, values.astype(np.float64), width))
    contributions = {name: np.stack(parts) for name, parts in found.items()}
    return Explanation(network.columns.names, typical, {name: v[0] for name, v in base.items()}, contributions)


def positional(network: Network, rows: Rows) -> list[list[Any]]:
    """The same rows as lists in the columns' order."""
    names = network.columns.names
    listed = rows.values.tolist() if isinstance(rows.values, np.ndarray) else rows.values
    return [[row.get(name) for name in names] if isinstance(row, dict) else list(row) for row in listed]


def baseline_row(network: Network) -> list[Any]:
    """A typical row: what stands for a missing number, the most frequent label, an empty text."""
    known = network.manifest.get("training_distribution") or {}
    return [_typical(column, known.get(column.name) or {}) for column in network.columns.fitted]


def _typical(column: Any, distribution: dict[str, Any]) -> Any:
    if "fill" in column.fitted:
        return column.fitted["fill"]
    if frequencies := distribution.get("frequencies"):
        pairs = frequencies.items() if isinstance(frequencies, dict) else frequencies
        return max(pairs, key=lambda pair: pair[1])[0]
    if labels := column.fitted.get("labels"):
        return labels[0]
    if column.type == "boolean":
        return False
    return distribution.get("mean", 0.0) if column.type == "cyclic" else ""


def _coalitions(width: int) -> Iterator[int]:
    """Bit sets of the columns that are taken from the row: all of them, or the prefixes of permutations."""
    if width <= EXACT:
        yield from range(1 << width)
        return
    generator = np.random.default_rng(0)
    for _ in range(PAIRS):
        order = generator.permutation(width).tolist()
        for one in (order, order[::-1]):
            chosen = 0
            yield chosen
            for column in one:
                chosen |= 1 << column
                yield chosen


def _shapley(plans: list[int], values: Floats, width: int) -> Floats:
    """`values` of shape (coalitions, units) to contributions of shape (columns, units)."""
    found = np.zeros((width, values.shape[1]))
    if width <= EXACT:
        for chosen in plans:
            for at in range(width):
                if not chosen >> at & 1:
                    size = chosen.bit_count()
                    weight = math.factorial(size) * math.factorial(width - size - 1) / math.factorial(width)
                    found[at] += weight * (values[chosen | 1 << at] - values[chosen])
        return found
    for step, (before, after) in enumerate(itertools.pairwise(plans)):
        if (added := after & ~before) and before & ~after == 0:
            found[added.bit_length() - 1] += values[step + 1] - values[step]
    return found / (2 * PAIRS)
