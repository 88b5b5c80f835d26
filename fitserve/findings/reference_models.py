"""A rule on simpler models: one of them predicts unseen rows better than the network, by more than chance."""

from __future__ import annotations

from fitserve.findings import spec_edit
from fitserve.findings.finding import Evidence, rule
from fitserve.findings.record import RunRecord, to_float

BETTER = 0.05  # share of the network's loss; a smaller gain is of no practical use
NAMES = {"trees": "boosted trees", "linear": "a linear model"}


@rule(
    "Another model is better",
    "info",
    threshold=f"on held-out rows the mean loss of boosted trees or of the linear model is lower by over {BETTER:.0%},"
    " and the 95% interval of the difference, paired by row, is above 0",
    source="Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Grinsztajn, Oyallon and Varoquaux, Why do"
    " tree-based models still outperform deep learning on typical tabular data?, 2022",
    answer="numbers by bins between quantiles too (piecewise_linear), where they are only scaled",
)
def better_reference(record: RunRecord) -> Evidence | None:
    insight = record.insight or {}
    part, losses = insight.get("evaluated_on"), insight.get("fit") or {}
    if part not in ("test", "validation") or record.training.get("class_weight"):
        return None  # class weights ask for another loss than the one compared here
    own = record.mean_loss("network", part)
    candidates = []
    for name, against in (insight.get("against") or {}).items():
        if name not in NAMES or against.get("verdict") != "worse" or own is None:
            continue
        behind = to_float(against.get("difference"))
        if behind > BETTER * own:
            candidates.append((behind, name, against["interval"], to_float((losses.get(name) or {}).get(part))))
    if not candidates:
        return None
    behind, name, (low, high), reached = max(candidates)
    return Evidence(
        f"On the {part} rows {NAMES[name]} {'reach' if name == 'trees' else 'reaches'} a loss of {reached:.3g}, the"
        f" network {own:.3g}: it is behind by {behind:.2g} (95% interval {low:.2g} to {high:.2g}).",
        (),
        {"model": name, "network": own, "reached": reached, "behind": behind, "low": low, "high": high},
        tuple(spec_edit.add_bins(record.spec, record.facts)),
    )
