"""How each column of a table relates to a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.coercion import labels_of, numbers_of, texts_of
from fitserve.encoding.text import tokenize
from fitserve.errors import BadInput

SAMPLED_TEXTS = 5_000
TOKENS = 200  # the most frequent tokens of a text column, each related to the target
MAX_CELLS = 4_000_000  # cells in a contingency table


def relations(sample: pa.Table, columns: Mapping[str, ColumnFacts], target: str) -> list[dict[str, Any]]:
    """Return every other column's relation to the target (wire.Relation as JSON), the strongest first.

    Two numbers: Spearman's rank correlation. A number and a category: the correlation ratio (eta). Two categories:
    Cramér's V with Bergsma's correction. A text and a target: the strongest V of its most frequent tokens.

    Raises BadInput for a column that cannot be a target.
    """
    facts = columns[target]
    if facts.kind == "text" or facts.rows == facts.missing:
        raise BadInput(f"{target!r} cannot be a target: {facts.kind}, {facts.missing} of {facts.rows} missing.")
    pairs = []
    for name, column in columns.items():
        if name == target or column.rows == column.missing:
            continue
        relation = _relation(sample.column(name), column, sample.column(target), facts)
        is_leak = relation["strength"] > 0.98 and relation["rows"] > 20 and column.kind != "ignored"
        warning = "predicts the target almost exactly: is it known before the target is?" if is_leak else None
        pairs.append({**relation, "column": name, "warning": warning})
    return sorted(pairs, key=lambda relation: (-relation["strength"], relation["column"]))


def _relation(
    values: pa.ChunkedArray, facts: ColumnFacts, target: pa.ChunkedArray, target_facts: ColumnFacts
) -> dict[str, Any]:
    if facts.kind == "text":
        return _relation_of_tokens(values, facts, target, target_facts)
    number, target_number = _is_numeric(facts), _is_numeric(target_facts)
    direction = None
    if number and target_number:
        x, y = numbers_of(values), numbers_of(target)
        usable = np.isfinite(x) & np.isfinite(y)
        measure, direction = "spearman", _spearman(x[usable], y[usable])
        strength = abs(direction)
    elif number or target_number:
        numbers, labels = (values, target) if number else (target, values)
        x, codes = numbers_of(numbers), labels_of(labels)[0]
        usable = np.isfinite(x) & (codes >= 0)
        measure, strength = "correlation_ratio", _correlation_ratio(x[usable], codes[usable])
    else:
        a, b = labels_of(values)[0], labels_of(target)[0]
        usable = (a >= 0) & (b >= 0)
        measure, strength = "cramers_v", _cramers_v(a[usable], b[usable])
    return {"measure": measure, "strength": strength, "direction": direction, "rows": int(usable.sum())}


def _relation_of_tokens(
    values: pa.ChunkedArray, facts: ColumnFacts, target: pa.ChunkedArray, target_facts: ColumnFacts
) -> dict[str, Any]:
    texts = texts_of(values[:SAMPLED_TEXTS])
    token_sets = [frozenset(tokenize(text, facts.tokens)) if text else frozenset() for text in texts]
    frequent = Counter(token for tokens in token_sets for token in tokens).most_common(TOKENS)
    numeric, target = _is_numeric(target_facts), target[:SAMPLED_TEXTS]
    y = numbers_of(target) if numeric else labels_of(target)[0]
    usable = np.isfinite(y) if numeric else y >= 0
    strongest, strongest_token = 0.0, None
    for token, _ in frequent:
        has_token = np.array([token in tokens for tokens in token_sets], np.int64)[usable]
        strength = _correlation_ratio(y[usable], has_token) if numeric else _cramers_v(has_token, y[usable])
        if strength > strongest:
            strongest, strongest_token = strength, token
    relation = {"measure": "token_cramers_v", "strength": strongest, "direction": None, "rows": int(usable.sum())}
    return relation | ({"token": strongest_token} if strongest_token else {})


def _is_numeric(facts: ColumnFacts) -> bool:
    return facts.kind in ("numeric", "datetime") or (facts.kind == "ignored" and facts.storage != "string")


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3:
        return 0.0
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0; ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse])


def _correlation_ratio(x: np.ndarray, codes: np.ndarray) -> float:
    """Return eta: the root of the share of variance between groups, adjusted as by T. Kelley (epsilon squared)."""
    groups, codes = np.unique(codes, return_inverse=True)
    if len(x) <= len(groups) or len(groups) < 2:
        return 0.0
    x = (x - x.mean()) / (x.std() or 1.0)
    counts = np.bincount(codes)
    between = float((np.bincount(codes, x) ** 2 / counts).sum())
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
    if r < 2 or k < 2 or r * k > MAX_CELLS:
        return 0.0
    table = np.bincount(rows * k + columns, minlength=r * k).reshape(r, k).astype(np.float64)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / count
    phi = float(((table - expected) ** 2 / expected).sum()) / count
    phi = max(0.0, phi - (r - 1) * (k - 1) / (count - 1))
    r_corrected, k_corrected = r - (r - 1) ** 2 / (count - 1), k - (k - 1) ** 2 / (count - 1)
    smaller = min(r_corrected, k_corrected) - 1
    return float(np.sqrt(min(1.0, phi / smaller))) if smaller > 0 else 0.0
