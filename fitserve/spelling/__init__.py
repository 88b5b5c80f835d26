"""How a column's values are spelled, and their reading: one definition for an upload and for a prediction."""

from fitserve.spelling.column_format import ColumnFormat, TimeFormat

__all__ = ["ColumnFormat", "TimeFormat"]
