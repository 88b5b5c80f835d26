"""The fitted encoder as layers of Keras's own, so that `model.keras` takes raw columns anywhere Keras runs.

Each raw column is an input of shape `(1,)`: float64 with NaN for missing (a datetime: seconds since 1970 in UTC; a
boolean: 0 or 1), or a string with "" for missing. Columns of a sort are computed together: a table of
a thousand numeric columns is a handful of layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fitserve.encoding.coercion import FALSE, TRUE
from fitserve.encoding.fitted_column import DAY, TEXTS, YEAR, FittedColumn


def input_names(columns: Iterable[FittedColumn]) -> dict[str, str]:
    """The Keras input of each column: named as the column, but for characters that Keras's names cannot have."""
    names: dict[str, str] = {}
    for column in columns:
        name = column.name.replace("/", "_") or "_"
        while column.name not in names and name in names.values():
            name += "_"
        names.setdefault(column.name, name)
    return names


def raw_inputs(columns: Sequence[FittedColumn]) -> dict[str, Any]:
    """A Keras input for each column, by the column's name, in the order of the columns."""
    dtypes = {column.name: "float64" if column.raw == "number" else "string" for column in columns}
    names = input_names(columns)
    return {column: keras.Input((1,), dtype=dtypes[column], name=name) for column, name in names.items()}


def encoded(columns: Sequence[FittedColumn], raw: dict[str, Any]) -> dict[str, Any]:
    """The network's inputs by name, computed from the raw inputs: float32 or int32 `(rows, width)`."""
    by_input: dict[str, list[FittedColumn]] = {}
    for column in columns:
        by_input.setdefault(column.input, []).append(column)
    return {name: _input(members, raw) for name, members in by_input.items()}


def _input(columns: list[FittedColumn], raw: dict[str, Any]) -> Any:
    """One network input: the pieces of its columns in any order, then put where the encoder has them."""
    if len(columns) == 1 and _is_integer(columns[0]):
        return _integers(columns[0], raw[columns[0].name])
    pieces: list[Any] = []
    places: list[int] = []  # where each computed column belongs

    def put(tensor: Any, at: Iterable[int]) -> None:
        pieces.append(tensor)
        places.extend(at)

    numbers = [c for c in columns if c.raw == "number" and c.type != "cyclic"]
    for log in (False, True):
        group = [c for c in numbers if (c.type == "log") == log]
        if group:
            value, missing = _numbers(group, [raw[c.name] for c in group], log)
            put(value, (c.offset for c in group))
            told = [c for c in group if c.encoding["indicator"]]
            if told:
                picked = [i for i, c in enumerate(group) if c.encoding["indicator"]]
                put(_taken(missing, picked, len(group)), (c.offset + c.width - 1 for c in told))
    for column in columns:
        if column in numbers:
            continue
        tensor = _cyclic(column, raw[column.name]) if column.type == "cyclic" else _strings(column, raw[column.name])
        put(tensor, range(column.offset, column.offset + column.width))
    whole = layers.Concatenate(dtype="float32")(pieces) if len(pieces) > 1 else pieces[0]
    return _taken(whole, list(np.argsort(places)), len(places))


def _taken(tensor: Any, places: list[int], width: int) -> Any:
    """Some columns of a tensor, in the order of `places`."""
    if list(places) == list(range(width)):
        return tensor
    return ops.take(tensor, [int(place) for place in places], axis=1)


def _numbers(columns: list[FittedColumn], raw: list[Any], log: bool) -> tuple[Any, Any]:
    """Scaled numbers and their 0/1 missing flags: two float32 `(rows, columns)`, computed in float64."""
    x = layers.Concatenate(dtype="float64")(raw) if len(raw) > 1 else raw[0]
    missing = ops.isnan(x)
    if log:
        x = ops.multiply(ops.sign(x), ops.log1p(ops.absolute(x)))
    center = [float(c.fitted.get("center", 0.0)) for c in columns]
    scale = [float(c.fitted.get("scale", 1.0)) for c in columns]
    fills = [0.0 if c.type == "boolean" else _scaled_fill(c) for c in columns]
    x = layers.Rescaling(1.0, [-value for value in center], dtype="float64")(x)
    x = layers.Rescaling([1.0 / value for value in scale], 0.0, dtype="float64")(x)
    x = ops.where(missing, 0.0, x)
    if any(fills):
        x = layers.Add(dtype="float64")(
            [x, layers.Rescaling(fills, 0.0, dtype="float64")(ops.cast(missing, "float64"))]
        )
    return ops.cast(x, "float32"), ops.cast(missing, "float32")


def _scaled_fill(column: FittedColumn) -> float:
    fill = float(column.fitted["fill"])
    if column.type == "log":
        fill = math.copysign(math.log1p(abs(fill)), fill)
    return (fill - float(column.fitted["center"])) / float(column.fitted["scale"])


def _is_integer(column: FittedColumn) -> bool:
    return column.type in ("index", "sequence") or column.encoding.get("output") == "index"


def _integers(column: FittedColumn, raw: Any) -> Any:
    if column.type == "sequence":
        return ops.cast(_vectorized(column, "int", raw, output_sequence_length=column.width), "int32")
    return ops.cast(_lookup(column, "int")(raw), "int32")


def _lookup(column: FittedColumn, output: str) -> Any:
    """A layer for labels. A label that the vocabulary lacks goes to the place of the unknown."""
    if column.type == "hashing":
        salt = list(column.encoding["salt"])
        return layers.Hashing(column.encoding["bins"], mask_value="", salt=salt, output_mode=output)
    labels, unknown = list(column.fitted["labels"]), int(column.encoding["unknown"] == "bucket")
    token = _unknown_token(labels)
    labels = labels or [token + "none"]  # Keras wants a vocabulary even where the training rows had no value
    if output == "int":
        # Index 1 is kept for the unknown even where unknown labels are refused.
        return layers.StringLookup(vocabulary=labels, mask_token="", oov_token=token, num_oov_indices=1)
    width = column.width - int(bool(column.encoding.get("indicator")))
    return layers.StringLookup(
        vocabulary=labels,
        mask_token="",
        oov_token=token,
        num_oov_indices=unknown,
        output_mode="multi_hot",
        max_tokens=width,
        pad_to_max_tokens=True,
    )


def _unknown_token(labels: list[str]) -> str:
    unknown = "[UNK]"
    while unknown in labels:
        unknown += "_"
    return unknown


def _boolean(column: FittedColumn, raw: Any) -> Any:
    """0 or 1 of a text: the dataset's own spellings, then the usual ones in the usual cases."""
    own = {column.fitted["false"], column.fitted["true"]}
    words = {case for word in FALSE for case in (word, word.upper(), word.capitalize())} - own
    false = [column.fitted["false"], *sorted(words)]
    words = {case for word in TRUE for case in (word, word.upper(), word.capitalize())} - own
    vocabulary = [*false, column.fitted["true"], *sorted(words)]
    index = layers.StringLookup(vocabulary=vocabulary, mask_token="", oov_token=_unknown_token(vocabulary))(raw)
    return ops.cast(ops.greater_equal(index, 2 + len(false)), "float32")


def _vectorized(column: FittedColumn, output: str, raw: Any, **more: Any) -> Any:
    layer = layers.TextVectorization(
        max_tokens=int(column.encoding["max_tokens"]) + (output == "int"),
        standardize="lower_and_strip_punctuation",
        split=column.encoding["tokens"],
        output_mode=output,
        vocabulary=list(column.fitted["vocabulary"]),
        **more,
    )
    # Keras expects (rows, 1, width) of this layer, and gets (rows, width).
    return ops.reshape(layer(raw), (-1, column.width))


def _strings(column: FittedColumn, raw: Any) -> Any:
    """Labels and texts as float32 `(rows, width)`."""
    if column.type in TEXTS:
        modes = {"multi_hot": "multi_hot", "counts": "count", "tf_idf": "tf_idf"}
        more: dict[str, Any] = {"pad_to_max_tokens": True}
        if column.type == "tf_idf":
            more["idf_weights"] = list(column.fitted["idf"])
        return ops.cast(_vectorized(column, modes[column.type], raw, **more), "float32")
    if column.type == "boolean":
        hot = _boolean(column, raw)
    else:
        hot = ops.cast(_lookup(column, "multi_hot" if column.type == "one_hot" else "one_hot")(raw), "float32")
    if not column.encoding.get("indicator"):
        return hot
    return layers.Concatenate(dtype="float32")([hot, ops.cast(ops.equal(raw, ""), "float32")])


def _cyclic(column: FittedColumn, raw: Any) -> Any:
    """Sine and cosine of each part in turn, zero where the time is missing."""
    missing = ops.isnan(raw)
    seconds = ops.where(missing, 0.0, raw)
    known = ops.cast(ops.logical_not(missing), "float64")
    pieces = []
    for part in column.encoding["parts"]:
        angle = ops.multiply(_phase(part, seconds), 2 * math.pi)
        pieces += [ops.multiply(ops.sin(angle), known), ops.multiply(ops.cos(angle), known)]
    if column.encoding["indicator"]:
        pieces.append(ops.cast(missing, "float64"))
    return ops.cast(layers.Concatenate(dtype="float64")(pieces), "float32")


def _phase(part: str, seconds: Any) -> Any:
    """`fitserve.encoding.fitted_column.phase`, operation by operation."""
    days = ops.divide(seconds, DAY)
    if part == "time_of_day":
        return days - ops.floor(days)
    if part == "weekday":
        whole = ops.floor(days) + 3.0
        return (whole - 7.0 * ops.floor(whole / 7.0)) / 7.0
    if part == "time_of_year":
        years = days / YEAR
        return years - ops.floor(years)
    return (_day_of_month(ops.floor(days)) - 1.0) / 31.0


def _day_of_month(days: Any) -> Any:
    """`fitserve.encoding.fitted_column.day_of_month`, operation by operation."""
    z = days + 719_468.0
    day_of_era = z - ops.floor(z / 146_097.0) * 146_097.0
    leap = ops.floor(day_of_era / 1_460.0) - ops.floor(day_of_era / 36_524.0) + ops.floor(day_of_era / 146_096.0)
    year_of_era = ops.floor((day_of_era - leap) / 365.0)
    day_of_year = day_of_era - (365.0 * year_of_era + ops.floor(year_of_era / 4.0) - ops.floor(year_of_era / 100.0))
    month = ops.floor((5.0 * day_of_year + 2.0) / 153.0)
    return day_of_year - ops.floor((153.0 * month + 2.0) / 5.0) + 1.0
