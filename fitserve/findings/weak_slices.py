"""A rule on slices: in some part of the rows the network knows less than a constant answer would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitserve.findings import spec_edit
from fitserve.findings.finding import Evidence, Operation, rule
from fitserve.findings.record import RunRecord, to_float

WORSE_THAN_GUESSING = 1.1


@rule(
    "Some rows are predicted worse than by guessing",
    "warning",
    threshold="a slice (one condition or two) has a higher loss than the rest by Welch's t-test on rows that took no"
    f" part in finding it, at a false discovery rate of 1%, and {WORSE_THAN_GUESSING:g} times the loss of the"
    " best constant answer for its rows",
    source="Chung et al., Slice Finder, ICDE 2019; Sagadeeva and Boehm, SliceLine, SIGMOD 2021; Benjamini and Hochberg"
    " 1995",
    answer="the slice's columns as features, where they are not; otherwise a wider network",
)
def weak_slice(record: RunRecord) -> Evidence | None:
    slices = (record.insight or {}).get("slices") or {}
    weak = [
        one
        for one in slices.get("worst") or ()
        if to_float(one.get("value")) > WORSE_THAN_GUESSING * to_float(one.get("guessing"))
    ]
    if not weak or record.training.get("class_weight"):
        return None  # class weights ask for another loss than the one compared here
    first = weak[0]
    where = " and ".join(_written(condition) for condition in first["conditions"])
    measure = str(slices["metric"]).replace("_", " ")
    return Evidence(
        f"Where {where} ({first['rows']} held-out rows, {first['share']:.1%}), the {measure} is {first['value']:.3g};"
        f" elsewhere it is {first['rest']:.3g}, and the best constant answer there has {first['guessing']:.3g}.",
        (),
        {"slices": [{key: one[key] for key in ("conditions", "rows", "value", "rest", "guessing")} for one in weak]},
        tuple(_patch(record, weak)),
    )


def _written(condition: Mapping[str, Any]) -> str:
    column = condition["column"]
    if condition.get("missing"):
        return f"{column!r} is missing"
    if "equals" in condition:
        return f"{column!r} is {condition['equals']!r}"
    low, high = condition["from"], condition["to"]
    if low is None or high is None:
        return f"{column!r} is below {high}" if low is None else f"{column!r} is at least {low}"
    return f"{column!r} is from {low} to below {high}"


def _patch(record: RunRecord, weak: list[Any]) -> list[Operation]:
    known = {feature["column"] for feature in record.spec["features"]}
    named = dict.fromkeys(condition["column"] for one in weak for condition in one["conditions"])
    left_out = [name for name in named if name not in known and name not in (record.spec.get("protected") or ())]
    left_out = [
        name for name in left_out if name not in (record.spec["split"].get("by"), record.training["sample_weight"])
    ]
    if left_out and (patch := list(spec_edit.add_features(record.spec, left_out, record.facts))):
        return patch
    if spec_edit.hidden_layers(record.spec):
        return list(spec_edit.widen(record.spec, 4, 64))
    return list(spec_edit.add_hidden_layers(record.spec, (64, 32)))
