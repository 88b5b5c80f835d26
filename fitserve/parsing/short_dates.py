"""Dates of digits without separators, with years of two digits or at the end: 240131, 310124, 013124, 31012024.

A program that takes them for numbers drops the leading zero: 40131, 1022024.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from fitserve.parsing.column_format import TimeFormat

# Where year, month and day begin. Each format's name is as long as its dates.
PLACES: dict[str, tuple[int, int, int]] = {
    "yymmdd": (0, 2, 4),
    "ddmmyy": (4, 2, 0),
    "mmddyy": (4, 0, 2),
    "ddmmyyyy": (4, 2, 0),
    "mmddyyyy": (4, 0, 2),
}
USUAL_YEARS = (1900, 2099)  # in which eight digits of a column that does not say so may be dates
MAX_EXAMPLES = 10_000


def read_short_date(number: float, order: str, first_year: int) -> date:
    """Return the day that a number's digits represent. Raises ValueError."""
    width = len(order)
    digits = f"{int(number):0{width}d}"
    if number % 1 or number < 0 or len(digits) > width:
        raise ValueError(f"not a date of {width} digits")
    of_year, of_month, of_day = PLACES[order]
    year = int(digits[of_year : of_year + width - 4])
    if width == 6:
        year = first_year + (year - first_year) % 100
    return date(year, int(digits[of_month : of_month + 2]), int(digits[of_day : of_day + 2]))


def short_date_orders(texts: pa.Array, share: float = 1.0) -> list[TimeFormat]:
    """Return the orders in which at least this share of the texts are such dates, the likeliest first.

    Years change less often than days. Texts that could all be months, such as 202401, do not count as such dates.
    """
    distinct = [text.strip() for text in texts[:MAX_EXAMPLES].unique().to_pylist()]
    sizes = {len(text) for text in distinct}
    width = max(sizes, default=0)
    if not sizes <= {width, width - 1} or not all(text.isascii() and text.isdecimal() for text in distinct):
        return []
    if len(sizes) > 1 and any(text[0] == "0" for text in distinct):
        return []
    padded = [text.zfill(width) for text in distinct]
    if width == 6 and all(text[:2] in ("19", "20") and "01" <= text[4:] <= "12" for text in padded):
        return []
    fits = {order: sum(_is_date(text, order) for text in padded) for order in PLACES if len(order) == width}
    orders = [order for order, count in fits.items() if count >= share * len(padded)]
    years = {order: len({text[PLACES[order][0] :][: width - 4] for text in padded}) for order in orders}
    return sorted(orders, key=lambda order: (-fits[order], years[order]))  # type: ignore[arg-type]


def odd_among(texts: pa.Array, order: str) -> str:
    """Return the first of the texts that is no date of this order; "" if all are."""
    width = len(order)
    return next(
        (text for text in texts[:MAX_EXAMPLES].to_pylist() if not _is_date(text.strip().zfill(width), order)), ""
    )


def digits_with_year_last(number: float) -> str | None:
    """Return the eight digits of a number that is a date from 1900 to 2099 written 31012024, or 1022024; else None."""
    if number != number or number % 1 or not 1_01_1900 <= number <= 31_12_2099:
        return None
    digits = f"{int(number):08d}"
    return digits if USUAL_YEARS[0] <= int(digits[4:]) <= USUAL_YEARS[1] else None


def _is_date(digits: str, order: str) -> bool:
    try:
        day = read_short_date(int(digits), order, 1969)
    except ValueError:
        return False
    return len(order) == 6 or USUAL_YEARS[0] <= day.year <= USUAL_YEARS[1]
