"""Divide a table's rows into training, validation and test parts, the same for the same table, spec and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fitserve.encoding.coercion import labels_of, numbers_of
from fitserve.errors import BadInput, Problem
from fitserve.excerpts import excerpt_of_cell
from fitserve.spec.spec import SplitSpec

TRAIN, VALIDATION, TEST = range(3)
# Accepted values in a column that assigns rows to parts.
PARTS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "holdout"), TEST),
}


@dataclass(frozen=True)
class Split:
    """The rows of each part as sorted row numbers (from 0), int64; every row is in exactly one part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(table: pa.Table, spec: SplitSpec, seed: int = 0, target: str | None = None) -> Split:
    """Divide the rows. A stratified split without `by` uses `target`. Raises BadInput."""
    rows = table.num_rows
    by = spec.by or (target if spec.method == "stratified" else None)
    if spec.method != "random" and (by is None or by not in table.column_names):
        problem = Problem(f"There is no column {by!r} to split by.", pointer="/split/by", received=by)
        raise BadInput(problem.detail, problems=[problem])
    generator = np.random.default_rng(np.random.SeedSequence([0x5B117, seed]))
    if spec.method == "random":
        parts = _cut(generator.permutation(rows), spec)
    elif spec.method == "time":
        parts = _by_time(table.column(by), spec)
    elif spec.method == "group":
        parts = _by_group(table.column(by), spec, generator)
    elif spec.method == "column":
        parts = _by_column(table.column(by), str(by))
    else:
        parts = _stratified(table.column(by), spec, generator)
    if not (parts == TRAIN).any():
        raise BadInput("The split leaves no rows for training.", pointer="/split", received=spec.model_dump())
    return Split(*(np.flatnonzero(parts == part) for part in (TRAIN, VALIDATION, TEST)))


def _held_out_counts(rows: int, spec: SplitSpec) -> tuple[int, int]:
    """Return the number of validation and test rows: rounded, at least 1 for a share above 0, leaving 1 to train."""
    test = min(round(rows * spec.test) or int(spec.test > 0), max(0, rows - 1))
    validation = min(round(rows * spec.validation) or int(spec.validation > 0), max(0, rows - 1 - test))
    return validation, test


def _cut(order: np.ndarray, spec: SplitSpec) -> np.ndarray:
    """Assign rows to parts: the first rows of `order` train, the next ones validate, the last ones test."""
    validation, test = _held_out_counts(len(order), spec)
    parts = np.full(len(order), TRAIN, np.int8)
    parts[order[len(order) - test - validation : len(order) - test]] = VALIDATION
    parts[order[len(order) - test :]] = TEST
    return parts


def _by_time(column: pa.ChunkedArray, spec: SplitSpec) -> np.ndarray:
    """Split by time: the earliest rows train."""
    return _cut(time_order(column), spec)


def time_order(column: pa.ChunkedArray) -> np.ndarray:
    """Return row numbers by time. Ties keep the table's order; rows without a time are first. Raises BadInput."""
    if not _is_ordered(column.type):
        raise BadInput(f"A time split needs a datetime or numeric column; this is {column.type}.", pointer="/split/by")
    values = numbers_of(column)
    return np.asarray(np.argsort(np.where(np.isnan(values), -np.inf, values), kind="stable"))


def _is_ordered(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_temporal(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _by_group(column: pa.ChunkedArray, spec: SplitSpec, generator: np.random.Generator) -> np.ndarray:
    """Fill test, then validation, with whole groups in random order up to their shares; missing is a group."""
    codes, labels = labels_of(column)
    codes = np.where(codes < 0, len(labels), codes)
    sizes = np.bincount(codes, minlength=len(labels) + 1)
    groups = int((sizes > 0).sum())
    if groups < 1 + (spec.validation > 0) + (spec.test > 0):
        raise BadInput(
            f"A group split into that many parts needs more groups than the column has ({groups}).",
            pointer="/split/by",
        )
    validation, test = _held_out_counts(len(codes), spec)
    part_of = np.full(len(sizes), TRAIN, np.int8)
    order = iter([group for group in generator.permutation(len(sizes)) if sizes[group]])
    remaining = groups
    # Each part leaves at least one group for every later part, including training.
    for part, wanted, others in ((TEST, test, 1 + (validation > 0)), (VALIDATION, validation, 1)):
        taken = 0
        while taken < wanted and remaining > others:
            group = next(order)
            remaining -= 1
            if taken and taken + sizes[group] - wanted > wanted - taken:
                continue  # adding this group would take the part further from its share
            part_of[group] = part
            taken += int(sizes[group])
    return np.asarray(part_of[codes])


def _by_column(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Read each row's part from a column. Raises BadInput."""
    codes, labels = labels_of(column)
    parts = np.array([PARTS.get(label.strip().lower(), -1) for label in labels] + [-1], np.int8)[codes]
    bad = np.flatnonzero(parts < 0)
    if len(bad):
        problems = []
        for index in bad[:20]:
            received = None if codes[index] < 0 else excerpt_of_cell(labels[codes[index]])
            detail, row = f"Column {name!r}, row {index + 1}: {received!r} names no part.", int(index) + 1
            expected = "train, validation or test"
            problems.append(Problem(detail, row=row, column=name, received=received, expected=expected))
        raise BadInput(f"The split column {name!r} names no part in {len(bad)} rows.", problems=problems)
    return np.asarray(parts)


def _stratified(column: pa.ChunkedArray, spec: SplitSpec, generator: np.random.Generator) -> np.ndarray:
    """Divide each stratum by the same shares, with exact totals and at least one training row for each label."""
    parts = _cut(stratified_order(column, generator), spec)
    if _is_ordered(column.type) and len(labels_of(column)[1]) > 20:
        return parts
    codes = labels_of(column)[0]
    trained = np.bincount(codes[(parts == TRAIN) & (codes >= 0)], minlength=int(codes.max(initial=-1)) + 1)
    for label in np.flatnonzero(trained == 0):
        own = np.flatnonzero(codes == label)
        common = int(trained.argmax())
        if not len(own) or trained[common] < 2:
            continue
        other = np.flatnonzero((parts == TRAIN) & (codes == common))[0]
        parts[other], parts[own[0]] = parts[own[0]], TRAIN
        trained[label], trained[common] = 1, trained[common] - 1
    return parts


def stratified_order(column: pa.ChunkedArray, generator: np.random.Generator) -> np.ndarray:
    """Order the rows so that every stretch has each stratum (a label, a decile of many numbers) in proportion."""
    if _is_ordered(column.type) and len(labels_of(column)[1]) > 20:
        values = numbers_of(column)
        ranks = np.empty(len(values), np.int64)
        ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
        strata = ranks * 10 // max(1, len(values))
    else:
        strata = labels_of(column)[0] + 1
    # Shuffle within each stratum, then interleave the strata by fraction, so that any cut keeps their shares.
    order = generator.permutation(len(strata))
    fraction = np.empty(len(strata), np.float64)
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        fraction[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.asarray(np.argsort(fraction, kind="stable"))
