"""Data formats that the protocols share: read JSON, CSV and tensors into rows, write predictions in them."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fitserve.conformal import Bounds
from fitserve.errors import Malformed
from fitserve.excerpts import escape_formula
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.protocols.json_parts import Value
from services.predict.serving.deciding import Decided

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
MAX_DIMENSIONS = 8
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()


# JSON: bare NaN and Infinity are allowed both ways


def read_json(body: bytes) -> Any:
    """Return the value of a JSON text. Raises Malformed."""
    try:
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            refuse_half_characters(body)
            if b"NaN" in body or b"Infinity" in body:  # msgspec reads neither
                return json.loads(body)
            raise
    except RecursionError:
        raise Malformed("The body is not JSON: it nests too deep.") from None
    except ValueError as error:  # raised by json, msgspec and the UTF-8 decoder
        reason = "an integer has too many digits" if "int_max_str_digits" in str(error) else str(error)
        raise Malformed(f"The body is not JSON: {reason}.") from None


def read_part(part: bytes, first: int) -> Any:
    """Return the list that is a part of a larger one; `first` is the place of its first element. Raises Malformed."""
    try:
        return read_json(part)
    except Malformed as error:
        raise Malformed(
            f"{error.detail} This is counted from element {first + 1} of its list.", fix=error.fix
        ) from None


def read_value(value: Value) -> Any:
    """Return a value of a large body; a list is read in parts, between which other threads run. Raises Malformed."""
    if value.is_list:
        return [one for first, part in value.parts() for one in read_part(part, first)]
    return read_json(value.whole())


def refuse_half_characters(body: bytes) -> None:
    """Raise Malformed if a string in a JSON body contains half a surrogate pair, which UTF-8 cannot represent.

    Called for bodies that msgspec has not read: it rejects such strings, sometimes with the error that the body
    ends too early.
    """
    if _SURROGATE.search(body) is None:
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Malformed(
            f"The body is not JSON of Unicode text: \\u{ord(error.object[error.start]):04x} is half of a character.",
            fix="Write such a character as UTF-8, or as both halves.",
        ) from None
    except (ValueError, RecursionError):  # something else is wrong
        return


def write_json(value: Any, finite: bool = True) -> bytes:
    """Write JSON; unless `finite`, NaN and Infinity are written as bare tokens."""
    return _encoder.encode(value) if finite else json.dumps(value, separators=(",", ":")).encode()


def written_rows(values: npt.NDArray[Any]) -> Any:
    """Convert finite numbers, (rows, units), to the lists that an answer contains."""
    if values.shape[1] > 1:
        return values.tolist()
    numbers = _encoder.encode(values.ravel().tolist())
    return msgspec.Raw(b"[" + numbers.replace(b",", b"],[") + b"]")  # encoding one list per row is slower


def read_cell(value: Any) -> Any:
    """Return one value of a row: `{"b64": ...}` becomes text, a one-element list its element. Raises Malformed."""
    if type(value) is dict and len(value) == 1 and "b64" in value:
        try:
            return base64.b64decode(value["b64"], validate=True).decode()
        except (TypeError, ValueError, binascii.Error):
            raise Malformed("A b64 value is not base64 of UTF-8 text.", received=str(value["b64"])[:80]) from None
    if type(value) is list and len(value) == 1:
        return read_cell(value[0])
    return value


def check_context(model: LoadedModel, names: Iterable[str]) -> None:
    """Raise Malformed if the context of a request's examples names an unknown column.

    Each example gets a copy of the context: a small body of thousands of names, and of as many empty examples, would
    fill the memory.
    """
    for name in names:
        try:
            model.columns.input_named(name)
        except KeyError:
            expected = ", ".join(model.columns.names[:50])
            raise Malformed(f"The context has an unknown column {name[:63]!r}.", expected=expected) from None


# CSV


def write_csv(
    prediction: Prediction, bounds: Sequence[Bounds] = (), decided: Mapping[str, Decided] = MappingProxyType({})
) -> bytes:
    """Write a column for each unit of each target, the label of a classification, the bounds, and the warnings.

    `decided` are labels by decisions in force, by output: empty where none is answered, with a column that says why.
    """
    header: list[str] = []
    columns: list[list[Any]] = []
    for output in prediction.model.outputs:
        values, own = prediction.outputs[output.name], decided.get(output.name)
        if own is not None:
            header += [output.name, f"{output.name}_abstained"]
            answers = ["" if one is None else "; ".join(one) if isinstance(one, list) else one for one in own.labels()]
            columns += [[escape_formula(one) for one in answers], [why or "" for why in own.reasons]]
        elif output.labels is not None and output.task != "multilabel":
            header.append(output.name)
            columns.append([escape_formula(label) for label in _best_labels(output.labels, values)])
        for unit in range(output.units):
            if output.task == "regression":
                name = output.name if output.units == 1 else f"{output.name}_{unit}"
            else:
                labels = output.labels or ()
                label = labels[-1] if output.units == 1 and len(labels) == 2 else (labels or range(output.units))[unit]
                name = f"{output.name}_{label}"
            header.append(name)
            columns.append([repr(value) for value in values[:, unit].tolist()])
    for one in bounds:
        for name, listed in one.listed().items():
            header.append(name)
            columns.append([escape_formula("; ".join(own)) if isinstance(own, list) else repr(own) for own in listed])
    if prediction.warnings is not None:
        header.append("warnings")
        columns.append(["; ".join(warning.message for warning in row) for row in prediction.warnings])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([escape_formula(name) for name in header])
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue().encode()


def _best_labels(labels: tuple[str, ...], values: Any) -> list[str]:
    """Return the most probable label of each row."""
    if values.shape[1] == 1:
        return [labels[int(score >= 0.5)] for score in values[:, 0]]
    return [labels[place] for place in values.argmax(axis=1)]


# Tensors: data in JSON and in bytes as the Open Inference Protocol has it


@dataclass(frozen=True, slots=True)
class Tensor:
    """`values` are flat, row-major: an array, or a list of texts (None where missing)."""

    name: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | list[Any]


def check_shape(name: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """Return a request's shape. Raises Malformed."""
    if not shape or len(shape) > MAX_DIMENSIONS or any(type(d) is not int or d < 0 or d > 1 << 40 for d in shape):
        raise Malformed(
            f"Input {name!r} does not have the shape of rows.",
            received=list(shape)[:8],
            expected="[rows], [rows, 1], or [rows, ...] of all columns",
        )
    return tuple(shape)


def _check_count(name: str, shape: tuple[int, ...], count: int) -> None:
    if math.prod(shape) != count:
        raise wrong_count(name, shape, count)


def wrong_count(name: str, shape: tuple[int, ...], count: int) -> Malformed:
    """Return the error of a tensor with another number of values than its shape has."""
    return Malformed(f"Input {name!r} has {count} values; its shape {list(shape)} needs {math.prod(shape)}.")


def _check_dtype(name: str, datatype: str) -> Any:
    if datatype not in DTYPES:
        known = ", ".join((*DTYPES, "BYTES"))
        raise Malformed(f"Input {name!r} has an unknown datatype.", received=datatype[:40], expected=known)
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
        wanted = "numbers" if float in kinds else "whole numbers"
        raise Malformed(f"Input {name!r} of datatype {datatype} needs {wanted}.")
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
    if len(tensors) == 1 and _is_matrix(model, tensors[0]):
        return _rows_of_matrix(model, tensors[0])
    left_out: dict[str, int] = {}
    for name in [name for name in by_name if name not in names]:
        try:
            own = model.columns.input_named(name)
        except KeyError:
            fix = f"One tensor of all columns may have any name, and the shape [rows, {len(names)}]."
            raise Malformed(f"Unknown input {name[:63]!r}.", expected=", ".join(names[:50]), fix=fix) from None
        other = by_name.pop(name)
        if own is None:
            left_out[name] = len(other.values)
        else:
            by_name.setdefault(own, other)
    if not by_name:
        raise Malformed("The request has none of the model's inputs.", expected=", ".join(names[:50]))
    counts = set()
    for tensor in by_name.values():
        if tensor.shape[1:] not in ((), (1,)):
            raise Malformed(f"Input {tensor.name!r} has a wrong shape.", received=list(tensor.shape), expected="[n, 1]")
        counts.add(tensor.shape[0])
    if len(counts) != 1 or 0 in counts:
        raise Malformed("The inputs need the same number of rows, at least one.", received=sorted(counts))
    arrays = [by_name[name].values for name in names if name in by_name]
    if len(arrays) == len(names) and model.columns.plain_numbers is not None and all(map(_is_numeric, arrays)):
        matrix = np.stack([np.asarray(values, np.float64) for values in arrays], axis=1)
        if model.columns.plain_numbers.are_exact(matrix):
            return InputRows(matrix, left_out)
    (count,) = counts
    columns: list[Any] = []
    for name, numeric in zip(names, model.columns.numeric, strict=True):
        values = by_name[name].values if name in by_name else [None] * count
        if numeric and _is_numeric(values):
            columns.append(np.asarray(values, np.float64).ravel())
        else:
            columns.append(_as_list(values))
    return InputRows.by_column(names, columns, left_out)


def _is_matrix(model: LoadedModel, tensor: Tensor) -> bool:
    """Return whether a request's only tensor holds all columns: by its name, or under another name by its width."""
    if tensor.name in model.columns.known:
        return False
    if tensor.name in MATRIX_NAMES:
        return True
    try:
        model.columns.input_named(tensor.name)
    except KeyError:  # some clients number their inputs: `input-0`, `input-1`
        return math.prod(tensor.shape[1:]) == len(model.columns.names)
    return False


def _rows_of_matrix(model: LoadedModel, tensor: Tensor) -> InputRows:
    """Return rows from one tensor: [rows, columns], or an image's [rows, height, width]. Raises Malformed."""
    width = len(model.columns.names)
    shape = (1, *tensor.shape) if len(tensor.shape) == 1 and width > 1 else tensor.shape
    if math.prod(shape[1:]) == width:
        shape = (shape[0], width)
    if shape[1:] != (width,) or shape[0] == 0:
        raise Malformed(
            f"Input {tensor.name!r} has a wrong shape.",
            received=list(tensor.shape),
            expected=f"[rows, {width}]: {', '.join(model.columns.names[:50])}",
        )
    values = tensor.values
    plain = model.columns.plain_numbers
    if plain is not None and isinstance(values, np.ndarray) and _is_numeric(values):
        matrix = values.astype(np.float64).reshape(shape)
        if plain.are_exact(matrix):
            return InputRows(matrix)
    listed = _as_list(values)
    return InputRows([listed[start : start + width] for start in range(0, len(listed), width)])


def _is_numeric(values: npt.NDArray[Any] | list[Any]) -> bool:
    return isinstance(values, np.ndarray) and values.dtype != np.bool_


def _as_list(values: npt.NDArray[Any] | list[Any]) -> list[Any]:
    return values if isinstance(values, list) else list(values.tolist())
