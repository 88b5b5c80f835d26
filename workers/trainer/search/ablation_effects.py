"""Effects of the parts of an ablated spec: paired differences, with intervals.

Every part is left out with the same seeds, which also divide the rows; a difference is between two trainings of one
seed. The trainings share most of their rows, so the variance of the mean is that of Nadeau and Bengio (2003): it counts
1/n + validation rows / training rows instead of 1/n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from fitserve.spec.search import LEFT_OUT, SEED, Choice, SearchSpec

LEVEL = 0.95
FEWEST = 3  # pairs; of fewer, no effect is reported


def effects_of_parts(search: SearchSpec, rows: Sequence[Mapping[str, Any]], held_out: float) -> list[dict[str, Any]]:
    """Return each part's effect on the metric; `held_out` is validation rows over training rows, 0 for a fixed split.

    An effect is the metric with the part less the metric without it.
    """
    parts = search.ranges[LEFT_OUT]
    assert isinstance(parts, Choice)
    values: dict[int, dict[int, float]] = {}
    for row in rows:
        if row["state"] == "succeeded" and row.get("value") is not None:
            values.setdefault(int(row["point"][LEFT_OUT]), {})[int(row["point"][SEED])] = float(row["value"])
    whole = values.get(0, {})
    effects_by_part = []
    for index, part in enumerate(parts.options[1:], 1):
        pairs = [(whole[seed], own) for seed, own in sorted(values.get(index, {}).items()) if seed in whole]
        effects_by_part.append({"part": part, **_effect(pairs, held_out, search.settings.direction == "max")})
    return effects_by_part


def _effect(pairs: Sequence[tuple[float, float]], held_out: float, larger_is_better: bool) -> dict[str, Any]:
    differences = [one - other for one, other in pairs]
    count = len(differences)
    if count < FEWEST:
        return {"pairs": count, "effect": None, "low": None, "high": None, "says": "too few trainings succeeded"}
    mean = math.fsum(differences) / count
    variance = math.fsum((one - mean) ** 2 for one in differences) / (count - 1)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * math.sqrt(variance * (1 / count + held_out))
    low, high = mean - reach, mean + reach
    says = "no effect"
    if low > 0 or high < 0:
        says = "helps" if (mean > 0) == larger_is_better else "hurts"
    return {"pairs": count, "effect": mean, "low": low, "high": high, "says": says}
