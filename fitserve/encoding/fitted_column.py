"""One fitted column: its training-time constants, and how a value or a whole column is written into numbers.

`put` (one value) and `fill` (a column) write the same numbers to the bit.

`raw` says what the exported Keras model takes for the column: `number` is float64 with NaN for missing (a datetime:
seconds since 1970 in UTC; a boolean: 0 or 1), `string` is text with "" for missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fitserve.encoding.coercion import (
    as_boolean,
    as_label,
    as_number,
    as_seconds,
    clipped,
    labels_of,
    numbers_of,
    refused,
    texts_of,
)
from fitserve.encoding.siphash import hash_bin
from fitserve.encoding.tokens import token_bytes

DAY = 86_400.0
YEAR = 365.2425  # days: the mean Gregorian year
KEYED = "one_hot", "index", "hashing"
TEXTS = "multi_hot", "counts", "tf_idf", "sequence"


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that was mended in a value: `code` is missing_value, unknown_category or out_of_range."""

    column: str
    code: Literal["missing_value", "unknown_category", "out_of_range"]
    message: str
    received: Any = None


@dataclass(frozen=True)
class FittedColumn:
    """`encoding` is resolved (`fitserve.spec.feature`); `fitted` holds what training rows taught, in JSON.

    fitted, by encoding: standardize, min_max, log, pass_through: fill, center, scale, min, max;
    boolean: true, false; one_hot, index: labels; multi_hot, counts, tf_idf, sequence: vocabulary (tf_idf also: idf,
    idf_unknown).
    """

    name: str
    kind: str
    raw: Literal["number", "string"]
    encoding: Mapping[str, Any]
    input: str
    offset: int
    width: int
    fitted: Mapping[str, Any]

    @property
    def type(self) -> str:
        """The encoding's name."""
        return str(self.encoding["type"])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return json.loads(json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__}, default=dict))  # type: ignore[no-any-return]

    # --- one value -------------------------------------------------------------------------------------------------

    def put(self, value: Any, out: np.ndarray, row: int) -> Warned | None:
        """Writes one value into `out`, a zeroed row of this column's width. `row` (from 1) is for the refusal.

        Raises BadInput.
        """
        return self._put(self, value, out, row)

    @cached_property
    def _put(self) -> Callable[[FittedColumn, Any, np.ndarray, int], Warned | None]:
        if self.type in KEYED:
            return FittedColumn._put_label
        if self.type in TEXTS:
            return FittedColumn._put_text
        return FittedColumn._put_cyclic if self.type == "cyclic" else FittedColumn._put_number

    def read_number(self, value: Any, row: int | None) -> float:
        """A JSON value as this column's number, NaN where missing. Raises BadInput."""
        try:
            if self.type == "boolean":
                return as_boolean(value, self.fitted["true"], self.fitted["false"])
            return as_seconds(value) if self.kind == "datetime" else as_number(value)
        except (TypeError, ValueError, OverflowError):
            expected = {"boolean": "a boolean (true or false)", "datetime": "a time (ISO 8601 or seconds since 1970)"}
            raise refused(self.name, row, value, expected.get(self.kind, "a number")) from None

    def _put_number(self, value: Any, out: np.ndarray, row: int) -> Warned | None:
        number = self.read_number(value, row)
        if number != number:
            return self._put_missing(out, row)
        if number in (np.inf, -np.inf):
            raise refused(self.name, row, value, "a finite number")
        out[0] = self._scaled(number)
        return self._ranged(number)

    def _scaled(self, number: Any) -> Any:
        if self.type == "boolean":
            return number
        if self.type == "log":
            number = np.sign(number) * np.log1p(np.abs(number))
        return (number - self.fitted["center"]) / self.fitted["scale"]

    def _ranged(self, number: float) -> Warned | None:
        low, high = self.fitted.get("min"), self.fitted.get("max")
        if low is None or high is None or low <= number <= high:
            return None
        message = f"{self.name} is {number:g}; training rows went from {low:g} to {high:g}"
        return Warned(self.name, "out_of_range", message, number)

    def _put_missing(self, out: np.ndarray, row: int) -> Warned | None:
        self._refuse_missing(row)
        if self.type not in ("boolean", "cyclic"):
            out[0] = self._scaled(self.fitted["fill"])
        if self.encoding["indicator"]:
            out[-1] = 1
            return None
        return self._missing_warned()

    def _missing_warned(self) -> Warned | None:
        return Warned(self.name, "missing_value", f"{self.name} is missing; training rows always had it")

    def _refuse_missing(self, row: int | None) -> None:
        if self.encoding["missing"] == "refuse":
            raise refused(self.name, row, None, "a value (this feature's `missing` is `refuse`)")

    def _put_cyclic(self, value: Any, out: np.ndarray, row: int) -> Warned | None:
        seconds = self.read_number(value, row)
        if seconds != seconds:
            return self._put_missing(out, row)
        if seconds in (np.inf, -np.inf):
            raise refused(self.name, row, value, "a finite time")
        out[: 2 * len(self.encoding["parts"])] = self._cycles(np.array([seconds]))[0]
        return None

    def _cycles(self, seconds: np.ndarray) -> np.ndarray:
        """Sine and cosine of each part in turn: float64 (rows, 2 * parts)."""
        angles = np.stack([phase(part, seconds) for part in self.encoding["parts"]], axis=1) * (2 * np.pi)
        return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(seconds), 2 * len(self.encoding["parts"]))

    @cached_property
    def _places(self) -> dict[str, int]:
        """Where each label or token goes."""
        if self.type in TEXTS:
            first = 2 if self.type == "sequence" else 1
            return {token: at for at, token in enumerate(self.fitted["vocabulary"], first)}
        first = 2 if self.type == "index" else int(self.encoding["unknown"] == "bucket")
        return {label: at for at, label in enumerate(self.fitted["labels"], first)}

    @cached_property
    def _token_places(self) -> dict[bytes, int]:
        return {token.encode(): at for token, at in self._places.items()}

    def _label_place(self, label: str, row: int | None) -> tuple[int, bool]:
        """The place of a label that is not missing, and whether it is known. Raises BadInput."""
        if self.type == "hashing":
            return hash_bin(label, self.encoding["bins"], tuple(self.encoding["salt"])), True
        place = self._places.get(label)
        if place is not None:
            return place, True
        if self.encoding["unknown"] == "refuse":
            known = ", ".join(self.fitted["labels"][:10]) + (" ..." if len(self.fitted["labels"]) > 10 else "")
            raise refused(self.name, row, label, f"one of {known}")
        return (1 if self.type == "index" else 0), False

    def _put_label(self, value: Any, out: np.ndarray, row: int) -> Warned | None:
        try:
            label = as_label(value)
        except TypeError:
            raise refused(self.name, row, value, "a label (text, number or boolean)") from None
        integer = self.type == "index" or self.encoding.get("output") == "index"
        if label is None:
            self._refuse_missing(row)
            if self.type == "hashing":
                out[0] = 0 if integer else 1
            if self.encoding.get("indicator"):
                out[-1] = 1
            return None if self.type != "one_hot" or self.encoding["indicator"] else self._missing_warned()
        place, known = self._label_place(label, row)
        out[0 if integer else place] = place if integer else 1
        if known:
            return None
        message = f"{self.name} is {clipped(label)!r}, which training rows did not have"
        return Warned(self.name, "unknown_category", message, clipped(label))

    def _put_text(self, value: Any, out: np.ndarray, row: int) -> Warned | None:
        try:
            text = as_label(value)
        except TypeError:
            raise refused(self.name, row, value, "a text") from None
        if text is None:
            self._refuse_missing(row)
            return None
        places = self._text_places(text)
        if self.type == "sequence":
            out[: len(places)] = places[: self.width]
        elif self.type == "multi_hot":
            out[places] = 1
        else:
            out += self._weighted(np.bincount(np.array(places, np.int64), minlength=self.width))
        return None

    def _text_places(self, text: str) -> list[int]:
        find, unknown = self._token_places.get, int(self.type == "sequence")
        tokens = token_bytes(text, self.encoding["tokens"])
        return [find(token, unknown) for token in (tokens[: self.width] if self.type == "sequence" else tokens)]

    @cached_property
    def _idf(self) -> np.ndarray:
        weights = np.zeros(self.width, np.float32)
        weights[0] = self.fitted["idf_unknown"]
        weights[1 : 1 + len(self.fitted["idf"])] = self.fitted["idf"]
        return weights

    def _weighted(self, counts: np.ndarray) -> np.ndarray:
        counted = counts.astype(np.float32)
        return counted * self._idf if self.type == "tf_idf" else counted

    # --- a whole column --------------------------------------------------------------------------------------------

    def fill(self, column: pa.ChunkedArray | pa.Array, out: np.ndarray) -> None:
        """Writes a column into `out`, zeros of shape (rows, width). Raises BadInput with the first bad row."""
        if self.type in KEYED:
            self._fill_labels(column, out)
        elif self.type in TEXTS:
            for at, text in enumerate(texts_of(column)):
                self._put_text(text, out[at], at + 1)
        else:
            self._fill_numbers(column, out)

    def column_numbers(self, column: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """The column's numbers as float64, NaN where missing. Raises BadInput."""
        if self.type != "boolean":
            return numbers_of(column)
        codes, labels = labels_of(column)
        table = np.array([self.read_number(label, None) for label in labels] + [np.nan])
        return np.asarray(table[codes])

    def _fill_numbers(self, column: pa.ChunkedArray | pa.Array, out: np.ndarray) -> None:
        numbers = self.column_numbers(column)
        missing = np.isnan(numbers)
        if missing.any():
            self._refuse_missing(1 + int(np.argmax(missing)))
        if np.isinf(numbers).any():
            at = int(np.argmax(np.isinf(numbers)))
            raise refused(self.name, at + 1, float(numbers[at]), "a finite number")
        if self.type == "cyclic":
            out[~missing, : 2 * len(self.encoding["parts"])] = self._cycles(numbers[~missing])
        else:
            filled = np.where(missing, self.fitted.get("fill", 0.0), numbers)
            out[:, 0] = self._scaled(filled)
        if self.encoding["indicator"]:
            out[:, -1] = missing

    def _fill_labels(self, column: pa.ChunkedArray | pa.Array, out: np.ndarray) -> None:
        codes, labels = labels_of(column)
        if (codes < 0).any():
            self._refuse_missing(1 + int(np.argmax(codes < 0)))
        places = np.full(len(labels) + 1, -1, np.int64)
        for at, label in enumerate(labels):
            places[at] = self._label_place(label, 1 + int(np.argmax(codes == at)) if self._may_refuse else None)[0]
        found = places[codes]
        if self.type == "hashing":
            found = np.where(codes < 0, 0, found)
        if self.type == "index" or self.encoding.get("output") == "index":
            out[:, 0] = np.maximum(found, 0)
            return
        rows = np.flatnonzero(found >= 0)
        out[rows, found[rows]] = 1
        if self.encoding.get("indicator"):
            out[codes < 0, -1] = 1

    @property
    def _may_refuse(self) -> bool:
        return self.encoding.get("unknown") == "refuse"


def phase(part: str, seconds: np.ndarray) -> np.ndarray:
    """Where a time stands within a cycle, from 0 up to 1; by floor, products and differences alone, so that Keras's
    ops can repeat it in float64."""
    days = seconds / DAY
    if part == "time_of_day":
        return np.asarray(days - np.floor(days))
    if part == "weekday":  # 1970-01-01 was a Thursday; Monday is 0
        whole = np.floor(days) + 3
        return np.asarray((whole - 7 * np.floor(whole / 7)) / 7)
    if part == "time_of_year":
        years = days / YEAR
        return np.asarray(years - np.floor(years))
    return (day_of_month(np.floor(days)) - 1) / 31


def day_of_month(days: np.ndarray) -> np.ndarray:
    """The day of the month (1 to 31) of days since 1970.

    Source: H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    """
    z = days + 719_468
    day_of_era = z - np.floor(z / 146_097) * 146_097
    year_of_era = np.floor(
        (day_of_era - np.floor(day_of_era / 1_460) + np.floor(day_of_era / 36_524) - np.floor(day_of_era / 146_096))
        / 365
    )
    day_of_year = day_of_era - (365 * year_of_era + np.floor(year_of_era / 4) - np.floor(year_of_era / 100))
    month = np.floor((5 * day_of_year + 2) / 153)
    return np.asarray(day_of_year - np.floor((153 * month + 2) / 5) + 1)
