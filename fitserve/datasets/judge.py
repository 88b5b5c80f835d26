"""Text fields to typed values: what a column can be, checked over the whole file, with the rows that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.counts import Counts, Moments
from fitserve.datasets.refusals import MOST
from fitserve.datasets.values import FALSE, TRUE
from fitserve.spec.facts import Kind, Storage

# Spellings that stand for a missing number where all else in the column is numbers.
SOFT_MISSING = frozenset(
    {
        "-",
        "--",
        "---",
        ".",
        "..",
        "...",
        "*",
        "na",
        "n.a.",
        "n.a",
        "n/d",
        "nd",
        "nil",
        "none",
        "unk",
        "unknown",
        "missing",
    }
    | {
        "not available",
        "not known",
        "no data",
        "#value!",
        "#div/0!",
        "#ref!",
        "#null!",
        "#num!",
        "inconnu",
        "无",
        "缺失",
    }
)
TIME_FORMATS = (
    "iso",
    "utc",
    *(
        f"{day}{time}"
        for day in ("%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")
        for time in ("", " %H:%M", " %H:%M:%S")
    ),
)
_NUMBER = r"(?i)^[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf|infinity)$"
ARROW: dict[Storage, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us"),
}
EXPECTED: dict[Storage, str] = {
    "int64": "a number",
    "float64": "a number",
    "bool": "a boolean",
    "timestamp": "a date or time",
    "string": "a text",
}


@dataclass(frozen=True)
class Plan:
    """How a column's texts are read. `strict`: what does not fit is refused, instead of changing the plan."""

    storage: Storage
    time_format: str = "iso"
    decimal: str = "."
    spaced: bool = False
    soft: bool = False  # the spellings of SOFT_MISSING are missing
    strict: bool = False
    typed: bool = False  # values come with their type (Parquet, Arrow) and keep it
    missing: tuple[str, ...] = ()  # spellings looked for once blanks are trimmed
    kind: Kind | None = None  # as stated in the request

    @property
    def arrow(self) -> pa.DataType:
        """The column's Arrow type."""
        return (
            pa.timestamp("us", "UTC")
            if (self.storage, self.time_format) == ("timestamp", "utc")
            else ARROW[self.storage]
        )


def propose(values: pa.Array, kind: Kind | None, decimal: str, spaced: bool, typed: bool = False) -> Plan:
    """The plan for a column from a sample of it. `typed` values (Parquet) keep their type."""
    plan = Plan("string", decimal=decimal, spaced=spaced, kind=kind)
    if typed:
        return replace(plan, storage=storage_of(values.type), typed=True)
    present = values.drop_null()
    if kind in ("categorical", "text"):
        return plan
    if kind == "numeric":
        return replace(plan, storage="int64" if _read_numbers(present, plan)[2] else "float64", strict=True)
    if kind == "boolean":
        return replace(plan, storage=_boolean_storage(present), strict=True)
    if kind == "datetime":
        return replace(plan, storage="timestamp", time_format=_time_format(present) or "iso", strict=True)
    if not len(present):
        return replace(plan, storage="int64")
    _, bad, whole = _read_numbers(present, plan)
    good = len(present) - int(bad.sum())
    if not has_leading_zeros(present) and good:
        odd = set(present.filter(pa.array(bad)).unique().to_pylist()) if bad.any() else set()
        soft = bool(odd) and all(value.strip().lower() in SOFT_MISSING for value in odd)
        if good >= 0.95 * len(present) or (soft and 2 * good >= len(present)):
            return replace(plan, storage="int64" if whole else "float64", soft=soft)
    if _all_in(present, {"true", "false"}):
        return replace(plan, storage="bool")
    if time_format := _time_format(present):
        return replace(plan, storage="timestamp", time_format=time_format)
    return plan


def storage_of(kind: pa.DataType) -> Storage:
    """The class of an Arrow type that a dataset may have."""
    types = pa.types
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind):
        return "int64"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "float64"
    return "timestamp" if types.is_timestamp(kind) or types.is_date(kind) else "string"


def _all_in(present: pa.Array, words: set[str]) -> bool:
    return bool(pc.all(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(present)), pa.array(sorted(words)))).as_py())


def _boolean_storage(present: pa.Array) -> Storage:
    """Two spellings are kept as they are; several for the same become true and false."""
    spellings = present.unique().to_pylist()[:20]
    if _all_in(present, {"0", "1"}):
        return "int64"
    return "bool" if len(spellings) > 2 or _all_in(present, {"true", "false"}) else "string"


def _time_format(present: pa.Array) -> str | None:
    """The first format that reads at least 95 % of a sample; the format that reads most of it."""
    if not len(present):
        return None
    head = present[: min(20_000, len(present))]
    if not pc.any(pc.match_substring_regex(head[: min(20, len(head))], r"^\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")).as_py():
        return None
    best, most = None, 0
    for name in TIME_FORMATS:
        good = len(head) - int(_read_times(head, Plan("timestamp", name))[1].sum())
        if good > most:
            best, most = name, good
    return best if most >= 0.95 * len(head) else None


def has_leading_zeros(values: pa.Array) -> bool:
    """Whether a text starts with a zero and another digit ("007"): then it is a code, no number. Nulls are ignored."""
    if not len(values) or not pa.types.is_string(values.type):
        return False
    buffers = values.buffers()
    if buffers[2] is None:
        return False
    offsets = np.frombuffer(buffers[1], np.int32)[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(buffers[2], np.uint8)
    if not len(data):
        return False
    starts = offsets[:-1]
    zeros = np.flatnonzero((data[np.minimum(starts, len(data) - 1)] == 48) & (np.diff(offsets) > 1))
    second = data[starts[zeros] + 1]
    return bool(((second >= 48) & (second <= 57)).any())


def _read_numbers(values: pa.Array, plan: Plan) -> tuple[pa.Array, np.ndarray, bool]:
    """Numbers (null where bad or missing), a mask of what is bad, and whether all of them are whole (int64)."""
    none = np.zeros(len(values), bool)
    texts = values
    for attempt in range(2):
        for kind in (pa.int64(), pa.float64()) if plan.storage != "float64" else (pa.float64(),):
            try:
                return texts.cast(kind), none, kind == pa.int64()
            except pa.ArrowInvalid:
                continue
        if attempt == 0:
            texts = pc.utf8_trim_whitespace(values)
            if plan.decimal == ",":
                texts = pc.replace_substring(pc.replace_substring(texts, ".", ""), ",", ".")
    good = pc.match_substring_regex(texts, _NUMBER)
    if plan.soft:
        soft = pc.is_in(pc.utf8_lower(texts), pa.array(sorted(SOFT_MISSING)))
        texts = pc.if_else(soft, pa.scalar(None, pa.string()), texts)
        good = pc.or_(good, soft)
    bad = ~good.fill_null(True).to_numpy(zero_copy_only=False)
    kept = pc.if_else(pa.array(~bad), texts, pa.scalar(None, pa.string()))
    for kind in (pa.int64(), pa.float64()) if plan.storage != "float64" else (pa.float64(),):
        try:
            return kept.cast(kind), bad, kind == pa.int64()
        except pa.ArrowInvalid:
            continue
    return pa.nulls(len(values), pa.float64()), ~values.is_null().to_numpy(zero_copy_only=False), False


def _read_times(values: pa.Array, plan: Plan) -> tuple[pa.Array, np.ndarray]:
    """Times (null where bad or missing) and a mask of what is bad."""
    texts = pc.utf8_trim_whitespace(values)
    if plan.time_format not in ("iso", "utc"):
        times = pc.strptime(texts, plan.time_format, "us", error_is_null=True)
        return times, times.is_null().to_numpy(zero_copy_only=False) & ~values.is_null().to_numpy(zero_copy_only=False)
    bad = np.zeros(len(values), bool)
    parts = _cast_times(texts, plan.arrow, bad, 0)
    return pa.concat_arrays(parts) if parts else pa.nulls(0, plan.arrow), bad


def _cast_times(texts: pa.Array, kind: pa.DataType, bad: np.ndarray, at: int) -> list[pa.Array]:
    """Casts; where that fails, halves, until what is bad stands alone (or there is too much of it)."""
    try:
        return [texts.cast(kind)]
    except pa.ArrowInvalid:
        if len(texts) == 1 or bad.sum() > 50 * MOST:
            bad[at : at + len(texts)] = ~texts.is_null().to_numpy(zero_copy_only=False)
            return [pa.nulls(len(texts), kind)]
        half = len(texts) // 2
        return _cast_times(texts[:half], kind, bad, at) + _cast_times(texts[half:], kind, bad, at + half)


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
            times, bad = _read_times(values, self.plan)
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
        numbers, bad, whole = _read_numbers(values, self.plan)
        if self.plan.soft and len(self.bad_spellings) < 50:
            read_as_missing = numbers.is_null().to_numpy(zero_copy_only=False) & ~bad
            odd = values.filter(pa.array(read_as_missing)).drop_null()
            self.bad_spellings.update(odd.unique().to_pylist()[:50])
        if self.plan.storage == "int64" and not whole:
            if self.plan.kind is None and _loses_digits(values):
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


def _loses_digits(values: pa.Array) -> bool:
    """Whether whole numbers are too long for float64: then they are names, and stay text."""
    return bool(pc.any(pc.match_substring_regex(values, r"^\s*[+-]?\d{17,}\s*$")).as_py())


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
