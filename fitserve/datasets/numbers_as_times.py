"""Recognise numbers that are times: seconds since 1970, Excel's day numbers, dates such as 20240131."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.column_plan import SHARE, ColumnPlan
from fitserve.parsing import ColumnFormat, TimeFormat, numbers, times
from fitserve.parsing.column_format import PLAIN
from fitserve.parsing.missing import SOFT_MISSING
from fitserve.parsing.numbers import has_leading_zeros
from fitserve.parsing.short_dates import MAX_EXAMPLES, odd_among, short_date_orders
from fitserve.wire.notices import Notice

# Dates and times from 1900 to 2100 without separators, such as 20240131, by their smallest value.
COMPACT = {
    1900_01: "months written 202401",
    1900_01_01: "dates written 20240131",
    1900_01_01_00: "hours written 2024013123",
    1900_01_01_0000: "times written 202401312359",
    1900_01_01_000000: "times written 20240131235959",
}
# Units of time since 1970: the name, and how many make a second.
EPOCH_UNITS: dict[TimeFormat, tuple[str, float]] = {
    "epoch_s": ("seconds", 1),
    "epoch_ms": ("milliseconds", 1e3),
    "epoch_us": ("microseconds", 1e6),
    "epoch_ns": ("nanoseconds", 1e9),
}
FROM_1800 = -5_364_662_400  # seconds since 1970
SURE_SECONDS = 100_000_000  # most times are at least this far from 1970, but few counts are as large
FROM_2001, UNTIL_2100 = 978_307_200, 4_102_444_800  # seconds since 1970
FEWEST_DATES = 4  # eight digits of fewer values may be dates by chance
SMALLEST_EPOCH = 1e8  # seconds: smaller numbers are times since 1970 only where the request says so
# A name that ends like a time's, in snake_case or camelCase, with or without a unit: created_at, eventTime, time (ms).
_TIME_NAME = re.compile(
    r"(?:^|[_\s.-]|(?<=[a-z])(?=[A-Z]))(?i:ts|time|timestamp|date|datetime|datum|at|unixtime|unix|created|updated)"
    r"(?:[_\s.-]{0,2}[(\[]?(?i:s|sec|secs|seconds|ms|millis|us|micros|ns|nanos|utc|gmt)[)\]]?)?$"
)
_DATE_NAME = re.compile(r"(?:^|[\W_]|(?<=[a-z])(?=[A-Z]))(?i:date|datetime|datum|fecha|data)(?:$|[\W_])")
# A name of days that are counted: date, day, obs_day, datenum. Those of times may hold any but the small counts.
_DAY_NAME = re.compile(
    r"(?:^|[\W_]|(?<=[a-z])(?=[A-Z]))(?i:date|datetime|datum|fecha|dates|days?|dia|jour|tag|datenum|serialdate|julian"
    r"|yearday|jday|jd|mjd|doy)(?:$|[\W_])"
)
# Days as programs count them, from 1900 to 2100: the format, what counts them, the first and the last number.
COUNTED_DAYS: tuple[tuple[TimeFormat, str, int, int], ...] = (
    ("matlab", "days from the year 0, as MATLAB counts them; Python's are 366 fewer", 693_596, 767_011),
    ("julian", "Julian days", 2_415_020, 2_488_071),
    (
        "days_1970",
        "days from 1970, as R counts them, or (days_1960) from 1960, as SAS does",
        7_000,
        times.EXCEL_DAYS[0],
    ),
    ("excel", "days as Excel counts them, from 1899-12-30", *times.EXCEL_DAYS),
    ("mjd", "modified Julian days", times.EXCEL_DAYS[1], 88_070),
)
SMALL_COUNTS = 100_000  # smaller numbers below a time's name may be seconds
DISTINCT_ORDINALS = 10  # of five digits, fewer may end in 001 to 366 by chance


def may_count_days(name: str, largest: float) -> bool:
    """Return whether numbers up to the largest one may be days that are counted, or years with a day, by their name."""
    is_day = _DAY_NAME.search(name) is not None
    return (is_day and 1_000 < largest < 3_000_000) or (
        SMALL_COUNTS < largest < 3_000_000 and _TIME_NAME.search(name) is not None
    )


class NumbersAsTimes:
    """Decides whether one column's numbers are times, and in which form, from their size and the column's name."""

    def __init__(self, name: str, present: pa.Array, stated: ColumnFormat) -> None:
        self.name, self.present, self.stated = name, present, stated

    def plan(self, parsed: pa.Array, plan: ColumnPlan) -> ColumnPlan | None:
        """Return a plan for times if both size and name say so; add a notice if only the size does."""
        low, high = (value.as_py() for value in pc.min_max(parsed).values())
        if low is None or self.stated.decimal is not None:
            return None
        whole = pa.types.is_integer(parsed.type)
        if (of_excel := self._excel_days(parsed, plan)) is not None:
            return of_excel
        if (of_days := self._counted_days(parsed, plan)) is not None:
            return of_days
        units = _epochs_of(parsed)
        compact = next(
            (form for first, form in COMPACT.items() if first <= low and high < first + 201 * (first // 1900)), ""
        )
        if compact and (not whole or not self._all_read(ColumnFormat(time="ymd"))):
            compact = ""
        elif compact:
            units = []  # seconds of 2030 to 2036, of which hardly one in a hundred is an hour written 2024013123
        if not units and not compact:
            return (self._early(parsed, plan) or self._mostly_dates(parsed, plan)) if whole else None
        what = " or ".join(EPOCH_UNITS[unit][0] for unit in units)
        seen = compact or f"{what} since 1970, by their size"
        if _TIME_NAME.search(self.name):
            format = self.stated.change(time="ymd" if compact else "epoch")
            return self._read_as_times(plan, format, seen, f"from {low} to {high}, and the name is a time's")
        if compact or len(units) > 1 or (whole and units[0] in ("epoch_ms", "epoch_us")):
            return self._could_be_times(plan, seen, f"from {low} to {high}", f"kinds.{self.name}=datetime")
        return None

    def _mostly_dates(self, parsed: pa.Array, plan: ColumnPlan) -> ColumnPlan | None:
        """Return a plan for numbers, with a notice that (almost) all of them are dates of digits alone; else None."""
        low, high = (value.as_py() for value in pc.min_max(parsed).values())
        if high < 1_01_01 or len(self.present) < FEWEST_DATES:
            return None
        years = pc.divide(parsed, 10_000)
        in_range = pc.and_(pc.greater_equal(years, 1900), pc.less(years, 2100))
        if (pc.sum(in_range).as_py() or 0) >= SHARE * len(parsed):
            bad = times.parse_times(self.present[:MAX_EXAMPLES], ColumnFormat(time="ymd"))[1]
            if bad.any() and bad.mean() <= 1 - SHARE:
                odd = self.present[int(bad.argmax())].as_py().strip()
                evidence = f"from {low} to {high}, but {odd} is none"
                return self._could_be_times(plan, "dates written 20240131", evidence, f"kinds.{self.name}=datetime")
        if not (low >= 1_000_000 or _DATE_NAME.search(self.name)) or high > 31_12_2099:
            return None
        orders = short_date_orders(self.present, SHARE)
        if not orders or (len(orders[0]) == 6 and not _DATE_NAME.search(self.name)):
            return None
        odd = odd_among(self.present, orders[0])
        evidence = f"such as {self.present[0].as_py().strip()}" + (f", but {odd} is none" if odd else "")
        option = f"formats.{self.name}.time={orders[0]}"
        return self._could_be_times(plan, f"dates written {orders[0]}", evidence, option)

    def short_dates(self, plan: ColumnPlan) -> ColumnPlan | None:
        """Return a plan for dates of six or eight digits if the name is a date's; None if any value is not a date.

        A value that is valid in only one order shows which digits are the year; without such a value, the digits that
        vary least are. Eight digits with their leading zeros are read without a name, as `of_times` reads them.
        """
        if self.stated.time is not None or self.stated.decimal is not None:
            return None
        if not _DATE_NAME.search(self.name):  # digits below another name may be a time of day, or a number
            return None
        is_word = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(self.present)), pa.array(sorted(SOFT_MISSING)))
        digits = self.present.filter(pc.invert(is_word))
        orders = short_date_orders(digits)
        if not orders or (len(orders[0]) == 8 and has_leading_zeros(digits)):
            return None
        plan = replace(plan, soft_missing=len(digits) < len(self.present))
        example = digits[0].as_py().strip()
        format = self.stated.change(time=orders[0])
        day = datetime.fromtimestamp(times.read_time(example, format), UTC).date()
        first = self.stated.first_year or times.FIRST_YEAR
        years = f", of the years {first} to {first + 99}" if len(orders[0]) == 6 else ""
        seen = f"dates written {orders[0]}{years}"
        evidence = f"{example} is {day.isoformat()}, and the name is a date's"
        read = self._read_as_times(plan, format, seen, evidence, "categorical")
        if len(orders) == 1:
            return read
        notice = Notice(
            code="day_or_month",
            message=f"In {self.name!r}, {example} is read as {day.isoformat()}.",
            column=self.name,
            evidence=f"it could be read as {' or '.join(orders[1:])} too",
            option=f"formats.{self.name}.time={orders[1]}",
        )
        return replace(read, notices=(*read.notices, notice))

    def _early(self, parsed: pa.Array, plan: ColumnPlan) -> ColumnPlan | None:
        """Return a plan for times that begin before 2001 (negative: before 1970), if the name is a time's.

        If all numbers are positive they may be durations, and stay numbers with a notice.
        """
        low, high = (value.as_py() for value in pc.min_max(parsed).values())
        unit = _early_epoch_of(parsed)
        if unit is None or not _TIME_NAME.search(self.name):
            return None
        seen, evidence = f"{EPOCH_UNITS[unit][0]} since 1970, by their size", f"from {low} to {high}"
        if low >= 0:
            return self._could_be_times(plan, seen, evidence, f"formats.{self.name}.time={unit}")
        evidence += ", and the name is a time's"
        return self._read_as_times(plan, self.stated.change(time=unit), seen, evidence)

    def _excel_days(self, parsed: pa.Array, plan: ColumnPlan) -> ColumnPlan | None:
        """Return a plan for Excel's day numbers if the name is a date's; only add a notice if it is a time's."""
        low, high = (value.as_py() for value in pc.min_max(parsed).values())
        first, last = times.EXCEL_DAYS
        if not (first <= low and high < last) or not (_DATE_NAME.search(self.name) or _TIME_NAME.search(self.name)):
            return None
        seen = "days as Excel counts them, from 1899-12-30"
        if not _DATE_NAME.search(self.name):
            return self._could_be_times(plan, seen, f"from {low} to {high}", f"formats.{self.name}.time=excel")
        evidence = f"from {low} to {high}, and the name is a date's"
        return self._read_as_times(plan, self.stated.change(time="excel"), seen, evidence)

    def _counted_days(self, parsed: pa.Array, plan: ColumnPlan) -> ColumnPlan | None:
        """Return a plan for years with a day, or one for numbers with a notice of days as programs count them.

        None if the name is not a day's.
        """
        low, high = (value.as_py() for value in pc.min_max(parsed).values())
        if not may_count_days(self.name, high):
            return None
        evidence = f"from {low} to {high}, and the name is a date's"
        if (written := _year_days(parsed, low, high)) is not None:
            if high > SMALL_COUNTS and _DATE_NAME.search(self.name) and self._all_read(ColumnFormat(time="year_day")):
                return self._read_as_times(plan, self.stated.change(time="year_day"), written, evidence)
            return self._could_be_times(plan, written, evidence, f"formats.{self.name}.time=year_day")
        for time, seen, first, last in COUNTED_DAYS:
            if first <= low and high < last:
                return self._could_be_times(plan, seen, evidence, f"formats.{self.name}.time={time}")
        return None

    def _read_as_times(
        self, plan: ColumnPlan, format: ColumnFormat, seen: str, evidence: str, otherwise: str = "numeric"
    ) -> ColumnPlan:
        """Return a plan that reads numbers as times, and add a notice with the kind that keeps them numbers."""
        message, option = f"{self.name!r} is read as times: {seen}.", f"kinds.{self.name}={otherwise}"
        notice = Notice(code="epoch", message=message, column=self.name, evidence=evidence, option=option)
        return replace(plan, storage="timestamp", format=format, notices=(notice,), evidence=seen)

    def _could_be_times(self, plan: ColumnPlan, seen: str, evidence: str, option: str) -> ColumnPlan:
        """Return a plan for numbers, and add a notice that they could be times."""
        message = f"{self.name!r} is read as numbers; they could be times: {seen}."
        notice = Notice(code="looks_like_time", message=message, column=self.name, evidence=evidence, option=option)
        return replace(plan, notices=(notice,))

    def stated_format(self) -> TimeFormat | None:
        """Return the format of numbers that the options declare as times (20240131, seconds since 1970), or None."""
        if orders := short_date_orders(self.present, SHARE):
            return orders[0]
        parsed, bad = numbers.parse_numbers(self.present, PLAIN)
        if not len(self.present) or bad.any() or has_leading_zeros(self.present):
            return None
        if self._all_read(ColumnFormat(time="ymd")):
            return "ymd"
        low = pc.min(pc.abs(parsed)).as_py()
        return "epoch" if low is not None and low >= SMALLEST_EPOCH else None

    def _all_read(self, format: ColumnFormat) -> bool:
        return not times.parse_times(self.present[:10_000], format)[1].any()


def _year_days(parsed: pa.Array, low: float, high: float) -> str | None:
    """Return how the numbers are written if each is a year and its day (2024031 or 24031); None if not."""
    values = parsed.drop_null().to_numpy(zero_copy_only=False)
    in_year = values % 1000
    if not ((values == np.floor(values)) & (in_year >= 1) & (in_year <= 366)).all():
        return None
    if low >= 1900_001 and high <= 2099_366:
        return "dates written 2024031, the year and its day"
    if low >= 1_001 and high <= 99_366 and len(np.unique(values)) >= DISTINCT_ORDINALS:
        return "dates written 24031, the year and its day"
    return None


def _epochs_of(numbers: pa.Array) -> list[TimeFormat]:
    """Return the units in which all numbers would be times from 2001 to 2100; [] if there is none."""
    present = numbers.drop_null().to_numpy(zero_copy_only=False)
    formats: list[TimeFormat] = []
    left = len(present)
    if not left or not (present.min() >= FROM_2001 and present.max() < UNTIL_2100 * 1e9):
        return []
    for time, (_, unit) in EPOCH_UNITS.items():
        of_unit = int(((present >= FROM_2001 * unit) & (present < UNTIL_2100 * unit)).sum())
        left -= of_unit
        if of_unit:
            formats.append(time)
    return [] if left else formats


def _early_epoch_of(numbers: pa.Array) -> TimeFormat | None:
    """Return the unit in which all numbers are from 1800 to 2100, most of them years from 1970; None if none.

    If several units fit, the one with the latest times is chosen.
    """
    present = numbers.drop_null().to_numpy(zero_copy_only=False)
    if not len(present):
        return None
    for time, (_, unit) in EPOCH_UNITS.items():
        far = np.abs(present.astype(np.float64)) >= SURE_SECONDS * unit
        if present.min() >= FROM_1800 * unit and present.max() < UNTIL_2100 * unit and far.mean() >= 0.5:
            return time
    return None
