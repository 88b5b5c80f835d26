"""Findings: what went wrong in a run, or could go better, with the evidence and the change to the spec that answers it.

Pure rules over recorded epochs, the resolved spec and the dataset's facts: no TensorFlow, no database.

    record     what the rules read: curves, layers, evaluation
    finding    what a rule says
    spec_edit  changes to a resolved spec, as JSON Patch (RFC 6902)
    gradients learning fit restarts data   the rules, by what they look at
    complexity the complexity graph and its verdict
    lineage    runs of one family compared over their seeds
"""

from fitserve.findings.complexity import complexity
from fitserve.findings.diagnosis import RULES, diagnose
from fitserve.findings.finding import Finding, Rule
from fitserve.findings.patching import apply_patch
from fitserve.findings.record import EpochRow, Record

__all__ = ["RULES", "EpochRow", "Finding", "Record", "Rule", "apply_patch", "complexity", "diagnose"]
