"""`text/csv` in: a header of column names, a row a line, an empty field where a value is missing."""

from __future__ import annotations

import csv
import io
from typing import Any

from fitserve.errors import Malformed
from services.predict.catalog.loaded_model import Network, Prediction
from services.predict.serving.rows import Rows

_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would take a text that starts so for a formula


def read_rows(network: Network, body: bytes) -> Rows:
    """The rows of a CSV body. Raises Malformed."""
    try:
        text = body.decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Malformed(f"The body is not CSV in UTF-8: {error}.") from None
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise Malformed("The body needs a header and at least one row.")
    header, *data = lines
    names = network.columns.names
    if unknown := [name for name in header if name not in names]:
        raise Malformed(f"The header has an unknown column {unknown[0][:63]!r}.", expected=", ".join(names[:50]))
    if len(set(header)) != len(header):
        raise Malformed("The header names a column twice.")
    numeric = [column.kind == "numeric" for name in header for column in network.columns.fitted if column.name == name]
    rows = []
    for number, line in enumerate(data, 1):
        if len(line) != len(header):
            raise Malformed(f"Row {number} has {len(line)} fields; the header has {len(header)}.")
        rows.append(
            {
                name: _number(field) if is_number else field or None
                for name, field, is_number in zip(header, line, numeric, strict=True)
            }
        )
    return Rows(rows)


def _number(field: str) -> Any:
    """A number where it is one; else the text, which the encoder refuses by row and column."""
    field = field.strip()
    if not field:
        return None
    try:
        return int(field) if field.lstrip("+-").isdecimal() else float(field.replace("_", "x"))
    except ValueError:
        return field


def write_rows(prediction: Prediction) -> bytes:
    """A column for each unit of each target, the label of a classification, and what was warned of."""
    header: list[str] = []
    columns: list[list[Any]] = []
    for output in prediction.network.outputs:
        values = prediction.outputs[output.name]
        if output.labels is not None and output.task != "multilabel":
            header.append(output.name)
            columns.append([_text(label) for label in best_labels(output.labels, values)])
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
    writer.writerow([_text(name) for name in header])
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue().encode()


def best_labels(labels: tuple[str, ...], values: Any) -> list[str]:
    """The most probable label of each row."""
    if values.shape[1] == 1:
        return [labels[int(score >= 0.5)] for score in values[:, 0]]
    return [labels[place] for place in values.argmax(axis=1)]


def _text(value: str) -> str:
    return "'" + value if value.startswith(_DANGEROUS) else value
