"""Findings: what went wrong in a run or could go better, with evidence and a change to the spec that addresses it.

Pure rules over recorded epochs, the resolved spec and the dataset's facts: no TensorFlow, no database.

    record      the input of the rules: learning curves, layers, evaluation
    finding     rules and their registration, evidence, findings; `diagnose`
    spec_edit   changes to a resolved spec, as JSON Patch (RFC 6902)
    gradients optimization fit data reference_models weak_slices   the rules, by what they examine
    complexity  the model complexity graph and its verdict
    lineage     related runs compared over their seeds
"""

# Importing a module of rules registers them; findings of one severity are listed in this order.
from fitserve.findings import gradients, optimization, fit, data, reference_models, weak_slices  # noqa: F401, I001
from fitserve.findings.complexity import complexity
from fitserve.findings.finding import RULES, Finding, Rule, diagnose
from fitserve.findings.record import EpochRow, RunRecord
from fitserve.findings.spec_edit import apply_patch

__all__ = ["RULES", "EpochRow", "Finding", "Rule", "RunRecord", "apply_patch", "complexity", "diagnose"]
