"""The fitted encoder as layers of Keras's own, so that `model.keras` takes raw columns anywhere Keras runs.

Each raw column is an input of shape `(1,)`: float64 with NaN for missing (a datetime: seconds since 1970 in UTC; a
boolean: 0 or 1), or a string with "" for missing.

Every encoding of `fitserve.encoding` has a class here, which is registered by the encoding's name. Columns whose
encodings share a class may be computed together: a table of a thousand numeric columns is a handful of layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from fitserve.encoder import Encoder
from fitserve.encoding import FittedColumn
from fitserve.encoding.cyclic import phase
from fitserve.encoding.robust import BOUND, LARGE
from fitserve.parsing.words import FALSE, TRUE

Floats = npt.NDArray[np.float64]
Raw = Mapping[str, Any]  # raw inputs by name; those of `pieces` by the column's name
Piece = tuple[Any, Iterable[int]]  # a float32 tensor (rows, n), and its n positions in the network input


def input_names(columns: Iterable[FittedColumn]) -> dict[tuple[str, str], str]:
    """Return the Keras input's name for each column and raw type: the column's name, without characters Keras forbids.

    A column that is encoded both as numbers and as text has two inputs.
    """
    names: dict[tuple[str, str], str] = {}
    named = {column.name for column in columns}
    for column in columns:
        if (column.name, column.raw) in names:
            continue
        name = column.name.replace("/", "_") or "_"
        if any(other == column.name for other, _ in names):
            name += f"_{column.raw}"
        while name in names.values() or (name != column.name and name in named):
            name += "_"
        names[column.name, column.raw] = name
    return names


def raw_inputs(columns: Sequence[FittedColumn]) -> dict[str, Any]:
    """Return the Keras inputs by name, in the order of the columns."""
    dtypes = {"number": "float64", "string": "string"}
    return {name: keras.Input((1,), dtype=dtypes[raw], name=name) for (_, raw), name in input_names(columns).items()}


def encoded(encoder: Encoder, raw: Raw) -> dict[str, Any]:
    """Return the network's inputs by name, computed from the raw inputs: float32 or int32 `(rows, width)`."""
    inputs: dict[str, Any] = {}
    names = input_names(encoder.columns)
    for one in encoder.inputs:
        columns = [column for column in encoder.columns if column.input == one.name]
        if one.dtype == "int32":
            (column,) = columns
            value = raw[names[column.name, column.raw]]
            inputs[one.name] = ops.cast(_class_of(column).compute(column, value), "int32")
        else:
            inputs[one.name] = _joined(columns, raw, names)
    return inputs


def _joined(columns: list[FittedColumn], raw: Raw, names: Mapping[tuple[str, str], str]) -> Any:
    """Compute the pieces of one network input, in any order, and arrange them in the encoder's order."""
    by_class: dict[type[KerasEncoding], list[FittedColumn]] = {}
    for column in columns:
        by_class.setdefault(_class_of(column), []).append(column)
    pieces: list[Any] = []
    places: list[int] = []
    for cls, members in by_class.items():
        by_column = {column.name: raw[names[column.name, column.raw]] for column in members}
        for tensor, at in cls.pieces(members, by_column):
            pieces.append(tensor)
            places.extend(at)
    whole = layers.Concatenate(dtype="float32")(pieces) if len(pieces) > 1 else pieces[0]
    return _columns_of(whole, list(np.argsort(places)), len(places))


def _columns_of(tensor: Any, places: list[int], width: int) -> Any:
    """Return some columns of a tensor of that width, in the order of `places`."""
    if list(places) == list(range(width)):
        return tensor
    return ops.take(tensor, [int(place) for place in places], axis=1)


def _class_of(column: FittedColumn) -> type[KerasEncoding]:
    return KerasEncoding.by_name[column.encoding.type]


class KerasEncoding:
    """Base of Keras implementations of encodings: a subclass sets `names` and overrides one of these methods.

    A `column` is the `FittedColumn` of the encoding.
    """

    by_name: ClassVar[dict[str, type[KerasEncoding]]] = {}

    def __init_subclass__(cls, names: Sequence[str] = ()) -> None:
        KerasEncoding.by_name |= dict.fromkeys(names, cls)

    @classmethod
    def compute(cls, column: Any, raw: Any) -> Any:
        """Compute one column: `(rows, width)`, real numbers, or integers where it has an input of its own."""
        raise NotImplementedError

    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        """Compute columns that share a network input of real numbers; by default one by one."""
        for column in columns:
            tensor = ops.cast(cls.compute(column, raw[column.name]), "float32")
            yield tensor, range(column.offset, column.offset + column.width)


def indicator_pieces(columns: Sequence[Any], missing: Any) -> Iterator[Piece]:
    """Yield the last column of each encoding that has an indicator. `missing` is boolean `(rows, columns)`."""
    chosen = [index for index, column in enumerate(columns) if column.encoding.indicator]
    if chosen:
        flags = _columns_of(ops.cast(missing, "float32"), chosen, len(columns))
        yield flags, (columns[index].offset + columns[index].width - 1 for index in chosen)


def _side_by_side(columns: Sequence[Any], raw: Raw) -> Any:
    """Return the raw numbers of some columns: float64 `(rows, columns)`."""
    numbers = [raw[column.name] for column in columns]
    return layers.Concatenate(dtype="float64")(numbers) if len(numbers) > 1 else numbers[0]


def rescaled(x: Any, scale: float | Sequence[float] | Floats, offset: float | Sequence[float] | Floats) -> Any:
    """Return `scale * x + offset` in float64.

    Keras would first round constants that are not arrays to float32, and cannot restore an array without an axis."""
    constants = (np.atleast_1d(np.asarray(constant, np.float64)) for constant in (scale, offset))
    return layers.Rescaling(*constants, dtype="float64")(x)


class Scaled(KerasEncoding, names=("standardize", "min_max", "pass_through")):
    """Numbers scaled together, in float64."""

    @classmethod
    def transform(cls, numbers: Any) -> Any:
        """Apply the encoding's `transform`."""
        return numbers

    @classmethod
    def bounded(cls, numbers: Any) -> Any:
        """Apply the encoding's step after scaling."""
        return numbers

    @classmethod
    def scaled(cls, columns: Sequence[Any], numbers: Any) -> Any:
        """Apply the columns' `scaled`: float64 `(rows, columns)`."""
        x = cls.transform(numbers)
        x = rescaled(x, 1.0, [-float(c.fitted["center"]) for c in columns])
        x = rescaled(x, [1.0 / float(c.fitted["scale"]) for c in columns], 0.0)
        return cls.bounded(x)

    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        x = _side_by_side(columns, raw)
        missing = ops.isnan(x)
        x = ops.where(missing, 0.0, cls.scaled(columns, x))
        fills = [float(c.scaled(c.fitted["fill"])) for c in columns]
        if any(fills):
            filled = rescaled(ops.cast(missing, "float64"), fills, 0.0)
            x = layers.Add(dtype="float64")([x, filled])
        yield ops.cast(x, "float32"), (column.offset for column in columns)
        yield from indicator_pieces(columns, missing)


class Log(Scaled, names=("log",)):
    @classmethod
    def transform(cls, numbers: Any) -> Any:
        return ops.multiply(ops.sign(numbers), ops.log1p(ops.absolute(numbers)))


class Robust(Scaled, names=("robust",)):
    @classmethod
    def bounded(cls, numbers: Any) -> Any:
        numbers = ops.clip(numbers, -LARGE, LARGE)
        return ops.divide(numbers, ops.sqrt(ops.add(ops.square(ops.divide(numbers, BOUND)), 1.0)))


class PiecewiseLinear(KerasEncoding, names=("piecewise_linear",)):
    """All bins of all columns at once, each the share of it that a number has passed."""

    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        x = _side_by_side(columns, raw)
        missing = ops.isnan(x)
        bins = [column.bins for column in columns]
        repeated = [index for index, count in enumerate(bins) for _ in range(count)]
        if repeated:
            passed = _passed(columns, _columns_of(ops.where(missing, 0.0, x), repeated, len(columns)))
            known = _columns_of(ops.cast(ops.logical_not(missing), "float32"), repeated, len(columns))
            shares = ops.multiply(ops.cast(passed, "float32"), known)
            places = [range(column.offset, column.offset + column.bins) for column in columns]
            yield shares, itertools.chain.from_iterable(places)
        yield from zeros(columns, bins, x)
        yield from indicator_pieces(columns, missing)


def _passed(columns: Sequence[Any], numbers: Any) -> Any:
    """Return how much of each bin of some columns a number has passed: float64, one number for each bin."""
    low = np.concatenate([column.halves[:-1] for column in columns])
    widths = np.concatenate([np.diff(column.halves) for column in columns])
    halves = rescaled(numbers, 0.5, 0.0)
    above = rescaled(halves, 1.0, -low)
    return ops.clip(rescaled(above, 1.0 / widths, 0.0), 0.0, 1.0)


class Quantile(KerasEncoding, names=("quantile",)):
    """A normal score: that of the first edge, and what each bin that is passed adds."""

    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        for column in columns:
            x = raw[column.name]
            missing = ops.isnan(x)
            if column.bins:
                scores = np.asarray(column.fitted["scores"], np.float64)
                passed = _passed([column], _columns_of(ops.where(missing, 0.0, x), [0] * column.bins, 1))
                rises = rescaled(passed, np.diff(scores), 0.0)
                score = ops.add(ops.sum(rises, axis=1, keepdims=True), float(scores[0]))
                yield ops.cast(ops.where(missing, 0.0, score), "float32"), (column.offset,)
            yield from zeros([column], [min(1, column.bins)], x)
            yield from indicator_pieces([column], missing)


class Periodic(KerasEncoding, names=("periodic",)):
    """Sines and cosines of a number scaled as by `robust`."""

    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        for column in columns:
            x = raw[column.name]
            missing = ops.isnan(x)
            scaled = Robust.scaled([column], ops.where(missing, 0.0, x))
            turns = [2 * math.pi * frequency for frequency in column.fitted["frequencies"]]
            angles = rescaled(_columns_of(scaled, [0] * len(turns), 1), turns, 0.0)
            waves = layers.Concatenate(dtype="float64")([ops.sin(angles), ops.cos(angles)])
            known = ops.cast(ops.logical_not(missing), "float64")
            place = range(column.offset, column.offset + 2 * len(turns))
            yield ops.cast(ops.multiply(waves, known), "float32"), place
            yield from indicator_pieces([column], missing)


def zeros(columns: Sequence[Any], used: Sequence[int], x: Any) -> Iterator[Piece]:
    """Yield the positions that an encoding leaves at zero: after the first `used`, before the indicator."""
    places = [
        column.offset + index
        for column, count in zip(columns, used, strict=True)
        for index in range(count, column.width - bool(column.encoding.indicator))
    ]
    if places:
        nothing = ops.cast(ops.zeros_like(x[:, :1]), "float32")
        yield _columns_of(nothing, [0] * len(places), 1), places


class Boolean(KerasEncoding, names=("boolean",)):
    """Booleans as 0 or 1: numeric columns all together, text columns one by one."""

    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        numbers = [column for column in columns if column.raw == "number"]
        if numbers:
            x = _side_by_side(numbers, raw)
            yield ops.cast(ops.where(ops.isnan(x), 0.0, x), "float32"), (column.offset for column in numbers)
            yield from indicator_pieces(numbers, ops.isnan(x))
        for column in columns:
            if column.raw == "string":
                yield cls._of_text(column, raw[column.name]), (column.offset,)
                yield from indicator_pieces([column], ops.equal(raw[column.name], ""))

    @staticmethod
    def _of_text(column: Any, raw: Any) -> Any:
        """Look a text up among the dataset's own spellings, then the usual ones in the usual cases."""
        own = {column.fitted["false"], column.fitted["true"]}
        spellings = lambda words: {case for word in words for case in (word, word.upper(), word.capitalize())}  # noqa: E731
        false = [column.fitted["false"], *sorted(spellings(FALSE) - own)]
        vocabulary = [*false, column.fitted["true"], *sorted(spellings(TRUE) - own)]
        index = _string_lookup(vocabulary)(raw)
        return ops.cast(ops.greater_equal(index, 2 + len(false)), "float32")


def _string_lookup(labels: Sequence[str], **options: Any) -> Any:
    """Return a layer for labels, in which "" is missing; other labels are unknown."""
    unknown = "[UNK]"
    while unknown in labels:
        unknown += "_"
    labels = labels or [unknown + "none"]  # Keras requires a vocabulary even if the training rows had no value
    return layers.StringLookup(vocabulary=list(labels), mask_token="", oov_token=unknown, **options)


class OneHot(KerasEncoding, names=("one_hot",)):
    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        for column in columns:
            width = column.width - bool(column.encoding.indicator)
            lookup = _string_lookup(
                column.fitted["labels"],
                num_oov_indices=int(column.encoding.unknown == "bucket"),
                output_mode="multi_hot",  # which leaves zeros for a missing label
                max_tokens=width,
                pad_to_max_tokens=True,
            )
            yield ops.cast(lookup(raw[column.name]), "float32"), range(column.offset, column.offset + width)
            yield from indicator_pieces([column], ops.equal(raw[column.name], ""))


class Index(KerasEncoding, names=("index",)):
    @classmethod
    def compute(cls, column: Any, raw: Any) -> Any:
        return _string_lookup(column.fitted["labels"])(raw)  # 1 is unknown, even where unknown labels are refused


class Hashing(KerasEncoding, names=("hashing",)):
    @classmethod
    def compute(cls, column: Any, raw: Any) -> Any:
        bins, salt = column.encoding.bins, list(column.encoding.salt)
        return layers.Hashing(bins, mask_value="", salt=salt, output_mode="int" if column.integer else "one_hot")(raw)


class TextVectorized(KerasEncoding):
    """Keras's `TextVectorization`, in the `mode` of a subclass."""

    mode: ClassVar[str]

    @classmethod
    def options(cls, column: Any) -> dict[str, Any]:
        """Return the layer's arguments that depend on the mode."""
        return {"max_tokens": column.width, "pad_to_max_tokens": True}

    @classmethod
    def compute(cls, column: Any, raw: Any) -> Any:
        layer = layers.TextVectorization(
            standardize="lower_and_strip_punctuation",
            split=column.encoding.tokens,
            output_mode=cls.mode,
            vocabulary=column.keras_vocabulary,
            **cls.options(column),
        )
        # Keras expects (rows, 1, width) of this layer, and gets (rows, width).
        return ops.reshape(layer(raw), (-1, column.width))


class MultiHot(TextVectorized, names=("multi_hot",)):
    mode = "multi_hot"


class Counts(TextVectorized, names=("counts",)):
    mode = "count"


class TfIdf(TextVectorized, names=("tf_idf",)):
    mode = "tf_idf"

    @classmethod
    def options(cls, column: Any) -> dict[str, Any]:
        return {**super().options(column), "idf_weights": column.fitted["idf"] or [0.0]}


class TokenSequence(TextVectorized, names=("sequence",)):
    mode = "int"

    @classmethod
    def options(cls, column: Any) -> dict[str, Any]:
        return {"max_tokens": column.encoding.max_tokens + 1, "output_sequence_length": column.width}


class Cyclic(KerasEncoding, names=("cyclic",)):
    """Sine and cosine of each part in turn, zero where the time is missing."""

    @classmethod
    def compute(cls, column: Any, raw: Any) -> Any:
        missing = ops.isnan(raw)
        seconds = ops.where(missing, 0.0, raw)
        known = ops.cast(ops.logical_not(missing), "float64")
        waves = []
        for part in column.encoding.parts:
            angle = ops.multiply(phase(part, seconds, ops.floor), 2 * math.pi)
            waves += [ops.multiply(ops.sin(angle), known), ops.multiply(ops.cos(angle), known)]
        if column.encoding.indicator:
            waves.append(ops.cast(missing, "float64"))
        return layers.Concatenate(dtype="float64")(waves)
