"""How each column becomes numbers: a part of the spec.

An encoding's width follows from the encoding and the dataset's facts alone, so that a network's parameters are
counted before anything is fitted. What is fitted (means, vocabularies) is `fitserve.encoder`'s.

    column kind   default encoding
    numeric       standardize
    boolean       boolean
    categorical   one_hot; hashing above MAX_ONE_HOT distinct values
    text          multi_hot of the 1,000 most frequent tokens
    datetime      cyclic: time of day, weekday, time of year, as far as they vary
    ignored       left out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fitserve.dataset_facts import MAX_LABELS, ColumnFacts, DatasetFacts, Tokens
from fitserve.errors import BadInput, Problem

MAX_ONE_HOT = 100
DENSE = "features"  # the network input that gathers all dense columns
Part = Literal["time_of_day", "weekday", "day_of_month", "time_of_year"]


class _Encoding(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Number(_Encoding):
    missing: Literal["mean", "median", "zero", "refuse"] = Field(
        default="mean", description="What stands for a missing value"
    )
    indicator: bool | None = Field(
        default=None, description="A 0/1 column telling missing; left out: iff any is missing"
    )


class Standardize(_Number):
    """(x - mean) / standard deviation (population) of the training rows; a constant column becomes 0."""

    type: Literal["standardize"] = "standardize"


class MinMax(_Number):
    """(x - min) / (max - min) of the training rows; a constant column becomes 0."""

    type: Literal["min_max"] = "min_max"


class Log(_Number):
    """sign(x) * log(1 + |x|), then standardised."""

    type: Literal["log"] = "log"


class PassThrough(_Number):
    """The number as it is."""

    type: Literal["pass_through"] = "pass_through"


class Boolean(_Encoding):
    """0 or 1; a missing value is 0."""

    type: Literal["boolean"] = "boolean"
    missing: Literal["zero", "refuse"] = "zero"
    indicator: bool | None = Field(
        default=None, description="A 0/1 column telling missing; left out: iff any is missing"
    )


class _Category(_Encoding):
    missing: Literal["zero", "refuse"] = Field(default="zero", description="zero: all zeros, or index 0")
    unknown: Literal["bucket", "refuse"] = Field(
        default="bucket", description="A value that training rows did not have"
    )
    max_categories: int | None = Field(default=None, ge=1, le=1_000_000, description="The most frequent keep a place")


class OneHot(_Category):
    """A column for unknown values first (unless they are refused), then one for each category of the training rows."""

    type: Literal["one_hot"] = "one_hot"
    indicator: bool | None = Field(
        default=None, description="A 0/1 column telling missing; left out: iff any is missing"
    )


class Index(_Category):
    """An integer for an Embedding layer, an input of its own: 0 missing, 1 unknown, from 2 the categories."""

    type: Literal["index"] = "index"


class Hashing(_Encoding):
    """Keras's `Hashing` (SipHash-2-4 with `salt`): bin 0 is missing, others are 1 + hash mod (bins - 1)."""

    type: Literal["hashing"] = "hashing"
    bins: int = Field(default=64, ge=2, le=1_000_000)
    salt: tuple[int, int] = (133, 137)
    output: Literal["one_hot", "index"] = "one_hot"
    missing: Literal["zero", "refuse"] = Field(default="zero", description="zero: bin 0")


class _Text(_Encoding):
    max_tokens: int = Field(
        1000,
        ge=2,
        le=1_000_000,
        description="Places of the vocabulary, that of unknown included",
    )
    tokens: Tokens | None = Field(
        None,
        description="Left out: character for Chinese and Japanese, else whitespace",
    )
    missing: Literal["empty", "refuse"] = "empty"


class MultiHot(_Text):
    """1 for each token that the text has; place 0 is for tokens outside the vocabulary (as TextVectorization)."""

    type: Literal["multi_hot"] = "multi_hot"


class Counts(_Text):
    """How often the text has each token."""

    type: Literal["counts"] = "counts"


class TfIdf(_Text):
    """Counts times log(1 + documents / (1 + documents with the token)) (as TextVectorization)."""

    type: Literal["tf_idf"] = "tf_idf"


class TokenSequence(_Text):
    """The tokens' integers in order, an input of its own: 0 pads at the end, 1 is unknown; longer texts are cut."""

    type: Literal["sequence"] = "sequence"
    length: int | None = Field(default=None, ge=1, le=100_000, description="Left out: the longest text's, at most 256")


class Cyclic(_Encoding):
    """Sine and cosine of each part, in UTC. time_of_year has the mean Gregorian year of 365.2425 days as its period."""

    type: Literal["cyclic"] = "cyclic"
    parts: tuple[Part, ...] | None = Field(default=None, min_length=1, description="Left out: those that vary")
    missing: Literal["zero", "refuse"] = "zero"
    indicator: bool | None = Field(
        default=None, description="A 0/1 column telling missing; left out: iff any is missing"
    )


Encoding = Annotated[
    Standardize
    | MinMax
    | Log
    | PassThrough
    | Boolean
    | OneHot
    | Index
    | Hashing
    | MultiHot
    | Counts
    | TfIdf
    | TokenSequence
    | Cyclic,
    Field(discriminator="type"),
]

# Which encodings a column of a kind can take. Labels of any kind can be categories.
ALLOWED: dict[str, tuple[str, ...]] = {
    "numeric": (
        "standardize",
        "min_max",
        "log",
        "pass_through",
        "one_hot",
        "index",
        "hashing",
    ),
    "boolean": ("boolean", "one_hot", "index", "hashing"),
    "categorical": (
        "one_hot",
        "index",
        "hashing",
        "multi_hot",
        "counts",
        "tf_idf",
        "sequence",
    ),
    "text": (
        "multi_hot",
        "counts",
        "tf_idf",
        "sequence",
        "one_hot",
        "index",
        "hashing",
    ),
    "datetime": ("cyclic", "standardize", "min_max", "pass_through"),
}
ALLOWED["ignored"] = ("one_hot", "index", "hashing")
NUMBERS = ("standardize", "min_max", "log", "pass_through")
OWN_INPUT = ("index", "sequence")


class Feature(BaseModel):
    """One column and its encoding. In a spec also `rank`, `{rank: one_hot}` or `{rank: {one_hot: {...}}}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    encoding: Encoding | None = Field(default=None, description="Left out: the default of the column's kind")
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
        encoding = value.get("encoding")
        if isinstance(encoding, str):
            return {**value, "encoding": {"type": encoding}}
        if isinstance(encoding, dict) and "type" not in encoding and len(encoding) == 1:
            ((name, options),) = encoding.items()
            return {
                **value,
                "encoding": {
                    "type": name,
                    **(options if isinstance(options, dict) else {}),
                },
            }
        return value

    @model_validator(mode="after")
    def _own_input(self) -> Self:
        if self.input == "":
            raise ValueError("`input` is the name of a network input and cannot be empty")
        return self


@dataclass(frozen=True, slots=True)
class EncodedInput:
    """One input of the network: `shape` is without the batch. `cardinality` bounds the integers of an int32 input."""

    name: str
    dtype: Literal["float32", "int32"]
    shape: tuple[int, ...]
    cardinality: int | None = None


def default_feature(facts: ColumnFacts) -> Feature | None:
    """The feature of a column that a spec does not mention, resolved; None where the column is left out."""
    if facts.kind == "ignored" or facts.rows == facts.missing:
        return None
    return resolve_feature(Feature(column=facts.name), facts)


def resolve_feature(feature: Feature, facts: ColumnFacts, pointer: str | None = None) -> Feature:
    """The same feature with every default written out (a fixed point). Raises BadInput naming column and choices."""
    encoding: Any = feature.encoding or _default_encoding(facts)
    if encoding.type not in ALLOWED[facts.kind]:
        raise BadInput(
            f"A {facts.kind} column cannot take the encoding {encoding.type}.",
            problems=[
                Problem(
                    f"Column {facts.name!r} is {facts.kind}; it cannot be encoded as {encoding.type}.",
                    pointer=pointer,
                    column=facts.name,
                    received=encoding.type,
                    expected=f"one of {', '.join(ALLOWED[facts.kind])}",
                    fix="Choose another encoding, or correct the column's kind (PATCH the dataset's kinds).",
                )
            ],
        )
    update: dict[str, Any] = {}
    if getattr(encoding, "indicator", False) is None:
        update["indicator"] = facts.missing > 0
    if getattr(encoding, "max_categories", 0) is None:
        update["max_categories"] = max(1, min(facts.distinct, 100_000 if encoding.type == "index" else MAX_LABELS))
    if getattr(encoding, "tokens", "") is None:
        update["tokens"] = facts.tokens
    if isinstance(encoding, TokenSequence) and encoding.length is None:
        update["length"] = max(1, min(facts.max_tokens or 256, 256))
    if isinstance(encoding, Cyclic) and encoding.parts is None:
        update["parts"] = _varying_parts(facts)
    own = feature.input or (facts.name if _is_own_input(encoding) else DENSE)
    return feature.model_copy(update={"encoding": encoding.model_copy(update=update), "input": own})


def _default_encoding(facts: ColumnFacts) -> _Encoding:
    if facts.kind == "numeric":
        return Standardize()
    if facts.kind == "boolean":
        return Boolean()
    if facts.kind == "text":
        return MultiHot()
    if facts.kind == "datetime":
        return Cyclic()
    return OneHot() if facts.distinct <= MAX_ONE_HOT else Hashing()


def _varying_parts(facts: ColumnFacts) -> tuple[Part, ...]:
    days = ((facts.max or 0.0) - (facts.min or 0.0)) / 86_400
    parts: list[Part] = [] if facts.date_only else ["time_of_day"]
    if days >= 1:
        parts.append("weekday")
    if days >= 60:
        parts.append("time_of_year")
    return tuple(parts) or ("weekday",)


def _is_own_input(encoding: Any) -> bool:
    return encoding.type in OWN_INPUT or (encoding.type == "hashing" and encoding.output == "index")


def width(feature: Feature, facts: ColumnFacts) -> int:
    """How many numbers a row's value becomes: columns of a dense input, or the length of an integer input."""
    encoding: Any = resolve_feature(feature, facts).encoding
    indicator = int(bool(getattr(encoding, "indicator", False)))
    match encoding.type:
        case "one_hot":
            return int(encoding.unknown == "bucket") + categories(encoding, facts) + indicator
        case "index":
            return 1
        case "hashing":
            return encoding.bins if encoding.output == "one_hot" else 1
        case "multi_hot" | "counts" | "tf_idf":
            return int(encoding.max_tokens)
        case "sequence":
            return int(encoding.length)
        case "cyclic":
            return 2 * len(encoding.parts) + indicator
    return 1 + indicator


def categories(encoding: OneHot | Index, facts: ColumnFacts) -> int:
    """Places for known categories: as many as the whole dataset has, at most `max_categories`."""
    return min(facts.distinct, encoding.max_categories or MAX_LABELS)


def cardinality(feature: Feature, facts: ColumnFacts) -> int | None:
    """For an integer input: one more than its largest integer (an Embedding's `input_dim`); None for a dense one."""
    encoding: Any = resolve_feature(feature, facts).encoding
    if encoding.type == "index":
        return 2 + categories(encoding, facts)
    if encoding.type == "hashing" and encoding.output == "index":
        return int(encoding.bins)
    return int(encoding.max_tokens) if encoding.type == "sequence" else None


def encoded_inputs(features: Sequence[Feature], facts: DatasetFacts) -> tuple[EncodedInput, ...]:
    """The network's inputs, in the order of their first feature. Raises BadInput where two do not fit together."""
    widths: dict[str, int] = {}
    integers: dict[str, int] = {}
    for feature in features:
        column = facts.column(feature.column)
        resolved = resolve_feature(feature, column)
        name, places = str(resolved.input), cardinality(resolved, column)
        if name in integers or (places is not None and name in widths):
            raise BadInput(
                f"The input {name!r} takes integers of one column alone.",
                received=name,
                fix=f"Give the feature {feature.column!r} another `input`.",
            )
        widths[name] = widths.get(name, 0) + width(resolved, column)
        if places is not None:
            integers[name] = places
    return tuple(
        EncodedInput(
            name,
            "int32" if name in integers else "float32",
            (size,),
            integers.get(name),
        )
        for name, size in widths.items()
    )
