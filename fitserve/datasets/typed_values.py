"""Notices on typed columns (Parquet, Arrow) whose values could mean something else. The values are not changed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fitserve.datasets.column_plan import ColumnPlan, FilePrior
from fitserve.datasets.column_sample import COMPACT, ColumnSample
from fitserve.wire.notices import Notice

MOST_VALUES = 200  # that are looked at, from the whole column
SMALLEST_TIME = min(COMPACT)


def note_typed_values(name: str, values: pa.ChunkedArray, largest: float | None) -> list[Notice]:
    """Note texts that are all numbers or times, and whole numbers that may be times. `largest`: of the numbers."""
    types = pa.types
    is_text = types.is_string(values.type) or types.is_large_string(values.type)
    if not is_text and (not types.is_integer(values.type) or largest is None or largest < SMALLEST_TIME):
        return []
    present = values.drop_null()
    if not len(present):
        return []
    chosen = np.linspace(0, len(present) - 1, min(len(present), MOST_VALUES)).astype(np.int64)
    texts = present.take(pa.array(chosen)).cast(pa.string()).combine_chunks()
    plan = ColumnSample(name, texts, ColumnPlan("string")).plan(FilePrior())
    example = texts[0].as_py().strip()[:40]
    if is_text:
        kind = {"int64": "numeric", "float64": "numeric", "timestamp": "datetime"}.get(plan.storage)
        if kind is None:
            return [notice for notice in plan.notices if notice.code == "number_like_text"]
        what = "times" if kind == "datetime" else "numbers"
        return [
            Notice(
                code="number_like_text",
                message=f"{name!r} is left as text, as its type says: its values are {what}.",
                column=name,
                evidence=f"such as {example}",
                option=f"kinds.{name}={kind}",
            )
        ]
    if plan.storage != "timestamp":
        return [notice for notice in plan.notices if notice.code == "looks_like_time"]
    return [
        Notice(
            code="looks_like_time",
            message=f"{name!r} is read as numbers, as its type says; they could be times: {plan.evidence}.",
            column=name,
            evidence=f"such as {example}, and the name is a time's",
            option=f"kinds.{name}=datetime",
        )
    ]
