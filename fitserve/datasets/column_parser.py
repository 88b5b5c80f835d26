"""A column of texts as typed values, under a plan that is proposed from a sample and held against every row.

A plan that does not fit the whole file is revised at the end of the pass (`ColumnParser.next_plan`), and the file is
read once more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import Kind, Storage
from fitserve.datasets import MAX_PROBLEMS
from fitserve.encoding.coercion import FALSE, TRUE, labels_of
from fitserve.wire.notices import Notice

# Texts that mean a missing value in every column, unless the upload's options name others.
MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN"),
    *("null", "NULL", "Null", "None", "?"),
)
# Texts that mean a missing value in a column where everything else is a number.
SOFT_MISSING = frozenset(
    (
        *("-", "--", "---", ".", "..", "...", "*", "na", "n.a.", "n.a", "n/d", "nd", "nil", "none", "unk"),
        *("unknown", "missing", "not available", "not known", "no data", "inconnu", "无", "缺失"),
        *("#value!", "#div/0!", "#ref!", "#null!", "#num!"),
    )
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
MAX_SPELLINGS = 50  # distinct bad texts that are remembered
_NUMBER = r"(?i)^[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf|infinity)$"
_ARROW_TYPES: dict[Storage, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us"),
}
_EXPECTED: dict[Storage, str] = {
    "int64": "a number",
    "float64": "a number",
    "bool": "a boolean",
    "timestamp": "a date or time",
    "string": "a text",
}


@dataclass(frozen=True)
class ColumnPlan:
    """How a column's texts are parsed."""

    storage: Storage
    time_format: str = "iso"
    decimal: str = "."
    trim: bool = False  # blanks around a value mean nothing
    missing: tuple[str, ...] = ()  # texts that are missing once blanks are trimmed
    soft_missing: bool = False  # the texts of SOFT_MISSING are missing
    strict: bool = False  # values that do not fit are refused instead of changing the plan
    typed: bool = False  # values have a type already (Parquet, Arrow) and keep it
    stated_kind: Kind | None = None  # as the request says

    @property
    def arrow_type(self) -> pa.DataType:
        if self.storage == "timestamp" and self.time_format == "utc":
            return pa.timestamp("us", "UTC")
        return _ARROW_TYPES[self.storage]

    @property
    def expected(self) -> str:
        """What a value should have been, for an error message."""
        return "a boolean" if self.stated_kind == "boolean" else _EXPECTED[self.storage]


def propose_plan(
    values: pa.Array,
    stated_kind: Kind | None,
    decimal: str = ".",
    trim: bool = False,
    missing: tuple[str, ...] = (),
) -> ColumnPlan:
    """Propose how to parse a column from a sample of its texts."""
    plan = ColumnPlan("string", decimal=decimal, trim=trim, missing=missing, stated_kind=stated_kind)
    present = values.drop_null()
    if stated_kind in ("categorical", "text"):
        return plan
    if stated_kind == "numeric":
        whole = pa.types.is_integer(parse_numbers(present, plan)[0].type)
        return replace(plan, storage="int64" if whole else "float64", strict=True)
    if stated_kind == "boolean":
        return replace(plan, storage=_boolean_storage(present), strict=True)
    if stated_kind == "datetime":
        return replace(plan, storage="timestamp", time_format=_detect_time_format(present) or "iso", strict=True)
    if not len(present):
        return replace(plan, storage="int64")
    numbers, bad = parse_numbers(present, plan)
    good = len(present) - int(bad.sum())
    if good and not has_leading_zeros(present):
        odd = set(present.filter(pa.array(bad)).unique().to_pylist()) if bad.any() else set()
        soft = bool(odd) and _are_soft_missing(odd)
        if good >= 0.95 * len(present) or (soft and 2 * good >= len(present)):
            whole = pa.types.is_integer(numbers.type)
            return replace(plan, storage="int64" if whole else "float64", soft_missing=soft)
    if _consists_of(present, {"true", "false"}):
        return replace(plan, storage="bool")
    if time_format := _detect_time_format(present):
        return replace(plan, storage="timestamp", time_format=time_format)
    return plan


def typed_plan(arrow_type: pa.DataType, stated_kind: Kind | None) -> ColumnPlan:
    """Return the plan that keeps the values of a typed column as they are."""
    return ColumnPlan(storage_of(arrow_type), typed=True, stated_kind=stated_kind)


def storage_of(arrow_type: pa.DataType) -> Storage:
    """Return the storage class of an Arrow type that a dataset may have."""
    types = pa.types
    if types.is_boolean(arrow_type):
        return "bool"
    if types.is_integer(arrow_type):
        return "int64"
    if types.is_floating(arrow_type) or types.is_decimal(arrow_type):
        return "float64"
    return "timestamp" if types.is_timestamp(arrow_type) or types.is_date(arrow_type) else "string"


def as_texts(column: pa.Array) -> pa.Array:
    """Return typed values as the texts of their labels: 1.0 is "1", true is "true"."""
    codes, labels = labels_of(column)
    indices = pa.array(codes, pa.int64(), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(labels, pa.string())).dictionary_decode()


class ColumnParser:
    """Parses one column batch by batch, and remembers what does not fit its plan."""

    def __init__(self, name: str, plan: ColumnPlan) -> None:
        self.name = name
        self.plan = plan
        self.first_plan = plan
        self.good = self.bad = 0  # values that fit the plan, and those that do not
        self.bad_values: list[tuple[int, str]] = []  # the first of them: row and text
        self.bad_spellings: set[str] = set()
        self.notices: list[Notice] = []  # what was decided for this column; part of the upload's answer

    @property
    def plan_changed(self) -> bool:
        """Whether the plan did not fit: the file must be read again."""
        return self.plan != self.first_plan

    def parse(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        """Return values of the plan's type and, where the plan is strict, a mask (bool) of those that do not fit.

        `rows` are the row numbers of `values`, for error messages.
        """
        plan = self.plan
        if plan.typed:
            return values, None
        if plan.trim:
            trimmed = pc.utf8_trim_whitespace(values)
            missing = pc.is_in(trimmed, pa.array(["", *plan.missing]))
            values = pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)
        if plan.storage in ("int64", "float64"):
            return self._parse_numbers(values, rows)
        if plan.storage == "timestamp":
            times, bad = parse_times(values, plan)
            return self._check(values, times, bad, rows)
        if plan.storage == "bool" or (plan.strict and plan.stated_kind == "boolean"):
            return self._parse_booleans(values, rows)
        return values, None

    def _parse_numbers(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        if self.plan.stated_kind != "numeric" and has_leading_zeros(values):
            return self._fall_back_to_text(values)
        numbers, bad = parse_numbers(values, self.plan)
        if self.plan.soft_missing and len(self.bad_spellings) < MAX_SPELLINGS:
            read_as_missing = numbers.is_null().to_numpy(zero_copy_only=False) & ~bad
            self._remember_spellings(values.filter(pa.array(read_as_missing)).drop_null())
        if self.plan.storage == "int64" and not pa.types.is_integer(numbers.type):
            if self.plan.stated_kind is None and _exceeds_float64(values):
                return self._fall_back_to_text(values)
            self.plan = replace(self.plan, storage="float64")
        if self.plan.storage == "float64" and numbers.type != pa.float64():
            numbers = numbers.cast(pa.float64(), safe=False)
        return self._check(values, numbers, bad, rows)

    def _parse_booleans(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        """Accept every usual spelling where the request says boolean, else `true` and `false` alone."""
        stated = self.plan.stated_kind == "boolean"
        words = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        yes = pc.is_in(words, pa.array(sorted(TRUE) if stated else ["true"]))
        known = pc.or_(yes, pc.is_in(words, pa.array(sorted(FALSE) if stated else ["false"])))
        bad = ~pc.or_(known, values.is_null()).to_numpy(zero_copy_only=False)
        parsed = yes if self.plan.storage == "bool" else values
        return self._check(values, pc.if_else(known, parsed, pa.scalar(None, parsed.type)), bad, rows)

    def _check(
        self, texts: pa.Array, parsed: pa.Array, bad: np.ndarray, rows: np.ndarray
    ) -> tuple[pa.Array, np.ndarray | None]:
        """Count and remember bad values; a column with too many of them is text."""
        count = int(bad.sum())
        self.good += len(texts) - texts.null_count - count
        if not count:
            return parsed, None
        self.bad += count
        for at in np.flatnonzero(bad)[: max(0, MAX_PROBLEMS - len(self.bad_values))]:
            self.bad_values.append((int(rows[at]), texts[int(at)].as_py()))
        if len(self.bad_spellings) < MAX_SPELLINGS:
            self._remember_spellings(texts.filter(pa.array(bad)))
        if self.plan.strict:
            return parsed, bad
        if self.bad > 1000 and self.bad > 0.2 * self.good:
            return self._fall_back_to_text(texts)
        return parsed, None

    def _remember_spellings(self, texts: pa.Array) -> None:
        self.bad_spellings.update(texts.unique().to_pylist()[:MAX_SPELLINGS])

    def _fall_back_to_text(self, texts: pa.Array) -> tuple[pa.Array, None]:
        self.plan = replace(self.plan, storage="string", soft_missing=False)
        return texts, None

    def next_plan(self) -> ColumnPlan:
        """Return the plan for another pass over the file; where it is the same, this pass is final.

        A few bad values among many good ones (1 in 100, or up to 3 in at least 60) are errors, so the plan becomes
        strict; more of them mean that the column is text.
        """
        plan, total = self.plan, self.good + self.bad
        if not self.bad or plan.strict or plan.storage == "string":
            return plan
        is_numeric = plan.storage in ("int64", "float64")
        all_soft = len(self.bad_spellings) < 20 and _are_soft_missing(self.bad_spellings)
        if is_numeric and not plan.soft_missing and all_soft and self.good >= self.bad:
            return replace(plan, soft_missing=True)
        if plan.storage == "timestamp" and plan.time_format.startswith("%m/%d"):
            return replace(plan, time_format=plan.time_format.replace("%m/%d", "%d/%m"))
        if self.bad <= max(0.01 * total, min(3.0, total / 20)):
            return replace(plan, strict=True)
        return replace(plan, storage="string", soft_missing=False)


def parse_numbers(values: pa.Array, plan: ColumnPlan) -> tuple[pa.Array, np.ndarray]:
    """Parse texts as numbers: int64 where all are whole, else float64, null where missing or bad.

    Returns the numbers and a mask (bool) of the bad texts.
    """
    numbers = _cast_to_numbers(values, plan)
    if numbers is not None:  # the usual case, in one step
        return numbers, np.zeros(len(values), bool)
    texts = pc.utf8_trim_whitespace(values)
    if plan.decimal == ",":
        texts = pc.replace_substring(pc.replace_substring(texts, ".", ""), ",", ".")
    numbers = _cast_to_numbers(texts, plan)
    if numbers is not None:
        return numbers, np.zeros(len(values), bool)
    good = pc.match_substring_regex(texts, _NUMBER)
    if plan.soft_missing:
        soft = pc.is_in(pc.utf8_lower(texts), pa.array(sorted(SOFT_MISSING)))
        texts = pc.if_else(soft, pa.scalar(None, pa.string()), texts)
        good = pc.or_(good, soft)
    bad = ~good.fill_null(True).to_numpy(zero_copy_only=False)
    numbers = _cast_to_numbers(pc.if_else(pa.array(~bad), texts, pa.scalar(None, pa.string())), plan)
    if numbers is not None:
        return numbers, bad
    return pa.nulls(len(values), pa.float64()), ~values.is_null().to_numpy(zero_copy_only=False)


def _cast_to_numbers(texts: pa.Array, plan: ColumnPlan) -> pa.Array | None:
    for arrow_type in (pa.float64(),) if plan.storage == "float64" else (pa.int64(), pa.float64()):
        try:
            return texts.cast(arrow_type)
        except pa.ArrowInvalid:
            continue
    return None


def has_leading_zeros(texts: pa.Array) -> bool:
    """Return whether any text starts with a zero and another digit ("007"): then they are codes, not numbers."""
    if not len(texts) or not pa.types.is_string(texts.type):
        return False
    buffers = texts.buffers()
    if buffers[2] is None:
        return False
    offsets = np.frombuffer(buffers[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(buffers[2], np.uint8)
    if not len(data):
        return False
    starts = offsets[:-1]
    zeros = np.flatnonzero((data[np.minimum(starts, len(data) - 1)] == ord("0")) & (np.diff(offsets) > 1))
    second = data[starts[zeros] + 1]
    return bool(((second >= ord("0")) & (second <= ord("9"))).any())


def _exceeds_float64(texts: pa.Array) -> bool:
    """Return whether a whole number has more digits than float64 keeps: then they are names, and stay text."""
    return bool(pc.any(pc.match_substring_regex(texts, r"^\s*[+-]?\d{17,}\s*$")).as_py())


def _are_soft_missing(texts: set[str]) -> bool:
    return all(text.strip().lower() in SOFT_MISSING for text in texts)


def _consists_of(present: pa.Array, words: set[str]) -> bool:
    return bool(pc.all(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(present)), pa.array(sorted(words)))).as_py())


def _boolean_storage(present: pa.Array) -> Storage:
    """Keep two spellings as they are; several spellings of the same value become true and false."""
    if _consists_of(present, {"0", "1"}):
        return "int64"
    return "bool" if len(present.unique()) > 2 or _consists_of(present, {"true", "false"}) else "string"


def parse_times(values: pa.Array, plan: ColumnPlan) -> tuple[pa.Array, np.ndarray]:
    """Parse texts as timestamps in microseconds, null where missing or bad; also return a mask (bool) of the bad."""
    texts = pc.utf8_trim_whitespace(values)
    if plan.time_format not in ("iso", "utc"):
        times = pc.strptime(texts, plan.time_format, "us", error_is_null=True)
        return times, times.is_null().to_numpy(zero_copy_only=False) & ~values.is_null().to_numpy(zero_copy_only=False)
    bad = np.zeros(len(values), bool)
    parts = _cast_to_times(texts, plan.arrow_type, bad, 0)
    return pa.concat_arrays(parts) if parts else pa.nulls(0, plan.arrow_type), bad


def _cast_to_times(texts: pa.Array, arrow_type: pa.DataType, bad: np.ndarray, start: int) -> list[pa.Array]:
    """Cast; where that fails, halve, until each bad text is alone (or there are too many of them)."""
    try:
        return [texts.cast(arrow_type)]
    except pa.ArrowInvalid:
        if len(texts) == 1 or bad.sum() > 50 * MAX_PROBLEMS:
            bad[start : start + len(texts)] = ~texts.is_null().to_numpy(zero_copy_only=False)
            return [pa.nulls(len(texts), arrow_type)]
        half = len(texts) // 2
        first = _cast_to_times(texts[:half], arrow_type, bad, start)
        return first + _cast_to_times(texts[half:], arrow_type, bad, start + half)


def _detect_time_format(present: pa.Array) -> str | None:
    """Return the format that parses most of a sample, if that is at least 95 % of it; the earlier one of equals."""
    head = present[:20_000]
    looks_like_dates = pc.match_substring_regex(head[:20], r"^\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
    if not pc.any(looks_like_dates).as_py():
        return None
    best, most = None, 0
    for time_format in TIME_FORMATS:
        good = len(head) - int(parse_times(head, ColumnPlan("timestamp", time_format))[1].sum())
        if good > most:
            best, most = time_format, good
    return best if most >= 0.95 * len(head) else None
