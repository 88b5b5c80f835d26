"""Folds: every row is held out once, by the split's own rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.datasets.folds import Fold, divide, held_out_by
from fitserve.errors import BadInput
from fitserve.spec.spec import SplitSpec

ROWS = np.arange(10, 210)


def table() -> pa.Table:
    rng = np.random.default_rng(2)
    return pa.table(
        {
            "rare": np.where(np.arange(220) % 25 == 0, "yes", "no"),
            "shop": [None if at % 23 == 0 else f"s{at % 23}" for at in range(220)],
            "day": rng.permutation(220).astype(float),
            "price": rng.normal(size=220),
        }
    )


def folds(split: Any, members: int = 4, seed: int = 0) -> list[Fold]:
    return divide(table(), ROWS, SplitSpec.model_validate(split), members, seed, "rare")


@pytest.mark.parametrize(
    "split", ["random", "stratified", {"stratified": "price"}, {"group": "shop"}, {"column": "rare"}]
)
def test_every_row_is_held_out_once_and_trains_the_others(split: Any) -> None:
    parts = folds(split)
    assert np.sort(np.concatenate([fold.held_out for fold in parts])).tolist() == ROWS.tolist()
    for fold in parts:
        assert np.sort(np.concatenate([fold.train, fold.held_out])).tolist() == ROWS.tolist()
    assert np.bincount(held_out_by(parts, ROWS)).tolist() == [len(fold.held_out) for fold in parts]
    again, other = folds(split), folds(split, seed=1)
    assert all((one.held_out == two.held_out).all() for one, two in zip(parts, again, strict=True))
    assert any(set(one.held_out) != set(two.held_out) for one, two in zip(parts, other, strict=True))


def test_stratified_folds_have_each_label_in_proportion() -> None:
    rare = np.asarray(table().column("rare").to_pylist()) == "yes"
    counts = [int(rare[fold.held_out].sum()) for fold in folds("stratified")]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == int(rare[ROWS].sum())


def test_groups_stay_together_and_folds_are_even() -> None:
    shop = np.asarray([str(name) for name in table().column("shop").to_pylist()])
    parts = folds({"group": "shop"})
    assert all(not set(shop[fold.train]) & set(shop[fold.held_out]) for fold in parts)
    sizes = [len(fold.held_out) for fold in parts]
    assert max(sizes) - min(sizes) <= 20


def test_no_member_of_a_time_split_learns_from_later_rows() -> None:
    day = np.asarray(table().column("day"))
    parts = folds({"time": "day"})
    assert all(day[fold.train].max() < day[fold.held_out].min() for fold in parts)
    assert [len(fold.train) for fold in parts] == [100, 125, 150, 175]
    member = held_out_by(parts, ROWS)
    assert (member < 0).sum() == 100
    assert day[ROWS[member < 0]].max() < day[ROWS[member >= 0]].min()


@pytest.mark.parametrize(("split", "members"), [({"group": "shop"}, 30), ("random", 300), ({"time": "day"}, 150)])
def test_too_many_folds_are_refused(split: Any, members: int) -> None:
    with pytest.raises(BadInput):
        folds(split, members)
