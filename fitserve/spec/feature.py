"""Features: which encoding (`fitserve.encoding`) a column has, and which network input takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from fitserve.data_model import DataModel
from fitserve.dataset_facts import ColumnFacts, DatasetFacts, Kind
from fitserve.encoding import ENCODINGS, Encoding
from fitserve.encoding.category import LabelColumn
from fitserve.encoding.index import Index
from fitserve.encoding.piecewise_linear import PiecewiseLinear, usual_bins
from fitserve.encoding.robust import Robust
from fitserve.encoding.standardize import Standardize
from fitserve.errors import BadInput, Problem

DENSE = "features"  # the network input that gathers all columns of real numbers
# Default encoding for each kind of column; columns of the kind `ignored` are left out.
DEFAULTS: dict[Kind, str] = {
    "numeric": "standardize",
    "boolean": "boolean",
    "categorical": "one_hot",
    "text": "multi_hot",
    "datetime": "cyclic",
    "ignored": "one_hot",
}
MAX_ONE_HOT = 100  # labels; a column with more is hashed, or gets an Embedding if the network is the default one
MAX_PIECES = 192  # total bins over all columns, if the network is the default one
ROWS_A_LABEL = 4  # mean rows per label of an Embedding: it keeps the most frequent labels, and the rest are unknown
MAX_ENCODINGS = 20  # encodings of one feature
WIDE_ONE_HOT = 512  # from this many one-hot numbers in an input, a trainer stores the positions of the ones instead

if TYPE_CHECKING:
    AnyEncoding = Encoding
    Encodings = Encoding | tuple[Encoding, ...] | None
else:
    AnyEncoding = Annotated[reduce(or_, [cls for _, cls in sorted(ENCODINGS.items())]), Field(discriminator="type")]
    Several = Annotated[tuple[AnyEncoding, ...], Field(max_length=MAX_ENCODINGS)]
    # Errors show these tags, so they are names that a user knows.
    Encodings = Annotated[
        Annotated[AnyEncoding, Tag("encoding")] | Annotated[Several, Tag("encodings")] | Annotated[None, Tag("none")],
        Discriminator(
            lambda value: "none" if value is None else "encodings" if isinstance(value, tuple) else "encoding"
        ),
    ]


class Feature(DataModel):
    """One column and its encoding, or several, each a feature of its own in the resolved spec.

    In a spec also `rank`, `{rank: one_hot}`, `{rank: {one_hot: {...}}}` or `{rank: [robust, one_hot]}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    encoding: Encodings = Field(
        default=None, description="One, or a list of several; left out: the default of the column's kind"
    )
    input: str | None = Field(default=None, description="The network input that takes it; left out: `features`")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"column": value}
        if not isinstance(value, dict):
            return value
        if len(value) == 1 and "column" not in value:
            ((column, inner),) = value.items()
            value = {"column": column, "encoding": inner}
        if "encoding" not in value:
            return value
        return {**value, "encoding": _encodings(value["encoding"])}

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.input == "":
            raise ValueError("`input` is the name of a network input and cannot be empty")
        if self.encoding == ():
            raise ValueError("a list of encodings names at least one")
        return self

    def each(self) -> list[Feature]:
        """Return a feature for each of its encodings."""
        if not isinstance(self.encoding, tuple):
            return [self]
        return [self.model_copy(update={"encoding": one}) for one in self.encoding]


def _encodings(value: Any) -> Any:
    """Write an encoding, or a list of them, with its `type`."""
    if isinstance(value, (list, tuple)):
        return tuple(_encodings(one) if not isinstance(one, (list, tuple)) else one for one in value)
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, dict) and "type" not in value and len(value) == 1:
        ((name, options),) = value.items()
        return {"type": name, **(options if isinstance(options, dict) else {})}
    return value


@dataclass(frozen=True, slots=True)
class EncodedInput:
    """One input of the network: `shape` is without the batch. `cardinality` bounds the integers of an int32 input."""

    name: str
    dtype: Literal["float32", "int32"]
    shape: tuple[int, ...]
    cardinality: int | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """Encodings for columns whose encoding the spec leaves out.

    `numeric_columns` is how many columns share the total number of bins; it is None if the spec states its network,
    whose input shapes must not depend on our defaults, or asks for the plain one. `unbounded`: numbers also get an
    encoding without bounds, `standardize`, so that a sum of them can be learnt exactly.
    """

    numeric_columns: int | None = None
    pieces: int = MAX_PIECES
    unbounded: bool = False

    def encodings(self, facts: ColumnFacts) -> list[Encoding]:
        """Return the default encodings of a column."""
        default = DEFAULTS[facts.kind]
        many = default == "one_hot" and facts.distinct > MAX_ONE_HOT
        if self.numeric_columns is None:
            return [ENCODINGS["hashing" if many else default]()]
        if many:
            # A label with fewer rows teaches little on its own; rare labels share the embedding of the unknown label.
            most = min(Index.most_places, max(MAX_ONE_HOT, facts.rows // ROWS_A_LABEL))
            return [Index(max_categories=min(facts.distinct, most))]
        if facts.kind != "numeric":
            return [ENCODINGS[default]()]
        encodings: list[Encoding] = [Robust()]
        if (bins := usual_bins(facts, self.pieces // max(1, self.numeric_columns))) >= 2:
            # the first encoding already marks missing values
            encodings.append(PiecewiseLinear(bins=bins, indicator=False))
        if self.unbounded:
            encodings.append(Standardize(indicator=False))
        return encodings


PLAIN_DEFAULTS = Defaults()


def defaults_for(features: Sequence[Feature] | None, columns: Sequence[ColumnFacts]) -> Defaults:
    """Return the defaults for a spec that leaves its network out. `columns` are the possible features."""
    if features is not None:
        named = {feature.column for feature in features if feature.encoding is None}
        columns = [facts for facts in columns if facts.name in named]
    return Defaults(sum(facts.kind == "numeric" and facts.rows > facts.missing for facts in columns))


def default_features(facts: ColumnFacts, defaults: Defaults = PLAIN_DEFAULTS) -> list[Feature]:
    """Return the resolved features of a column that the spec does not mention; empty if the column is left out."""
    if facts.kind == "ignored" or facts.rows == facts.missing:
        return []
    return resolve_features(Feature(column=facts.name), facts, defaults=defaults)


def resolve_features(
    feature: Feature, facts: ColumnFacts, pointer: str | None = None, defaults: Defaults = PLAIN_DEFAULTS
) -> list[Feature]:
    """Return a feature for each encoding of this one, every default written out. Raises BadInput."""
    if feature.encoding is None:
        feature = feature.model_copy(update={"encoding": tuple(defaults.encodings(facts))})
    return [resolve_feature(one, facts, pointer) for one in feature.each()]


def resolve_feature(feature: Feature, facts: ColumnFacts, pointer: str | None = None) -> Feature:
    """Return the same feature, of one encoding at most, with every default written out (a fixed point).

    Raises BadInput naming the column and the encodings that it can have.
    """
    encoding = PLAIN_DEFAULTS.encodings(facts)[0] if feature.encoding is None else feature.encoding
    assert isinstance(encoding, Encoding)
    if facts.kind not in encoding.kinds:
        possible = ", ".join(name for name, cls in sorted(ENCODINGS.items()) if facts.kind in cls.kinds)
        problem = Problem(
            f"Column {facts.name!r} is {facts.kind}; it cannot be encoded as {encoding.type}.",
            pointer=pointer,
            column=facts.name,
            received=encoding.type,
            expected=f"one of {possible}",
            fix="Choose another encoding, or correct the column's kind (PATCH the dataset's kinds).",
        )
        raise BadInput(f"A {facts.kind} column cannot take the encoding {encoding.type}.", problems=[problem])
    encoding = encoding.resolve(facts)
    own = DENSE
    if encoding.cardinality(facts) is not None:
        own = facts.name if facts.name != DENSE else f"{DENSE} (column)"
    return feature.model_copy(update={"encoding": encoding, "input": feature.input or own})


def each_of(features: Sequence[Feature], facts: DatasetFacts) -> list[Feature]:
    """Return resolved features of one encoding each."""
    return [one for feature in features for one in resolve_features(feature, facts.column(feature.column))]


def is_hot(encoding: Encoding, facts: ColumnFacts) -> bool:
    """Return whether an encoding writes at most one 1 among zeros."""
    return issubclass(encoding.column_class, LabelColumn) and encoding.cardinality(facts) is None


def stored_numbers(features: Sequence[Feature], facts: DatasetFacts) -> int:
    """Return how many numbers a trainer stores per row; of wide one-hot inputs, only the positions of ones."""
    # by input: width of all its columns, width of its one-hot columns, number of one-hot columns
    widths: dict[str, list[int]] = {}
    for feature in each_of(features, facts):
        column, encoding = facts.column(feature.column), feature.encoding
        assert isinstance(encoding, Encoding)
        width, hot = encoding.width(column), is_hot(encoding, column)
        totals = widths.setdefault(str(feature.input), [0, 0, 0])
        for index, value in enumerate((width, width * hot, int(hot))):
            totals[index] += value
    return sum(width - hot + places if hot >= WIDE_ONE_HOT else width for width, hot, places in widths.values())


def encoded_inputs(features: Sequence[Feature], facts: DatasetFacts) -> tuple[EncodedInput, ...]:
    """Return the network's inputs, in the order of their first feature.

    Raises BadInput if a column of integers would share its input with another feature.
    """
    widths: dict[str, int] = {}
    cardinalities: dict[str, int] = {}
    for feature in each_of(features, facts):
        column = facts.column(feature.column)
        encoding, name = feature.encoding, str(feature.input)
        assert isinstance(encoding, Encoding)
        cardinality = encoding.cardinality(column)
        if name in cardinalities or (cardinality is not None and name in widths):
            raise BadInput(
                f"The input {name!r} takes integers of one column alone.",
                received=name,
                fix=f"Give the feature {feature.column!r} another `input`.",
            )
        widths[name] = widths.get(name, 0) + encoding.width(column)
        if cardinality is not None:
            cardinalities[name] = cardinality
    return tuple(
        EncodedInput(name, "int32" if name in cardinalities else "float32", (width,), cardinalities.get(name))
        for name, width in widths.items()
    )
