"""JSON and CSV as the prediction protocols read and write them."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from typing import Any

import msgspec

from fitserve.errors import Malformed
from services.predict.catalog.loaded_model import InputRows, LoadedModel, Prediction

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes such a text for a formula


# JSON: bare NaN and Infinity are allowed both ways


def read_json(body: bytes) -> Any:
    """Return the value of a JSON text. Raises Malformed."""
    try:
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if b"NaN" in body or b"Infinity" in body:  # msgspec reads neither
                return json.loads(body)
            raise
    except RecursionError:
        raise Malformed("The body is not JSON: it nests too deep.") from None
    except ValueError as error:  # of json, msgspec and UTF-8
        raise Malformed(f"The body is not JSON: {error}.") from None


def write_json(value: Any, finite: bool = True) -> bytes:
    """Return a JSON text; unless `finite`, NaN and Infinity are bare tokens."""
    return _encoder.encode(value) if finite else json.dumps(value, separators=(",", ":")).encode()


def read_cell(value: Any) -> Any:
    """Return one value of a row: `{"b64": ...}` becomes text, a list of one its element. Raises Malformed."""
    if type(value) is dict and len(value) == 1 and "b64" in value:
        try:
            return base64.b64decode(value["b64"], validate=True).decode()
        except (TypeError, ValueError, binascii.Error):
            raise Malformed("A b64 value is not base64 of UTF-8 text.", received=str(value["b64"])[:80]) from None
    if type(value) is list and len(value) == 1:
        return read_cell(value[0])
    return value


# CSV: a header of column names, a line for each row, an empty field where a value is missing


def read_csv(model: LoadedModel, body: bytes) -> InputRows:
    """Return the rows of a CSV body. Raises Malformed."""
    try:
        text = body.decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Malformed(f"The body is not CSV in UTF-8: {error}.") from None
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise Malformed("The body needs a header and at least one row.")
    header, *data = lines
    names = model.columns.names
    if unknown := [name for name in header if name not in names]:
        raise Malformed(f"The header has an unknown column {unknown[0][:63]!r}.", expected=", ".join(names[:50]))
    if len(set(header)) != len(header):
        raise Malformed("The header names a column twice.")
    numeric = {column.name for column in model.columns.fitted if column.kind == "numeric"}
    rows = []
    for number, line in enumerate(data, 1):
        if len(line) != len(header):
            raise Malformed(f"Row {number} has {len(line)} fields; the header has {len(header)}.")
        fields = zip(header, line, strict=True)
        rows.append({name: _number(field) if name in numeric else field or None for name, field in fields})
    return InputRows(rows)


def _number(field: str) -> Any:
    """Return the number if the field is one; else the text, which the encoder refuses by row and column."""
    field = field.strip()
    if not field:
        return None
    try:
        return int(field) if field.lstrip("+-").isdecimal() else float(field.replace("_", "x"))
    except ValueError:
        return field


def write_csv(prediction: Prediction) -> bytes:
    """Write a column for each unit of each target, the label of a classification, and the warnings."""
    header: list[str] = []
    columns: list[list[Any]] = []
    for output in prediction.model.outputs:
        values = prediction.outputs[output.name]
        if output.labels is not None and output.task != "multilabel":
            header.append(output.name)
            columns.append([_escape_formula(label) for label in _best_labels(output.labels, values)])
        for unit in range(output.units):
            if output.task == "regression":
                name = output.name if output.units == 1 else f"{output.name}_{unit}"
            else:
                labels = output.labels or ()
                label = labels[-1] if output.units == 1 and len(labels) == 2 else (labels or range(output.units))[unit]
                name = f"{output.name}_{label}"
            header.append(name)
            columns.append([repr(value) for value in values[:, unit].tolist()])
    if prediction.warnings is not None:
        header.append("warnings")
        columns.append(["; ".join(warning["message"] for warning in row) for row in prediction.warnings])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_escape_formula(name) for name in header])
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue().encode()


def _best_labels(labels: tuple[str, ...], values: Any) -> list[str]:
    """Return the most probable label of each row."""
    if values.shape[1] == 1:
        return [labels[int(score >= 0.5)] for score in values[:, 0]]
    return [labels[place] for place in values.argmax(axis=1)]


def _escape_formula(value: str) -> str:
    return "'" + value if value.startswith(_FORMULA_STARTS) else value
