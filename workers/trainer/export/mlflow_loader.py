"""Load the exported model for MLflow: raw columns in, predictions out. It needs ONNX Runtime, NumPy and pandas alone.

MLflow imports this file from the folder `code` of the model, and calls `_load_pyfunc` with the path of its data.
"""

from __future__ import annotations

import datetime
import json
import math
import pathlib
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

TRUE, FALSE = ("true", "yes", "y", "t", "1"), ("false", "no", "n", "f", "0")


class Model:
    """The network, including its preprocessing."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.columns = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=providers)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return the numbers of each row: an array, or for several targets a list of mappings of them."""
        frame = pd.DataFrame(model_input)
        feeds = {}
        for column in self.columns:
            if column["name"] not in frame.columns:
                raise ValueError(f"There is no column {column['name']!r}, but {list(frame.columns)}.")
            values = [self._value(cell, column, row) for row, cell in enumerate(frame[column["name"]].tolist(), 1)]
            kind = np.float64 if column["raw"] == "number" else object
            feeds[column["input"]] = np.array(values, kind).reshape(-1, 1)
        answers = self.session.run(self.outputs, feeds)
        if len(answers) == 1:
            return answers[0]
        lists = [answer.tolist() for answer in answers]
        return [dict(zip(self.outputs, row, strict=True)) for row in zip(*lists, strict=True)]

    @staticmethod
    def _value(cell: Any, column: dict[str, str], row: int) -> Any:
        try:
            return _number(cell) if column["raw"] == "number" else _label(cell)
        except (TypeError, ValueError):
            raise ValueError(f"Row {row}, column {column['name']!r}: {cell!r} cannot be read.") from None


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))


def _number(cell: Any) -> float:
    """Read a number, a truth value, or a time as seconds since 1970 in UTC."""
    if _is_missing(cell) or cell == "":
        return math.nan
    if isinstance(cell, str):
        word = cell.strip().lower()
        try:
            return float(word)
        except ValueError:
            if word in TRUE or word in FALSE:
                return float(word in TRUE)
            cell = pd.Timestamp(cell)
    if isinstance(cell, (datetime.date, np.datetime64)):
        moment = pd.Timestamp(cell)
        moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
        return (moment - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return float(cell)


def _label(cell: Any) -> str:
    """Read a label: 3 and 3.0 are "3", True is "true"."""
    if _is_missing(cell):
        return ""
    if isinstance(cell, (bool, np.bool_)):
        return "true" if cell else "false"
    if isinstance(cell, (float, np.floating)):
        number = float(cell)
        return str(int(number)) if number.is_integer() and abs(number) < 1e16 else repr(number)
    if isinstance(cell, datetime.date):
        return cell.isoformat()
    return str(cell)


def _load_pyfunc(path: str) -> Model:
    return Model(pathlib.Path(path))
