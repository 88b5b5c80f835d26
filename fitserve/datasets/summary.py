"""What a pass over the file has counted, put into columns and a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import MAX_LABELS, ColumnFacts, Kind, Storage
from fitserve.datasets.column_parser import Judge
from fitserve.datasets.column_types import storage_of
from fitserve.datasets.kinds import POSSIBLE, Traits, infer_kind, sorted_labels
from fitserve.datasets.profile import column_profile, text_traits
from fitserve.datasets.table_problems import TableRefused
from fitserve.encoding.coercion import as_label
from fitserve.errors import Problem
from fitserve.wire.datasets import Column


@dataclass(frozen=True)
class Summary:
    """`columns` are wire.Column, `profile` is wire.Profile, both as JSON."""

    columns: list[dict[str, Any]]
    profile: dict[str, Any]


def summarise(judges: list[Judge], sample: pa.Table, rows: int, kinds: Mapping[str, Kind]) -> Summary:
    """Kinds, facts and profile of all columns. Raises TableRefused where a stated kind cannot be."""
    columns, profiles = [], {}
    for position, judge in enumerate(judges):
        column, profile = _one(judge, position, len(judges), sample.column(judge.name), rows, kinds.get(judge.name))
        columns.append(column.model_dump(mode="json"))
        profiles[judge.name] = profile
    return Summary(columns, {"rows": rows, "sampled_rows": sample.num_rows, "columns": profiles})


def _one(
    judge: Judge, position: int, of: int, sample: pa.ChunkedArray, rows: int, stated: Kind | None
) -> tuple[Column, dict[str, Any]]:
    distinct, counted = judge.counts.finish()
    storage = storage_of(sample.type)
    labels, label_counts = _labels(counted, storage)
    text = text_traits(sample) if storage == "string" else None
    moments = judge.moments
    numeric = moments.count > 0
    traits = Traits(
        name=judge.name,
        position=position,
        of_columns=of,
        storage=storage,
        rows=rows,
        missing=judge.missing,
        distinct=distinct,
        labels=labels,
        label_counts=label_counts,
        min=moments.min if numeric else None,
        max=moments.max if numeric else None,
        increasing=judge.increasing,
        words=text["words"] if text else 0.0,
        letters=text["letters"] if text else 0.0,
        cjk=bool(text and text["how"] == "character"),
        bad=judge.bad,
    )
    inferred, evidence = infer_kind(traits)
    if stated is not None:
        check_kind(judge.name, stated, storage, labels)
    soft = judge.bad_spellings if judge.plan.soft else set()
    column = Column(
        name=judge.name,
        kind=stated or inferred,
        storage=storage,
        rows=rows,
        missing=judge.missing,
        distinct=distinct,
        distinct_exact=counted is not None,
        labels=labels,
        label_counts=label_counts,
        min=traits.min,
        max=traits.max,
        mean=moments.mean if numeric else None,
        std=moments.std if numeric else None,
        date_only=storage == "timestamp" and not judge.fractional_seconds,
        tokens=text["how"] if text else "whitespace",
        max_tokens=text["max_tokens"] if text else None,
        inferred=inferred,
        evidence=evidence + (f"; {', '.join(sorted(soft)[:3])} read as missing" if soft else ""),
    )
    return column, column_profile(column, sample, counted, moments.infinite, text)


def _labels(counted: pa.Table | None, storage: Storage) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    """Distinct values as sorted labels with their counts, where there are at most MAX_LABELS."""
    if counted is None or counted.num_rows > (100 if storage == "float64" else MAX_LABELS) or storage == "timestamp":
        return None, None
    counts: dict[str, int] = {}
    for value, count in zip(counted.column("v").to_pylist(), counted.column("n").to_pylist(), strict=True):
        label = as_label(value)
        if label is not None:
            counts[label] = counts.get(label, 0) + count
    names = list(counts)
    order = sorted_labels(names, storage)
    return tuple(names[at] for at in order), tuple(counts[names[at]] for at in order)


def check_kind(name: str, kind: Kind, storage: Storage, labels: tuple[str, ...] | None) -> None:
    """Raises TableRefused where values of this storage class cannot be of that kind."""
    fits = kind in POSSIBLE[storage]
    if kind == "boolean" and storage in ("int64", "string"):
        fits = labels is not None and len(labels) <= 2
        fits = fits and (storage == "string" or set(labels or ()) <= {"0", "1"})
    if not fits:
        shown = ", ".join((labels or ())[:5])
        problem = Problem(
            f"The column {name!r} cannot be {kind}: its values are stored as {storage}.",
            pointer=f"/kinds/{name}",
            column=name,
            received=kind,
            expected=f"one of {', '.join(POSSIBLE[storage])}" + (f" (values: {shown})" if shown else ""),
        )
        raise TableRefused(problem.detail, problems=[problem])


def facts_only(column: Mapping[str, Any]) -> ColumnFacts:
    """The facts of a stored wire.Column."""
    return ColumnFacts.model_validate({key: column[key] for key in ColumnFacts.model_fields if key in column})


def count_nulls(column: pa.ChunkedArray) -> int:
    """Missing values, NaN among them."""
    nan = pa.types.is_floating(column.type)
    return int(pc.sum(pc.is_null(column, nan_is_null=nan)).as_py() or 0)
