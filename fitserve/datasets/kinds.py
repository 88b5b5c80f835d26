"""Infer a column's kind: the kinds that its values allow, and the likeliest one with the evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fitserve.dataset_facts import ColumnFacts, Kind, Storage
from fitserve.datasets import TableRefused
from fitserve.errors import Problem
from fitserve.parsing.words import FALSE, FALSE_IN_ANY_LANGUAGE, TRUE, TRUE_IN_ANY_LANGUAGE

LARGEST_EXACT = 2.0**53  # larger integers lose digits in float64
MAX_CODES = 12  # up to this many consecutive integers count as category codes
# The kinds that are possible for each storage class. If a request states a kind that texts can have, values stay texts.
POSSIBLE: dict[Storage, tuple[Kind, ...]] = {
    "int64": ("numeric", "boolean", "categorical", "ignored"),
    "float64": ("numeric", "boolean", "categorical", "ignored"),
    "bool": ("boolean", "categorical", "numeric", "ignored"),
    "string": ("categorical", "text", "boolean", "ignored"),
    "timestamp": ("datetime", "categorical", "ignored"),
}
_ID_NAME = re.compile(
    r"(^|[_\s-])(id|uuid|guid|key|index|idx|rowid|row|instant|nr|no|编号|序号)$|[a-z]I[Dd]$|^unnamed", re.IGNORECASE
)
_CAMEL_ID = re.compile(r"(?:[a-z]I[dD]|^[Ii][dD])$")


@dataclass(frozen=True)
class Traits:
    """Evidence for a column's kind beyond its facts."""

    is_first_of_many: bool  # the first of at least four columns
    increasing: bool  # each value is larger than the previous one
    words: float = 0.0  # mean over sampled texts
    letters: float = 0.0  # mean over sampled texts
    bad: int = 0  # values that are not numbers, in a column that was first parsed as numbers
    whole: bool = True  # all numbers are whole ones, however they are written
    texts: Sequence[str] = ()  # sampled values of a column of texts, even where its labels are too many to be listed


def infer_kind(facts: ColumnFacts, traits: Traits) -> tuple[Kind, str]:
    """Return the likeliest kind of a column and the evidence for it; `facts.kind` is not used."""
    present = facts.rows - facts.missing
    if not present:
        return "ignored", "every value is missing"
    if facts.storage == "timestamp":
        return "datetime", "all values are dates or times"
    if facts.storage == "bool":
        return "boolean", "all values are true or false"
    if facts.storage == "string":
        return _kind_of_texts(facts, traits, present)
    return _kind_of_numbers(facts, traits, present)


def _kind_of_numbers(facts: ColumnFacts, traits: Traits, present: int) -> tuple[Kind, str]:
    labels = facts.labels
    if labels == ("0", "1"):
        return "boolean", "all values are 0 or 1"
    if facts.storage == "float64" and not traits.whole:
        return "numeric", "all values are numbers"
    if facts.storage == "int64" and max(abs(facts.min or 0.0), abs(facts.max or 0.0)) > LARGEST_EXACT:
        return "ignored", "whole numbers beyond 2^53, whose last digits a network cannot see: an identifier"
    if reason := _identifier_reason(facts, traits, present):
        return "ignored", reason
    if labels is not None and _are_codes(labels, facts.label_counts or (), present):
        return "categorical", f"whole numbers {labels[0]} to {labels[-1]} that look like codes"
    return "numeric", "all values are whole numbers" if facts.storage == "int64" else "all values are numbers"


def _identifier_reason(facts: ColumnFacts, traits: Traits, present: int) -> str | None:
    """Return why a column of integers is an identifier: its name says so, or it counts the rows of a wide table."""
    if facts.missing or facts.distinct < 0.95 * present or present < 20:
        return None
    if _ID_NAME.search(facts.name) or _CAMEL_ID.search(facts.name):
        return "almost every value is unique, and the name is an identifier's"
    low, high = facts.min, facts.max
    counts_rows = traits.increasing and low in (0.0, 1.0) and high is not None and high - low + 1 == present
    return "counts the rows" if counts_rows and traits.is_first_of_many and present >= 100 else None


def _are_codes(labels: Sequence[str], counts: Sequence[int], present: int) -> bool:
    """Return whether a few consecutive integers are codes.

    Numbers from 0 are codes only where none is rare: counts of things start at 0 too, and fade out.
    """
    if not 3 <= len(labels) <= MAX_CODES or present < 10 * len(labels):
        return False
    low, high = int(labels[0]), int(labels[-1])
    if high - low + 1 != len(labels) or low not in (0, 1):
        return False
    return low == 1 or min(counts) * 3 * len(labels) >= present


def _kind_of_texts(facts: ColumnFacts, traits: Traits, present: int) -> tuple[Kind, str]:
    labels = facts.labels
    if labels is not None and is_boolean_pair(labels):
        return "boolean", f"all values are {labels[0]!r} or {labels[1]!r}"
    share = facts.distinct / present
    # If tokens are characters, two of them are about one (Chinese) word.
    words = traits.letters / 2 if facts.tokens == "character" else traits.words
    if present >= 20 and share > 0.5:
        if words >= 2 or traits.letters > 40:
            return "text", f"{traits.words:.1f} words per value, and {share:.0%} of the values are different"
        return "ignored", f"{share:.0%} of the values are different and they are not sentences: an identifier"
    if (words >= 5 and facts.distinct > 50) or (words >= 4 and present < 20):
        return "text", f"{traits.words:.1f} words per value"
    odd = f"; {traits.bad} values are not numbers" if traits.bad else ""
    return "categorical", f"{facts.distinct} different values in {present} rows{odd}"


def check_kind(name: str, kind: Kind, storage: Storage, labels: Sequence[str] | None) -> None:
    """Raise TableRefused if values of this storage class cannot have that kind."""
    two = labels is not None and len(labels) <= 2
    possible = [one for one in POSSIBLE[storage] if one != "boolean" or two or storage == "bool"]
    if kind not in possible:
        examples = ", ".join((labels or ())[:5])
        why = "it has more than two values" if kind == "boolean" else f"its values are stored as {storage}"
        problem = Problem(
            f"The column {name!r} cannot be {kind}: {why}.",
            pointer=f"/kinds/{name}",
            column=name,
            received=kind,
            expected=f"one of {', '.join(possible)}" + (f" (values: {examples})" if examples else ""),
        )
        raise TableRefused(problem.detail, problems=[problem])


def is_boolean_pair(labels: Sequence[str]) -> bool:
    """Return whether two labels mean true and false in any of the usual spellings."""
    lowered = {label.strip().lower() for label in labels}
    return len(labels) == 2 and len(lowered & TRUE) == 1 and len(lowered & FALSE) == 1


def label_order(labels: Sequence[str], storage: Storage) -> list[str]:
    """Return labels in their order: numbers by value, a boolean pair false first, else by code points."""
    if storage in ("int64", "float64"):
        return sorted(labels, key=float)
    lowered = {label.strip().lower() for label in labels}
    if len(labels) == 2 and len(lowered & TRUE_IN_ANY_LANGUAGE) == 1 and len(lowered & FALSE_IN_ANY_LANGUAGE) == 1:
        return sorted(labels, key=lambda label: label.strip().lower() in TRUE_IN_ANY_LANGUAGE)
    return sorted(labels)
