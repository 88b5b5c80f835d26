"""Decisions: the chosen threshold is the best there is, for any rows; impossible requests are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from fitserve.decisions.apply import Decider
from fitserve.decisions.choose import NotReached, choose
from fitserve.decisions.held_out import HeldOut, HeldOutParts
from fitserve.errors import Problem
from fitserve.spec.decision import Decision, DecisionOutput, resolve_decision
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import SpecRefused, parse
from tests.spec.table import facts

TWO = DecisionOutput("y", "binary", ("no", "yes"))
SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
ROWS = st.lists(st.tuples(SHARES, st.booleans()), min_size=2, max_size=40)
MEASURES = {
    "f1": lambda y, p: metrics.f1_score(y, p, zero_division=0.0),
    "accuracy": metrics.accuracy_score,
    "mcc": lambda y, p: metrics.matthews_corrcoef(y, p) if len({*y, *p}) > 1 else 0.0,
}


def _held_out(rows: list[tuple[float, bool]]) -> HeldOutParts:
    shares, truth = np.array([one for one, _ in rows], np.float32), np.array([int(own) for _, own in rows])
    part = HeldOut(np.arange(len(rows)), {"y": truth}, {"y": shares[:, None]})
    return HeldOutParts({"validation": part})


def _chosen(asked: dict[str, Any], rows: list[tuple[float, bool]]) -> tuple[Any, Any, list[Any]]:
    """Return the truth, the decided labels, and those of every threshold there is."""
    problems: list[Problem] = []
    decision = resolve_decision(Decision.model_validate(asked), [TWO], "", problems)
    assert decision is not None, problems
    held_out = _held_out(rows)
    values = held_out.parts["validation"].values["y"]
    made = choose(decision, TWO, held_out)
    every = [(values[:, 0] >= cut).astype(int) for cut in [*np.unique(values), np.float32(2)]]
    return held_out.parts["validation"].truth["y"], Decider(made, TWO.labels).places(values), every


@given(ROWS, st.sampled_from(sorted(MEASURES)))
@settings(deadline=None, max_examples=60)
def test_no_threshold_is_better(rows: list[tuple[float, bool]], name: str) -> None:
    truth, chosen, every = _chosen({"maximize": name}, rows)
    measure = MEASURES[name]
    assert measure(truth, chosen) == pytest.approx(max(measure(truth, one) for one in every))


@given(ROWS, st.floats(0.01, 100), st.floats(0.01, 100))
@settings(deadline=None, max_examples=60)
def test_no_threshold_is_cheaper(rows: list[tuple[float, bool]], false: float, missed: float) -> None:
    truth, chosen, every = _chosen({"cost": {"false_positive": false, "false_negative": missed}}, rows)

    def cost(answers: Any) -> float:
        return float(false * ((answers == 1) & (truth == 0)).sum() + missed * ((answers == 0) & (truth == 1)).sum())

    assert cost(chosen) == pytest.approx(min(map(cost, every)))


@given(ROWS, st.floats(0.01, 1), st.sampled_from(["recall", "precision"]))
@settings(deadline=None, max_examples=60)
def test_a_bound_is_kept_at_the_least_price(rows: list[tuple[float, bool]], bound: float, name: str) -> None:
    def both(truth: Any, answers: Any) -> tuple[float, float]:
        scores = [f(truth, answers, zero_division=0.0) for f in (metrics.recall_score, metrics.precision_score)]
        return (scores[0], scores[1]) if name == "recall" else (scores[1], scores[0])

    try:
        truth, chosen, every = _chosen({f"{name}_at_least": bound}, rows)
    except NotReached as error:
        assert error.pointer == f"/{name}_at_least"
        truth = _held_out(rows).parts["validation"].truth["y"]
        values = _held_out(rows).parts["validation"].values["y"]
        tried = [both(truth, (values[:, 0] >= cut).astype(int))[0] for cut in np.unique(values)]
        assert max(tried) < bound or not truth.any()
        return
    reached, price = both(truth, chosen)
    assert reached >= bound - 1e-9
    assert price == pytest.approx(max(own for kept, own in (both(truth, one) for one in every) if kept >= bound - 1e-9))


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"decision": {"cost": {"false_positive": 0}}}, "/decision/cost/false_positive"),
        ({"decision": {"recall_at_least": 0}}, "/decision/recall_at_least"),
        ({"decision": {"maximize": "f1"}, "split": {"validation": 0}, "ensemble": False}, "/decision/maximize"),
        ({"decision": [{"maximize": "f1"}, {"threshold": 0.5}]}, "/decision/1/output"),
        ({"decision": {"threshold": 0.5, "label": "maybe"}}, "/decision/label"),
    ],
)
def test_a_spec_with_such_a_decision_is_refused(more: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecRefused) as refused:
        resolve(parse({"dataset": "table", "target": "yes", "network": [{"Dense": 4}], **more}), facts())
    assert pointer in [problem.pointer for problem in refused.value.problems]
