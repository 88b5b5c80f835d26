"""Tables in parts, joined by column names, with notices about how the parts differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from fitserve.datasets import TableRefused
from fitserve.datasets.joined_types import cast, common_type
from fitserve.errors import Problem
from fitserve.wire.notices import Notice

MAX_NAMED = 3  # parts that a notice names


@dataclass(frozen=True)
class TablePart:
    """One part of a table, whose rows can be read more than once."""

    name: str
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]


def read_stream(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow stream on local disk."""
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
        yield from reader


def unify(parts: Sequence[TablePart]) -> tuple[pa.Schema, list[Notice]]:
    """Return all parts' columns, with types that hold every part's values, and notices of how the parts differ.

    Raises TableRefused where a name stands for several columns of a part.
    """
    for part in parts:
        refuse_repeated(part.schema.names)
    kinds: dict[str, pa.DataType] = {}
    spoken: dict[str, dict[str, str]] = {}  # for each column, the first part that has each type
    holders: dict[str, list[str]] = {}
    for part in parts:
        for field in part.schema:
            kind = plain_type(field.type)
            kinds[field.name] = common_type(kinds[field.name], kind) if field.name in kinds else kind
            if not pa.types.is_null(kind):
                spoken.setdefault(field.name, {}).setdefault(str(kind), part.name)
            holders.setdefault(field.name, []).append(part.name)
    notices = []
    for name, held in holders.items():
        if len(held) < len(parts):
            without = [part.name for part in parts if part.name not in held]
            shown = ", ".join(without[:MAX_NAMED]) + (", ..." if len(without) > MAX_NAMED else "")
            message = (
                f"The column {name!r} is not in {len(without)} of {len(parts)} parts: its values are missing there."
            )
            notices.append(Notice(code="parts_differ", message=message, column=name, evidence=shown))
        if len(types := spoken.get(name, {})) > 1:
            shown = ", ".join(f"{kind} in {part}" for kind, part in list(types.items())[:MAX_NAMED])
            message = f"The column {name!r} has several types in the parts: it is read as {kinds[name]}."
            notices.append(Notice(code="parts_differ", message=message, column=name, evidence=shown))
    return pa.schema([pa.field(name, kind) for name, kind in kinds.items()]), notices


def refuse_repeated(names: Sequence[str]) -> None:
    """Raise TableRefused where columns have the same name."""
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        what = f"The name {repeated!r} stands for several columns."
        raise TableRefused(what, problems=[Problem(what, column=repeated, expected="a name of its own")])


def joined_rows(parts: Sequence[TablePart], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one part after the other. Raises TableRefused for a value that does not fit its column."""
    for part in parts:
        for batch in part.batches():
            columns = [_column(batch, field, part.name) for field in schema]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(batch: pa.RecordBatch, field: pa.Field, part: str) -> pa.Array:
    at = batch.schema.get_field_index(field.name)
    if at < 0:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(at)
    try:
        return cast(_plain(column), field.type)
    except (pa.ArrowException, ValueError, TypeError):
        what = f"The column {field.name!r} of {part} is {column.type}, which does not fit the other parts."
        problem = Problem(what, column=field.name, received=str(column.type), expected=str(field.type))
        raise TableRefused(what, problems=[problem]) from None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, however they are packed."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_string_view(kind):
        return pa.string()
    return pa.binary() if types.is_binary_view(kind) else kind


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    elif pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    kind = plain_type(column.type)
    return column if column.type == kind else column.cast(kind)
