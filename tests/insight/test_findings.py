"""Every finding: triggered by its case, absent from the twin, and addressed by its patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from fitserve.findings import RULES
from tests.insight.rule_cases import CASES, Case
from tests.insight.trained_runs import TrainedRun, run, run_seeds, with_seed

pytestmark = pytest.mark.tensorflow


SEEDS = (0, 1, 2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_rule_applies_and_its_patch_helps(case: Case) -> None:
    _check_rule(case, SEEDS[:1])


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_rule_applies_and_its_patch_helps_under_every_seed(case: Case) -> None:
    _check_rule(case, SEEDS)


def _check_rule(case: Case, seeds: Sequence[int]) -> None:
    table = case.table()
    triggered = _runs(case, table, case.spec, seeds)
    for seed, ran in zip(seeds, triggered, strict=True):
        assert case.rule in ran.findings, (seed, list(ran.findings))
        assert ran.findings[case.rule].sentence
        assert ran.findings[case.rule].patch
    better = case.measure or (lambda ran: ran.kept_validation)
    patched = _runs(case, table, _patched(case, triggered), seeds)
    for seed, before, after in zip(seeds, triggered, patched, strict=True):
        assert case.rule not in after.findings, (seed, after.findings[case.rule].sentence)
        assert better(after) < better(before), seed


def _runs(case: Case, table: pa.Table, spec: dict[str, Any], seeds: Sequence[int]) -> list[TrainedRun]:
    """Train under these seeds: as trials of one run, unless the measure needs the kept network of each."""
    if case.measure is None:
        return run_seeds(table, spec, len(seeds), case.restarts)
    return [run(table, with_seed(spec, seed)) for seed in seeds]


def _patched(case: Case, triggered: list[TrainedRun]) -> dict[str, Any]:
    """Return the spec with the finding's patch, which is the same for each seed."""
    specs = [with_seed(ran.patched(case.rule), 0) for ran in triggered]
    assert all(one == specs[0] for one in specs)
    return specs[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_the_twin_does_not_have_the_finding(case: Case) -> None:
    twin = run((case.twin_table or case.table)(), case.twin)
    assert case.rule not in twin.findings, twin.findings[case.rule].sentence


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == {rule.name for rule in RULES}


def test_every_rule_documents_threshold_source_and_answer() -> None:
    names = {rule.name for rule in RULES}
    for rule in RULES:
        assert rule.threshold
        assert any(character.isdigit() for character in rule.source), rule.source
        assert rule.answer
        assert set(rule.hides) <= names, rule.name
