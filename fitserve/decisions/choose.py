"""Choose a decision on held-out rows, and report its figures on them.

Of two labels, and of each label of a multi-label target, every threshold that decides these rows differently is tried:
the best is exact. It lies halfway between two probabilities, so that rounding moves no row. Of several labels,
`maximize` looks for a weight of each label's probability, one label after the other, and never does worse than the
likeliest label; `cost` weighs the probabilities to a power that is chosen (Elkan 2001, with the power as calibration).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fitserve.decisions.apply import Floats, Ints, cost_matrix, least_cost, likeliest, shares_of
from fitserve.decisions.figures import figures_of, measure
from fitserve.decisions.held_out import CHOSEN_ON, JUDGED_ON, HeldOut, HeldOutParts
from fitserve.errors import BadInput, Problem
from fitserve.spec.decision import ERRORS, Decision, DecisionOutput

NEVER = float(np.nextafter(np.float32(1), np.float32(2)))  # a threshold that no probability reaches
ROUNDS = 5  # passes over all labels when weights are tuned
MAX_STEPS = 512  # most weights tried for one label
POWERS = (1.0, 0.25, 0.35, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)


class NotReached(BadInput):
    """The held-out rows cannot give what was asked for: a recall, a precision, the level of a set."""

    slug = "not-reached"
    title = "The held-out rows do not reach that"


def choose(asked: Decision, output: DecisionOutput, held_out: HeldOutParts, pointer: str = "") -> dict[str, Any]:
    """Return the decision in force (`apply` describes it), with its figures by part.

    `asked` is resolved. Raises NotReached, with a pointer under `pointer`.
    """
    rows = held_out.get(CHOSEN_ON)
    made: dict[str, Any] = {"output": output.name, "asked": asked.to_json(), **_method(asked, output, rows, pointer)}
    if asked.abstain is not None:
        made["abstain"] = _abstention(asked, output, held_out, pointer)
    if rows is not None and asked.needs_rows:
        made["chosen_on"] = {"part": CHOSEN_ON, "rows": len(rows)}
    made["figures"] = judge(made, output, held_out)
    return made


def judge(decision: Mapping[str, Any], output: DecisionOutput, held_out: HeldOutParts) -> dict[str, Any]:
    """Return a decision's figures on the held-out rows, by part."""
    figures = {}
    for part in (CHOSEN_ON, JUDGED_ON):
        rows = held_out.get(part)
        if rows is not None and len(rows) and output.name in rows.values:
            figures[part] = figures_of(decision, output, rows, held_out.conformal)
    return figures


def _method(asked: Decision, output: DecisionOutput, rows: HeldOut | None, pointer: str) -> dict[str, Any]:
    if output.task == "multilabel":
        return _multilabel(asked, output, rows, pointer)
    if asked.rule is None:
        return {"method": "likeliest"}
    if asked.rule == "threshold":
        return {"method": "threshold", "label": asked.label, "threshold": asked.threshold}
    assert rows is not None
    truth, shares = (
        np.asarray(rows.truth[output.name], np.int64),
        shares_of(rows.values[output.name], len(output.labels)),
    )
    if asked.label is not None:  # a recall or a precision
        place = output.labels.index(asked.label)
        threshold = _reaching(asked, truth == place, shares[:, place], asked.label, pointer)
        return {"method": "threshold", "label": asked.label, "threshold": threshold}
    if len(output.labels) == 2:
        false_positive, false_negative = costs_of_two(asked.cost, output.labels)
        best = _best_threshold(asked, truth == 1, shares[:, 1], false_positive, false_negative)
        return {"method": "threshold", "label": output.labels[1], "threshold": best}
    if asked.cost is not None:
        costs = cost_matrix(asked.cost, output.labels)
        spent = [float(costs[truth, least_cost(shares, costs, power)].mean()) for power in POWERS]
        return {"method": "costs", "costs": dict(asked.cost), "power": POWERS[int(np.argmin(spent))]}
    weights = _weights(str(asked.maximize), truth, shares)
    return {"method": "weights", "weights": dict(zip(output.labels, weights.tolist(), strict=True))}


def _multilabel(asked: Decision, output: DecisionOutput, rows: HeldOut | None, pointer: str) -> dict[str, Any]:
    if asked.rule in (None, "threshold"):
        same = 0.5 if asked.threshold is None else asked.threshold
        return {"method": "thresholds", "thresholds": dict.fromkeys(output.labels, same)}
    assert rows is not None
    truth, shares = np.asarray(rows.truth[output.name]), np.asarray(rows.values[output.name], np.float64)
    thresholds = {}
    for place, label in enumerate(output.labels):
        positive, share = truth[:, place] > 0.5, shares[:, place]
        if asked.rule in ("recall_at_least", "precision_at_least"):
            thresholds[label] = _reaching(asked, positive, share, label, pointer)
        else:
            false_positive, false_negative = costs_of_two(asked.cost, output.labels)
            thresholds[label] = _best_threshold(asked, positive, share, false_positive, false_negative)
    return {"method": "thresholds", "thresholds": thresholds}


def costs_of_two(costs: Mapping[str, Any] | None, labels: Sequence[str]) -> tuple[float, float]:
    """Return what a false positive and a false negative cost; the second label is the positive one."""
    if costs is None:
        return 1.0, 1.0
    if set(costs) == set(ERRORS) and not any(isinstance(cost, Mapping) for cost in costs.values()):
        return float(costs["false_positive"]), float(costs["false_negative"])
    matrix = cost_matrix(costs, labels)
    return float(matrix[0, 1]), float(matrix[1, 0])


class Cuts:
    """Every way in which a threshold divides rows: from none answered positive to all of them.

    `true` and `false` are how many positive and negative rows are answered positive, at each cut.
    """

    def __init__(self, positive: Any, shares: Floats) -> None:
        order = np.argsort(-shares, kind="stable")
        ordered = shares[order]
        last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))  # last row of each run of equal probabilities
        hits = np.asarray(positive, np.int64)[order]
        self.positives, self.negatives = int(hits.sum()), int(len(hits) - hits.sum())
        self.true = np.concatenate([[0], np.cumsum(hits)[last]])
        self.false = np.concatenate([[0], np.cumsum(1 - hits)[last]])
        distinct = ordered[last]  # descending
        above = np.concatenate([[NEVER], distinct])
        below = np.concatenate([distinct, [0.0]])
        middle = below + (above - below) / 2
        self.thresholds = np.where(middle > below, middle, above)
        self.thresholds[-1] = 0.0 if len(distinct) else NEVER
        if len(distinct) and distinct[0] >= 1.0:
            self.thresholds[0] = NEVER

    def best(self, scores: Floats) -> float:
        """Return the threshold with the largest score; of ties, the one nearest to 0.5."""
        candidates = np.flatnonzero(scores >= scores.max() - 1e-12)
        return float(self.thresholds[candidates[np.argmin(np.abs(self.thresholds[candidates] - 0.5))]])


def curve(cuts: Cuts, most: int) -> dict[str, Any]:
    """Return ascending thresholds, with the true and false positives at each.

    If there are more than `most` cuts, an evenly spaced selection.
    """
    places = np.unique(np.linspace(0, len(cuts.thresholds) - 1, min(most, len(cuts.thresholds))).round().astype(int))[
        ::-1
    ]
    return {
        "threshold": cuts.thresholds[places].tolist(),
        "true_positive": cuts.true[places].tolist(),
        "false_positive": cuts.false[places].tolist(),
    }


def _best_threshold(
    asked: Decision, positive: Any, shares: Floats, false_positive: float, false_negative: float
) -> float:
    cuts = Cuts(positive, shares)
    if asked.maximize is None:
        cost = false_positive * cuts.false + false_negative * (cuts.positives - cuts.true)
        return cuts.best(-cost / max(false_positive, false_negative))
    missed, spared = cuts.positives - cuts.true, cuts.negatives - cuts.false
    return cuts.best(measure(asked.maximize, cuts.true, cuts.false, missed, spared))


def _reaching(asked: Decision, positive: Any, shares: Floats, label: str, pointer: str) -> float:
    """Return the threshold with enough recall and most precision, or the reverse. Raises NotReached."""
    cuts = Cuts(positive, shares)
    recall = cuts.true / max(1, cuts.positives)
    answered = cuts.true + cuts.false
    precision = np.where(answered > 0, cuts.true / np.maximum(answered, 1), 0.0)
    wanted = asked.recall_at_least if asked.recall_at_least is not None else asked.precision_at_least
    assert wanted is not None
    bound, other = (recall, precision) if asked.rule == "recall_at_least" else (precision, recall)
    enough = np.flatnonzero(bound >= wanted - 1e-12)
    if not cuts.positives or not len(enough):
        what = str(asked.rule).removesuffix("_at_least")
        best = float(bound.max()) if cuts.positives else None
        detail = (
            f"No held-out row has the label {label!r}."
            if best is None
            else f"No threshold has a {what} of {wanted:g} for {label!r} on the held-out rows."
        )
        expected = "held-out rows with that label" if best is None else f"at most {math.floor(best * 1e4) / 1e4:g}"
        problem = Problem(detail, f"{pointer}/{asked.rule}", received=wanted, expected=expected)
        raise NotReached(detail, problems=[problem], pointer=problem.pointer, received=wanted, expected=expected)
    tied = enough[other[enough] >= other[enough].max() - 1e-12]
    return float(cuts.thresholds[tied[np.argmax(bound[tied])]])


def _weights(name: str, truth: Ints, shares: Floats) -> Floats:
    """Return a weight for each label that maximises a measure of the label with the largest weighted probability."""
    labels = shares.shape[1]
    weights = np.ones(labels)
    score = _measured(name, truth, likeliest(shares), labels)
    for _ in range(ROUNDS):
        before = score
        for place in range(labels):
            weights, score = _better_weight(name, truth, shares, weights, place, score)
        if score <= before + 1e-12:
            break
    return weights


def _better_weight(
    name: str, truth: Ints, shares: Floats, weights: Floats, place: int, score: float
) -> tuple[Floats, float]:
    """Try every weight of one label that changes a prediction; return the weights, improved if possible."""
    weighted = shares * weights
    weighted[:, place] = -np.inf
    rival = weighted.argmax(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # the weight at which the row's prediction changes
        turns = weighted[np.arange(len(truth)), rival] / shares[:, place]
    points = np.unique(turns[np.isfinite(turns) & (turns > 0)])
    if not len(points):
        return weights, score
    steps = np.concatenate([[points[0] / 2], (points[1:] + points[:-1]) / 2, [points[-1] * 2]])
    if len(steps) > MAX_STEPS:
        steps = steps[np.linspace(0, len(steps) - 1, MAX_STEPS).round().astype(int)]
    best, best_step = score, None
    for step in steps.tolist():
        reached = _measured(name, truth, np.where(turns < step, place, rival), shares.shape[1])
        if reached > best + 1e-12:
            best, best_step = reached, step
    if best_step is None:
        return weights, score
    changed = np.array(weights)
    changed[place] = best_step
    return changed, best


def _measured(name: str, truth: Ints, chosen: Ints, labels: int) -> float:
    """Return a measure of several labels: that of Gorodkin (2004) for mcc; f1 is the mean over labels."""
    counts = np.bincount(truth * labels + chosen, minlength=labels * labels).reshape(labels, labels).astype(np.float64)
    right, actual, predicted, total = np.diag(counts), counts.sum(1), counts.sum(0), counts.sum()
    if name == "accuracy":
        return float(right.sum() / max(1.0, total))
    if name == "balanced_accuracy":
        return float((right[actual > 0] / actual[actual > 0]).mean())
    if name == "f1":
        both = actual + predicted
        return float(np.where(both > 0, 2 * right / np.maximum(both, 1), 0.0).mean())
    covariance = right.sum() * total - (actual * predicted).sum()
    spread = math.sqrt(total**2 - float((predicted**2).sum())) * math.sqrt(total**2 - float((actual**2).sum()))
    return float(covariance / spread) if spread > 0 else 0.0


def _abstention(asked: Decision, output: DecisionOutput, held_out: HeldOutParts, pointer: str) -> dict[str, Any]:
    """Return the rules for abstention: as asked, with limits derived from the held-out rows.

    Raises NotReached where a prediction set cannot be promised at the level that was asked for.
    """
    abstain, rows = asked.abstain, held_out.get(CHOSEN_ON)
    assert abstain is not None
    limits: dict[str, Any] = {"unlike_training": abstain.unlike_training}
    if abstain.distance is not None and rows is not None and rows.distance is not None:
        limits["distance"] = float(np.quantile(rows.distance, abstain.distance, method="higher"))
    if (level := abstain.prediction_set) is not None:
        try:
            held_out.conformal.check(output.name, level)
        except BadInput as error:
            at = f"{pointer}/abstain/prediction_set"
            problem = Problem(error.detail, at, received=level, expected=error.expected, fix=error.fix)
            raise NotReached(error.detail, problems=[problem], pointer=at, received=level, fix=error.fix) from None
        limits["prediction_set"] = level
    return limits
