"""Formats that a served version can be exported to, beside `model.keras` and `model.onnx`: what each can hold.

A worker makes an export, as a run of kind `export`, and compares it with what is served before it can be downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitserve.errors import BadInput, Problem

KIND = "export"  # of the run and of its blob


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format. `encodings`: those that it can hold, None: all."""

    suffix: str
    title: str
    encodings: frozenset[str] | None = None


FORMATS: Mapping[str, ExportFormat] = {
    "onnx-raw": ExportFormat(
        ".onnx",
        "ONNX with the preprocessing inside: takes raw columns",
        frozenset(
            {"standardize", "min_max", "pass_through", "log", "robust", "piecewise_linear", "quantile", "periodic"}
            | {"boolean", "one_hot", "index", "cyclic"}
        ),
    ),
    "saved-model": ExportFormat(".zip", "SavedModel for TensorFlow Serving: takes raw columns"),
}


def check(format: str, manifest: Mapping[str, Any]) -> None:
    """Raise BadInput, naming each column, where a format cannot hold what an artifact has."""
    holds = FORMATS[format].encodings
    if holds is None:
        return
    columns = manifest["encoder"]["columns"]
    refused = [column for column in columns if column["encoding"]["type"] not in holds]
    if refused:
        problems = [
            Problem(
                f"{format} cannot hold {column['encoding']['type']}, the encoding of the column {column['name']!r}.",
                column=column["name"],
                received=column["encoding"]["type"],
                expected=", ".join(sorted(holds)),
            )
            for column in refused
        ]
        raise BadInput(
            problems[0].detail,
            problems=problems,
            fix="Export it as saved-model, or download model.keras: these hold every encoding.",
        )
