"""Splits: every row once, the same for the same seed; shares, strata and groups are respected."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fitserve.datasets.split import split
from fitserve.errors import BadInput
from fitserve.spec.spec import SplitSpec


def table(rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    days = [datetime(2020, 1, 1) + timedelta(hours=int(h)) for h in random.permutation(rows * 3)[:rows]]
    return pa.table(
        {
            "y": random.choice(["a", "b", "c"], rows, p=[0.8, 0.15, 0.05]),
            "x": random.normal(size=rows),
            "when": pa.array(days, pa.timestamp("us")),
            "who": random.integers(0, max(3, rows // 5), rows),
            "part": random.choice(["train", "Validation", "test"], rows, p=[0.6, 0.2, 0.2]),
        }
    )


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(20, 300),
    method=st.sampled_from(["random", "stratified", "time", "group"]),
    validation=st.floats(0, 0.4),
    test=st.floats(0, 0.4),
    seed=st.integers(0, 10),
)
def test_every_row_once_and_a_seed_repeats_it(
    rows: int, method: str, validation: float, test: float, seed: int
) -> None:
    by = {"stratified": "y", "time": "when", "group": "who"}.get(method)
    spec = SplitSpec.model_validate({"method": method, "by": by, "validation": validation, "test": test})
    made = split(table(rows), spec, seed)
    parts = np.concatenate([made.train, made.validation, made.test])
    assert sorted(parts.tolist()) == list(range(rows))
    again = split(table(rows), spec, seed)
    assert all((getattr(made, part) == getattr(again, part)).all() for part in ("train", "validation", "test"))
    assert len(made.train) > 0
    if method != "group":
        assert abs(len(made.validation) - rows * validation) <= 1
        assert abs(len(made.test) - rows * test) <= 1


def test_stratified_parts_have_equal_shares_of_each_label() -> None:
    data = table(1000)
    made = split(data, SplitSpec(method="stratified", by="y", validation=0.2, test=0.2))
    labels = data.column("y").to_numpy(zero_copy_only=False)
    for label in "abc":
        whole = (labels == label).mean()
        for part in (made.train, made.validation, made.test):
            assert abs((labels[part] == label).mean() - whole) < 0.01
    by_target = split(data, SplitSpec(method="stratified"), target="y")
    assert (by_target.train == split(data, SplitSpec(method="stratified", by="y")).train).all()


def test_stratified_by_a_number_covers_its_range() -> None:
    data = table(1000)
    made = split(data, SplitSpec(method="stratified", by="x", validation=0.1))
    x = data.column("x").to_numpy()
    assert abs(np.median(x[made.validation]) - np.median(x)) < 0.1


def test_time_trains_on_the_past() -> None:
    data = table(200)
    made = split(data, SplitSpec(method="time", by="when", validation=0.2, test=0.1))
    when = data.column("when").to_numpy()
    assert when[made.train].max() < when[made.validation].min()
    assert when[made.validation].max() < when[made.test].min()


def test_groups_stay_together() -> None:
    data = table(300)
    made = split(data, SplitSpec(method="group", by="who", validation=0.2, test=0.2))
    who = data.column("who").to_numpy()
    sets = [set(who[part].tolist()) for part in (made.train, made.validation, made.test)]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert 0.1 < len(made.test) / 300 < 0.3


def test_a_column_names_the_parts() -> None:
    data = table(100)
    made = split(data, SplitSpec(method="column", by="part"))
    part_names = data.column("part").to_pylist()
    assert {part_names[row] for row in made.validation} == {"Validation"}
    with pytest.raises(BadInput) as caught:
        split(pa.table({"part": ["train", "tset", None]}), SplitSpec(method="column", by="part"))
    assert [(p.row, p.received) for p in caught.value.problems] == [(2, "tset"), (3, None)]


@pytest.mark.parametrize("value", ["stratified", {"time": {"by": "day", "test": 0.1}}, {"group": "who"}])
def test_shorthands(value: Any) -> None:
    assert SplitSpec.model_validate(value).method in ("stratified", "time", "group")


@pytest.mark.parametrize("value", [{"validation": 0.6, "test": 0.4}, {"method": "time"}, {"by": "x"}, {"test": 1.0}])
def test_invalid_splits_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        SplitSpec.model_validate(value)


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(BadInput):
        split(table(20), SplitSpec(method="group", by="nobody"))


@pytest.mark.parametrize("seed", range(12))
def test_each_label_of_a_stratified_split_has_a_row_in_training(seed: int) -> None:
    labels = ["a"] * 40 + ["b"] * 17 + ["c"] * 2 + ["d"]
    parts = split(pa.table({"y": labels}), SplitSpec(method="stratified", validation=0.2, test=0.2), seed, "y")
    assert {labels[row] for row in parts.train} == {"a", "b", "c", "d"}
    assert (len(parts.validation), len(parts.test)) == (12, 12)
