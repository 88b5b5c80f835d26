"""All rules, and what they say of a run."""

from __future__ import annotations

import math
from typing import Any

from fitserve.findings import data, fit, gradients, learning, restarts
from fitserve.findings.finding import Finding, Found, Rule
from fitserve.findings.record import Record

RULES: tuple[Rule, ...] = (*gradients.RULES, *learning.RULES, *fit.RULES, *restarts.RULES, *data.RULES)
_ORDER = {"critical": 0, "warning": 1, "info": 2}


def diagnose(record: Record) -> list[Finding]:
    """The findings, gravest first; mere symptoms of another left out. The same for the same record."""
    said = [(rule, found) for rule in RULES if (found := rule.look(record)) is not None]
    hidden = {name for rule, _ in said for name in rule.hides}
    findings = [_finding(rule, found, record) for rule, found in said if rule.name not in hidden]
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def speaking(record: Record) -> set[str]:
    """The names of all rules that have something to say, mere symptoms of another among them."""
    return {rule.name for rule in RULES if rule.look(record) is not None}


def _finding(rule: Rule, found: Found, record: Record) -> Finding:
    trial = found.trial if found.trial is not None else (record.trial.number if record.trial else 0)
    return Finding(
        rule=rule.name,
        severity=rule.severity,
        title=rule.title,
        sentence=found.sentence,
        threshold=rule.threshold,
        source=rule.source,
        answer=rule.answer,
        trial=trial,
        epochs=found.epochs if len(found.epochs) <= 200 else (*found.epochs[:100], *found.epochs[-100:]),
        values=_json(found.values),
        patch=found.patch,
    )


def _json(value: Any) -> Any:
    """Numbers that JSON can say, with six significant digits."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
