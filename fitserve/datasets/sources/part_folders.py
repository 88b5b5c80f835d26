"""Partition columns: values in the folder names of a table's parts, as in `year=2026/month=03/part-0.parquet`.

Hive, Spark and others write tables in this way, without these columns in the parts themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from urllib.parse import unquote

import pyarrow as pa

from fitserve.wire.notices import Notice

_MISSING = "__HIVE_DEFAULT_PARTITION__"  # as written by Hive and Spark
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")  # not every one is a day of the calendar


@dataclass(frozen=True)
class FolderColumns:
    """For each part its values by column; columns that a part itself has are not among them."""

    kinds: Mapping[str, pa.DataType]
    values: Sequence[Mapping[str, str | None]]
    not_of_all: Sequence[str] = ()  # columns that the folders of some parts alone have

    @classmethod
    def of(cls, names: Sequence[str], schemas: Sequence[pa.Schema], *, as_texts: bool = False) -> FolderColumns:
        """Read the folders of parts with these names, as far as all parts have them."""
        values = [dict(_pairs(name)) for name in names]
        in_files = {name for schema in schemas for name in schema.names}
        found = dict.fromkeys(name for own in values for name in own if name not in in_files)
        columns = [name for name in found if all(name in own for own in values)]
        kinds = {name: pa.string() if as_texts else _kind([own[name] for own in values]) for name in columns}
        not_of_all = [name for name in found if name not in kinds]
        return cls(kinds, [{name: own[name] for name in columns} for own in values], not_of_all)

    def schema_of(self, schema: pa.Schema) -> pa.Schema:
        """Return a part's schema with these columns at its end."""
        return pa.schema([*schema, *(pa.field(name, kind) for name, kind in self.kinds.items())])

    def rows_of(self, part: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield a part's rows with its values in these columns."""
        scalars = [pa.scalar(self.values[part][name]).cast(kind) for name, kind in self.kinds.items()]
        for batch in batches:
            added = [pa.repeat(scalar, batch.num_rows) for scalar in scalars]
            yield pa.RecordBatch.from_arrays([*batch.columns, *added], schema=self.schema_of(batch.schema))

    def notices(self, *, read: bool) -> list[Notice]:
        """Return what is said of them."""
        messages = []
        if self.kinds and read:
            messages.append(f"Read from the names of the parts' folders: {_listed(self.kinds)}.")
        elif self.kinds:
            shown = _listed(self.kinds)
            messages.append(f"Not read, as the parts are JSON Lines: {shown} in the names of their folders.")
        if self.not_of_all:
            shown = _listed(self.not_of_all)
            messages.append(f"Not read, as not all parts have it: {shown} in the names of their folders.")
        return [Notice(code="columns_of_folders", message=message) for message in messages]


def has_columns(name: str) -> bool:
    """Return whether a part's folders name a column."""
    return any(True for _ in _pairs(name))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _pairs(name: str) -> Iterator[tuple[str, str | None]]:
    for folder in name.split("/")[:-1]:
        column, sign, value = folder.partition("=")
        if column and sign:
            yield unquote(column), unquote(value) if value not in ("", _MISSING) else None


def _kind(values: Sequence[str | None]) -> pa.DataType:
    """Return whole numbers or days where all values are, else texts."""
    known = [value for value in values if value is not None]
    if known and all(_WHOLE.fullmatch(value) for value in known):
        return pa.int64()
    return pa.date32() if known and all(map(_is_day, known)) else pa.string()


def _is_day(text: str) -> bool:
    try:
        return _DAY.fullmatch(text) is not None and date.fromisoformat(text) is not None
    except ValueError:
        return False
