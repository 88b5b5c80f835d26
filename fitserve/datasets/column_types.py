"""Text fields as values: what a column of texts can be, and its numbers, times and booleans."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import Kind, Storage
from fitserve.datasets.table_problems import MOST

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
        return replace(plan, storage="int64" if read_numbers(present, plan)[2] else "float64", strict=True)
    if kind == "boolean":
        return replace(plan, storage=_boolean_storage(present), strict=True)
    if kind == "datetime":
        return replace(plan, storage="timestamp", time_format=_time_format(present) or "iso", strict=True)
    if not len(present):
        return replace(plan, storage="int64")
    _, bad, whole = read_numbers(present, plan)
    good = len(present) - int(bad.sum())
    if not has_leading_zeros(present) and good:
        odd = set(present.filter(pa.array(bad)).unique().to_pylist()) if bad.any() else set()
        soft = bool(odd) and all(value.strip().lower() in SOFT_MISSING for value in odd)
        if good >= 0.95 * len(present) or (soft and 2 * good >= len(present)):
            return replace(plan, storage="int64" if whole else "float64", soft=soft)
    if all_in(present, {"true", "false"}):
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


def all_in(present: pa.Array, words: set[str]) -> bool:
    return bool(pc.all(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(present)), pa.array(sorted(words)))).as_py())


def _boolean_storage(present: pa.Array) -> Storage:
    """Two spellings are kept as they are; several for the same become true and false."""
    spellings = present.unique().to_pylist()[:20]
    if all_in(present, {"0", "1"}):
        return "int64"
    return "bool" if len(spellings) > 2 or all_in(present, {"true", "false"}) else "string"


def _time_format(present: pa.Array) -> str | None:
    """The first format that reads at least 95 % of a sample; the format that reads most of it."""
    if not len(present):
        return None
    head = present[: min(20_000, len(present))]
    if not pc.any(pc.match_substring_regex(head[: min(20, len(head))], r"^\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")).as_py():
        return None
    best, most = None, 0
    for name in TIME_FORMATS:
        good = len(head) - int(read_times(head, Plan("timestamp", name))[1].sum())
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


def read_numbers(values: pa.Array, plan: Plan) -> tuple[pa.Array, np.ndarray, bool]:
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


def read_times(values: pa.Array, plan: Plan) -> tuple[pa.Array, np.ndarray]:
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


def loses_digits(values: pa.Array) -> bool:
    """Whether whole numbers are too long for float64: then they are names, and stay text."""
    return bool(pc.any(pc.match_substring_regex(values, r"^\s*[+-]?\d{17,}\s*$")).as_py())
