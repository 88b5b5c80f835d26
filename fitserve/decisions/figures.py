"""Figures of a decision on rows whose labels are known: counts, measures, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fitserve.conformal import Conformal, RowFacts
from fitserve.decisions.abstain import abstentions
from fitserve.decisions.apply import Decider, cost_matrix
from fitserve.decisions.held_out import HeldOut
from fitserve.spec.decision import ERRORS, DecisionOutput

MAX_LABELS = 50  # labels in a confusion matrix


def measure(name: str, true: Any, false: Any, missed: Any, spared: Any) -> Any:
    """Return a measure of two labels, for arrays of counts.

    `true` and `false` are the positive and negative rows answered positive, `missed` and `spared` those answered
    negative.
    """
    true, false, missed, spared = (np.asarray(count, np.float64) for count in (true, false, missed, spared))
    if name == "f1":
        return _share(2 * true, 2 * true + false + missed)
    if name == "accuracy":
        return _share(true + spared, true + false + missed + spared)
    if name == "balanced_accuracy":
        positives, negatives = true + missed, false + spared
        shares = _share(true, positives), _share(spared, negatives)
        return np.where(positives > 0, np.where(negatives > 0, (shares[0] + shares[1]) / 2, shares[0]), shares[1])
    spread = np.sqrt(true + false) * np.sqrt(true + missed) * np.sqrt(spared + false) * np.sqrt(spared + missed)
    return np.where(spread > 0, (true * spared - false * missed) / np.maximum(spread, 1e-300), 0.0)


def _share(part: Any, whole: Any) -> Any:
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), 0.0)


def wilson(hits: float, rows: float) -> list[float] | None:
    """Return the 95% interval of a share (Wilson 1927); None without rows."""
    if rows <= 0:
        return None
    z = 1.959963984540054
    share, slack = hits / rows, z * z / rows
    middle = share + slack / 2
    spread = z * math.sqrt(share * (1 - share) / rows + slack / rows / 4)
    return [max(0.0, (middle - spread) / (1 + slack)), min(1.0, (middle + spread) / (1 + slack))]


def figures_of(
    decision: Mapping[str, Any], output: DecisionOutput, rows: HeldOut, conformal: Conformal | None = None
) -> dict[str, Any]:
    """Return counts, measures and cost of a decision on rows; measures are of the rows that are answered.

    `conformal` is needed where the decision abstains by prediction sets.
    """
    decider, values = Decider(decision, output.labels), rows.values[output.name]
    answered = ~abstained(decision, output, rows, conformal)
    figures: dict[str, Any] = {"rows": len(rows), "answered": int(answered.sum())}
    if output.task == "multilabel":
        truth, chosen = np.asarray(rows.truth[output.name])[answered] > 0.5, decider.applies(values)[answered]
        by_label = {}
        for place, label in enumerate(output.labels):
            by_label[label] = _of_two(_counts(truth[:, place], chosen[:, place]), _asked_costs(decision))
        return {
            **figures,
            "exact": float((truth == chosen).all(axis=1).mean()) if len(truth) else None,
            "by_label": by_label,
        }
    truth = np.asarray(rows.truth[output.name], np.int64)[answered]
    return figures | _of_labels(decision, output, truth, decider.places(values)[answered])


def _of_labels(decision: Mapping[str, Any], output: DecisionOutput, truth: Any, places: Any) -> dict[str, Any]:
    labels = len(output.labels)
    table = np.bincount(truth * labels + places, minlength=labels * labels).reshape(labels, labels)
    figures: dict[str, Any] = {"accuracy": float((truth == places).mean()) if len(truth) else None}
    if labels <= MAX_LABELS:
        figures["confusion"] = table.tolist()  # [actual label][predicted label]
    if labels == 2:
        place = 1 if decision.get("label") in (None, output.labels[1]) else 0
        return figures | _of_two(_counts(truth == place, places == place), _asked_costs(decision), output)
    if decision["method"] == "costs" and len(truth):
        figures["cost"] = float(cost_matrix(decision["costs"], output.labels)[truth, places].mean())
    actual, predicted, right = table.sum(1), table.sum(0), np.diag(table)
    figures["balanced_accuracy"] = float((right[actual > 0] / actual[actual > 0]).mean()) if len(truth) else None
    figures["f1"] = float(np.where(actual + predicted > 0, 2 * right / np.maximum(actual + predicted, 1), 0.0).mean())
    if decision["method"] == "threshold":
        place = output.labels.index(decision["label"])
        figures["of_label"] = _of_two(_counts(truth == place, places == place), None)
    return figures


def abstained(
    decision: Mapping[str, Any], output: DecisionOutput, rows: HeldOut, conformal: Conformal | None = None
) -> Any:
    """Return which rows are not answered, (rows,)."""
    limits = decision.get("abstain") or {}
    sizes = None
    if (level := limits.get("prediction_set")) is not None and conformal is not None:
        (bounds,) = conformal.bounds(rows.values, level, RowFacts(rows.coverage_labels), only=output.name)
        sizes = bounds.sizes()
    reasons = abstentions(limits, len(rows), set_sizes=sizes, distances=rows.distance, warned=rows.warned)
    return np.array([why is not None for why in reasons], np.bool_)


def _counts(truth: Any, chosen: Any) -> tuple[int, int, int, int]:
    """Return true positives, false positives, false negatives, true negatives."""
    return tuple(int(both.sum()) for both in (truth & chosen, ~truth & chosen, truth & ~chosen, ~truth & ~chosen))  # type: ignore[return-value]


def _asked_costs(decision: Mapping[str, Any]) -> Mapping[str, Any] | None:
    costs: Mapping[str, Any] | None = decision["asked"].get("cost")
    return costs


def _of_two(
    counts: tuple[int, int, int, int], costs: Mapping[str, Any] | None, output: DecisionOutput | None = None
) -> dict[str, Any]:
    true, false, missed, spared = counts
    figures: dict[str, Any] = {
        "true_positive": true,
        "false_positive": false,
        "false_negative": missed,
        "true_negative": spared,
        "recall": true / (true + missed) if true + missed else None,
        "precision": true / (true + false) if true + false else None,
        "intervals": {"recall": wilson(true, true + missed), "precision": wilson(true, true + false)},
    }
    for name in ("f1", "balanced_accuracy", "mcc"):
        figures[name] = float(measure(name, *counts))
    if costs is not None and true + false + missed + spared:
        if set(costs) == set(ERRORS):
            each = float(costs["false_positive"]), float(costs["false_negative"])
        else:
            matrix = cost_matrix(costs, output.labels if output else ())
            each = float(matrix[0, 1]), float(matrix[1, 0])
        figures["cost"] = (each[0] * false + each[1] * missed) / (true + false + missed + spared)
    return figures
