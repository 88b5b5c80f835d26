"""`training.workers`: allowed values, what it cannot be combined with, and how many `auto` uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.spec.resolve import resolve
from fitserve.spec.resolve_search import resolve_search
from fitserve.spec.search import read_search
from fitserve.spec.spec import SpecRefused, parse
from fitserve.spec.workers import step_seconds, worthwhile
from tests.trainer.requests import facts_of

FACTS = facts_of(pa.table({"a": np.arange(20_000.0), "y": ["p", "q"] * 10_000}))
LARGE = [{"Dense": 2000}, {"Dense": 2000}]


def resolved(training: dict[str, Any], **more: Any) -> Any:
    return resolve(parse({"dataset": "data", "target": "y", "training": training, **more}), FACTS).spec


@pytest.mark.parametrize(
    ("workers", "batch", "count", "at_least"),
    [(1, 32, None, None), (3, 32, 3, 1), ({"count": 4, "at_least": 2}, 32, 4, 2), ("auto", 32, None, None)],
)
def test_a_number_is_how_many(workers: Any, batch: int, count: int | None, at_least: int | None) -> None:
    found = resolved({"workers": workers, "batch_size": batch}, network=LARGE).training.workers
    assert (found and found.count, found and found.at_least) == (count, at_least)


def test_auto_takes_as_many_as_pay() -> None:
    assert resolved({"workers": "auto", "batch_size": 8192}, network=LARGE).training.workers.count > 1
    assert worthwhile(0.001, 1_000_000, 4096) == 1 < worthwhile(0.2, 1_000_000, 4096) < worthwhile(1.0, 100_000, 4096)
    assert worthwhile(1.0, 1_000, 3) == 2  # a row for each
    assert step_seconds(1.0, 0, 1) == 1.0 > step_seconds(1.0, 0, 2) > 0.5
    again = resolved({"workers": {"count": "auto", "at_least": 2}}, network=LARGE)
    assert again.training.workers.count == 2
    assert resolve(parse(again.to_json()), FACTS).spec == again


def test_several_workers_train_one_network() -> None:
    assert resolved({"workers": 2}).ensemble is None  # which is left out with the network, not one of eight
    for training, more, pointer in (
        ({"restarts": 3}, {}, "/training/workers"),
        ({}, {"ensemble": 4}, "/training/workers"),
        ({}, {"folds": 5}, "/training/workers"),
        ({}, {"check": "sanity"}, "/training/workers"),
        ({"loss": "Dice"}, {}, "/training/workers"),
        ({"batch_size": 1}, {}, "/training/workers"),
        ({"jit_compile": True}, {}, "/training/jit_compile"),
        ({"workers": {"count": 2, "at_least": 3}}, {}, "/training/workers"),
        ({"workers": 0}, {}, "/training/workers"),
        ({"workers": 65}, {}, "/training/workers"),
        ({"workers": True}, {}, "/training/workers"),
    ):
        with pytest.raises(SpecRefused) as refused:
            resolved({"workers": 2, **training}, network=LARGE, **more)
        assert pointer in [problem.pointer for problem in refused.value.problems], (training, more)
    body = {"dataset": "data", "target": "y", "network": LARGE, "training": {"workers": 2, "seed": {"search": [1, 2]}}}
    with pytest.raises(SpecRefused, match="one by one"):
        resolve_search(read_search(body)[0], FACTS)
