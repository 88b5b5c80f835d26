"""Refusals of searches and their messages: nothing fails later, or as a server error."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fitserve.errors import BadInput, Problem
from fitserve.spec.resolve_search import resolve_search
from fitserve.spec.search import read_search
from tests.trainer.requests import facts_of

TABLE = pa.table({"a": [float(n) for n in range(80)], "side": ["x", "y"] * 40})
RATE, UNITS = "/training/optimizer/Adam/learning_rate/search", "/network/0/Dense/search"


def _spec(rate: Any = 0.01, units: Any = 4, **more: Any) -> dict[str, Any]:
    training = {"optimizer": {"Adam": {"learning_rate": rate}}}
    return {"dataset": "data", "target": "side", "network": [{"Dense": units}], "training": training, **more}


def _of(values: Any) -> dict[str, Any]:
    return {"search": values}


def _problems(body: dict[str, Any]) -> list[Problem]:
    search, problems = read_search(body)
    if search is None:
        return problems
    try:
        resolve_search(search, facts_of(TABLE))
    except BadInput as error:
        return list(error.problems)
    return []


OTHERS = _of([0.1, 0.2])
REFUSED = {
    "nan": (_spec(_of({"low": float("nan"), "high": 1})), f"{RATE}/low", "finite"),
    "infinite": (_spec(_of({"low": 0, "high": float("inf")})), f"{RATE}/high", "finite"),
    "empty": (_spec(_of([])), RATE, "empty"),
    "one number": (_spec(_of({"low": 0.1, "high": 0.1})), RATE, "empty"),
    "inverted": (_spec(_of({"low": 1, "high": 0.1})), RATE, "inverted"),
    "step beyond": (_spec(_of({"low": 0.1, "high": 0.2, "step": 5})), RATE, "only 0.1 would be tried"),
    "tiny step": (_spec(_of({"low": 0.1, "high": 0.2, "step": 1e-300})), RATE, "too small"),
    "log of 0": (_spec(_of({"low": 0, "high": 1, "log": True})), RATE, "above 0"),
    "log and step": (_spec(_of({"low": 0.1, "high": 1, "log": True, "step": 0.1})), RATE, "no step"),
    "too long": (_spec(_of({"low": -1.7e308, "high": 1.7e308, "step": 1})), RATE, "too long"),
    "huge": (_spec(units=_of({"low": 1, "high": 10**400})), f"{UNITS}/high", "too large"),
    "truth values": (_spec(_of({"low": False, "high": True})), f"{RATE}/low", "number"),
    "not a range": (_spec(_of("tpe")), RATE, "list of values"),
    "null": (_spec(_of(None)), RATE, "list of values"),
    "twice": (_spec(_of([0.1, 0.1])), f"{RATE}/1", "twice"),
    "within a range": (_spec(_of([_of([0.1]), 0.2])), f"{RATE}/0", "of another"),
    "settings": (_spec(OTHERS, search=[]), "/search", "object"),
    "no trials": (_spec(OTHERS, search={"trials": 0}), "/search/trials", "1"),
    "no time": (_spec(OTHERS, search={"seconds": 0}), "/search/seconds", "0"),
    "a grid without end": (_spec(_of({"low": 0.1, "high": 1}), search={"sampler": "grid"}), RATE, "counted"),
    "10^20": (
        _spec(units=_of({"low": 1, "high": 10**10}), rate=_of({"low": 1, "high": 10**10}), search={"sampler": "grid"}),
        "/search/sampler",
        "counted",
    ),
    "quota": (_spec(_of({"low": 0.1, "high": 1}), search={"trials": 10**9}), "/search/trials", "limit"),
    "average": (_spec(OTHERS, search={"ensemble": 9}), "/search/ensemble", "trains 2"),
    "folds twice": (_spec(OTHERS, folds=3, search={"folds": 3}), "/search/folds", "twice"),
    "metric": (_spec(OTHERS, search={"metric": "val_nothing"}), "/search/metric", "No epoch"),
    "negative": (_spec(_of([-1, -2])), "/training/optimizer/Adam/learning_rate", "`learning_rate`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_search_is_refused_where_it_is_bad(name: str) -> None:
    body, pointer, words = REFUSED[name]
    first = _problems(body)[0]
    assert first.pointer == pointer
    assert words in first.detail


def test_a_search_trains_every_trial_in_its_folds() -> None:
    search, problems = read_search(_spec(OTHERS, search={"folds": 3}))
    assert search is not None, problems
    assert resolve_search(search, facts_of(TABLE)).resolved["folds"]["count"] == 3


def test_a_range_that_its_steps_do_not_reach_is_said() -> None:
    def codes(high: float) -> list[str]:
        search, problems = read_search(_spec(_of({"low": 0.1, "high": high, "step": 0.1})))
        assert search is not None, problems
        return [advice.code for advice in resolve_search(search, facts_of(TABLE)).warnings]

    assert "search-step" in codes(0.55)
    assert "search-step" not in codes(0.7)  # a multiple of the step but for rounding
