"""Tensors of a request, and the rows made of them; data in JSON and in bytes as the Open Inference Protocol has it."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitserve.errors import Malformed
from services.predict.catalog.loaded_model import InputRows, LoadedModel

MATRIX_NAMES = ("instances", "features")  # a tensor of shape (rows, columns) under one of these holds all columns

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """`values` are flat, row-major: an array, or a list of texts (None where missing)."""

    name: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | list[Any]


def check_shape(name: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """Return a request's shape. Raises Malformed."""
    if not shape or len(shape) > 2 or any(type(d) is not int or d < 0 or d > 1 << 40 for d in shape):
        raise Malformed(
            f"Input {name!r} does not have the shape of rows.",
            received=list(shape)[:8],
            expected="[rows] or [rows, 1]",
        )
    return tuple(shape)


def _check_count(name: str, shape: tuple[int, ...], count: int) -> None:
    if math.prod(shape) != count:
        raise Malformed(f"Input {name!r} has {count} values; its shape {list(shape)} needs {math.prod(shape)}.")


def _check_dtype(name: str, datatype: str) -> Any:
    if datatype not in DTYPES:
        raise Malformed(f"Input {name!r} has an unknown datatype.", received=datatype[:40], expected=", ".join(DTYPES))
    return DTYPES[datatype]


def from_json(name: str, datatype: str, shape: Sequence[int], data: list[Any]) -> Tensor:
    """Build a tensor from JSON data, nested or flat. Raises Malformed."""
    dims = check_shape(name, shape)
    while data and type(data[0]) is list:
        if not all(type(row) is list for row in data):
            raise Malformed("A tensor's nested data is ragged.")
        data = [value for row in data for value in row]
    _check_count(name, dims, len(data))
    if datatype != "BYTES":
        return Tensor(name, dims, _numbers(name, datatype, data))
    if not all(value is None or type(value) is str for value in data):
        raise Malformed(f"Input {name!r} of datatype BYTES needs strings.")
    return Tensor(name, dims, data)


def _numbers(name: str, datatype: str, flat: list[Any]) -> npt.NDArray[Any] | list[Any]:
    dtype = _check_dtype(name, datatype)
    if datatype == "BOOL":
        if not all(type(value) is bool or value is None for value in flat):
            raise Malformed(f"Input {name!r} of datatype BOOL needs true and false.")
        return flat
    kinds = (int,) if datatype[0] in "IU" else (int, float)
    if not all(type(value) in kinds or value is None for value in flat):
        raise Malformed(f"Input {name!r} of datatype {datatype} needs numbers.")
    if datatype[0] in "IU":
        limits = np.iinfo(dtype)
        if any(value is not None and not limits.min <= value <= limits.max for value in flat):
            raise Malformed(f"Input {name!r} has a value out of the range of {datatype}.")
        return flat
    try:  # FP32 and FP16 are rounded as their binary forms would be
        with np.errstate(over="ignore"):
            return np.array([math.nan if value is None else value for value in flat], np.float64).astype(dtype)
    except OverflowError:
        raise Malformed(f"Input {name!r} has a value out of the range of {datatype}.") from None


def from_binary(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Tensor:
    """Build a tensor from little-endian bytes; each BYTES element has its length in 4 bytes. Raises Malformed."""
    dims = check_shape(name, shape)
    if datatype == "BYTES":
        texts = _split_texts(name, bytes(data))
        _check_count(name, dims, len(texts))
        return Tensor(name, dims, texts)
    dtype = np.dtype(_check_dtype(name, datatype))
    if len(data) != math.prod(dims) * dtype.itemsize:
        raise Malformed(f"Input {name!r} has {len(data)} bytes; its shape needs {math.prod(dims) * dtype.itemsize}.")
    return Tensor(name, dims, np.frombuffer(data, dtype.newbyteorder("<")))


def _split_texts(name: str, data: bytes) -> list[str]:
    texts, at = [], 0
    while at < len(data):
        end = at + 4
        if end <= len(data):
            end += struct.unpack_from("<I", data, at)[0]
        if end > len(data) or end < at + 4:
            raise Malformed(f"Input {name!r}: the lengths of its BYTES elements do not add up.")
        texts.append(decode_text(name, data[at + 4 : end]))
        at = end
    return texts


def decode_text(name: str, data: bytes) -> str:
    """Return a BYTES element as text. Raises Malformed."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed(f"Input {name!r} has a BYTES element that is not UTF-8.") from None


def join_texts(texts: Sequence[str]) -> bytes:
    """Return BYTES elements, each after its length in 4 bytes."""
    encoded = [text.encode() for text in texts]
    return b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))


def rows_of(model: LoadedModel, tensors: Sequence[Tensor]) -> InputRows:
    """Return a request's rows from a tensor for each column, or one of all columns. Raises Malformed."""
    names = model.columns.names
    if not tensors:
        raise Malformed("The request has no inputs.")
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        raise Malformed("The request names an input twice.")
    if len(tensors) == 1 and tensors[0].name not in names and tensors[0].name in MATRIX_NAMES:
        return _rows_of_matrix(model, tensors[0])
    if unknown := [name for name in by_name if name not in names]:
        raise Malformed(f"Unknown input {unknown[0][:63]!r}.", expected=", ".join(names[:50]))
    counts = set()
    for tensor in tensors:
        if len(tensor.shape) == 2 and tensor.shape[1] != 1:
            raise Malformed(f"Input {tensor.name!r} has a wrong shape.", received=list(tensor.shape), expected="[n, 1]")
        counts.add(tensor.shape[0])
    if len(counts) != 1 or 0 in counts:
        raise Malformed("The inputs need the same number of rows, at least one.", received=sorted(counts))
    arrays = [by_name[name].values for name in names if name in by_name]
    if len(arrays) == len(names) and model.columns.plain_numbers is not None and all(map(_is_numeric, arrays)):
        return InputRows(np.stack([np.asarray(values, np.float64) for values in arrays], axis=1))
    (count,) = counts
    columns = [_as_list(by_name[name].values) if name in by_name else [None] * count for name in names]
    return InputRows([list(row) for row in zip(*columns, strict=True)])


def _rows_of_matrix(model: LoadedModel, tensor: Tensor) -> InputRows:
    width = len(model.columns.names)
    shape = tensor.shape if len(tensor.shape) == 2 else (1, *tensor.shape)
    if shape[1] != width or shape[0] == 0:
        raise Malformed(
            f"Input {tensor.name!r} has a wrong shape.",
            received=list(tensor.shape),
            expected=f"[rows, {width}]: {', '.join(model.columns.names[:50])}",
        )
    values = tensor.values
    if model.columns.plain_numbers is not None and isinstance(values, np.ndarray) and _is_numeric(values):
        return InputRows(values.astype(np.float64).reshape(shape))
    listed = _as_list(values)
    return InputRows([listed[start : start + width] for start in range(0, len(listed), width)])


def _is_numeric(values: npt.NDArray[Any] | list[Any]) -> bool:
    return isinstance(values, np.ndarray) and values.dtype != np.bool_


def _as_list(values: npt.NDArray[Any] | list[Any]) -> list[Any]:
    return values if isinstance(values, list) else list(values.tolist())
