"""Numbers, times and words read from text: one definition for an upload and for a prediction."""

from fitserve.parsing.column_format import ColumnFormat, TimeFormat

__all__ = ["ColumnFormat", "TimeFormat"]
