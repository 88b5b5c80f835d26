"""Times as people write them: orders of day and month, month names, clocks of twelve hours, weeks, epochs.

`read_time` reads one text and `parse_times` a column, by the same patterns; both read the same
(`tests/datasets/test_parsing.py`). A time without a zone is taken for one in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.parsing.column_format import ColumnFormat, TimeFormat
from fitserve.parsing.counted_days import DAYS_AT_1970, microseconds_of_days, read_year_day
from fitserve.parsing.short_dates import PLACES, read_short_date
from fitserve.parsing.words import MONTHS, ZONES

if TYPE_CHECKING:
    import pyarrow as pa

FIRST_YEAR = 1969  # first year of two-digit years, as in POSIX
DAY = 86_400_000_000  # microseconds
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999  # microseconds: the years 1 to 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LETTERS = "A-Za-zÀ-ɏЀ-ӿ"
# +02:00, UTC+2, and GMT+0200 (CEST) as JavaScript writes it.
_ZONE = r"z|Z|(?:UTC|GMT)?[+-]\d{2}(?::?\d{2})?|(?:UTC|GMT)[+-]\d|[A-Z]{3,4}"
_LATE = "^[Pp下]|後|후"  # half-day words that mean the second half
_CLOCK = (
    r"(?:(?:T|t|,? {1,3}|:)(?:(?P<half_before>[AaPp][Mm]|上午|下午|午前|午後|오전|오후) ?)?"
    r"(?P<hour>\d{1,2})(?:[:h.](?P<minute>\d{2}))?"
    r"(?:[:.](?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?(?: ?(?:Uhr|uhr|h))?"
    rf"(?: ?(?P<half>[AaPp]\.?[ \xa0]?[Mm]\.?))?(?: ?(?P<zone>{_ZONE}))?"
    r"(?:\[[A-Za-z_/+-]{3,40}\]| \([A-Za-z /+-]{3,60}\))?)?"
)
_WEEKDAY = f"(?:[{_LETTERS}]{{2,10}}\\.?,? )?"
_NAME = f"(?P<month>[{_LETTERS}]{{3,12}})\\.?"
_OF_YEAR = r"(?: ?[гр]\.?| ?r\.| года| року| roku)?"  # "the year's", behind its number, in Slavic languages
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th|er|\.)?"
# Tried in this order. Arrow's and Python's engines both take them.
NUMERIC = (
    rf"^{_WEEKDAY}(?P<first>\d{{1,4}})(?P<sign>[-/. ]) ?(?P<middle>\d{{1,2}})(?P<same>[-/. ]) ?(?P<last>\d{{1,4}})"
    rf"\.?{_OF_YEAR}{_CLOCK}$"
)
DAY_NAME_YEAR = (
    rf"^{_WEEKDAY}{_DAY}(?:[-/ .,]|(?: of )|(?: de ))?{_NAME}(?:[-/ .,]| de |, )?(?P<year>\d{{4}}|\d{{2}}){_OF_YEAR}"
    rf"{_CLOCK}$"
)
NAME_DAY_YEAR = rf"^{_WEEKDAY}{_NAME}[-/ .]? ?{_DAY}(?:, ?|[-/ .])(?P<year>\d{{4}}|\d{{2}}){_CLOCK}$"
YEAR_NAME_DAY = rf"^(?P<year>\d{{4}})[-/ .]?{_NAME}[-/ .]?{_DAY}{_CLOCK}$"
NAME_YEAR = rf"^{_NAME}[-/ .]? ?(?P<year>\d{{4}})$"
YEAR_NAME = rf"^(?P<year>\d{{4}})[-/ ]?{_NAME}$"
# Jan-24 and Jan '24; after only a blank, the number could be a day.
NAME_SHORT_YEAR = rf"^{_NAME}(?:[-/]| ?['’])(?P<year>\d{{2}})$"
YEAR_MONTH = r"^(?P<year>\d{4})[-/](?P<number>\d{2})$"
MONTH_YEAR = r"^(?P<number>\d{1,2})[-/](?P<year>\d{4})$"
COMPACT = (
    r"^(?P<year>\d{4})(?P<number>0[1-9]|1[0-2])(?P<day>0[1-9]|[12]\d|3[01])"
    r"(?:[T _-]?(?P<hour>\d{2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?)?$"
)
COMPACT_MONTH = r"^(?P<year>(?:19|20)\d{2})(?P<number>0[1-9]|1[0-2])$"
# 31012024; no such text has a month where COMPACT does.
COMPACT_LAST = r"^(?P<first>\d{2})(?P<sign>)(?P<middle>\d{2})(?P<same>)(?P<last>(?:19|20)\d{2})$"
EAST_ASIAN = rf"^(?P<year>\d{{4}}) ?[年년] ?(?P<number>\d{{1,2}}) ?[月월] ?(?P<day>\d{{1,2}}) ?[日일]{_CLOCK}$"
EAST_ASIAN_CLOCK = (  # 2024年1月31日 7时05分
    r"^(?P<year>\d{4}) ?[年년] ?(?P<number>\d{1,2}) ?[月월] ?(?P<day>\d{1,2}) ?[日일] ?"
    r"(?P<half>上午|下午|午前|午後|오전|오후)? ?(?P<hour>\d{1,2}) ?[时時点點시](?: ?(?P<minute>\d{1,2}) ?[分분])?"
    r"(?: ?(?P<second>\d{1,2}) ?[秒초])?$"
)
DB2 = (  # 2024-01-31-07.05.09.000000
    r"^(?P<year>\d{4})-(?P<number>\d{2})-(?P<day>\d{2})-(?P<hour>\d{2})\.(?P<minute>\d{2})\.(?P<second>\d{2})"
    r"(?:\.(?P<fraction>\d{1,12}))?$"
)
WEEK = r"^(?P<year>\d{4})-?W(?P<week>\d{2})(?:-?(?P<weekday>[1-7]))?$"
C_TIME = (
    rf"^(?:[{_LETTERS}]{{2,10}},? )?{_NAME} {{1,2}}(?P<day>\d{{1,2}}) "
    r"(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})(?: (?P<zone>Z|[A-Z]{3,4}|[+-]\d{2}:?\d{2}))? (?P<year>\d{4})$"
)
C_TIME_ZONE = (  # as git writes it
    rf"^[{_LETTERS}]{{2,10}},? {_NAME} {{1,2}}(?P<day>\d{{1,2}}) "
    r"(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2}) (?P<year>\d{4}) (?P<zone>[+-]\d{2}:?\d{2})$"
)
_NUMERIC = re.compile(NUMERIC, re.ASCII)
_DAY_NAME_YEAR = re.compile(DAY_NAME_YEAR, re.ASCII)
_NAME_DAY_YEAR = re.compile(NAME_DAY_YEAR, re.ASCII)
_YEAR_NAME_DAY = re.compile(YEAR_NAME_DAY, re.ASCII)
_NAME_YEAR = re.compile(NAME_YEAR, re.ASCII)
_YEAR_NAME = re.compile(YEAR_NAME, re.ASCII)
_NAME_SHORT_YEAR = re.compile(NAME_SHORT_YEAR, re.ASCII)
_YEAR_MONTH = re.compile(YEAR_MONTH, re.ASCII)
_MONTH_YEAR = re.compile(MONTH_YEAR, re.ASCII)
_COMPACT = re.compile(COMPACT, re.ASCII)
_COMPACT_MONTH = re.compile(COMPACT_MONTH, re.ASCII)
_COMPACT_LAST = re.compile(COMPACT_LAST, re.ASCII)
_EAST_ASIAN = re.compile(EAST_ASIAN, re.ASCII)
_EAST_ASIAN_CLOCK = re.compile(EAST_ASIAN_CLOCK, re.ASCII)
_DB2 = re.compile(DB2, re.ASCII)
_WEEK = re.compile(WEEK, re.ASCII)
_C_TIME = re.compile(C_TIME, re.ASCII)
_C_TIME_ZONE = re.compile(C_TIME_ZONE, re.ASCII)
# Seconds, milli-, micro- and nanoseconds since 1970 are distinguished by magnitude: seconds up to the year 5138.
_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_COMPACT_NUMBERS = tuple((1900_01_01 * scale, 2101_01_01 * scale) for scale in (1, 100, 10_000, 1_000_000))
EXCEL_DAYS = (30_000, 55_154)  # 1982 to 2050: numbers in this range may be Excel's days
_FROM_MILLIS, _FROM_MICROS, _FROM_NANOS = 1e11, 1e14, 1e17


# --- one value -----------------------------------------------------------------------------------------------------


def read_time(text: str, format: ColumnFormat) -> float:
    """Return a text's seconds since 1970 in UTC. Raises ValueError."""
    text = text.strip()
    if format.is_number_of_time:
        return microseconds_of_number(_number_of(text), format) / 1e6
    moment = read_moment(text, format.time or "ymd", format.first_year or FIRST_YEAR)
    delta = moment - _EPOCH
    return (delta.days * DAY + delta.seconds * 1_000_000 + delta.microseconds) / 1e6


def microseconds_of_number(number: float, format: ColumnFormat) -> int:
    """Return microseconds since 1970 from a number as a column's times are written. Raises ValueError."""
    if format.time in PLACES:
        day = read_short_date(number, format.time, format.first_year or FIRST_YEAR)
        return (day - _EPOCH.date()).days * DAY
    if format.time == "year_day":
        return (read_year_day(number, format.first_year or FIRST_YEAR) - _EPOCH.date()).days * DAY
    return microseconds_of_epoch(number, format.time)


def microseconds_of_epoch(number: float, time: TimeFormat | None = None) -> int:
    """Return microseconds since 1970 from a number in the unit of `time`, or of its magnitude. Raises ValueError."""
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("not a time")
    size = abs(number)
    if time in DAYS_AT_1970:
        micros = microseconds_of_days(number, time)
    elif time == "epoch_ns" or (time not in _UNITS and size >= _FROM_NANOS):
        micros = int(number) // 1000
    else:
        unit = _UNITS.get(time or "") or (1_000_000 if size < _FROM_MILLIS else 1_000 if size < _FROM_MICROS else 1)
        micros = round(number * unit)
    if not EARLIEST <= micros <= LATEST:
        raise ValueError("a year beyond 1 to 9999")
    return micros


def _number_of(text: str) -> int | float:
    """Return a number with a decimal point or comma. Raises ValueError."""
    return int(text) if text.lstrip("+-").isdecimal() else float(text.replace(",", "."))


def text_of_compact(number: float) -> str | None:
    """Return the digits of a number that is a day from 1900 to 2100, or a time on one, written 20240131; else None."""
    if number != number or number % 1 or not any(low <= number < high for low, high in _COMPACT_NUMBERS):
        return None
    digits = str(int(number))
    if len(digits) == 10 and not (_COMPACT.fullmatch(digits) and digits[8:] < "24"):
        return None  # seconds since 1970, of 2030 to 2036
    return digits


def read_moment(text: str, order: str, first_year: int) -> datetime:
    """Return the moment that a text means with day and month in this order. Raises ValueError."""
    parts = match_time(text)
    number = int
    if "first" in parts:
        if parts["sign"] != parts["same"]:
            raise ValueError("not a time")
        year, month, day = _in_order(parts, order)
    elif parts.get("week"):
        monday = date.fromisocalendar(number(parts["year"]), number(parts["week"]), number(parts.get("weekday") or 1))
        return datetime(monday.year, monday.month, monday.day, tzinfo=UTC)
    else:
        named = parts.get("month")
        month_number = MONTHS.get(named.lower()) if named else number(parts["number"])
        if month_number is None:
            raise ValueError("not a month")
        year, month, day = parts["year"], str(month_number), parts.get("day") or "1"
    whole_year = number(year) if len(year) > 2 else first_year + (number(year) - first_year) % 100
    hour, minute, second = (number(parts.get(name) or 0) for name in ("hour", "minute", "second"))
    if half := parts.get("half") or parts.get("half_before"):
        is_late = re.search(_LATE, half) is not None
        if hour > (23 if is_late else 12):  # 13:30 PM means what 13:30 does
            raise ValueError("not an hour")
        hour = hour % 12 + (12 if is_late else 0)
    if (hour, minute, second) == (24, 0, 0):
        more, hour = timedelta(days=1), 0
    elif second == 60 and minute == 59:
        more, second = timedelta(seconds=1), 59
    else:
        more = timedelta()
    fraction = (parts.get("fraction") or "0")[:6].ljust(6, "0")
    moment = datetime(
        whole_year,
        number(month),
        number(day),
        hour,
        minute,
        second,
        number(fraction),
        tzinfo=UTC,
    )
    try:
        return moment + more - timedelta(minutes=_offset(parts.get("zone")))
    except OverflowError:
        raise ValueError("a year beyond 1 to 9999") from None


def match_time(text: str) -> dict[str, Any]:
    """Return the parts of a text that is a time, keyed by the patterns' group names. Raises ValueError."""
    match = (
        _NUMERIC.fullmatch(text)
        or _DAY_NAME_YEAR.fullmatch(text)
        or _NAME_DAY_YEAR.fullmatch(text)
        or _YEAR_NAME_DAY.fullmatch(text)
        or _NAME_YEAR.fullmatch(text)
        or _YEAR_NAME.fullmatch(text)
        or _NAME_SHORT_YEAR.fullmatch(text)
        or _YEAR_MONTH.fullmatch(text)
        or _MONTH_YEAR.fullmatch(text)
        or _COMPACT.fullmatch(text)
        or _COMPACT_MONTH.fullmatch(text)
        or _COMPACT_LAST.fullmatch(text)
        or _EAST_ASIAN.fullmatch(text)
        or _EAST_ASIAN_CLOCK.fullmatch(text)
        or _DB2.fullmatch(text)
        or _WEEK.fullmatch(text)
        or _C_TIME.fullmatch(text)
        or _C_TIME_ZONE.fullmatch(text)
    )
    if match is None:
        raise ValueError("not a time")
    return match.groupdict()


def _in_order(parts: Mapping[str, str], order: str) -> tuple[str, str, str]:
    """Return year, month and day. Raises ValueError."""
    first, middle, last = parts["first"], parts["middle"], parts["last"]
    if parts["sign"] == " " and 4 not in (len(first), len(last)):  # 1 2 23 are three numbers
        raise ValueError("not a time")
    if len(first) == 4 or (order == "ymd" and len(first) == 2 and len(last) <= 2):
        if len(last) > 2:
            raise ValueError("not a time")
        return first, middle, last
    if order == "ymd" or len(first) > 2 or len(last) not in (2, 4):
        raise ValueError("not a time")
    return (last, first, middle) if order == "mdy" else (last, middle, first)


def _offset(zone: str | None) -> int:
    """Return minutes east of UTC. Raises ValueError."""
    if not zone:
        return 0
    if zone[:3] in ("UTC", "GMT") and zone[3:4] in ("+", "-"):
        zone = zone[3:] if len(zone) > 5 else f"{zone[3]}0{zone[4]}"
    if zone[0] not in "+-":
        if zone.upper() not in ZONES:
            raise ValueError("not a zone")
        return ZONES[zone.upper()]
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError("not a zone")
    return (-1 if zone[0] == "-" else 1) * (60 * hours + minutes)


# --- a column ------------------------------------------------------------------------------------------------------


def parse_times(texts: pa.Array, format: ColumnFormat) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Parse texts as microseconds since 1970 in UTC: int64, null where missing or bad.

    Returns them and two masks (bool): bad texts, and times with a zone.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(texts)
    count = len(texts)
    present = ~texts.is_null().to_numpy(zero_copy_only=False)
    micros, bad, zoned = np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool)
    if format.is_number_of_time:
        _parse_epochs(texts, format, micros, bad)
    elif (whole := _cast_iso(texts)) is not None:
        times, zone = whole
        micros[:] = times.fill_null(0).to_numpy(zero_copy_only=False)
        zoned[:] = zone
        bad[:] = present & ((micros < EARLIEST) | (micros > LATEST))
    else:
        left = np.flatnonzero(present)
        for pattern in (
            *(NUMERIC, DAY_NAME_YEAR, NAME_DAY_YEAR, YEAR_NAME_DAY),
            *(NAME_YEAR, YEAR_NAME, NAME_SHORT_YEAR, YEAR_MONTH, MONTH_YEAR, COMPACT, COMPACT_MONTH, COMPACT_LAST),
            *(EAST_ASIAN, EAST_ASIAN_CLOCK, DB2, WEEK, C_TIME, C_TIME_ZONE),
        ):
            if not len(left):
                break
            matched = pc.extract_regex(texts.take(pa.array(left)), pattern)
            hit = ~matched.is_null().to_numpy(zero_copy_only=False)
            if hit.any():
                at = left[hit]
                values, good, has_zone = _combine(matched.filter(pa.array(hit)), format)
                micros[at], bad[at], zoned[at] = values, ~good, has_zone & good
                left = left[~hit]
        bad[left] = True
    return pa.array(micros, pa.int64(), mask=bad | ~present), bad, zoned


def _cast_iso(texts: pa.Array) -> tuple[pa.Array, bool] | None:
    """Return ISO 8601 texts as microseconds, and whether they have zones; None if one is not, or they differ."""
    import pyarrow as pa

    for zone in (None, "UTC"):
        try:
            return texts.cast(pa.timestamp("us", zone)).cast(pa.int64()), zone is not None
        except pa.ArrowInvalid:
            continue
    return None


def _parse_epochs(texts: pa.Array, format: ColumnFormat, micros: np.ndarray, bad: np.ndarray) -> None:
    encoded = texts.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    epochs, wrong = np.zeros(len(encoded.dictionary) + 1, np.int64), np.zeros(len(encoded.dictionary) + 1, bool)
    for index, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            epochs[index] = microseconds_of_number(_number_of(text), format)
        except (ValueError, OverflowError):
            wrong[index] = True
    micros[:], bad[:] = epochs[codes], wrong[codes]


def _combine(parts: pa.Array, format: ColumnFormat) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the microseconds of a pattern's matches (a struct of texts), which are times, and which have zones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [parts.type.field(index).name for index in range(parts.type.num_fields)]
    texts = {name: parts.field(name) for name in names}
    good = np.ones(len(parts), bool)

    def number(name: str, default: int = 0) -> np.ndarray:
        if name not in texts:
            return np.full(len(parts), default)
        filled = pc.if_else(pc.equal(texts[name], ""), str(default), texts[name])
        return np.asarray(filled.cast(pa.int64()).to_numpy(zero_copy_only=False))

    def length(name: str) -> np.ndarray:
        return np.asarray(pc.binary_length(texts[name]).to_numpy(zero_copy_only=False))

    first_year = format.first_year or FIRST_YEAR
    if "first" in texts:
        good &= pc.equal(texts["sign"], texts["same"]).to_numpy(zero_copy_only=False)
        first, middle, last = number("first"), number("middle"), number("last")
        wide_first, wide_last = length("first"), length("last")
        order = format.time or "ymd"
        year_first = (wide_first == 4) | ((order == "ymd") & (wide_first == 2) & (wide_last <= 2))
        year_last = (order != "ymd") & (wide_first <= 2) & ((wide_last == 2) | (wide_last == 4))
        good &= np.where(year_first, wide_last <= 2, year_last)
        has_blanks = pc.equal(texts["sign"], " ").to_numpy(zero_copy_only=False)
        good &= ~has_blanks | (wide_first == 4) | (wide_last == 4)
        month_first = order == "mdy"
        year, width = np.where(year_first, first, last), np.where(year_first, wide_first, wide_last)
        month = np.where(year_first, middle, first if month_first else middle)
        day = np.where(year_first, last, middle if month_first else first)
    else:
        year, width, day = number("year"), length("year"), number("day", 1)
        month = _months(texts["month"]) if "month" in texts else number("number", 1)
    year = np.where(width > 2, year, first_year + (year - first_year) % 100)
    good &= (year >= 1) & (year <= 9999)
    if "week" in texts:
        days, in_range = _days_of_week(year, number("week"), number("weekday", 1))
    else:
        in_range = (month >= 1) & (month <= 12) & (day >= 1)
        in_range &= day <= _days_in_month(year, np.clip(month, 1, 12))
        days = days_from_civil(year, np.clip(month, 1, 12), day)
    good &= in_range
    hour, minute, second = number("hour"), number("minute"), number("second")
    if "half" in texts:
        hour, in_range = _hours_of_halves(hour, texts["half"], texts.get("half_before"))
        good &= in_range
    good &= (hour < 24) | ((hour == 24) & (minute == 0) & (second == 0))
    good &= (minute < 60) & ((second < 60) | ((second == 60) & (minute == 59)))
    fraction = _fractions(texts["fraction"]) if "fraction" in texts else 0
    minutes, zoned, known = _offsets(texts["zone"]) if "zone" in texts else (0, np.zeros(len(parts), bool), True)
    micros = days * DAY + ((hour * 60 + minute - minutes) * 60 + second) * 1_000_000 + fraction
    good &= known & (micros >= EARLIEST) & (micros <= LATEST)
    return micros, np.asarray(good), zoned


def _hours_of_halves(hour: np.ndarray, half: pa.Array, half_before: pa.Array | None) -> tuple[np.ndarray, np.ndarray]:
    """Return hours of the day, shifted by a half-day word (`pm`) after or before them, and which of them are valid."""
    import pyarrow.compute as pc

    has_half = pc.not_equal(half, "")
    if half_before is not None:
        half = pc.if_else(has_half, half, half_before)
        has_half = pc.not_equal(half, "")
    is_late = pc.match_substring_regex(half, _LATE).to_numpy(zero_copy_only=False)
    clock = has_half.to_numpy(zero_copy_only=False)
    of_day = np.where(clock, hour % 12 + np.where(is_late, 12, 0), hour)
    return of_day, ~clock | (hour <= np.where(is_late, 23, 12))


def _months(names: pa.Array) -> np.ndarray:
    """Return the numbers of months' names, 0 for anything else."""
    encoded = names.dictionary_encode()
    numbers = np.array([MONTHS.get(name.lower(), 0) for name in encoded.dictionary.to_pylist()], np.int64)
    return np.asarray(numbers[encoded.indices.to_numpy(zero_copy_only=False)])


def _fractions(texts: pa.Array) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    six = pc.utf8_slice_codeunits(pc.utf8_rpad(texts, 6, "0"), 0, 6)
    return np.asarray(six.cast(pa.int64()).to_numpy(zero_copy_only=False))


def _offsets(zones: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return minutes east of UTC, which values name a zone, and which of those zones exist."""
    encoded = zones.dictionary_encode()
    minutes, known = [], []
    for zone in encoded.dictionary.to_pylist():
        try:
            minutes.append(_offset(zone))
            known.append(True)
        except ValueError:
            minutes.append(0)
            known.append(False)
    named = np.array([bool(zone) for zone in encoded.dictionary.to_pylist()])
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return np.array(minutes, np.int64)[codes], named[codes], np.array(known)[codes]


def days_from_civil(year: Any, month: Any, day: Any) -> Any:
    """Return days since 1970-01-01, also of arrays.

    Source: H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
    """
    year = year - (month <= 2)
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _days_in_month(year: np.ndarray, month: np.ndarray) -> np.ndarray:
    usual = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[month - 1]
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return np.asarray(usual + (leap & (month == 2)))


def _days_of_week(year: np.ndarray, week: np.ndarray, weekday: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return days since 1970 of ISO week dates, and which of those dates exist."""
    monday_of_first = days_from_civil(year, 1, 4)
    monday_of_first = monday_of_first - (monday_of_first + 3) % 7
    next_first = days_from_civil(year + 1, 1, 4)
    next_first = next_first - (next_first + 3) % 7
    days = monday_of_first + (week - 1) * 7 + weekday - 1
    return days, (week >= 1) & (days < next_first)
