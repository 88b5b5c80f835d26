"""Readers of JSON bodies of rows, with msgspec types built once from a model's columns.

Knowing the columns, a reader needs no dictionaries: numbers arrive as float64, and each column as a list.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from fitserve.encoder import FEW_NUMBERS

Scalar = str | int | float | bool | None
_read_fields = msgspec.structs.astuple


class ScalarRows(msgspec.Struct, forbid_unknown_fields=True):
    """The same body whatever the columns: rows by name or by position, whose cells are no lists and no objects."""

    instances: list[dict[str, Scalar] | list[Scalar]]
    interval: float | bool | None = None


class RowsReader:
    """Reader of `{"instances", "interval"}`: rows of scalars, by name (with some left out) or by position.

    `numeric` says for each column whether all of its values are numbers or missing.
    """

    def __init__(self, names: Sequence[str], numeric: Sequence[bool]) -> None:
        self._numeric = numeric
        cells: list[Any] = [float | None if one else Scalar for one in numeric]
        body = _body_type(names, cells, (None,))
        self._decode: Callable[[bytes], Any] | None = None if body is None else msgspec.json.Decoder(body).decode
        # A written-out list of attributes is twice as fast as `operator.attrgetter`.
        columns = ", ".join(f"[row.c{place} for row in rows]" for place in range(len(names)))
        self._by_column: Callable[[Any], list[list[Any]]] = eval(f"lambda rows: [{columns}]", {})  # noqa: S307

    def read(self, body: bytes) -> tuple[list[Any], float | bool | None] | None:
        """Read a body: the rows' values by column, and `interval`; None for a body with anything else in it.

        A numeric column is float64, NaN where missing.
        """
        if self._decode is None:
            return None
        try:
            decoded = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        rows = decoded.instances
        if not rows:
            return None
        try:
            columns: list[Any] = self._by_column(rows)
        except AttributeError:  # some are by position
            listed = (row if type(row) is tuple else _read_fields(row) for row in rows)
            columns = list(zip(*listed, strict=True))
        for place, is_numeric in enumerate(self._numeric):
            if is_numeric:
                columns[place] = _float64(columns[place])
        return columns, decoded.interval


def numbers_reader(names: Sequence[str]) -> Callable[[bytes], Any] | None:
    """Return a reader of bodies whose rows are all numbers, with none missing; None if msgspec cannot have the names.

    The rows are tuples or structs, whose cells are all floats or, in wide rows such as images, all integers: small
    integers are decoded in half the time, because Python keeps them. Raises `msgspec.DecodeError`.
    """
    body = _body_type(names, [float] * len(names), ())
    if body is None:
        return None
    read_floats: Callable[[bytes], Any] = msgspec.json.Decoder(body).decode
    if len(names) <= FEW_NUMBERS:
        return read_floats
    read_integers = msgspec.json.Decoder(_body_type(names, [int] * len(names), ())).decode

    def read(body: bytes) -> Any:
        if b"." not in body:
            try:
                return read_integers(body)
            except msgspec.DecodeError:
                pass  # `read_floats` then reports what is wrong
        return read_floats(body)

    return read


def _body_type(names: Sequence[str], cells: Sequence[Any], default: tuple[Any, ...]) -> type | None:
    """Build the body's type; None if msgspec cannot have one of the names, because JSON escapes it."""
    if any(character in '"\\' or character < " " for name in names for character in name):
        return None
    fields = [
        (f"c{place}", cell, msgspec.field(name=name, **({"default": default[0]} if default else {})))
        for place, (name, cell) in enumerate(zip(names, cells, strict=True))
    ]
    by_name = msgspec.defstruct("ByName", fields, forbid_unknown_fields=True, gc=False)
    by_place = tuple.__class_getitem__(tuple(cells))
    body: list[Any] = [
        ("instances", list.__class_getitem__(by_name | by_place)),
        ("interval", float | bool | None, None),
    ]
    return msgspec.defstruct("Rows", body, forbid_unknown_fields=True, gc=False)


def _float64(values: Sequence[float | None]) -> Any:
    try:
        return np.frombuffer(struct.pack(f"{len(values)}d", *values), np.float64)
    except struct.error:
        return np.array(values, np.float64)  # None becomes NaN
