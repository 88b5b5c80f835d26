"""A column's format: how its values were read, stored with the dataset and in every artifact trained on it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_serializer, model_validator

from fitserve.data_model import DataModel
from fitserve.parsing.missing import MISSING
from fitserve.parsing.words import FALSE_IN_ANY_LANGUAGE, TRUE_IN_ANY_LANGUAGE

TimeFormat = Literal[
    "ymd", "dmy", "mdy", "week", "epoch", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns", "excel",
    "yymmdd", "ddmmyy", "mmddyy", "ddmmyyyy", "mmddyyyy",
    "days_1960", "days_1970", "matlab", "julian", "mjd", "year_day",
]  # fmt: skip
BLANKS = "\u00a0\u2007\u2009\u202f"  # blanks between thousands, besides the ordinary one
MAX_MERGED = 1_000  # a column with more labels than this is not searched for two spellings of one label


# Invisible characters, and variants of dashes and quotes, mapped to one spelling.
_ALIKE = {
    **dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-"),
    **dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4`"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e"), '"'),
}


def folded(text: str) -> str:
    """Return the form shared by labels that differ only in case, blanks or variants of characters."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_ALIKE).split()).casefold()


class ColumnFormat(DataModel):
    """How a column's values are written. In a request, whatever is left out is inferred from the column's values.

    A dataset's column has `decimal` and `thousands` where its texts were read as numbers, `time` where they were read
    as times.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decimal: Literal[".", ","] | None = Field(None, description="Before the fraction of a number")
    thousands: Literal["", ",", ".", " ", "'", "_"] | None = Field(
        None, description="Between groups of three digits; a blank stands for every kind of blank"
    )
    units: tuple[str, ...] = Field(
        (), max_length=20, description="What may stand before or after each number and is left out: $, EUR, %, kg"
    )
    time: TimeFormat | None = Field(
        None,
        description="Order of day, month and year where all are numbers; week: 2024-W05-3; epoch: a number since 1970,"
        " its unit told by its size, or stated: epoch_s, epoch_ms, epoch_us, epoch_ns; excel: Excel's numbers of days;"
        " yymmdd, ddmmyy, mmddyy, ddmmyyyy, mmddyyyy: dates of six or eight digits without separators; days_1960 (SAS,"
        " Stata), days_1970 (R), matlab, julian, mjd: days as these count them; year_day: 2024031 or 24031",
    )
    first_year: int | None = Field(
        None, ge=1, le=9900, description="The first of the hundred years that two digits stand for; left out: 1969"
    )
    missing: tuple[str, ...] | None = Field(
        None, max_length=1000, description="Spellings of a missing value, instead of the usual ones"
    )
    also_missing: tuple[str, ...] = Field((), max_length=1000, description="More such spellings, in any case")
    keep: tuple[str, ...] = Field((), max_length=1000, description="Usual spellings that are labels in this column")
    trim: bool = Field(False, description="Blanks around a label mean nothing")
    fold_case: bool = Field(
        False,
        description="Labels that differ in upper and lower case, in blanks or in the composition of characters are the"
        " same",
    )
    labels: dict[str, str] = Field(
        default_factory=dict, max_length=10_000, description="Spellings and the labels that they stand for"
    )

    @field_validator("units", "missing", "also_missing", "keep", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("units")
    @classmethod
    def _plain_units(cls, units: tuple[str, ...]) -> tuple[str, ...]:
        for unit in units:
            signs = unit.strip() != "+" and (not unit.strip("+-.,()'_ ") or unit.strip() in ("e", "E"))
            if signs or len(unit) > 20 or any(character.isdigit() for character in unit):
                raise ValueError(
                    "a unit is a text of at most 20 characters, without digits, that is no part of a number"
                )
        return tuple(unit.strip() for unit in units)

    @model_validator(mode="after")
    def _consistent(self) -> ColumnFormat:
        if self.decimal is not None and self.decimal == self.thousands:
            raise ValueError("the decimal sign and the thousands sign are two different characters")
        if self.time is not None and (self.decimal or self.thousands or self.units):
            raise ValueError("a column is read as numbers or as times, not as both")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: Any) -> dict[str, Any]:
        """Leave out defaults, because a table may have thousands of columns."""
        return {name: value for name, value in serialize(self).items() if value not in (None, "", [], (), {}, False)}

    def change(self, **changes: Any) -> ColumnFormat:
        """Return the format with changed members. (`model_copy` would keep values cached from the old ones.)"""
        return ColumnFormat.model_validate(
            {**{name: getattr(self, name) for name in ColumnFormat.model_fields}, **changes}
        )

    @property
    def kinds(self) -> tuple[str, ...] | None:
        """The column kinds to which the format applies; None means every kind, as for a list of missing values."""
        if self.decimal is not None or self.thousands or self.units:
            return ("numeric", "ignored")
        if self.time is not None or self.first_year is not None:
            return ("datetime", "ignored")
        if self.trim or self.fold_case or self.labels or self.keep:
            return ("categorical", "boolean", "text", "ignored")
        return None

    @property
    def is_number(self) -> bool:
        """Whether texts of the column are read as numbers."""
        return self.decimal is not None

    @property
    def is_number_of_time(self) -> bool:
        """Whether the column's times are written as numbers: since 1970, Excel's, or dates of digits alone."""
        return self.time is not None and self.time not in ("ymd", "dmy", "mdy", "week")

    @property
    def is_plain(self) -> bool:
        """Whether numbers have only their usual spellings, and no number means a missing value."""
        return self.decimal in (None, ".") and not self.thousands and not self.units and not self.missing_numbers

    @property
    def keeps_texts(self) -> bool:
        """Whether each text is its own label, unless its bare form is one of `missing_spellings`."""
        changes = self.also_missing or self.keep or self.trim or self.labels
        return self.decimal is None and self.time is None and not changes

    @cached_property
    def missing_spellings(self) -> frozenset[str]:
        """Spellings of a missing value that must match exactly."""
        return frozenset(("", *(MISSING if self.missing is None else self.missing))) - {*self.keep}

    @cached_property
    def missing_numbers(self) -> frozenset[float]:
        """Numbers that stand for a missing value, however they are written: -999."""
        numbers = set()
        for text in (*self.missing_spellings, *self.also_missing):
            plain = text.replace(self.thousands or " ", "").replace(self.decimal or ".", ".")
            if any("0" <= character <= "9" for character in plain) and "_" not in plain:
                with suppress(ValueError):
                    numbers.add(float(plain))
        return frozenset(numbers)

    @cached_property
    def _also_missing(self) -> frozenset[str]:
        return frozenset(text.strip().lower() for text in self.also_missing)

    def is_missing(self, text: str) -> bool:
        """Return whether a text stands for a missing value in this column."""
        if text in self.keep:
            return False
        bare = text.strip()
        return bare in self.missing_spellings or (bool(self.also_missing) and bare.lower() in self._also_missing)

    def label(self, text: str) -> str:
        """Return the label that a text represents."""
        if self.trim:
            text = text.strip()
        if not self.labels:
            return text
        label = self.labels.get(text.casefold() if self.fold_case else text)
        if label is None and self.fold_case:
            label = self.labels.get(folded(text))
        return text if label is None else label


PLAIN = ColumnFormat()


def merge_spellings(format: ColumnFormat, counts: Mapping[str, int]) -> ColumnFormat:
    """Return the format that merges the spellings of a label that differ in blanks, and those of a truth value."""
    if not 2 <= len(counts) <= MAX_MERGED or format.labels:
        return format
    bare = Counter[str]()
    for text, count in counts.items():
        bare[text.strip()] += count
    if len(bare) < len(counts):
        format = format.change(trim=True)
    if format.fold_case:
        return format.change(labels=_most_frequent(bare))
    lowered = {text.lower() for text in bare}
    if (
        len(bare) > 2
        and lowered <= TRUE_IN_ANY_LANGUAGE | FALSE_IN_ANY_LANGUAGE
        and lowered & TRUE_IN_ANY_LANGUAGE
        and lowered & FALSE_IN_ANY_LANGUAGE
    ):
        true, false = (
            {t: n for t, n in bare.items() if t.lower() in words}
            for words in (TRUE_IN_ANY_LANGUAGE, FALSE_IN_ANY_LANGUAGE)
        )
        labels: dict[str, str] = {}
        for group in (true, false):
            best = max(sorted(group), key=lambda text: group[text])
            labels |= {text.casefold(): best for text in group}
        return format.change(labels=labels, fold_case=True)
    return format


def _most_frequent(counts: Mapping[str, int]) -> dict[str, str]:
    """Map each folded label to its most frequent spelling."""
    best: dict[str, str] = {}
    for text in sorted(counts, key=lambda text: (-counts[text], text)):
        best.setdefault(folded(text), text)
    return best
