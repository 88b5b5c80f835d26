"""The kind of a column, told from what its values are, with the evidence in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fitserve.dataset_facts import Kind, Storage
from fitserve.encoding.coercion import FALSE, TRUE

MAX_CODES = 12  # whole numbers 1 to 12 at most are taken for codes of categories
_ID_NAME = re.compile(
    r"(^|[_\s-])(id|uuid|guid|key|index|idx|rowid|row|instant|nr|no|编号|序号)$|[a-z]I[Dd]$|^unnamed", re.IGNORECASE
)
_CAMEL_ID = re.compile(r"(?:[a-z]I[dD]|^[Ii][dD])$")


# Which kinds the values of a storage class can be.
POSSIBLE: dict[Storage, tuple[Kind, ...]] = {
    "int64": ("numeric", "boolean", "categorical", "ignored"),
    "float64": ("numeric", "categorical", "ignored"),
    "bool": ("boolean", "categorical", "numeric", "ignored"),
    "string": ("categorical", "text", "boolean", "ignored"),
    "timestamp": ("datetime", "categorical", "ignored"),
}


@dataclass(frozen=True)
class Traits:
    """What was seen of a column. `words` and `letters` are means over sampled texts, `cjk` the share of such texts."""

    name: str
    position: int
    of_columns: int
    storage: Storage
    rows: int
    missing: int
    distinct: int
    labels: Sequence[str] | None  # sorted, where there are few
    label_counts: Sequence[int] | None
    min: float | None
    max: float | None
    increasing: bool
    words: float = 0.0
    letters: float = 0.0
    cjk: bool = False
    bad: int = 0


def infer_kind(traits: Traits) -> tuple[Kind, str]:
    """The kind and why."""
    present = traits.rows - traits.missing
    if not present:
        return "ignored", "every value is missing"
    if traits.storage == "timestamp":
        return "datetime", "all values are dates or times"
    if traits.storage == "bool":
        return "boolean", "all values are true or false"
    if traits.storage == "string":
        return _text_kind(traits, present)
    return _number_kind(traits, present)


def _number_kind(traits: Traits, present: int) -> tuple[Kind, str]:
    if traits.labels is not None and list(traits.labels) == ["0", "1"]:
        return "boolean", "all values are 0 or 1"
    if traits.storage == "int64":
        if reason := _is_identifier(traits, present):
            return "ignored", reason
        if _is_code(traits, present):
            return "categorical", f"whole numbers {traits.labels[0]} to {traits.labels[-1]} that look like codes"  # type: ignore[index]
        return "numeric", "all values are whole numbers"
    return "numeric", "all values are numbers"


def _is_identifier(traits: Traits, present: int) -> str | None:
    """Unique whole numbers under a name of an identifier, or a first column that counts the rows of a wide table."""
    if traits.missing or traits.distinct < 0.95 * present or present < 20:
        return None
    named = bool(_ID_NAME.search(traits.name) or _CAMEL_ID.search(traits.name))
    counts = traits.increasing and traits.max is not None and traits.min in (0.0, 1.0)
    counts = counts and (traits.max or 0) - (traits.min or 0) + 1 == present
    if named:
        return "every value is another one, and the name is one of identifiers"
    if counts and traits.position == 0 and traits.of_columns >= 4 and present >= 100:
        return "counts the rows"
    return None


def _is_code(traits: Traits, present: int) -> bool:
    """Few whole numbers without a gap, from 1, or from 0 where they do not fade out as counts of things do."""
    labels, counts = traits.labels, traits.label_counts
    if labels is None or counts is None or not 3 <= len(labels) <= MAX_CODES or present < 10 * len(labels):
        return False
    low, high = int(labels[0]), int(labels[-1])
    if high - low + 1 != len(labels) or low not in (0, 1):
        return False
    return low == 1 or min(counts) * 3 * len(labels) >= present


def _text_kind(traits: Traits, present: int) -> tuple[Kind, str]:
    labels = traits.labels
    if labels is not None and len(labels) == 2 and is_boolean_pair(labels):
        return "boolean", f"all values are {labels[0]!r} or {labels[1]!r}"
    share = traits.distinct / present
    words = traits.letters / 2 if traits.cjk else traits.words  # a Chinese word has about two characters
    if present >= 20 and share > 0.5:
        if words >= 2 or traits.letters > 40:
            return "text", f"{traits.words:.1f} words a value, and {share:.0%} of the values are different"
        return "ignored", f"{share:.0%} of the values are different and they are no sentences: an identifier"
    if words >= 5 and traits.distinct > 50:
        return "text", f"{traits.words:.1f} words a value"
    if present < 20 and words >= 4:
        return "text", f"{traits.words:.1f} words a value"
    odd = f"; {traits.bad} values are no numbers" if traits.bad else ""
    return "categorical", f"{traits.distinct} different values in {present} rows{odd}"


def is_boolean_pair(labels: Sequence[str]) -> bool:
    """Whether two labels say yes and no in any of the usual spellings."""
    lowered = {label.strip().lower() for label in labels}
    return len(lowered & TRUE) == 1 and len(lowered & FALSE) == 1


def sorted_labels(labels: Sequence[str], storage: Storage) -> list[int]:
    """The order of labels: numbers by value, a boolean pair false first, else by code points."""
    places = range(len(labels))
    if storage in ("int64", "float64"):
        return sorted(places, key=lambda at: float(labels[at]))
    if len(labels) == 2 and is_boolean_pair(labels):
        return sorted(places, key=lambda at: labels[at].strip().lower() in TRUE)
    return sorted(places, key=lambda at: labels[at])
