"""Slices: how well the network predicts by category and range of each column, and where it is worst.

The worst slices are searched in one half of the held-out rows and tested in the other half, which took no part in the
search: so their figures and p-values hold however many slices were tried. A slice has one condition or two. Listed are
those that are worse than the rest by Welch's t-test (1947), one-sided, with the false discovery rate of Benjamini and
Hochberg (1995). The search is a subgroup discovery (Chung et al. 2019, Sagadeeva and Boehm 2021): each next slice is
searched among the rows that the earlier ones do not cover.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fitserve.strictjson import finite_json
from fitserve.wire.insight import FEWEST_SEARCHED
from workers.trainer.insight.evaluation import sample_rows
from workers.trainer.insight.slice_columns import Group, SlicedColumn

MAX_ROWS = 50_000  # examined
MAX_CELLS = 8_000_000  # rows times columns
LEAST, LEAST_SHARE = 20, 0.01  # rows of a slice, and their share of all
LEAST_JUDGED = 8  # rows of a slice in the half that tests it
PAIRED = 40  # columns of which every pair is tried: the most promising ones
POOL = 400  # slices that compete
FOUND = 10  # slices that are tested
OWN = 0.5  # share of a slice's rows that no earlier slice covers
SECOND_CONDITION = (
    1.0  # standard errors that it must gain: of a slice that is all bad, some part is the worst by chance
)
FALSE_DISCOVERIES = 0.01
CLIPPED = 0.98  # quantile of the losses above which the search counts them alike
LISTED = 2_000  # groups of all columns

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowFigures:
    """Figures of every examined row: its loss, and for a classification whether the label was right."""

    metric: str  # log_loss or mae
    losses: Floats
    more: dict[str, Floats]  # by name: means that are shown beside it
    truth: NDArray[Any]  # label indices, or numbers

    def guessing(self, rows: Booleans) -> float:
        """Return the loss of the best constant answer for some rows."""
        truth = self.truth[rows]
        if self.metric == "mae":
            return float(np.abs(truth - np.median(truth)).mean())
        shares = np.unique(truth, return_counts=True)[1] / len(truth)
        return float(-(shares * np.log(shares)).sum())


@dataclass(frozen=True, slots=True)
class Slice:
    """Conditions of one or two columns, which hold together."""

    parts: tuple[tuple[SlicedColumn, Group], ...]

    def holds(self) -> Booleans:
        """Return for which rows the slice's conditions hold, (rows,)."""
        return np.logical_and.reduce([column.holds(group) for column, group in self.parts])


def least_rows(rows: int) -> int:
    """Return how many rows a slice needs."""
    return max(LEAST, int(np.ceil(LEAST_SHARE * rows)))


def sampled_rows(rows: int, columns: int, seed: int) -> NDArray[Any]:
    """Return which of the rows are examined, all or a sample."""
    return sample_rows(rows, min(MAX_ROWS, max(10 * FEWEST_SEARCHED, MAX_CELLS // max(1, columns))), seed)


def report(columns: Sequence[SlicedColumn], figures: RowFigures, *, seconds: float, seed: int) -> dict[str, Any]:
    """Return the worst slices and the figures by column; of very many columns, as many as `seconds` suffice for."""
    losses = figures.losses
    slices = []
    if len(losses) >= FEWEST_SEARCHED and np.ptp(losses) > 0:
        slices = _worst(columns, figures, time.perf_counter() + seconds, seed)
    by_column, left_out = _by_column(columns, figures, time.perf_counter() + seconds)
    return dict(
        finite_json(
            {
                "rows": len(losses),
                "metric": figures.metric,
                "value": losses.mean() if len(losses) else None,
                "more": {name: values.mean() if len(values) else None for name, values in figures.more.items()},
                "least_rows": least_rows(len(losses)),
                "fewest_searched": FEWEST_SEARCHED,
                "false_discoveries": FALSE_DISCOVERIES,
                "worst": slices,
                "columns": by_column,
                "left_out": left_out,
            },
            8,
        )
    )


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the false discovery rate (Benjamini and Hochberg 1995)."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values)
    scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
    rising = np.minimum.accumulate(scaled[::-1])[::-1]
    result = np.empty(len(values))
    result[order] = np.minimum(rising, 1.0)
    return [float(value) for value in result]


def p_value_of_worse(inside: Floats, outside: Floats) -> float:
    """Return the p-value of the mean inside being higher: Welch's, or Student's where that is larger.

    A few rows with equal losses have no variance of their own; Student's test uses that of all rows.
    """
    if len(inside) < 2 or len(outside) < 2 or inside.mean() <= outside.mean():
        return 1.0
    difference = float(inside.mean() - outside.mean())
    spread, freedom = _welch(inside, outside)
    total = len(inside) + len(outside) - 2
    pooled = ((len(inside) - 1) * inside.var(ddof=1) + (len(outside) - 1) * outside.var(ddof=1)) / total
    common = float(np.sqrt(pooled * (1 / len(inside) + 1 / len(outside))))
    tests = [(spread, freedom), (common, total)]
    return max(float(special.stdtr(of, -difference / error)) if error > 0 else 0.0 for error, of in tests)


def _welch(inside: Floats, outside: Floats) -> tuple[float, float]:
    """Return the standard error of the difference of two means, and its degrees of freedom."""
    first, second = inside.var(ddof=1) / len(inside), outside.var(ddof=1) / len(outside)
    total = first + second
    if total <= 0:
        return 0.0, 1.0
    return float(np.sqrt(total)), float(total**2 / (first**2 / (len(inside) - 1) + second**2 / (len(outside) - 1)))


def _worst(columns: Sequence[SlicedColumn], figures: RowFigures, deadline: float, seed: int) -> list[dict[str, Any]]:
    rows = len(figures.losses)
    order = np.random.default_rng(seed).permutation(rows)
    searched, judged = np.sort(order[: rows // 2]), np.sort(order[rows // 2 :])
    candidates = _search(columns, figures.losses, searched, deadline)
    tested: list[tuple[Slice, Booleans, float]] = []
    losses, earlier = figures.losses[judged], np.zeros(len(judged), np.bool_)
    for one in candidates:
        whole = one.holds()
        inside = whole[judged]
        own = inside & ~earlier
        if own.sum() >= LEAST_JUDGED:
            tested.append((one, whole, p_value_of_worse(losses[own], losses[~(inside | earlier)])))
        earlier |= inside
    p_values = adjusted([p for _, _, p in tested]) if tested else []
    slices = []
    for (one, whole, p), p_adjusted in zip(tested, p_values, strict=True):
        if p_adjusted > FALSE_DISCOVERIES:
            continue
        half = np.zeros(rows, np.bool_)
        half[judged] = True
        slices.append(
            {
                "conditions": [group.condition for _, group in one.parts],
                "rows": int(whole.sum()),
                "share": float(whole.mean()),
                **_entry(figures, whole & half, ~whole & half),
                "judged_rows": int((whole & half).sum()),
                "guessing": figures.guessing(whole & half),
                "p_value": p,
                "p_adjusted": p_adjusted,
            }
        )
    return sorted(slices, key=lambda entry: -float(entry["difference"]))


def _entry(figures: RowFigures, inside: Booleans, outside: Booleans) -> dict[str, Any]:
    """Return the mean loss of some rows and its difference from that of the others, with 95% intervals."""
    own, rest = figures.losses[inside], figures.losses[outside]
    entry: dict[str, Any] = {
        "value": own.mean(),
        "interval": None,
        "rest": rest.mean() if len(rest) else None,
        "difference": own.mean() - rest.mean() if len(rest) else None,
        "difference_interval": None,
        "more": {name: values[inside].mean() for name, values in figures.more.items()},
    }
    if len(own) > 1:
        reach = special.stdtrit(len(own) - 1, 0.975) * own.std(ddof=1) / np.sqrt(len(own))
        entry["interval"] = [max(0.0, own.mean() - reach), own.mean() + reach]
    if len(own) > 1 and len(rest) > 1:
        spread, freedom = _welch(own, rest)
        reach = special.stdtrit(freedom, 0.975) * spread
        entry["difference_interval"] = [entry["difference"] - reach, entry["difference"] + reach]
    return entry


def _search(columns: Sequence[SlicedColumn], losses: Floats, rows: NDArray[Any], deadline: float) -> list[Slice]:
    """Return slices with higher losses in these rows, the most striking first; none covers another's rows again."""
    clipped = np.minimum(losses, np.quantile(losses, CLIPPED))[rows]
    excess = clipped - clipped.mean()
    spread = float(excess.std())
    least, most = max(LEAST_JUDGED, least_rows(len(losses)) // 2), len(rows) // 2
    if spread == 0 or not columns:
        return []

    def scores(counts: Any, sums: Any) -> Any:
        """Return by how many standard errors the mean inside exceeds the mean outside."""
        outside = np.maximum(len(rows) - counts, 1)
        inside = np.maximum(counts, 1)
        score = (sums / inside + sums / outside) / (spread * np.sqrt(1 / inside + 1 / outside))
        return np.where((counts >= least) & (counts <= most), score, -np.inf)

    pool: list[tuple[float, Slice]] = []
    promise = np.full(len(columns), -np.inf)
    ends = [(np.array([g.first for g in c.groups]), np.array([g.last for g in c.groups])) for c in columns]
    cells = [column.cells[rows].astype(np.int64) for column in columns]
    for index, column in enumerate(columns):
        first, last = ends[index]
        score = scores(
            *(table[last, 0] - table[first, 0] for table in _cumulated(cells[index], None, column.count, excess))
        )
        if len(score):
            best = int(score.argmax())
            promise[index] = score[best]
            pool.append((float(score[best]), Slice(((column, column.groups[best]),))))
    chosen = np.argsort(-promise, kind="stable")[:PAIRED]
    for place, one in enumerate(chosen):
        if time.perf_counter() > deadline:
            break
        for other in chosen[:place]:
            pool += _best_of_pair(columns, cells, ends, int(one), int(other), excess, scores)
    return _one_after_another(pool, rows, excess, least, most)


def _cumulated(
    first: NDArray[Any], second: tuple[NDArray[Any], int] | None, height: int, excess: Floats
) -> tuple[Floats, Floats]:
    """Return counts and sums of the rows in all cells before each: (height + 1, 1), or of two columns a plane."""
    flat, width = (first, 1) if second is None else (first * second[1] + second[0], second[1])
    tables = []
    for weights in (None, excess):
        table = np.bincount(flat, weights, minlength=height * width).reshape(height, width).astype(np.float64)
        table = np.concatenate([np.zeros((1, width)), table.cumsum(0)])
        tables.append(table if second is None else np.concatenate([np.zeros((height + 1, 1)), table.cumsum(1)], axis=1))
    return tables[0], tables[1]


def _best_of_pair(
    columns: Sequence[SlicedColumn], cells: Any, ends: Any, one: int, other: int, excess: Floats, scores: Any
) -> list[tuple[float, Slice]]:
    """Return the two best slices of two columns."""
    tables = _cumulated(cells[one], (cells[other], columns[other].count), columns[one].count, excess)
    (top, bottom), (left, right) = ends[one], ends[other]

    def inside(table: Floats) -> Floats:
        rows = table[bottom] - table[top]
        return np.asarray(rows[:, right] - rows[:, left])

    score = scores(*(inside(table) for table in tables)) - SECOND_CONDITION
    flat = score.ravel()
    best = np.argpartition(-flat, min(2, len(flat) - 1))[:2]
    slices = []
    for index in best:
        if np.isfinite(flat[index]):
            row, column = divmod(int(index), score.shape[1])
            pair = ((columns[one], columns[one].groups[row]), (columns[other], columns[other].groups[column]))
            slices.append((float(flat[index]), Slice(pair)))
    return slices


def _one_after_another(
    pool: list[tuple[float, Slice]], rows: NDArray[Any], excess: Floats, least: int, most: int
) -> list[Slice]:
    """Take the best slice, then the best of the rows that are left, and so on."""
    pool = sorted((one for one in pool if np.isfinite(one[0])), key=lambda one: -one[0])[:POOL]
    if not pool:
        return []
    masks = np.stack([one.holds()[rows] for _, one in pool]).astype(np.float32)
    penalties = np.array([SECOND_CONDITION * (len(one.parts) - 1) for _, one in pool])
    left, picked, sizes = np.ones(len(rows), np.float32), [], masks.sum(axis=1)
    for _ in range(FOUND):
        total, inside = float(left.sum()), masks @ left
        sums = masks @ (left * excess.astype(np.float32))
        mean = float((left * excess).sum()) / max(total, 1.0)
        spread = float(np.sqrt((left * (excess - mean) ** 2).sum() / max(total, 1.0)))
        outside = total - inside
        fits = (inside >= least) & (inside >= OWN * sizes) & (inside <= most) & (outside > 0)
        if not fits.any() or spread <= 0:
            break
        own = np.where(fits, inside, 1.0)
        rest = np.where(fits, outside, 1.0)
        gap = sums / own - (mean * total - sums) / rest
        score = np.where(fits, gap / (spread * np.sqrt(1 / own + 1 / rest)) - penalties, -np.inf)
        best = int(score.argmax())
        if score[best] <= 0:
            break
        picked.append(pool[best][1])
        left = left * (1 - masks[best])
    return picked


def _by_column(
    columns: Sequence[SlicedColumn], figures: RowFigures, deadline: float
) -> tuple[list[dict[str, Any]], int]:
    """Return each column's groups with their figures, the most unequal column first, and how many are left out."""
    tables: list[tuple[str, list[dict[str, Any]]]] = []
    p_values: list[float] = []
    for column in columns:
        if tables and time.perf_counter() > deadline:
            break
        entries = []
        for group in column.listed:
            inside = column.holds(group)
            p = p_value_of_worse(figures.losses[inside], figures.losses[~inside])
            entry = {"condition": group.condition, "rows": int(inside.sum()), "share": float(inside.mean())}
            entries.append({**entry, **_entry(figures, inside, ~inside), "p_value": p})
            p_values.append(p)
        tables.append((column.name, entries))
    steady = iter(adjusted(p_values))
    for _, entries in tables:
        for entry in entries:
            p = next(steady)
            entry |= {"p_adjusted": p, "worse": p <= FALSE_DISCOVERIES}
    tables.sort(key=lambda table: min(entry["p_value"] for entry in table[1]))
    listed, count = [], 0
    for name, entries in tables:
        count += len(entries)
        if count > LISTED:
            break
        listed.append({"column": name, "items": entries})
    return listed, len(columns) - len(listed)
