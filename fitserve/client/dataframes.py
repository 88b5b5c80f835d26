"""Rows from frames and frames from rows. pandas and polars are optional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fitserve.errors import BadInput
from fitserve.strictjson import finite_json

if TYPE_CHECKING:
    import pandas
    import polars

Row = Mapping[str, Any] | Sequence[Any]


def library_of(data: Any) -> str | None:
    """Return the library of an object: `pandas`, `polars`, `pyarrow` or `numpy`; None for any other."""
    for cls in type(data).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("pandas", "polars", "pyarrow", "numpy"):
            return root
    return None


def rows_of(data: Any) -> list[Any]:
    """Return the rows of any kind of table, ready for JSON: each an object or a list.

    Takes a frame; a numpy array (rows, columns); a list of mappings or of lists; a mapping of columns to lists; one
    mapping of plain values, which is one row. NaN and NaT become null; times become ISO 8601. Raises BadInput.
    """
    library = library_of(data)
    if library == "pandas":
        frame = data.to_frame().T if getattr(data, "ndim", 2) == 1 else data
        names = [str(name) for name in frame.columns]
        return [dict(zip(names, map(plain, row), strict=True)) for row in frame.itertuples(index=False, name=None)]
    if library == "polars":
        frame = data.collect() if hasattr(data, "collect") else data
        return [plain(row) for row in frame.to_dicts()]
    if library == "pyarrow":
        return [plain(row) for row in data.to_pylist()]
    if library == "numpy":
        if data.ndim == 0:
            raise BadInput("A single number is not a table.", expected="an array of shape (rows, columns)")
        return [plain(row) for row in data.tolist()]
    if isinstance(data, Mapping):
        return _rows_of_mapping(data)
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise BadInput(f"A {type(data).__name__} is not a table.", expected="a frame, an array, or a list of rows")
    return [plain(row) for row in data]


def _rows_of_mapping(data: Mapping[str, Any]) -> list[Any]:
    columns = {name: _as_list(value) for name, value in data.items()}
    if not any(isinstance(value, list) for value in columns.values()):
        return [plain(data)]
    lengths = {name: len(value) for name, value in columns.items() if isinstance(value, list)}
    if len(set(lengths.values())) != 1 or len(lengths) != len(columns):
        raise BadInput("The columns differ in length.", received=lengths, expected="one length for all columns")
    return [plain(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _as_list(value: Any) -> Any:
    if library_of(value) is not None and hasattr(value, "__len__"):
        return list(value.to_list() if hasattr(value, "to_list") else value.tolist())
    return list(value) if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """Return a value that JSON can hold: NaN and missing values as None, times as ISO 8601. Raises BadInput."""
    return finite_json(value, default=_plain_scalar)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return None if value != value else value.isoformat()  # pandas's NaT does not equal itself
    if isinstance(value, Decimal):
        return float(value)
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return plain(value.tolist())
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise BadInput(f"A {type(value).__name__} cannot be a value of a row.", received=str(value)[:100])


def to_pandas(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return a pandas frame. Raises ImportError where pandas is not installed."""
    import pandas

    return pandas.DataFrame(list(rows))


def to_polars(rows: Iterable[Mapping[str, Any]]) -> polars.DataFrame:
    """Return a polars frame. Raises ImportError where polars is not installed."""
    import polars

    return polars.DataFrame(list(rows), infer_schema_length=None)
