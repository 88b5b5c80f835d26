"""Base classes of every encoding: its arguments in a spec (`Encoding`), and a fitted column (`FittedColumn`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.dataset_facts import ColumnFacts, Kind
from fitserve.encoding.coercion import Column, bad_value, labels_of, texts_of
from fitserve.encoding.distribution import Distribution, label_distribution
from fitserve.errors import BadInput
from fitserve.parsing.column_format import PLAIN, ColumnFormat

Indicator = Annotated[bool | None, Field(description="A 0/1 column telling missing; left out: iff any is missing")]

Row: TypeAlias = "memoryview[Any]"  # one row of a network input
ValueWriter = Callable[[Any, Row], bool]  # writes a value into a row of zeros

ENCODINGS: dict[str, type[Encoding]] = {}  # by the name that a spec uses


class Encoding(DataModel):
    """How one column becomes numbers. A subclass with a `type` is registered under that name.

    The width follows from the arguments and the dataset's facts alone, so that a network's parameters are counted
    before anything is fitted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: ClassVar[tuple[Kind, ...]]  # kinds of columns that can have the encoding
    column_class: ClassVar[type[FittedColumn]]
    rescales: ClassVar[bool] = True  # False: numbers reach the network unscaled
    in_onnx: ClassVar[bool] = False  # can be computed in an ONNX graph: `workers/trainer/export/raw_graph.py`
    in_code: ClassVar[bool] = False  # can be computed in an exported script: `workers/trainer/export/plain_encoding.py`

    if TYPE_CHECKING:  # declared in subclasses, because the order of fields is the order in JSON
        type: str = ""
        missing: str = ""
        indicator: bool | None = None  # only some have it

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        if "type" in cls.model_fields:
            ENCODINGS[cls.model_fields["type"].default] = cls

    def defaults(self, facts: ColumnFacts) -> dict[str, Any]:
        """Return the values of arguments that were left out, for a column with these facts."""
        return {"indicator": facts.missing > 0} if getattr(self, "indicator", False) is None else {}

    def resolve(self, facts: ColumnFacts) -> Self:
        """Return the same encoding with every default written out (a fixed point)."""
        return self.model_copy(update=self.defaults(facts))

    def width(self, facts: ColumnFacts) -> int:
        """Count the numbers that one value becomes. The encoding is resolved, as for `cardinality` and `fit`."""
        raise NotImplementedError

    def cardinality(self, facts: ColumnFacts) -> int | None:
        """Return one more than the largest integer (an Embedding's `input_dim`); None where it gives real numbers.

        Each column of integers needs its own network input.
        """
        return None

    def raw(self, facts: ColumnFacts) -> Literal["number", "string"]:
        """Return the type that the exported Keras model takes for the column: see `FittedColumn.raw`."""
        return "string"

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        """Learn from the training rows' values: constants in JSON, `FittedColumn.fitted`. Raises BadInput."""
        return {}


@dataclass(frozen=True, slots=True)
class ValueWarning:
    """A warning about a value that was encoded although it is missing or unlike the training rows."""

    column: str
    code: Literal["missing_value", "unknown_category", "out_of_range"]
    message: str
    received: Any = None

    def to_json(self) -> dict[str, Any]:
        """Return the form in which a prediction lists it."""
        listed = {"column": self.column, "code": self.code, "message": self.message}
        return listed if self.received is None else {**listed, "received": self.received}


@dataclass(slots=True)
class Unusual:
    """Rows whose values get a warning, by warning code, and rows that are refused (ascending, from 0)."""

    warned: dict[str, np.ndarray] = field(default_factory=dict)
    refused: np.ndarray | None = None


@dataclass(frozen=True)
class FittedColumn:
    """A column's resolved encoding, its place in a network input, and its constants from training rows (`fitted`).

    `encode_value`, `encode_values` and `encode_column` write the same numbers to the bit. The methods here suit labels
    and texts; `number.NumericColumn` has those for numbers.

    `raw` is what the exported Keras model takes for the column: `number` is float64 with NaN for missing (a datetime:
    seconds since 1970 in UTC; a boolean: 0 or 1), `string` is text with "" for missing.
    """

    name: str
    kind: Kind
    raw: Literal["number", "string"]
    encoding: Encoding
    input: str  # the network input that contains the column, at `offset` to `offset + width`
    offset: int
    width: int
    fitted: Mapping[str, Any]
    format: ColumnFormat = field(default=PLAIN)  # how texts are parsed, at upload and in predictions

    suits_trees: ClassVar[bool] = True  # whether a small decision tree can make use of the encoded values

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `from_json` reads it back."""
        body = {one.name: getattr(self, one.name) for one in fields(self)}
        encoding, format = self.encoding.model_dump(mode="json"), self.format.model_dump(mode="json")
        return {**body, "encoding": encoding, "fitted": dict(self.fitted), "format": format}

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> FittedColumn:
        """Return the column that `to_json` wrote, of the class of its encoding. Raises BadInput."""
        name = body["encoding"]["type"]
        if name not in ENCODINGS:
            raise BadInput(f"The encoding {name!r} is not known here.", received=name, expected=", ".join(ENCODINGS))
        encoding = ENCODINGS[name].model_validate(body["encoding"])
        format = ColumnFormat.model_validate(body["format"]) if "format" in body else PLAIN
        return encoding.column_class(**{**body, "encoding": encoding, "format": format})

    @cached_property
    def part(self) -> slice:
        """The column's slice of its network input."""
        return slice(self.offset, self.offset + self.width)

    # Encoding

    def encode_value(self, value: Any, out: np.ndarray, row: int) -> ValueWarning | None:
        """Write one JSON value into `out`, zeros of shape (width,). Raises BadInput naming `row` (from 1)."""
        raise NotImplementedError

    def encode_values(self, values: Sequence[Any], out: np.ndarray) -> Unusual:
        """Write the JSON values of several rows into `out`, zeros of shape (rows, width), as `encode_value` does.

        Returns the rows that `encode_value` would warn of or refuse, and never raises. If any is refused, `out` is
        unusable.
        """
        warned: dict[str, list[int]] = {}
        refused = []
        for index, value in enumerate(values):
            try:
                warning = self.encode_value(value, out[index], index + 1)
            except BadInput:
                refused.append(index)
                continue
            if warning is not None:
                warned.setdefault(warning.code, []).append(index)
        rows = np.array(refused, np.int64) if refused else None
        return Unusual({code: np.array(several, np.int64) for code, several in warned.items()}, rows)

    def encode_column(self, column: Column, out: np.ndarray) -> None:
        """Write a table's column into `out`, zeros of shape (rows, width). Raises BadInput for the first bad row."""
        raise NotImplementedError

    def raw_values(self, values: Column) -> np.ndarray:
        """Return a table's column as the exported Keras model takes it: float64 or text (rows,), see `raw`."""
        return np.array([text or "" for text in texts_of(values)], object)

    def refuse_missing(self, row: int | None) -> None:
        """Raise BadInput if the spec refuses missing values."""
        if self.encoding.missing == "refuse":
            raise bad_value(self.name, row, None, "a value (this feature's `missing` is `refuse`)")

    def missing_warning(self) -> ValueWarning:
        """Return the warning for a missing value that no indicator column marks."""
        return ValueWarning(self.name, "missing_value", f"{self.name} is missing; training rows always had it")

    @property
    def plain_number(self) -> tuple[float, float, float, float] | None:
        """(min, max, center, scale) if every number x in that range becomes (x - center) / scale; else None."""
        return None

    @property
    def plain_range(self) -> tuple[float, float] | None:
        """(min, max) if every number between them is encoded without a warning; else None."""
        return None

    def value_writer(self) -> ValueWriter:
        """Return a fast `encode_value` for ordinary values, which writes into a row of the whole network input.

        It returns False for a value that needs a warning or is refused; the row is then unusable.
        """
        encode, part = self.encode_value, self.part

        def write(value: Any, row: Row) -> bool:
            try:
                return encode(value, np.asarray(row)[part], 1) is None
            except BadInput:
                return False

        return write

    @property
    def datatype(self) -> Literal["BOOL", "FP64", "BYTES"]:
        """The Open Inference Protocol datatype in which clients send the column."""
        return "BYTES"

    # Explanations

    def typical_value(self, values: Column) -> Any:
        """Return the rows' median or most frequent label as a JSON value; None if all are missing."""
        codes, labels = labels_of(values)
        counts = np.bincount(codes[codes >= 0], minlength=len(labels))
        return labels[int(counts.argmax())] if len(counts) and counts.max() else None

    def baseline_value(self, distribution: Mapping[str, Any]) -> Any:
        """Return the reference value for Shapley values, given the training distribution (or {}).

        That is the fill value of a number, the most frequent label, or an empty text.
        """
        frequencies = distribution.get("frequencies")
        if frequencies:
            pairs = frequencies.items() if isinstance(frequencies, Mapping) else frequencies
            return max(pairs, key=lambda pair: pair[1])[0]
        return next(iter(self.fitted.get("labels", ())), "")

    def axis_values(self, steps: int, low: float | None, high: float | None) -> Sequence[Any]:
        """Return raw values for a surface's axis: `steps` numbers from `low` to `high`, or the labels.

        The bounds default to those of the training rows. Raises BadInput.
        """
        raise BadInput(
            f"{self.name!r} is {self.encoding.type}: its values have no order and no list.",
            received=self.name,
            expected="a numeric, boolean, categorical or datetime column",
        )

    # Drift

    def distribution(self, values: Column) -> Distribution:
        """Return how the training rows' values are distributed (see `fitserve.encoding.distribution`)."""
        return label_distribution(*labels_of(values))

    def measurable(self, values: Sequence[Any]) -> Any:
        """Return JSON values as `drift.count` takes them: float64, NaN if missing, where `distribution` is numeric."""
        return values
