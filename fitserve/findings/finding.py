"""Rules and findings: a rule checks a run's record; where it applies, its evidence becomes a finding.

A rule is a function decorated with `rule`, named as its finding; importing its module registers it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fitserve.findings.record import RunRecord
from fitserve.strictjson import finite_json

Severity = Literal["critical", "warning", "info"]
Operation = dict[str, Any]  # one operation of a JSON Patch (RFC 6902): {"op", "path", "value"}
MAX_EPOCHS = 200  # most epochs of evidence in a finding; of more, the first and the last half


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a rule applies: the epochs that show it, what was measured there, and a patch of the resolved spec."""

    sentence: str
    epochs: tuple[int, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    patch: tuple[Operation, ...] = ()


Check = Callable[[RunRecord], Evidence | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A documented rule. `hides` names findings that are only symptoms of this one."""

    name: str
    title: str
    severity: Severity
    threshold: str  # when the rule applies
    source: str  # literature for the rule
    answer: str  # what the patch does
    check: Check
    hides: tuple[str, ...]
    means_underfitting: bool  # the network has not learned enough


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosis. `patch` applies to the run's resolved spec and gives a spec to train again."""

    rule: str
    severity: Severity
    title: str
    sentence: str
    threshold: str
    source: str
    answer: str
    trial: int
    epochs: tuple[int, ...]
    values: dict[str, Any]
    patch: tuple[Operation, ...]


RULES: list[Rule] = []
_ORDER = {"critical": 0, "warning": 1, "info": 2}


def rule(
    title: str,
    severity: Severity,
    *,
    threshold: str,
    source: str,
    answer: str,
    hides: tuple[str, ...] = (),
    means_underfitting: bool = False,
) -> Callable[[Check], Check]:
    """Register the decorated function as a rule."""

    def register(check: Check) -> Check:
        RULES.append(Rule(check.__name__, title, severity, threshold, source, answer, check, hides, means_underfitting))
        return check

    return register


def evaluate(record: RunRecord) -> list[tuple[Rule, Evidence]]:
    """Return every rule that applies, symptoms included."""
    return [(rule, evidence) for rule in RULES if (evidence := rule.check(record)) is not None]


def diagnose(record: RunRecord) -> list[Finding]:
    """Return the findings, most severe first, without symptoms of others. Deterministic."""
    applying = evaluate(record)
    hidden = {name for rule, _ in applying for name in rule.hides}
    findings = [_finding(rule, evidence, record) for rule, evidence in applying if rule.name not in hidden]
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def _finding(rule: Rule, evidence: Evidence, record: RunRecord) -> Finding:
    epochs, half = evidence.epochs, MAX_EPOCHS // 2
    return Finding(
        rule=rule.name,
        severity=rule.severity,
        title=rule.title,
        sentence=evidence.sentence,
        threshold=rule.threshold,
        source=rule.source,
        answer=rule.answer,
        trial=record.trial.number if record.trial else 0,
        epochs=epochs if len(epochs) <= MAX_EPOCHS else (*epochs[:half], *epochs[-half:]),
        values=finite_json(evidence.values, digits=6),
        patch=evidence.patch,
    )
