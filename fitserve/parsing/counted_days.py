"""Days as programs count them (45000.5 of Excel, 23376 of SAS, Julian days), and a year with its day (2024031)."""

from __future__ import annotations

from datetime import date, timedelta

# What each format has for 1970-01-01. Excel's day 0 is 1899-12-30, MATLAB's is that of the year 0.
DAYS_AT_1970: dict[str, float] = {
    "excel": 25_569,
    "days_1960": 3_653,
    "days_1970": 0,
    "matlab": 719_529,
    "julian": 2_440_587.5,
    "mjd": 40_587,
}


def microseconds_of_days(number: float, time: str) -> int:
    """Return microseconds since 1970 from a number of days; float64 resolves milliseconds, but no more."""
    return round((number - DAYS_AT_1970[time]) * 86_400_000) * 1000


def read_year_day(number: float, first_year: int) -> date:
    """Return the day that a year of two or four digits and the day's number in it mean. Raises ValueError."""
    year, day = divmod(int(number), 1000)
    if number % 1 or not (0 <= year < 100 or 1000 <= year <= 9999) or not 1 <= day <= 366:
        raise ValueError("not a year and its day")
    if year < 100:
        year = first_year + (year - first_year) % 100
    found = date(year, 1, 1) + timedelta(days=day - 1)
    if found.year != year:
        raise ValueError("a year has 365 or 366 days")
    return found
