"""Every finding: provoked, absent from its twin, and answered by its patch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fitserve.findings import RULES
from tests.insight.networks import Ran, run, run_seeds, with_seed
from tests.insight.provoked import CASES, Case

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("tensorflow")]


SEEDS = 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_it_is_found_and_its_patch_answers_it(case: Case) -> None:
    table = case.table()
    provoked = _runs(case, table, case.spec)
    for seed, ran in enumerate(provoked):
        assert case.rule in ran.findings, (seed, list(ran.findings))
        assert ran.findings[case.rule].sentence
        assert ran.findings[case.rule].patch
    better = case.asked or (lambda ran: ran.kept_validation)
    for seed, (before, after) in enumerate(zip(provoked, _runs(case, table, _patched(case, provoked)), strict=True)):
        assert case.rule not in after.findings, (seed, after.findings[case.rule].sentence)
        assert better(after) < better(before), seed


def _runs(case: Case, table: pa.Table, spec: dict[str, Any]) -> list[Ran]:
    """Under three seeds: as trials of one run, unless the rule reads what only the kept network is asked."""
    if case.asked is None:
        return run_seeds(table, spec, SEEDS, case.restarts)
    return [run(table, with_seed(spec, seed)) for seed in range(SEEDS)]


def _patched(case: Case, provoked: list[Ran]) -> dict[str, Any]:
    """The spec with the finding's patch. Each seed's evidence asks for the same change."""
    specs = [with_seed(ran.patched(case.rule), 0) for ran in provoked]
    assert all(one == specs[0] for one in specs)
    return specs[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_its_twin_has_it_not(case: Case) -> None:
    twin = run((case.twin_table or case.table)(), case.twin)
    assert case.rule not in twin.findings, twin.findings[case.rule].sentence


def test_every_rule_is_shown() -> None:
    assert {case.rule for case in CASES} == {rule.name for rule in RULES}


def test_every_rule_says_when_it_speaks_where_it_is_from_and_what_it_does() -> None:
    names = {rule.name for rule in RULES}
    for rule in RULES:
        assert rule.threshold
        assert any(character.isdigit() for character in rule.source), rule.source
        assert rule.answer
        assert set(rule.hides) <= names, rule.name
