"""Every finding: provoked, absent from its twin, and answered by its patch."""

from __future__ import annotations

import pytest

from fitserve.findings import RULES
from tests.insight.networks import run, with_seed
from tests.insight.provoked import CASES, Case

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("tensorflow")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_it_is_found_and_its_patch_answers_it(case: Case) -> None:
    table = case.table()
    for seed in case.seeds:
        ran = run(table, with_seed(case.spec, seed))
        assert case.rule in ran.findings, (seed, list(ran.findings))
        finding = ran.findings[case.rule]
        assert finding.sentence
        assert finding.patch
        patched = run(table, ran.patched(case.rule))
        assert case.rule not in patched.findings, (seed, patched.findings[case.rule].sentence)
        assert case.better(patched) < case.better(ran), seed


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
