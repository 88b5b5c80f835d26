"""Features: which encoding (`fitserve.encoding`) a column has, and which network input takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fitserve.dataset_facts import ColumnFacts, DatasetFacts, Kind
from fitserve.encoding import ENCODINGS, Encoding
from fitserve.errors import BadInput, Problem

DENSE = "features"  # the network input that gathers all columns of real numbers
# What a column has where the spec names no encoding; a column of the kind `ignored` is left out.
DEFAULTS: dict[Kind, str] = {
    "numeric": "standardize",
    "boolean": "boolean",
    "categorical": "one_hot",
    "text": "multi_hot",
    "datetime": "cyclic",
    "ignored": "one_hot",
}
MAX_ONE_HOT = 100  # labels; more are hashed

if TYPE_CHECKING:
    AnyEncoding = Encoding
else:
    AnyEncoding = Annotated[reduce(or_, [cls for _, cls in sorted(ENCODINGS.items())]), Field(discriminator="type")]


class Feature(BaseModel):
    """One column and its encoding. In a spec also `rank`, `{rank: one_hot}` or `{rank: {one_hot: {...}}}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    encoding: AnyEncoding | None = Field(default=None, description="Left out: the default of the column's kind")
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
            return {**value, "encoding": {"type": name, **(options if isinstance(options, dict) else {})}}
        return value

    @model_validator(mode="after")
    def _has_input_name(self) -> Self:
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
    """Return the resolved feature of a column that a spec does not mention; None where it is left out."""
    if facts.kind == "ignored" or facts.rows == facts.missing:
        return None
    return resolve_feature(Feature(column=facts.name), facts)


def resolve_feature(feature: Feature, facts: ColumnFacts, pointer: str | None = None) -> Feature:
    """Return the same feature with every default written out (a fixed point).

    Raises BadInput naming the column and the encodings that it can have.
    """
    default = DEFAULTS[facts.kind]
    if default == "one_hot" and facts.distinct > MAX_ONE_HOT:
        default = "hashing"
    encoding = feature.encoding or ENCODINGS[default]()
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
    own = facts.name if encoding.cardinality(facts) is not None else DENSE
    return feature.model_copy(update={"encoding": encoding, "input": feature.input or own})


def encoded_inputs(features: Sequence[Feature], facts: DatasetFacts) -> tuple[EncodedInput, ...]:
    """Return the network's inputs, in the order of their first feature.

    Raises BadInput where integers of one column would share an input with anything else.
    """
    widths: dict[str, int] = {}
    cardinalities: dict[str, int] = {}
    for feature in features:
        column = facts.column(feature.column)
        resolved = resolve_feature(feature, column)
        encoding, name = resolved.encoding, str(resolved.input)
        assert encoding is not None
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
