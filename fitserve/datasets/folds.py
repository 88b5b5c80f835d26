"""Divide rows into folds by a split's method; each member of an ensemble holds out one fold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitserve.datasets.split import stratified_order, time_order
from fitserve.encoding.coercion import labels_of
from fitserve.errors import BadInput
from fitserve.spec.ensemble import FIRST_PAST
from fitserve.spec.spec import SplitSpec

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """One member's rows: sorted row numbers (from 0) to train on, and to hold out."""

    train: Rows
    held_out: Rows


def divide(table: pa.Table, rows: Rows, spec: SplitSpec, members: int, seed: int, target: str) -> list[Fold]:
    """Divide `rows` of the table into one fold for each member. Raises BadInput.

    Every row is held out once. With a time split only the later half of the rows is held out, and a member trains on
    all rows before its fold.
    """
    generator = np.random.default_rng(np.random.SeedSequence([0xF01D5, seed]))
    by = spec.by or (target if spec.method == "stratified" else None)
    column = None if by is None or spec.method in ("random", "column") else table.column(by).take(pa.array(rows))
    if spec.method == "time":
        order = time_order(column)
        first = int(len(rows) * FIRST_PAST)
        parts = np.array_split(np.arange(first, len(rows)), members)
        folds = [Fold(np.sort(rows[order[: part[0]]]), np.sort(rows[order[part]])) for part in parts if len(part)]
    else:
        if spec.method == "group":
            fold_of = _by_group(column, members, generator)
        else:
            stratify = spec.method == "stratified"
            order = stratified_order(column, generator) if stratify else generator.permutation(len(rows))
            fold_of = np.empty(len(rows), np.int64)
            for fold, part in enumerate(np.array_split(order, members)):
                fold_of[part] = fold
        folds = [Fold(rows[fold_of != fold], rows[fold_of == fold]) for fold in range(members)]
    if len(folds) < members or any(not len(fold.train) or not len(fold.held_out) for fold in folds):
        detail = f"{len(rows)} rows are too few for {members} folds."
        raise BadInput(detail, pointer="/ensemble/members", received=members, fix="Fewer members, or ensemble: false")
    return folds


def _by_group(column: pa.ChunkedArray, members: int, generator: np.random.Generator) -> Rows:
    """Return each row's fold: largest groups first, each into the fold with the fewest rows; missing is a group."""
    codes, labels = labels_of(column)
    codes = np.where(codes < 0, len(labels), codes)
    sizes = np.bincount(codes, minlength=len(labels) + 1)
    groups = generator.permutation(np.flatnonzero(sizes))
    if len(groups) < members:
        raise BadInput(
            f"{members} folds need as many groups; {len(groups)} are left beside the test part.",
            pointer="/ensemble/members",
            received=members,
            expected=f"at most {len(groups)}",
        )
    rows_in, fold_of = np.zeros(members, np.int64), np.zeros(len(sizes), np.int64)
    for group in groups[np.argsort(-sizes[groups], kind="stable")]:
        fold_of[group] = int(rows_in.argmin())
        rows_in[fold_of[group]] += sizes[group]
    return np.asarray(fold_of[codes])


def held_out_by(folds: Iterable[Fold], rows: Rows) -> Rows:
    """Return the fold that holds out each of these rows, -1 if none does."""
    member = np.full(len(rows), -1, np.int64)
    for index, fold in enumerate(folds):
        member[np.isin(rows, fold.held_out)] = index
    return member
