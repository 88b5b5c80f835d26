"""The fitted encoder as layers of Keras's own, so that `model.keras` takes raw columns anywhere Keras runs.

Each raw column is an input of shape `(1,)`: float64 with NaN for missing (a datetime: seconds since 1970 in UTC; a
boolean: 0 or 1), or a string with "" for missing.

Every encoding of `fitserve.encoding` has a class here, which is registered by the encoding's name. Columns whose
encodings share a class may be computed together: a table of a thousand numeric columns is a handful of layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import keras
import numpy as np
from keras import layers, ops

from fitserve.encoder import Encoder
from fitserve.encoding import FittedColumn
from fitserve.encoding.boolean import BooleanColumn
from fitserve.encoding.coercion import FALSE, TRUE
from fitserve.encoding.cyclic import CyclicColumn, phase
from fitserve.encoding.hashing import HashedColumn
from fitserve.encoding.index import IndexColumn
from fitserve.encoding.number import ScaledColumn
from fitserve.encoding.one_hot import OneHotColumn
from fitserve.encoding.text import TextColumn

C = TypeVar("C", bound=FittedColumn)
Raw = Mapping[str, Any]  # raw inputs by column name
Piece = tuple[Any, Iterable[int]]  # a float32 tensor (rows, n), and the n columns of the network input that it fills


def input_names(columns: Iterable[FittedColumn]) -> dict[str, str]:
    """Return the Keras input of each column: named as the column, without characters that Keras's names cannot have."""
    names: dict[str, str] = {}
    for column in columns:
        name = column.name.replace("/", "_") or "_"
        while column.name not in names and name in names.values():
            name += "_"
        names.setdefault(column.name, name)
    return names


def raw_inputs(columns: Sequence[FittedColumn]) -> dict[str, Any]:
    """Return a Keras input for each column, by the column's name, in the order of the columns."""
    dtypes = {column.name: "float64" if column.raw == "number" else "string" for column in columns}
    names = input_names(columns)
    return {column: keras.Input((1,), dtype=dtypes[column], name=name) for column, name in names.items()}


def encoded(encoder: Encoder, raw: Raw) -> dict[str, Any]:
    """Return the network's inputs by name, computed from the raw inputs: float32 or int32 `(rows, width)`."""
    inputs: dict[str, Any] = {}
    for one in encoder.inputs:
        columns = [column for column in encoder.columns if column.input == one.name]
        if one.dtype == "int32":
            (column,) = columns
            inputs[one.name] = ops.cast(_class_of(column).integers(column, raw[column.name]), "int32")
        else:
            inputs[one.name] = _joined(columns, raw)
    return inputs


def _joined(columns: list[FittedColumn], raw: Raw) -> Any:
    """Compute the pieces of one network input in any order, and put them where the encoder has them."""
    by_class: dict[type[KerasEncoding[Any]], list[FittedColumn]] = {}
    for column in columns:
        by_class.setdefault(_class_of(column), []).append(column)
    pieces: list[Any] = []
    places: list[int] = []
    for cls, members in by_class.items():
        for tensor, at in cls.pieces(members, raw):
            pieces.append(tensor)
            places.extend(at)
    whole = layers.Concatenate(dtype="float32")(pieces) if len(pieces) > 1 else pieces[0]
    return _columns_of(whole, list(np.argsort(places)), len(places))


def _columns_of(tensor: Any, places: list[int], width: int) -> Any:
    """Return some columns of a tensor of that width, in the order of `places`."""
    if list(places) == list(range(width)):
        return tensor
    return ops.take(tensor, [int(place) for place in places], axis=1)


def _class_of(column: FittedColumn) -> type[KerasEncoding[Any]]:
    return KerasEncoding.by_name[column.encoding.type]


class KerasEncoding(Generic[C]):
    """How Keras computes an encoding: a subclass has the `names` of its encodings, and overrides one method."""

    by_name: ClassVar[dict[str, type[KerasEncoding[Any]]]] = {}

    def __init_subclass__(cls, names: Sequence[str] = ()) -> None:
        KerasEncoding.by_name |= dict.fromkeys(names, cls)

    @classmethod
    def pieces(cls, columns: Sequence[C], raw: Raw) -> Iterator[Piece]:
        """Compute columns that share a network input of real numbers; by default each for itself."""
        for column in columns:
            yield cls.numbers(column, raw[column.name]), range(column.offset, column.offset + column.width)

    @classmethod
    def numbers(cls, column: C, raw: Any) -> Any:
        """Compute one column: float32 `(rows, width)`."""
        raise NotImplementedError

    @classmethod
    def integers(cls, column: C, raw: Any) -> Any:
        """Compute a column with an input of its own: integers `(rows, width)`."""
        raise NotImplementedError


class Scaled(KerasEncoding[ScaledColumn], names=("standardize", "min_max", "pass_through")):
    """Numbers scaled together in float64, with a 0/1 piece for the missing ones."""

    @classmethod
    def transform(cls, numbers: Any) -> Any:
        """As the encoding's `transform`."""
        return numbers

    @classmethod
    def pieces(cls, columns: Sequence[ScaledColumn], raw: Raw) -> Iterator[Piece]:
        x = [raw[column.name] for column in columns]
        x = layers.Concatenate(dtype="float64")(x) if len(x) > 1 else x[0]
        missing = ops.isnan(x)
        x = cls.transform(x)
        x = layers.Rescaling(1.0, [-float(c.fitted["center"]) for c in columns], dtype="float64")(x)
        x = layers.Rescaling([1.0 / float(c.fitted["scale"]) for c in columns], 0.0, dtype="float64")(x)
        x = ops.where(missing, 0.0, x)
        fills = [float(c.scaled(c.fitted["fill"])) for c in columns]
        if any(fills):
            filled = layers.Rescaling(fills, 0.0, dtype="float64")(ops.cast(missing, "float64"))
            x = layers.Add(dtype="float64")([x, filled])
        yield ops.cast(x, "float32"), (column.offset for column in columns)
        yield from indicator_pieces(columns, missing)


def indicator_pieces(columns: Sequence[FittedColumn], missing: Any) -> Iterator[Piece]:
    """The last column of each encoding with an indicator. `missing` is boolean `(rows, columns)`."""
    chosen = [at for at, column in enumerate(columns) if column.encoding.indicator]
    if chosen:
        flags = _columns_of(ops.cast(missing, "float32"), chosen, len(columns))
        yield flags, (columns[at].offset + columns[at].width - 1 for at in chosen)


class Log(Scaled, names=("log",)):
    """The signed logarithm, scaled."""

    @classmethod
    def transform(cls, numbers: Any) -> Any:
        return ops.multiply(ops.sign(numbers), ops.log1p(ops.absolute(numbers)))


class Boolean(KerasEncoding[BooleanColumn], names=("boolean",)):
    """0 or 1, of a number or of a text."""

    @classmethod
    def pieces(cls, columns: Sequence[BooleanColumn], raw: Raw) -> Iterator[Piece]:
        numbers = [column for column in columns if column.raw == "number"]
        if numbers:
            x = [raw[column.name] for column in numbers]
            x = layers.Concatenate(dtype="float64")(x) if len(x) > 1 else x[0]
            missing = ops.isnan(x)
            yield ops.cast(ops.where(missing, 0.0, x), "float32"), (column.offset for column in numbers)
            yield from indicator_pieces(numbers, missing)
        for column in columns:
            if column.raw == "string":
                yield cls._of_text(column, raw[column.name]), (column.offset,)
                yield from indicator_pieces([column], ops.equal(raw[column.name], ""))

    @classmethod
    def _of_text(cls, column: BooleanColumn, raw: Any) -> Any:
        """The dataset's own spellings, then the usual ones in the usual cases."""
        own = {column.fitted["false"], column.fitted["true"]}
        spellings = lambda words: {case for word in words for case in (word, word.upper(), word.capitalize())}  # noqa: E731
        false = [column.fitted["false"], *sorted(spellings(FALSE) - own)]
        vocabulary = [*false, column.fitted["true"], *sorted(spellings(TRUE) - own)]
        index = layers.StringLookup(vocabulary=vocabulary, mask_token="", oov_token=_unknown_token(vocabulary))(raw)
        return ops.cast(ops.greater_equal(index, 2 + len(false)), "float32")


def _unknown_token(labels: Sequence[str]) -> str:
    unknown = "[UNK]"
    while unknown in labels:
        unknown += "_"
    return unknown


class OneHot(KerasEncoding[OneHotColumn], names=("one_hot",)):
    """A multi-hot `StringLookup`, which ignores the missing "", and the indicator."""

    @classmethod
    def pieces(cls, columns: Sequence[OneHotColumn], raw: Raw) -> Iterator[Piece]:
        for column in columns:
            width = column.width - bool(column.encoding.indicator)
            yield cls._hot(column, width, raw[column.name]), range(column.offset, column.offset + width)
            yield from indicator_pieces([column], ops.equal(raw[column.name], ""))

    @classmethod
    def _hot(cls, column: OneHotColumn, width: int, raw: Any) -> Any:
        labels = list(column.fitted["labels"])
        token = _unknown_token(labels)
        lookup = layers.StringLookup(
            vocabulary=labels or [token + "none"],  # Keras wants one even where the training rows had no value
            mask_token="",
            oov_token=token,
            num_oov_indices=int(column.encoding.unknown == "bucket"),
            output_mode="multi_hot",
            max_tokens=width,
            pad_to_max_tokens=True,
        )
        return ops.cast(lookup(raw), "float32")


class Index(KerasEncoding[IndexColumn], names=("index",)):
    """An integer `StringLookup`. 1 is kept for unknown labels even where they are refused."""

    @classmethod
    def integers(cls, column: IndexColumn, raw: Any) -> Any:
        labels = list(column.fitted["labels"])
        token = _unknown_token(labels)
        return layers.StringLookup(vocabulary=labels or [token + "none"], mask_token="", oov_token=token)(raw)


class Hashing(KerasEncoding[HashedColumn], names=("hashing",)):
    """Keras's own."""

    @classmethod
    def numbers(cls, column: HashedColumn, raw: Any) -> Any:
        return ops.cast(cls._layer(column, "one_hot")(raw), "float32")

    @classmethod
    def integers(cls, column: HashedColumn, raw: Any) -> Any:
        return cls._layer(column, "int")(raw)

    @classmethod
    def _layer(cls, column: HashedColumn, output: str) -> Any:
        encoding = column.encoding
        return layers.Hashing(encoding.bins, mask_value="", salt=list(encoding.salt), output_mode=output)


class TextVectorized(KerasEncoding[TextColumn]):
    """Keras's `TextVectorization`, in the `mode` of a subclass."""

    mode: ClassVar[str]

    @classmethod
    def options(cls, column: TextColumn) -> dict[str, Any]:
        """Return the layer's arguments that depend on the mode."""
        return {"max_tokens": column.width, "pad_to_max_tokens": True}

    @classmethod
    def numbers(cls, column: TextColumn, raw: Any) -> Any:
        layer = layers.TextVectorization(
            standardize="lower_and_strip_punctuation",
            split=column.encoding.tokens,
            output_mode=cls.mode,
            vocabulary=list(column.fitted["vocabulary"]),
            **cls.options(column),
        )
        # Keras expects (rows, 1, width) of this layer, and gets (rows, width).
        return ops.cast(ops.reshape(layer(raw), (-1, column.width)), "int32" if cls.mode == "int" else "float32")


class MultiHot(TextVectorized, names=("multi_hot",)):
    mode = "multi_hot"


class Counts(TextVectorized, names=("counts",)):
    mode = "count"


class TfIdf(TextVectorized, names=("tf_idf",)):
    mode = "tf_idf"

    @classmethod
    def options(cls, column: TextColumn) -> dict[str, Any]:
        return {**super().options(column), "idf_weights": list(column.fitted["idf"])}


class TokenSequence(TextVectorized, names=("sequence",)):
    mode = "int"

    @classmethod
    def options(cls, column: TextColumn) -> dict[str, Any]:
        return {"max_tokens": column.encoding.max_tokens + 1, "output_sequence_length": column.width}  # + padding

    @classmethod
    def integers(cls, column: TextColumn, raw: Any) -> Any:
        return cls.numbers(column, raw)


class Cyclic(KerasEncoding[CyclicColumn], names=("cyclic",)):
    """Sine and cosine of each part in turn, zero where the time is missing."""

    @classmethod
    def numbers(cls, column: CyclicColumn, raw: Any) -> Any:
        missing = ops.isnan(raw)
        seconds = ops.where(missing, 0.0, raw)
        known = ops.cast(ops.logical_not(missing), "float64")
        waves = []
        for part in column.encoding.parts or ():
            angle = ops.multiply(phase(part, seconds, ops.floor), 2 * math.pi)
            waves += [ops.multiply(ops.sin(angle), known), ops.multiply(ops.cos(angle), known)]
        if column.encoding.indicator:
            waves.append(ops.cast(missing, "float64"))
        return ops.cast(layers.Concatenate(dtype="float64")(waves), "float32")
