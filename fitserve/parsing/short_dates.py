"""Dates of six digits without separators: 240131, 310124, 013124; 40131 if a program dropped the leading zero."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from fitserve.parsing.column_format import TimeFormat

# Where year, month and day begin.
PLACES: dict[str, tuple[int, int, int]] = {"yymmdd": (0, 2, 4), "ddmmyy": (4, 2, 0), "mmddyy": (4, 0, 2)}
MAX_EXAMPLES = 10_000


def read_short_date(number: float, order: str, first_year: int) -> date:
    """Return the day that a number's six digits represent. Raises ValueError."""
    digits = f"{int(number):06d}"
    if number % 1 or number < 0 or len(digits) > 6:
        raise ValueError("not a date of six digits")
    year, month, day = (int(digits[start : start + 2]) for start in PLACES[order])
    return date(first_year + (year - first_year) % 100, month, day)


def short_date_orders(texts: pa.Array) -> list[TimeFormat]:
    """Return the orders in which all texts are dates of six digits, the likeliest first.

    Years change less often than days. Texts that could all be months, such as 202401, do not count as such dates.
    """
    distinct = [text.strip() for text in texts[:MAX_EXAMPLES].unique().to_pylist()]
    sizes = {len(text) for text in distinct}
    if not sizes <= {5, 6} or 6 not in sizes or not all(text.isascii() and text.isdecimal() for text in distinct):
        return []
    if 5 in sizes and any(text[0] == "0" for text in distinct):
        return []
    padded = [text.zfill(6) for text in distinct]
    if all(text[:2] in ("19", "20") and "01" <= text[4:] <= "12" for text in padded):
        return []
    orders = [order for order in PLACES if all(_is_date(text, order) for text in padded)]
    years = {order: len({text[PLACES[order][0] :][:2] for text in padded}) for order in orders}
    return sorted(orders, key=lambda order: years[order])  # type: ignore[arg-type]


def _is_date(digits: str, order: str) -> bool:
    try:
        read_short_date(int(digits), order, 1969)
    except ValueError:
        return False
    return True
