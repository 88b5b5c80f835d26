"""A column as its batches go by: held against its plan on every row, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.column_counts import Counts, Moments
from fitserve.datasets.column_types import SOFT_MISSING, Plan, has_leading_zeros, loses_digits, read_numbers, read_times
from fitserve.datasets.table_problems import MOST
from fitserve.encoding.coercion import FALSE, TRUE


class Judge:
    """One column as its batches go by: `read` makes values of texts, `observe` counts what is kept."""

    def __init__(self, name: str, plan: Plan, most_distinct: int) -> None:
        self.name = name
        self.plan = plan
        self.first_plan = plan
        self.good = self.bad = 0
        self.bad_rows: list[tuple[int, str]] = []
        self.bad_spellings: set[str] = set()
        self.rows = self.missing = 0
        self.fractional_seconds = False
        self.counts = Counts(most_distinct)
        self.moments = Moments()
        self.increasing, self.last = True, -np.inf

    @property
    def changed(self) -> bool:
        """Whether the plan did not last: the column must be read again."""
        return self.plan != self.first_plan

    def read(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        """Values of the plan's type and, where the plan is strict, a mask of the rows that do not fit it."""
        if self.plan.typed:
            return values, None
        if self.plan.spaced:
            trimmed = pc.utf8_trim_whitespace(values)
            missing = pc.is_in(trimmed, pa.array(["", *self.plan.missing]))
            values = pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)
        if self.plan.storage in ("int64", "float64"):
            return self._number(values, rows)
        if self.plan.storage == "timestamp":
            times, bad = read_times(values, self.plan)
            return self._settle(values, times, bad, rows)
        if self.plan.storage == "bool":
            return self._boolean(values, rows)
        if self.plan.strict and self.plan.kind == "boolean":
            words = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), pa.array(sorted(TRUE | FALSE)))
            bad = ~pc.or_(words, values.is_null()).to_numpy(zero_copy_only=False)
            return self._settle(values, pc.if_else(pa.array(~bad), values, pa.scalar(None, pa.string())), bad, rows)
        return values, None

    def _number(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        if self.plan.kind != "numeric" and has_leading_zeros(values):
            return self._as_text(values)
        numbers, bad, whole = read_numbers(values, self.plan)
        if self.plan.soft and len(self.bad_spellings) < 50:
            read_as_missing = numbers.is_null().to_numpy(zero_copy_only=False) & ~bad
            odd = values.filter(pa.array(read_as_missing)).drop_null()
            self.bad_spellings.update(odd.unique().to_pylist()[:50])
        if self.plan.storage == "int64" and not whole:
            if self.plan.kind is None and loses_digits(values):
                return self._as_text(values)
            self.plan = replace(self.plan, storage="float64")
        if self.plan.storage == "float64" and numbers.type != pa.float64():
            numbers = numbers.cast(pa.float64(), safe=False)
        return self._settle(values, numbers, bad, rows)

    def _boolean(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        lowered = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        stated = self.plan.kind == "boolean"
        yes = pc.is_in(lowered, pa.array(sorted(TRUE) if stated else ["true"]))
        no = pc.is_in(lowered, pa.array(sorted(FALSE) if stated else ["false"]))
        known = pc.or_(yes, no)
        bad = ~pc.or_(known, values.is_null()).to_numpy(zero_copy_only=False)
        return self._settle(values, pc.if_else(known, yes, pa.scalar(None, pa.bool_())), bad, rows)

    def _settle(
        self, values: pa.Array, read: pa.Array, bad: np.ndarray, rows: np.ndarray
    ) -> tuple[pa.Array, np.ndarray | None]:
        """Remembers what is bad; a column that has too much of it is text."""
        count = int(bad.sum())
        self.good += len(values) - values.null_count - count
        if not count:
            return read, None
        self.bad += count
        for at in np.flatnonzero(bad)[: max(0, MOST - len(self.bad_rows))]:
            self.bad_rows.append((int(rows[at]), values[int(at)].as_py()))
        if len(self.bad_spellings) < 50:
            self.bad_spellings.update(values.filter(pa.array(bad)).unique().to_pylist()[:50])
        if self.plan.strict:
            return read, bad
        if self.bad > 1000 and self.bad > 0.2 * self.good:
            return self._as_text(values)
        return read, None

    def _as_text(self, values: pa.Array) -> tuple[pa.Array, None]:
        self.plan = replace(self.plan, storage="string", soft=False)
        return values, None

    def observe(self, values: pa.Array) -> None:
        """Counts a batch that is kept."""
        self.rows += len(values)
        floating = pa.types.is_floating(values.type)
        self.missing += pc.sum(values.is_null(nan_is_null=True)).as_py() or 0 if floating else values.null_count
        if self.changed:
            return
        kind = values.type
        if pa.types.is_temporal(kind):
            whole = values.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
            if not self.fractional_seconds:
                self.fractional_seconds = bool(pc.any(pc.not_equal(_remainder(whole), 0)).as_py())
            self.counts.add(whole)
            self.moments.add(pc.divide(whole.cast(pa.float64(), safe=False), 1e6))
            return
        if pa.types.is_integer(kind) or floating or pa.types.is_decimal(kind):
            numbers = (
                values.cast(pa.float64(), safe=False) if pa.types.is_decimal(kind) or kind.bit_width < 32 else values
            )
            self.moments.add(numbers)
            if self.increasing and pa.types.is_integer(kind):
                self._watch_order(values)
        self.counts.add(values)

    def _watch_order(self, values: pa.Array) -> None:
        if values.null_count or not len(values):
            self.increasing = self.increasing and values.null_count == 0
            return
        plain = values.to_numpy(zero_copy_only=False)
        self.increasing = bool(plain[0] > self.last) and bool((plain[1:] > plain[:-1]).all())
        self.last = float(plain[-1])


def _remainder(micro: pa.Array) -> pa.Array:
    day = 86_400_000_000
    return pc.subtract(micro, pc.multiply(pc.divide(micro, day), day))


def settled_plan(judge: Judge) -> Plan:
    """The plan for the next pass, once the whole file was seen. The same plan: this pass stands.

    A handful of bad values among numbers (at most 1 in 100, or 3 in 60 and more) makes the plan strict: they are
    refused; more of them make the column text.
    """
    plan = judge.plan
    if not judge.bad or plan.strict or plan.storage == "string":
        return plan
    if (
        plan.storage in ("int64", "float64")
        and not plan.soft
        and _all_soft(judge.bad_spellings)
        and judge.good >= judge.bad
    ):
        return replace(plan, soft=True)
    if plan.storage == "timestamp" and plan.time_format.startswith("%m/%d"):
        return replace(plan, time_format=plan.time_format.replace("%m/%d", "%d/%m"))
    total = judge.good + judge.bad
    if judge.bad <= max(0.01 * total, min(3.0, total / 20)):
        return replace(plan, strict=True)
    return replace(plan, storage="string", soft=False)


def _all_soft(spellings: Sequence[str] | set[str]) -> bool:
    return len(spellings) < 20 and all(spelling.strip().lower() in SOFT_MISSING for spelling in spellings)
