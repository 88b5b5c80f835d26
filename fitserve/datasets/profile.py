"""A column's profile: quantiles, histogram, top values, tokens; and how a column relates to a target."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.coercion import as_label, clipped, labels_of, numbers_of, texts_of
from fitserve.encoding.tokens import tokenize, tokens_for
from fitserve.errors import BadInput

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
BINS = 20
TOP = 20
_TEXTS = 5_000  # sampled texts whose tokens are counted


def text_traits(values: pa.ChunkedArray | pa.Array) -> dict[str, Any]:
    """Of sampled texts: mean tokens and letters, how they are tokenised, tokens of the longest, the frequent tokens."""
    present = [text for text in texts_of(values[:_TEXTS] if len(values) > _TEXTS else values) if text is not None]
    how = tokens_for(present)
    lengths, counts = [], Counter[str]()
    for text in present:
        tokens = tokenize(text, how)
        lengths.append(len(tokens))
        counts.update(token for token in tokens if not token.isspace())
    if len(values) > _TEXTS and how == "whitespace":
        rest = values[_TEXTS:]
        longest = pc.max(pc.binary_length(rest)).as_py() or 0
        if lengths and longest > 0:
            blanks = pc.count_substring_regex(rest, r"\s+") if longest < 1 << 20 else None
            lengths.append(0 if blanks is None else (pc.max(blanks).as_py() or 0) + 1)
    return {
        "words": float(np.mean(lengths[: len(present)])) if present else 0.0,
        "letters": float(np.mean([len(text) for text in present])) if present else 0.0,
        "how": how,
        "max_tokens": max(lengths, default=0),
        "tokens": [{"token": clipped(token), "count": count} for token, count in counts.most_common(TOP)],
    }


def column_profile(
    facts: ColumnFacts, sample: pa.ChunkedArray, counted: pa.Table | None, infinite: int, traits: dict[str, Any] | None
) -> dict[str, Any]:
    """One column's profile. `counted` (values `v`, counts `n`) is there where the distinct values are few."""
    body: dict[str, Any] = {
        "kind": facts.kind,
        "rows": facts.rows,
        "missing": facts.missing,
        "distinct": facts.distinct,
        "distinct_exact": facts.distinct_exact,
        "top": _top(counted, sample, facts),
        "top_sampled": counted is None,
    }
    if facts.storage in ("int64", "float64", "timestamp"):
        body |= {"min": facts.min, "max": facts.max, "mean": facts.mean, "std": facts.std}
        if infinite:
            body["infinite"] = infinite
        body |= _distribution(numbers_of(sample), facts)
    if traits is not None and facts.kind == "text":
        body |= {"tokens": traits["tokens"], "mean_tokens": traits["words"], "max_tokens": traits["max_tokens"]}
        body["tokenised_by"] = traits["how"]
    return body


def _distribution(numbers: np.ndarray, facts: ColumnFacts) -> dict[str, Any]:
    """Quantiles and a histogram over the whole column's range, of the sampled numbers."""
    kept = numbers[np.isfinite(numbers)]
    if not len(kept) or facts.min is None or facts.max is None:
        return {"quantiles": None, "histogram": None}
    quantiles = np.quantile(kept, QUANTILES)
    quantiles[0], quantiles[-1] = facts.min, facts.max
    low, high = facts.min, facts.max
    if not np.isfinite(high - low):
        return {"quantiles": _by_level(quantiles), "histogram": None}
    bins = BINS
    if facts.storage == "int64" and high - low < BINS:
        bins, low, high = int(high - low) + 1, low - 0.5, high + 0.5
    elif low == high:
        bins, low, high = 1, low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    if not (np.diff(edges) > 0).all():  # numbers so large that bins cannot be told apart
        edges = np.array([facts.min, facts.max])
    counts = np.bincount(
        np.clip(np.searchsorted(edges, kept, "right") - 1, 0, len(edges) - 2), minlength=len(edges) - 1
    )
    return {
        "quantiles": _by_level(quantiles),
        "histogram": {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]},
    }


def _by_level(quantiles: np.ndarray) -> dict[str, float]:
    return {str(level): float(value) for level, value in zip(QUANTILES, quantiles, strict=True)}


def _top(counted: pa.Table | None, sample: pa.ChunkedArray, facts: ColumnFacts) -> list[dict[str, Any]]:
    if counted is None:
        values = sample.drop_null().value_counts()
        counted = pa.table({"v": values.field(0), "n": values.field(1)})
    order = pc.select_k_unstable(counted, TOP, [("n", "descending")]) if counted.num_rows else []
    best = counted.take(order) if counted.num_rows else counted
    rows = [
        {"value": _shown(value, facts), "count": count}
        for value, count in zip(best.column("v").to_pylist(), best.column("n").to_pylist(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-int(str(row["count"])), str(row["value"])))


def _shown(value: Any, facts: ColumnFacts) -> Any:
    if facts.storage == "timestamp" and isinstance(value, int):
        return datetime.fromtimestamp(value / 1e6, UTC).replace(tzinfo=None).isoformat()
    return clipped(as_label(value)) if not isinstance(value, (int, float)) else clipped(value)


# --- how a column relates to a target ------------------------------------------------------------------------------


def relations(sample: pa.Table, columns: dict[str, ColumnFacts], target: str) -> list[dict[str, Any]]:
    """Every other column's relation to the target, the strongest first. Raises BadInput for an unusable target.

    Two numbers: Spearman's rank correlation. A number and a category: the correlation ratio (eta). Two categories:
    Cramér's V with Bergsma's correction. A text and a target: the strongest V of its 200 most frequent tokens.
    """
    facts = columns[target]
    if facts.kind == "text" or facts.rows == facts.missing:
        raise BadInput(f"{target!r} cannot be a target: {facts.kind}, {facts.missing} of {facts.rows} missing.")
    found = []
    for name, column in columns.items():
        if name == target or column.rows == column.missing:
            continue
        body = _relation(sample.column(name), column, sample.column(target), facts)
        body["column"] = name
        body["warning"] = _warning(body, column)
        found.append(body)
    return sorted(found, key=lambda body: (-body["strength"], body["column"]))


def _relation(
    values: pa.ChunkedArray, facts: ColumnFacts, target: pa.ChunkedArray, target_facts: ColumnFacts
) -> dict[str, Any]:
    number, target_number = _is_number(facts), _is_number(target_facts)
    if facts.kind == "text":
        return _tokens_relation(values, facts, target, target_facts)
    if number and target_number:
        x, y = numbers_of(values), numbers_of(target)
        kept = np.isfinite(x) & np.isfinite(y)
        rho = _spearman(x[kept], y[kept])
        return {"measure": "spearman", "strength": abs(rho), "direction": rho, "rows": int(kept.sum())}
    if number != target_number:
        numbers, labels = (values, target) if number else (target, values)
        x, (codes, _) = numbers_of(numbers), labels_of(labels)
        kept = np.isfinite(x) & (codes >= 0)
        return {
            "measure": "correlation_ratio",
            "strength": _eta(x[kept], codes[kept]),
            "direction": None,
            "rows": int(kept.sum()),
        }
    a, b = labels_of(values)[0], labels_of(target)[0]
    kept = (a >= 0) & (b >= 0)
    return {
        "measure": "cramers_v",
        "strength": _cramers_v(a[kept], b[kept]),
        "direction": None,
        "rows": int(kept.sum()),
    }


def _is_number(facts: ColumnFacts) -> bool:
    return facts.kind in ("numeric", "datetime") or (facts.kind == "ignored" and facts.storage != "string")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse])


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3:
        return 0.0
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm else 0.0


def _eta(x: np.ndarray, codes: np.ndarray) -> float:
    """The share of variance between groups, adjusted as by R. Kelley (epsilon squared), its root."""
    groups = np.unique(codes)
    if len(x) <= len(groups) or len(groups) < 2:
        return 0.0
    x = (x - x.mean()) / (x.std() or 1.0)
    places = np.searchsorted(groups, codes)
    counts = np.bincount(places)
    between = float((np.bincount(places, x) ** 2 / counts).sum())
    total = float((x * x).sum())
    if not total:
        return 0.0
    within = (total - between) / (len(x) - len(groups))
    return float(np.sqrt(np.clip(1 - within / (total / (len(x) - 1)), 0, 1)))


def _cramers_v(a: np.ndarray, b: np.ndarray) -> float:
    """Source: W. Bergsma, "A bias-correction for Cramér's V and Tschuprow's T", 2013."""
    rows, columns = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    count = len(rows)
    if count < 2:
        return 0.0
    r, k = int(rows.max()) + 1, int(columns.max()) + 1
    if r < 2 or k < 2 or r * k > 4_000_000:
        return 0.0
    table = np.bincount(rows * k + columns, minlength=r * k).reshape(r, k).astype(np.float64)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / count
    phi = float(((table - expected) ** 2 / expected).sum()) / count
    phi = max(0.0, phi - (r - 1) * (k - 1) / (count - 1))
    r_corrected, k_corrected = r - (r - 1) ** 2 / (count - 1), k - (k - 1) ** 2 / (count - 1)
    smaller = min(r_corrected, k_corrected) - 1
    return float(np.sqrt(min(1.0, phi / smaller))) if smaller > 0 else 0.0


def _tokens_relation(
    values: pa.ChunkedArray, facts: ColumnFacts, target: pa.ChunkedArray, target_facts: ColumnFacts
) -> dict[str, Any]:
    texts = texts_of(values[:_TEXTS])
    sets = [frozenset(tokenize(text, facts.tokens)) if text else frozenset() for text in texts]
    frequent = [token for token, _ in Counter(token for each in sets for token in each).most_common(200)]
    best, best_token = 0.0, None
    cut = target[:_TEXTS]
    x = numbers_of(cut) if _is_number(target_facts) else labels_of(cut)[0].astype(np.float64)
    kept = np.isfinite(x) & (x >= 0 if not _is_number(target_facts) else True)
    for token in frequent:
        has = np.array([token in each for each in sets], np.int64)[kept]
        strength = _eta(x[kept], has) if _is_number(target_facts) else _cramers_v(has, x[kept].astype(np.int64))
        if strength > best:
            best, best_token = strength, token
    body = {"measure": "token_cramers_v", "strength": best, "direction": None, "rows": int(kept.sum())}
    return body | ({"token": best_token} if best_token else {})


def _warning(body: dict[str, Any], facts: ColumnFacts) -> str | None:
    if body["strength"] > 0.98 and body["rows"] > 20 and facts.kind != "ignored":
        return "tells the target almost exactly: is it known before the target is?"
    return None
