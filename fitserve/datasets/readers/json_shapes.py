"""A JSON file that is one object: tables as programs write them, rather than a record for each row.

Rows in a member (`{"data": [{...}, ...]}`), columns as lists or as pandas writes them (`{"a": [...]}`,
`{"a": {"0": ...}}`), and pandas' `split`; or lists, a row each.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

Raw = msgspec.Raw
_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_names = msgspec.json.Decoder(list[str])


def rows_of(data: bytes) -> tuple[list[bytes], str] | None:
    """Return the rows of a JSON object that is a table, and their places; None: the object is a row itself."""
    try:
        members = _object.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    kinds = {name: bytes(value)[:1] for name, value in members.items()}
    if set(members) >= {"columns", "data"} and kinds["data"] == b"[" and (rows := _split(members)) is not None:
        return rows, "the object has 'columns' and 'data'"
    lists = {name: _list.decode(members[name]) for name, kind in kinds.items() if kind == b"["}
    records = [name for name, items in lists.items() if items and all(bytes(item)[:1] == b"{" for item in items)]
    if len(records) == 1:
        return [bytes(item) for item in lists[records[0]]], f"the rows are in the member {records[0]!r}"
    if members and len(lists) == len(members) and len({len(items) for items in lists.values()}) == 1:
        columns = list(lists.values())
        if len(columns[0]) > 1:
            return _transposed(list(lists), columns), "each member is a column"
    if members and all(kind == b"{" for kind in kinds.values()):
        inner = {name: _object.decode(value) for name, value in members.items()}
        keys = list(next(iter(inner.values())))
        if len(keys) > 1 and keys == [str(index) for index in range(len(keys))]:
            if all(list(column) == keys for column in inner.values()):
                return _transposed(list(inner), [list(column.values()) for column in inner.values()]), (
                    "each member is a column"
                )
        elif len(inner) > 1 and list(inner) == [str(index) for index in range(len(inner))]:
            return [bytes(value) for value in members.values()], "each member is a row"
    return None


def rows_of_lists(lists: Sequence[bytes]) -> tuple[list[bytes], str] | None:
    """Return the rows of lists of values as a JSON object each, and what names them; None: they differ in length."""
    try:
        rows = [_list.decode(one) for one in lists]
    except msgspec.DecodeError:
        return None
    if not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        return None
    kinds = [[bytes(value)[:1] == b'"' for value in row] for row in rows]
    names = _names.decode(lists[0]) if all(kinds[0]) else []
    if len(rows) > 1 and len(set(names)) == len(rows[0]) and (not all(map(all, kinds[1:])) or len(rows) == 2):
        return [_row(names, row) for row in rows[1:]], "the first list names the columns"
    names = [f"column_{number}" for number in range(1, len(rows[0]) + 1)]
    return [_row(names, row) for row in rows], "each list is a row, and none has names"


def _split(members: dict[str, Raw]) -> list[bytes] | None:
    try:
        names = _names.decode(members["columns"])
        rows = [_list.decode(row) for row in _list.decode(members["data"])]
    except msgspec.DecodeError:
        return None
    if any(len(row) != len(names) for row in rows) or len(set(names)) < len(names):
        return None
    return [_row(names, row) for row in rows]


def _transposed(names: Sequence[str], columns: Sequence[Sequence[Raw]]) -> list[bytes]:
    return [_row(names, row) for row in zip(*columns, strict=True)]


def _row(names: Sequence[str], values: Sequence[Raw]) -> bytes:
    return msgspec.json.encode(dict(zip(names, values, strict=True)))
