"""Base classes of label encodings: read labels, look up their places, handle missing and unknown labels."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import MAX_LABELS, ColumnFacts
from fitserve.encoding.coercion import Column, as_label, bad_value, by_value, has_booleans, labels_of, looked_up
from fitserve.encoding.encoding import Encoding, FittedColumn, Row, Unusual, ValueWarning, ValueWriter
from fitserve.errors import BadInput
from fitserve.excerpts import excerpt_of_cell
from fitserve.parsing.column_format import PLAIN

_SIMPLE = frozenset({str, int, float, bool})  # types whose values can be looked up
MAX_EXACT = 1e15  # up to here, an integer and the equal float have the same label
_USUAL, _MISSING, _UNKNOWN, _REFUSED = range(4)  # states of a value
_NOT_FOUND = -2  # stands for no place


class LabelColumn(FittedColumn):
    """A column of labels, each with a place: 1 is written there or, if `integer`, the place itself."""

    if TYPE_CHECKING:  # attributes or properties of subclasses

        @property
        def integer(self) -> bool: ...

        @property
        def missing_place(self) -> int | None:
            """The place of missing labels; None leaves zeros."""

    def place_of(self, label: str) -> int | None:
        """Return the place of a label; None if it did not occur in training."""
        raise NotImplementedError

    def place_of_unknown(self, label: str, row: int) -> int:
        """Return the place of a label that did not occur in training. Raises BadInput."""
        raise NotImplementedError

    def encode_value(self, value: Any, out: np.ndarray, row: int) -> ValueWarning | None:
        try:
            label = as_label(value, self.format)
        except TypeError:
            raise bad_value(self.name, row, value, "a label (text, number or boolean)") from None
        warning = None
        if label is None:
            self.refuse_missing(row)
            place = self.missing_place
            if place is None:
                return self.missing_warning()
        else:
            place = self.place_of(label)
            if place is None:
                place = self.place_of_unknown(label, row)
                message = f"{self.name} is {excerpt_of_cell(label)!r}, which training rows did not have"
                warning = ValueWarning(self.name, "unknown_category", message, excerpt_of_cell(label))
        if self.integer:
            out[0] = place
        else:
            out[place] = 1
        return warning

    def known_values(self) -> dict[type, dict[Any, int]]:
        """Return the places of JSON values that are labels without parsing in any format, by type and value."""
        return {}

    def value_writer(self) -> ValueWriter:
        place_of, offset, integer, other = self.place_of, self.offset, self.integer, super().value_writer()
        as_it_is, known = self.format is PLAIN, self.known_values()
        nothing: dict[Any, int] = {}

        def write(value: Any, row: Row) -> bool:
            kind = type(value)
            place = known.get(kind, nothing).get(value) if kind in _SIMPLE else None
            if place is None:
                place = place_of(value) if as_it_is and kind is str and value else None
                if place is None:
                    return other(value, row)
            if integer:
                row[offset] = place
            else:
                row[offset + place] = 1.0
            return True

        return write

    @cached_property
    def _usual_places(self) -> dict[Any, int]:
        """The places of the values that `known_values` names: 1 and 1.0 have one."""
        places: dict[Any, int] = {}
        for kind, of_kind in self.known_values().items():
            if kind is not bool:  # true equals 1 in Python, but has another label
                places.update(of_kind)
        if places and self.missing_place is not None and self.encoding.missing != "refuse":
            places[None] = self.missing_place
        return places

    def encode_values(self, values: Sequence[Any], out: np.ndarray) -> Unusual:
        places = self._looked_up(values)
        unusual, others = Unusual(), np.flatnonzero(places == _NOT_FOUND)
        if others.size:
            their_places, states = self._places_and_states([values[index] for index in others.tolist()])
            places = places.copy()
            places[others] = their_places
            if (states == _REFUSED).any():
                return Unusual(refused=others[states == _REFUSED])
            for name, of_state in (("missing_value", _MISSING), ("unknown_category", _UNKNOWN)):
                if (rows := others[states == of_state]).size:
                    unusual.warned[name] = rows
        self._write_places(places, out)
        return unusual

    def _looked_up(self, values: Sequence[Any]) -> np.ndarray:
        """Look up each value without parsing it: places, `_NOT_FOUND` for others; int64 (rows,)."""
        usual = self._usual_places
        if usual and not ((0 in usual or 1 in usual) and has_booleans(values)):
            with contextlib.suppress(TypeError):  # a list or an object
                try:
                    return looked_up(usual, values)
                except KeyError:
                    return np.array([usual.get(value, _NOT_FOUND) for value in values], np.int64)
        return np.full(len(values), _NOT_FOUND, np.int64)

    def _places_and_states(self, values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return each value's place (-1 leaves zeros) and state; each distinct value is parsed once."""
        codes, distinct = by_value(values)
        places, states = np.full(len(distinct), -1, np.int64), np.zeros(len(distinct), np.int8)
        labels: dict[int, str] = {}  # by code
        for code, value in enumerate(distinct):
            try:
                label = as_label(value, self.format)
            except TypeError:
                states[code] = _REFUSED
                continue
            if label is not None:
                labels[code] = label
            elif self.encoding.missing == "refuse":
                states[code] = _REFUSED
            elif self.missing_place is None:
                states[code] = _MISSING
            else:
                places[code] = self.missing_place
        for (code, label), place in zip(labels.items(), self.places_of(list(labels.values())).tolist(), strict=True):
            try:
                places[code] = place if place >= 0 else self.place_of_unknown(label, 0)
                states[code] = _USUAL if place >= 0 else _UNKNOWN
            except BadInput:
                states[code] = _REFUSED
        return places[codes], states[codes]

    def _write_places(self, places: np.ndarray, out: np.ndarray) -> None:
        if self.integer:
            out[:, 0] = np.maximum(places, 0)
        elif len(places) and places.min() < 0:
            rows = np.flatnonzero(places >= 0)
            out[rows, places[rows]] = 1
        else:
            out[np.arange(len(places)), places] = 1

    def encode_column(self, column: Column, out: np.ndarray) -> None:
        self._write_places(self.places_of_column(column), out)

    def places_of_column(self, column: Column) -> np.ndarray:
        """Return the places of a table's column, int64 (rows,); -1 leaves zeros. Raises BadInput for a bad row."""
        codes, labels = labels_of(column)
        spells_missing: frozenset[int] = frozenset()
        if self.format.missing_numbers:
            spells_missing = frozenset(
                index for index, label in enumerate(labels) if as_label(label, self.format) is None
            )
            codes = np.where(np.isin(codes, list(spells_missing)), -1, codes)
        missing = codes < 0
        if missing.any():
            self.refuse_missing(1 + int(np.argmax(missing)))
        places = np.full(len(labels) + 1, -1, np.int64)
        known = self.places_of(labels)
        places[: len(labels)] = known
        for code in sorted(set(np.flatnonzero(known < 0).tolist()) - spells_missing):
            try:
                places[code] = self.place_of_unknown(labels[code], 1)
            except BadInput:  # finding the bad row takes as long as all the rest, so only now
                self.place_of_unknown(labels[code], 1 + int(np.argmax(codes == code)))
        if self.missing_place is not None:
            places[-1] = self.missing_place  # code -1 indexes this last place
        return np.asarray(places[codes])

    def places_of(self, labels: Sequence[str]) -> np.ndarray:
        """Return the place of each label, int64; -1 if it did not occur in training."""
        places = map(self.place_of, labels)
        return np.fromiter((-1 if place is None else place for place in places), np.int64, len(labels))


class CategoryColumn(LabelColumn):
    """A column in which each training label (`fitted`: labels, sorted) has a place, from `first` on."""

    encoding: Category
    unknown_place: ClassVar[int] = 0

    @property
    def first(self) -> int:
        """The place of the first label."""
        return self.unknown_place + 1

    @cached_property
    def _places(self) -> dict[str, int]:
        return {label: place for place, label in enumerate(self.fitted["labels"], self.first)}

    def place_of(self, label: str) -> int | None:
        return self._places.get(label)

    def known_values(self) -> dict[type, dict[Any, int]]:
        places = self._places
        texts = {label: place for label, place in places.items() if as_label(label, self.format) == label}
        numbers = {
            number: places[label]
            for label in places
            if (number := _number_of(label)) is not None and as_label(number, self.format) == label
        }
        truths = {value: places[label] for value, label in ((False, "false"), (True, "true")) if label in places}
        return {str: texts, int: numbers, float: numbers, bool: truths}

    def place_of_unknown(self, label: str, row: int) -> int:
        if self.encoding.unknown == "refuse":
            known = ", ".join(self.fitted["labels"][:10]) + (" ..." if len(self.fitted["labels"]) > 10 else "")
            raise bad_value(self.name, row, label, f"one of {known}")
        return self.unknown_place

    def axis_values(self, steps: int, low: float | None, high: float | None) -> Sequence[Any]:
        return list(self.fitted["labels"])


def _number_of(label: str) -> float | None:
    """Return the number whose label this is, both as an integer and as a float; None if there is none."""
    try:
        number = float(label)
    except ValueError:
        return None
    if not (abs(number) < MAX_EXACT and as_label(number) == label):
        return None
    return int(number) if number.is_integer() else number  # looking up an integer by an integer is faster


class Category(Encoding):
    """Base of the encodings that give each of the most frequent labels a place."""

    kinds = ("numeric", "boolean", "categorical", "text", "ignored")
    most_places: ClassVar[int] = MAX_LABELS  # default of `max_categories`

    missing: Literal["zero", "refuse"] = Field(default="zero", description="zero: all zeros, or index 0")
    unknown: Literal["bucket", "refuse"] = Field(
        default="bucket", description="A value that training rows did not have"
    )
    max_categories: int | None = Field(default=None, ge=1, le=1_000_000, description="The most frequent keep a place")

    def defaults(self, facts: ColumnFacts) -> dict[str, Any]:
        most = max(1, min(facts.distinct, self.most_places))
        return super().defaults(facts) | ({"max_categories": most} if self.max_categories is None else {})

    def categories(self, facts: ColumnFacts) -> int:
        """Count the places for known labels: the dataset's distinct labels, at most `max_categories`."""
        return min(facts.distinct, self.max_categories or self.most_places)

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        """Return the most frequent labels (ties by name) that have a place, sorted."""
        codes, labels = labels_of(values)
        counts = np.bincount(codes[codes >= 0], minlength=len(labels))
        ranked = sorted(range(len(labels)), key=lambda code: (-counts[code], labels[code]))
        return {"labels": sorted(labels[code] for code in ranked[: self.categories(facts)] if counts[code])}
