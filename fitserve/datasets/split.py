"""Dividing a table's rows, the same way every time for the same table, spec and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fitserve.encoding.coercion import clipped, labels_of, numbers_of
from fitserve.errors import BadInput, Problem
from fitserve.spec.split import SplitSpec

PARTS = {
    "train": 0,
    "training": 0,
    "validation": 1,
    "valid": 1,
    "val": 1,
    "dev": 1,
    "test": 2,
    "testing": 2,
    "holdout": 2,
}


@dataclass(frozen=True)
class Split:
    """Row numbers (from 0), int64, each sorted; together they are all rows, once each."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(table: pa.Table, spec: SplitSpec, seed: int = 0, target: str | None = None) -> Split:
    """Divides the rows. `target` is what a stratified split without `by` goes by. Raises BadInput."""
    rows = table.num_rows
    by = spec.by or (target if spec.method == "stratified" else None)
    if spec.method != "random" and (by is None or by not in table.column_names):
        problem = Problem(f"There is no column {by!r} to split by.", pointer="/split/by", received=by)
        raise BadInput(problem.detail, problems=[problem])
    generator = np.random.default_rng(np.random.SeedSequence([0x5B117, seed]))
    if spec.method == "random":
        parts = _by_order(generator.permutation(rows), spec)
    elif spec.method == "time":
        parts = _by_time(table.column(by), spec)
    elif spec.method == "group":
        parts = _by_group(table.column(by), spec, generator)
    elif spec.method == "column":
        parts = _by_column(table.column(by), str(by))
    else:
        parts = _stratified(table.column(by), spec, generator)
    if not (parts == 0).any():
        raise BadInput("The split leaves no rows for training.", pointer="/split", received=spec.model_dump())
    return Split(*(np.flatnonzero(parts == part) for part in range(3)))


def _counts(rows: int, spec: SplitSpec) -> tuple[int, int]:
    """Rows for validation and test: rounded, at least one where a share was asked for, training first."""
    test = min(round(rows * spec.test) or int(spec.test > 0), max(0, rows - 1))
    validation = min(round(rows * spec.validation) or int(spec.validation > 0), max(0, rows - 1 - test))
    return validation, test


def _by_order(order: np.ndarray, spec: SplitSpec) -> np.ndarray:
    """The first rows of `order` train, then validation, the last are the test part."""
    validation, test = _counts(len(order), spec)
    parts = np.zeros(len(order), np.int8)
    parts[order[len(order) - test - validation : len(order) - test]] = 1
    parts[order[len(order) - test :]] = 2
    return parts


def _by_time(column: pa.ChunkedArray, spec: SplitSpec) -> np.ndarray:
    """Ties keep the table's order. Rows without a time train: nothing can be told of their future."""
    if not _is_ordered(column.type):
        raise BadInput(f"A time split needs a datetime or numeric column; this is {column.type}.", pointer="/split/by")
    values = numbers_of(column)
    return _by_order(np.argsort(np.where(np.isnan(values), -np.inf, values), kind="stable"), spec)


def _is_ordered(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_temporal(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _by_group(column: pa.ChunkedArray, spec: SplitSpec, generator: np.random.Generator) -> np.ndarray:
    """Whole groups, shuffled, fill the test part, then validation, up to their shares; missing is a group."""
    codes, labels = labels_of(column)
    codes = np.where(codes < 0, len(labels), codes)
    sizes = np.bincount(codes, minlength=len(labels) + 1)
    if (sizes > 0).sum() < 1 + (spec.validation > 0) + (spec.test > 0):
        raise BadInput(
            f"A group split into that many parts needs more groups than the column has ({(sizes > 0).sum()}).",
            pointer="/split/by",
        )
    validation, test = _counts(len(codes), spec)
    part_of = np.zeros(len(sizes), np.int8)
    order = iter([group for group in generator.permutation(len(sizes)) if sizes[group]])
    left = int((sizes > 0).sum())
    for part, wanted, others in ((2, test, 1 + (validation > 0)), (1, validation, 1)):
        taken = 0
        while taken < wanted and left > others:
            group = next(order)
            if taken and taken + sizes[group] - wanted > wanted - taken:
                part_of[group] = 0
                left -= 1
                continue
            part_of[group] = part
            taken += int(sizes[group])
            left -= 1
    return np.asarray(part_of[codes])


def _by_column(column: pa.ChunkedArray, name: str) -> np.ndarray:
    codes, labels = labels_of(column)
    parts = np.array([PARTS.get(label.strip().lower(), -1) for label in labels] + [-1], np.int8)[codes]
    bad = np.flatnonzero(parts < 0)
    if len(bad):
        problems = []
        for at in bad[:20]:
            received = None if codes[at] < 0 else clipped(labels[codes[at]])
            detail = f"Column {name!r}, row {at + 1}: {received!r} names no part."
            problems.append(
                Problem(detail, row=int(at) + 1, column=name, received=received, expected="train, validation or test")
            )
        raise BadInput(f"The split column {name!r} names no part in {len(bad)} rows.", problems=problems)
    return np.asarray(parts)


def _stratified(column: pa.ChunkedArray, spec: SplitSpec, generator: np.random.Generator) -> np.ndarray:
    """Each stratum is divided by its shares; what rounding leaves is drawn so that the totals are met."""
    if _is_ordered(column.type) and len(labels_of(column)[1]) > 20:
        values = numbers_of(column)
        ranks = np.empty(len(values), np.int64)
        ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
        strata = ranks * 10 // max(1, len(values))
    else:
        strata = labels_of(column)[0] + 1
    # A random order within each stratum, then strata interleaved by their fraction: any cut keeps every share.
    order = generator.permutation(len(strata))
    fraction = np.empty(len(strata), np.float64)
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        fraction[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return _by_order(np.argsort(fraction, kind="stable"), spec)
