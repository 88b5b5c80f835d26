"""Notices on typed columns (Parquet, Arrow) whose values could mean something else. The values are not changed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fitserve.datasets.column_notices import note_placeholder
from fitserve.datasets.column_plan import ColumnPlan, FilePrior
from fitserve.datasets.numbers_as_times import COMPACT, may_count_days
from fitserve.datasets.plan_proposal import ColumnSample
from fitserve.parsing import times
from fitserve.wire.notices import Notice

MAX_VALUES = 200  # values examined, taken from the whole column
SMALLEST_TIME = min(COMPACT)


def note_typed_values(name: str, values: pa.ChunkedArray, largest: float | None) -> list[Notice]:
    """Note texts that are all numbers or times, integers that may be times, and large integers stored as floats.

    `largest` is the largest number.
    """
    types = pa.types
    is_text = types.is_string(values.type) or types.is_large_string(values.type)
    if not is_text and not (types.is_integer(values.type) or types.is_float64(values.type)):
        return []
    present = values.drop_null()
    if not len(present):
        return []
    notices: list[Notice] = []
    if not is_text:
        notices = _note_numbers(name, present, largest or 0)
        in_excel = times.EXCEL_DAYS[0] <= (largest or 0) < times.EXCEL_DAYS[1]
        is_days = in_excel or may_count_days(name, largest or 0)
        if not is_days and (types.is_float64(values.type) or (largest or 0) < SMALLEST_TIME):
            return notices
    chosen = np.linspace(0, len(present) - 1, min(len(present), MAX_VALUES)).astype(np.int64)
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
        return notices + [notice for notice in plan.notices if notice.code == "looks_like_time"]
    is_stated = plan.format.time in ("excel", "year_day")  # a kind alone does not say so
    option = f"formats.{name}.time={plan.format.time}" if is_stated else f"kinds.{name}=datetime"
    message = f"{name!r} is read as numbers, as its type says; they could be times: {plan.evidence}."
    why = f"such as {example}, and the name is a time's"
    return [*notices, Notice(code="looks_like_time", message=message, column=name, evidence=why, option=option)]


def _note_numbers(name: str, present: pa.ChunkedArray, largest: float) -> list[Notice]:
    """Note numbers that may stand for missing values, and floats that have lost their last digits."""
    values = present.combine_chunks()
    placeholder = note_placeholder(name, values, values)
    lost = _note_large_wholes(name, values, largest) if pa.types.is_float64(values.type) else None
    return [notice for notice in (placeholder, lost) if notice is not None]


def _note_large_wholes(name: str, values: pa.Array, largest: float) -> Notice | None:
    """Note integers too large for float64, which programs produce from ids with missing values."""
    numbers = values.to_numpy(zero_copy_only=False)
    if not 2**53 <= largest < 2**64 or not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
        return None
    return Notice(
        code="digits_lost_before",
        message=f"{name!r} holds whole numbers beyond 2^53 as float64, whose last digits were lost before the upload.",
        column=name,
        evidence=f"such as {int(numbers.max())}; if they are ids, write them as int64 or text",
        option=f"kinds.{name}=ignored",
    )
