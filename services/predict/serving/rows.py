"""Rows as every protocol hands them over, and a network's columns, which turn them into tensors."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fitserve.encoder import Encoder

NUMBERS = frozenset({"standardize", "min_max", "pass_through"})  # (x - center) / scale
Array = npt.NDArray[Any]


class Rows:
    """The rows of one request: by name (dicts), by place (lists), or a float64 matrix in the columns' order."""

    __slots__ = ("count", "values")

    def __init__(self, values: list[dict[str, Any]] | list[list[Any]] | Array) -> None:
        self.values = values
        self.count = len(values)


class Columns:
    """The raw columns of a network, in order, and their encoder."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self.encoder = Encoder.from_json(manifest["encoder"])
        self.fitted = tuple(self.encoder.columns)
        self.names = self.encoder.names
        self.inputs = {one.name: one for one in self.encoder.inputs}
        self.matrix = Matrix.of(self)
        self.read_numbers = None if self.matrix is None else _number_reader(self.names)

    def datatype(self, column: Any) -> str:
        """What clients are told to send for a column, as an Open Inference Protocol datatype."""
        if column.type == "boolean":
            return "BOOL"
        return "FP64" if column.kind == "numeric" and column.type in (*NUMBERS, "log") else "BYTES"

    def encode(self, rows: Rows) -> tuple[dict[str, Array], list[list[dict[str, Any]]] | None]:
        """Tensors by input name, and warnings a row (None where there are none). Raises BadInput."""
        values = rows.values
        if isinstance(values, np.ndarray):
            if self.matrix is not None and self.matrix.is_clean(values):
                return {self.matrix.input: self.matrix.encode(values)}, None
            values = values.tolist()
        feeds, warned = self.encoder.encode_rows(values)
        if not any(warned):
            return feeds, None
        return feeds, [[_warning(one) for one in row] for row in warned]

    def matrix_of(self, numbers: Sequence[Any]) -> Array:
        """What `read_numbers` returned, as float64 (rows, columns)."""
        if numbers and type(numbers[0]) is not tuple:
            numbers = [msgspec.structs.astuple(row) if type(row) is not tuple else row for row in numbers]
        return np.array(numbers, np.float64)


class Matrix:
    """A network all of whose columns are plain numbers of one input: encoded by three numpy operations."""

    def __init__(self, columns: Columns, name: str, width: int) -> None:
        fitted = columns.fitted
        self.input = name
        self.width = width
        self.center = np.array([column.fitted["center"] for column in fitted], np.float64)
        self.scale = np.array([column.fitted["scale"] for column in fitted], np.float64)
        self.low = np.array([_bound(column, "min", -sys.float_info.max) for column in fitted], np.float64)
        self.high = np.array([_bound(column, "max", sys.float_info.max) for column in fitted], np.float64)
        self.constants = tuple(
            zip(*(side.tolist() for side in (self.low, self.high, self.center, self.scale)), strict=True)
        )
        offsets = [column.offset for column in fitted]
        self.places = None if offsets == list(range(width)) else np.array(offsets)

    @classmethod
    def of(cls, columns: Columns) -> Matrix | None:
        """None where a column is something else than a plain number, or there are several inputs."""
        if len(columns.inputs) != 1 or not all(c.type in NUMBERS and c.kind == "numeric" for c in columns.fitted):
            return None
        (one,) = columns.inputs.values()
        return cls(columns, one.name, one.shape[0])

    def is_clean(self, values: Array) -> bool:
        """Whether no value is missing, infinite or out of the training range."""
        if values.shape[1:] != self.low.shape:
            return False
        return bool(self.clean_rows(values).all())

    def clean_rows(self, values: Array) -> Array:
        """The same for each row."""
        return np.asarray(((values >= self.low) & (values <= self.high)).all(axis=1))

    def encode_few(self, flat: Sequence[float]) -> Array | None:
        """The same for a few rows, given flat: quicker than NumPy's calls up to some dozens of rows.

        None where a value is missing, infinite or out of the training range.
        """
        if self.places is not None:
            return None
        encoded: list[float] = []
        add = encoded.append
        for value, (low, high, center, scale) in zip(flat, itertools.cycle(self.constants), strict=False):
            if not low <= value <= high:  # NaN as well
                return None
            add((value - center) / scale)
        return np.array(encoded, np.float32).reshape(-1, self.width)

    def encode(self, values: Array) -> Array:
        """float64 (rows, columns) to float32 (rows, width): the encoder's own numbers, to the bit."""
        scaled = (values - self.center) / self.scale
        if self.places is None:
            return scaled.astype(np.float32)
        out = np.zeros((len(values), self.width), np.float32)
        out[:, self.places] = scaled
        return out


def _bound(column: Any, key: str, otherwise: float) -> float:
    value = column.fitted.get(key)
    other = column.fitted.get("max" if key == "min" else "min")
    return otherwise if value is None or other is None else float(value)  # without both there is no range


def _warning(warned: Any) -> dict[str, Any]:
    found = {"column": warned.column, "code": warned.code, "message": warned.message}
    if warned.received is not None:
        found["received"] = warned.received
    return found


def _number_reader(names: tuple[str, ...]) -> type:
    """A type of `{"instances": [...]}` whose rows are numbers by name or by place, all of them given."""
    fields = [(f"c{place}", float, msgspec.field(name=name)) for place, name in enumerate(names)]
    by_name = msgspec.defstruct("ByName", fields, forbid_unknown_fields=True, gc=False)
    by_place = tuple.__class_getitem__((float,) * len(names))
    return msgspec.defstruct(
        "Numbers", [("instances", list.__class_getitem__(by_name | by_place))], forbid_unknown_fields=True, gc=False
    )
