"""Fairness: rates and errors by group of a protected column, on held-out rows, as a decision answers them.

Differences are Fairlearn's (Weerts et al. 2023): the largest minus the smallest rate over groups; of equalized odds,
the larger of those of the true and of the false positive rate (Hardt, Price and Srebro 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fitserve.decisions.apply import Decider, shares_of
from fitserve.decisions.figures import abstained, wilson
from fitserve.decisions.held_out import HeldOut, HeldOutParts
from fitserve.spec.decision import DecisionOutput

MIN_GROUP = 20  # a group with fewer decided rows is shown, but not compared
MAX_LABELS = 20
DRAWS = 1_000
BINS = 10
_Z = 1.959963984540054
_FOUND, _ALARMS = "true_positive_rate", "false_positive_rate"
_NEEDS = {  # rates that a group must have to take part in a difference
    "demographic_parity_difference": ("selection_rate",),
    "demographic_parity_ratio": ("selection_rate",),
    "equalized_odds_difference": (_FOUND, _ALARMS),
    "true_positive_rate_difference": (_FOUND,),
    "false_positive_rate_difference": (_ALARMS,),
}

Floats = np.ndarray[Any, np.dtype[np.float64]]


def fairness(
    column: str, output: DecisionOutput, decision: Mapping[str, Any] | None, held_out: HeldOutParts
) -> dict[str, Any] | None:
    """Compare the groups of a column; None where no held-out row has its group or the output.

    A missing value is a group of its own, named null. Without a decision in force the likeliest label is answered.
    """
    parts = {
        name: part
        for name, part in held_out.parts.items()
        if column in part.groups and output.name in part.values and len(part)
    }
    if not parts:
        return None
    decision = decision or _likeliest(output)
    groups = np.concatenate([part.groups[column] for part in parts.values()])
    names = sorted({name for name in groups.tolist() if name is not None}, key=_natural)
    if any(name is None for name in groups.tolist()):
        names.append(None)
    places = {name: place for place, name in enumerate(names)}
    codes = np.array([places[name] for name in groups.tolist()], np.int64)
    whole: dict[str, Any] = {
        "column": column,
        "output": output.name,
        "task": output.task,
        "rows": len(codes),
        "parts": list(parts),
        "min_group": MIN_GROUP,
        "labels": [],
        "numbers": None,
    }
    if output.task == "regression":
        return whole | {"numbers": _numbers(names, codes, parts, output)}
    answered = np.concatenate([~abstained(decision, output, part, held_out.conformal) for part in parts.values()])
    whole["labels"] = [
        {"label": label, **_label(names, codes, truth, chosen, share, answered)}
        for label, truth, chosen, share in _by_label(output, decision, parts)
    ]
    return whole | {"decision": decision}


def _natural(name: str) -> tuple[Any, ...]:
    """Return a sort key: numbers and ranges by value (the range without a lower end first), then names by letter."""
    first = name.removeprefix("< ").removeprefix("≥ ").split(" to < ")[0]
    try:
        return (0, float(first), not name.startswith("< "), name)
    except ValueError:
        return (1, 0.0, not name.startswith("< "), name)


def _likeliest(output: DecisionOutput) -> dict[str, Any]:
    if output.task == "multilabel":
        return {"method": "thresholds", "thresholds": dict.fromkeys(output.labels, 0.5), "asked": {}}
    return {"method": "likeliest", "asked": {}}


def _by_label(
    output: DecisionOutput, decision: Mapping[str, Any], parts: Mapping[str, HeldOut]
) -> Iterator[tuple[str, Any, Any, Floats]]:
    """Yield each label with the rows that have it, the rows answered it, and its probability; of two the positive."""
    decider, labels = Decider(decision, output.labels), output.labels
    values = np.concatenate([part.values[output.name] for part in parts.values()])
    truth = np.concatenate([part.truth[output.name] for part in parts.values()])
    if output.task == "multilabel":
        applies = decider.applies(values)
        for place, label in enumerate(labels[:MAX_LABELS]):
            yield label, truth[:, place] > 0.5, applies[:, place], np.asarray(values[:, place], np.float64)
        return
    shares, chosen = shares_of(values, len(labels)), decider.places(values)
    if len(labels) == 2:
        wanted = [1 if decision.get("label") in (None, labels[1]) else 0]
    else:
        wanted = list(range(min(len(labels), MAX_LABELS)))
    for place in wanted:
        yield labels[place], truth == place, chosen == place, shares[:, place]


def _label(names: list[Any], codes: Any, truth: Any, chosen: Any, share: Floats, answered: Any) -> dict[str, Any]:
    """Return the rates of each group for one label, and how they differ."""
    groups = len(names)
    cell = (codes * 2 + truth) * 2 + chosen
    counts = np.bincount(cell[answered], minlength=4 * groups).reshape(groups, 2, 2).astype(np.float64)
    entries = []
    for place, name in enumerate(names):
        own = codes == place
        (spared, false), (missed, true) = counts[place]
        rows = int(counts[place].sum())
        entries.append(
            {
                "group": name,
                "rows": int(own.sum()),
                "answered": rows,
                "small": rows < MIN_GROUP,
                "base_rate": _share(true + missed, rows),
                "accuracy": _share(true + spared, rows),
                "selection_rate": _share(true + false, rows),
                "true_positive_rate": _share(true, true + missed),
                "false_positive_rate": _share(false, false + spared),
                "precision": _share(true, true + false),
                "calibration_error": _calibration_error(truth[own], share[own]),
                "mean_probability": float(share[own].mean()),
                "intervals": {
                    "selection_rate": wilson(true + false, rows),
                    "true_positive_rate": wilson(true, true + missed),
                    "false_positive_rate": wilson(false, false + spared),
                    "precision": wilson(true, true + false),
                },
            }
        )
    compared = np.array([not entry["small"] for entry in entries])
    differences = _differences(counts[compared])
    for name, measured in (differences or {}).items():
        measured["left_out"] = [
            one["group"] for one in entries if one["small"] or any(one[rate] is None for rate in _NEEDS[name])
        ]
    return {"groups": entries, "differences": differences}


def _differences(counts: Floats) -> dict[str, Any] | None:
    """Return how groups differ, from counts (groups, actual, answered), with 95% bootstrap intervals over rows."""
    if len(counts) < 2:
        return None
    total = int(counts.sum())
    drawn = np.random.default_rng(0).multinomial(total, counts.ravel() / total, size=DRAWS)
    own, resampled = _gaps(counts[None]), _gaps(drawn.reshape(DRAWS, *counts.shape).astype(np.float64))
    return {name: _with_interval(float(value[0]), resampled[name]) for name, value in own.items()}


def _gaps(counts: Floats) -> dict[str, Floats]:
    """Return the measures of each draw; NaN where fewer than two groups have the rate."""
    (spared, false), (missed, true) = np.moveaxis(counts, (2, 3), (0, 1))
    selection = _ratio(true + false, spared + false + missed + true)
    recall, alarms = _ratio(true, true + missed), _ratio(false, false + spared)
    low, high = _ends(selection)
    odds = np.stack([_gap(recall), _gap(alarms)])
    return {
        "demographic_parity_difference": high - low,
        "demographic_parity_ratio": np.where(high > 0, low / np.where(high > 0, high, 1.0), np.nan),
        "equalized_odds_difference": np.where(np.isnan(odds).any(0), np.nan, odds.max(0)),
        "true_positive_rate_difference": odds[0],
        "false_positive_rate_difference": odds[1],
    }


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def _ends(rates: Floats) -> tuple[Floats, Floats]:
    """Return the smallest and the largest known rate over groups, (draws,); NaN where fewer than two are known."""
    enough = np.isfinite(rates).sum(axis=1) >= 2
    low, high = np.where(np.isnan(rates), np.inf, rates).min(1), np.where(np.isnan(rates), -np.inf, rates).max(1)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def _gap(rates: Floats) -> Floats:
    low, high = _ends(rates)
    return high - low


def _with_interval(value: float, draws: Floats) -> dict[str, Any]:
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(known):
        return {"value": None, "interval": None}
    return {"value": value, "interval": [float(end) for end in np.percentile(known, [2.5, 97.5])]}


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _calibration_error(truth: Any, share: Floats) -> float | None:
    """Return the expected calibration error of a label's probability, over ten bins of equal width."""
    if not len(truth):
        return None
    bins = np.minimum((np.clip(share, 0.0, 1.0) * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, truth - share, minlength=BINS)).sum() / len(truth))


def _numbers(names: list[Any], codes: Any, parts: Mapping[str, HeldOut], output: DecisionOutput) -> dict[str, Any]:
    """Return the errors of each group of a regression, predicted minus actual, and how they differ."""
    values = np.concatenate([part.values[output.name] for part in parts.values()]).astype(np.float64)
    truth = np.concatenate([part.truth[output.name].reshape(len(part), -1)[:, 0] for part in parts.values()])
    error = values[:, values.shape[1] // 2] - truth  # the middle quantile
    entries, compared = [], []
    for place, name in enumerate(names):
        own = error[codes == place]
        bias, size = _mean(own), _mean(np.abs(own))
        entries.append(
            {
                "group": name,
                "rows": len(own),
                "small": len(own) < MIN_GROUP,
                "mean_error": bias[0],
                "mae": size[0],
                "rmse": float(np.sqrt((own**2).mean())),
                "intervals": {"mean_error": _reach(*bias), "mae": _reach(*size)},
            }
        )
        if len(own) >= MIN_GROUP:
            compared.append((bias, size))
    differences = None
    if len(compared) >= 2:
        draw, differences = np.random.default_rng(0), {}
        for name, figures in zip(("mean_error", "mae"), zip(*compared, strict=True), strict=True):
            means, errors = np.array(figures).T
            differences[f"{name}_difference"] = _with_interval(
                float(np.ptp(means)), np.ptp(draw.normal(means, errors, (DRAWS, len(means))), axis=1)
            )
    return {"groups": entries, "differences": differences}


def _mean(values: Floats) -> tuple[float, float]:
    """Return a mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _reach(mean: float, error: float) -> list[float]:
    return [mean - _Z * error, mean + _Z * error]
