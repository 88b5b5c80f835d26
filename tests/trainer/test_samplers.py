"""Samplers of a search on functions whose best point is known: points are valid, and repeat."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fitserve.spec.search import Point, read_search
from workers.trainer.search.study import Study

SPEC = {
    "network": {
        "search": [
            [{"Dense": {"search": {"low": 1, "high": 64, "log": True}}}],
            [{"Dense": 8}, {"Dropout": {"search": {"low": 0.0, "high": 0.5, "step": 0.1}}}],
        ]
    },
    "training": {"optimizer": {"Adam": {"learning_rate": {"search": {"low": 1e-4, "high": 1.0, "log": True}}}}},
}
NETWORK, RATE = "/network", "/training/optimizer/Adam/learning_rate"
UNITS, DROPOUT = "/network/search/0/0/Dense", "/network/search/1/1/Dropout"


def _loss(point: Point) -> float:
    """Least, 0, with the second network, a Dropout of .2 and a rate of .01."""
    rate = abs(math.log10(point[RATE]) + 2)
    return rate + (0.5 + abs(point[UNITS] - 40) / 40 if point[NETWORK] == 0 else 3 * abs(point[DROPOUT] - 0.2))


def _search(sampler: str, trials: int = 48, at_once: int = 8) -> list[tuple[Point, float]]:
    search, problems = read_search({**SPEC, "search": {"sampler": sampler, "trials": trials, "direction": "min"}})
    assert search is not None, problems
    study, done = Study(search), []
    for first in range(0, trials, at_once):
        points = study.ask(at_once)
        losses = [_loss(point) for point in points]
        rows: list[dict[str, Any]] = [
            {"state": "succeeded", "value": loss, "point": point, "epochs": 1}
            for point, loss in zip(points, losses, strict=True)
        ]
        rows[0] |= {"state": "failed", "value": None} if first == 0 else {}
        study.tell(rows)
        done += list(zip(points, losses, strict=True))
    return done


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_points_are_valid_and_repeat(sampler: str) -> None:
    done = _search(sampler)
    assert done == _search(sampler)
    assert len({tuple(sorted(point.items())) for point, _ in done}) == len(done)
    for point, _ in done:
        assert 1e-4 <= point[RATE] <= 1.0
        inside = {0: UNITS, 1: DROPOUT}[int(point[NETWORK])]
        assert set(point) == {NETWORK, RATE, inside}
        if inside == UNITS:
            assert isinstance(point[UNITS], int)
            assert 1 <= point[UNITS] <= 64
        else:
            assert any(math.isclose(point[DROPOUT], step / 10, abs_tol=1e-9) for step in range(6))


def test_a_gaussian_process_finds_more_than_chance() -> None:
    modelled, drawn = (min(loss for _, loss in _search(sampler)) for sampler in ("gp", "random"))
    assert modelled < 0.2 < drawn
