"""Files of weights in the safetensors format: arrays by layer and place (`dense/0`), no code and no pickle.

A place counts a layer's arrays in Keras's order (`layer.weights`). An ensemble's arrays have its members first. The
header of a foreign file is checked before anything of the size that it claims is allocated.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fitserve.errors import BadInput, Malformed

SUFFIX = ".safetensors"
MEDIA_TYPE = "application/octet-stream"
MAX_HEADER = 8 * 1024 * 1024  # bytes
MAX_TENSORS = 100_000
MAX_RANK = 8
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_CHUNK = 1_000_000  # numbers that are checked at once
_LENGTH = 8  # bytes of the header's length


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a file: its numbers begin at byte `offset`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of floats, as float32."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}, path)


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that was checked, as float32."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}


def check(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a foreign file, by name; their numbers are finite. Raises Malformed, BadInput."""
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    tensors = _tensors(*_header(path, size))
    _check_places(tensors, size)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise Malformed(f"This is not a safetensors file: {str(error)[:200]}.") from None
    for name, tensor in tensors.items():
        _check_numbers(path, name, tensor)
    return tensors


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return a header's description of each array, and where the numbers begin. Raises Malformed, BadInput."""
    with path.open("rb") as file:
        start = file.read(_LENGTH)
        length = struct.unpack("<Q", start)[0] if len(start) == _LENGTH else 0
        if not 2 <= length <= min(MAX_HEADER, size - _LENGTH):
            raise Malformed(
                "This is not a safetensors file: its header cannot be as long as it says.",
                received=length,
                expected=f"2 to {MAX_HEADER} bytes, within the file's {size}",
                fix="Write it with safetensors.numpy.save_file.",
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise Malformed("The file's header is not JSON, or names an array twice.") from None
    if not isinstance(header, dict):
        raise Malformed("The file's header is not an object.")
    header.pop("__metadata__", None)
    if not 1 <= len(header) <= MAX_TENSORS:
        raise BadInput("The file has no arrays, or too many.", received=len(header), expected=f"1 to {MAX_TENSORS}")
    return header, _LENGTH + length


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _tensors(header: Mapping[str, Any], begin: int) -> dict[str, Tensor]:
    """Return the arrays that a header names, in the order of their bytes. Raises Malformed, BadInput."""
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        layer, _, place = name.rpartition("/")
        named = layer and place.isdecimal() and place.isascii() and len(place) <= 4
        if not named or len(name) > 300 or not name.isprintable():
            raise BadInput(
                f"{name[:80]!a} does not name a layer's weights.",
                received=ascii(name[:80]),
                expected="the layer and the place of the array in layer.weights, such as dense/0",
            )
        dtype, shape, offsets = _members(entry)
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise BadInput(
                f"{name[:80]} has the dtype {ascii(dtype)[:20]}.",
                received=ascii(dtype)[:20],
                expected=f"one of {', '.join(_DTYPES)}",
                fix="Convert it: array.astype(numpy.float32).",
            )
        if not _are_counts(shape, MAX_RANK) or not _are_counts(offsets, 2) or len(offsets) != 2:
            raise Malformed(f"The shape or the place of {name[:80]} in the file cannot be read.")
        tensor = Tensor(str(dtype), tuple(shape), begin + offsets[0])
        if offsets[1] - offsets[0] != tensor.size * _DTYPES[str(dtype)].itemsize:
            raise Malformed(
                f"{name[:80]} has {offsets[1] - offsets[0]} bytes; its shape {list(shape)} needs"
                f" {tensor.size * _DTYPES[str(dtype)].itemsize}."
            )
        tensors[name] = tensor
    return dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)))


def _members(entry: Any) -> tuple[Any, Any, Any]:
    if not isinstance(entry, dict):
        return None, None, None
    return entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")


def _are_counts(value: Any, most: int) -> bool:
    return (
        isinstance(value, list) and len(value) <= most and all(type(one) is int and 0 <= one < 2**48 for one in value)
    )


def _check_places(tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise Malformed unless the arrays follow each other, without gaps, up to the end of the file."""
    at = next(iter(tensors.values())).offset
    for name, tensor in tensors.items():
        if tensor.offset != at:
            raise Malformed(f"{name[:80]} overlaps another array, or leaves a gap before it.")
        at += tensor.size * _DTYPES[tensor.dtype].itemsize
    if at != size:
        raise Malformed("The arrays do not end where the file ends.", received=size, expected=f"{at} bytes")


def _check_numbers(path: Path, name: str, tensor: Tensor) -> None:
    """Raise BadInput unless the numbers are finite as float32."""
    if not tensor.size:
        return
    numbers = np.memmap(path, _DTYPES[tensor.dtype], "r", tensor.offset, (tensor.size,))
    for start in range(0, tensor.size, _CHUNK):
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers[start : start + _CHUNK].astype(np.float32))
        if not finite.all():
            place = start + int(np.argmin(finite))
            at = [int(index) for index in np.unravel_index(place, tensor.shape)]
            raise BadInput(
                f"{name[:80]} is {numbers[place]} at {at}.",
                received=str(numbers[place]),
                expected="finite numbers of 32 bits",
            )
