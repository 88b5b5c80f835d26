"""`cyclic`: a time by its place within the day, the week, the month and the year."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.encoding import Indicator
from fitserve.encoding.number import NumericColumn, NumericEncoding

DAY = 86_400.0  # seconds
YEAR = 365.2425  # days: the mean Gregorian year
Part = Literal["time_of_day", "weekday", "day_of_month", "time_of_year"]


class CyclicColumn(NumericColumn):
    """Seconds since 1970 in UTC become sine and cosine of each part in turn; zeros where missing."""

    encoding: Cyclic

    def write_number(self, number: float, out: np.ndarray) -> None:
        self.write_numbers(np.array([number]), np.zeros(1, np.bool_), out[None])

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        parts, seconds = self.encoding.parts or (), numbers[~missing]
        angles = np.stack([phase(part, seconds, np.floor) for part in parts], axis=1) * (2 * np.pi)
        waves = np.stack([np.sin(angles), np.cos(angles)], axis=2)
        out[~missing, : 2 * len(parts)] = waves.reshape(len(seconds), 2 * len(parts))

    def baseline_value(self, distribution: Mapping[str, Any]) -> Any:
        return distribution.get("mean", 0.0)


class Cyclic(NumericEncoding):
    """Sine and cosine of each part, in UTC. time_of_year has the mean Gregorian year of 365.2425 days as its period."""

    kinds = ("datetime",)
    column_class = CyclicColumn
    in_onnx = in_code = True

    type: Literal["cyclic"] = "cyclic"
    parts: tuple[Part, ...] | None = Field(default=None, min_length=1, description="Left out: those that vary")
    missing: Literal["zero", "refuse"] = "zero"
    indicator: Indicator = None

    def defaults(self, facts: ColumnFacts) -> dict[str, Any]:
        return super().defaults(facts) | ({"parts": _varying_parts(facts)} if self.parts is None else {})

    def width(self, facts: ColumnFacts) -> int:
        return 2 * len(self.parts or ()) + bool(self.indicator)


def _varying_parts(facts: ColumnFacts) -> tuple[Part, ...]:
    days = ((facts.max or 0.0) - (facts.min or 0.0)) / DAY
    parts: list[Part] = [] if facts.date_only else ["time_of_day"]
    if days >= 1:
        parts.append("weekday")
    if days >= 60:
        parts.append("time_of_year")
    return tuple(parts) or ("weekday",)


def phase(part: Part, seconds: Any, floor: Callable[[Any], Any]) -> Any:
    """Return how far a time has got within a cycle, from 0 up to 1, in float64.

    `seconds` are NumPy's or Keras's and `floor` is theirs: floors, products and differences alone give the same bits
    in both.
    """
    days = seconds / DAY
    if part == "time_of_day":
        return days - floor(days)
    if part == "weekday":  # 1970-01-01 was a Thursday; Monday is 0
        whole = floor(days) + 3.0
        return (whole - 7.0 * floor(whole / 7.0)) / 7.0
    if part == "time_of_year":
        years = days / YEAR
        return years - floor(years)
    return (_day_of_month(floor(days), floor) - 1.0) / 31.0


def _day_of_month(days: Any, floor: Callable[[Any], Any]) -> Any:
    """Return the day of the month (1 to 31) of whole days since 1970.

    Source: H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    """
    z = days + 719_468.0
    day_of_era = z - floor(z / 146_097.0) * 146_097.0
    leap_days = floor(day_of_era / 1_460.0) - floor(day_of_era / 36_524.0) + floor(day_of_era / 146_096.0)
    year_of_era = floor((day_of_era - leap_days) / 365.0)
    day_of_year = day_of_era - (365.0 * year_of_era + floor(year_of_era / 4.0) - floor(year_of_era / 100.0))
    month = floor((5.0 * day_of_year + 2.0) / 153.0)
    return day_of_year - floor((153.0 * month + 2.0) / 5.0) + 1.0
