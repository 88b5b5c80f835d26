"""Texts of a column: which of them are missing, which are labels, which spellings are one label, which are codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.parsing import ColumnFormat
from fitserve.parsing.column_format import folded
from fitserve.parsing.missing import DISPUTABLE, MISSING, find_missing
from fitserve.parsing.words import FALSE_IN_ANY_LANGUAGE, TRUE_IN_ANY_LANGUAGE

MAX_MERGED = 1_000  # a column with more labels than this is not searched for two spellings of one label


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
    """Map what the spellings of a label have in common to the most frequent of them."""
    best: dict[str, str] = {}
    for text in sorted(counts, key=lambda text: (-counts[text], text)):
        best.setdefault(folded(text), text)
    return best


def count_of(counts: Mapping[str, int], word: str) -> int:
    return sum(count for text, count in counts.items() if text == word or text.strip() == word)


def is_label(word: str, counts: Mapping[str, int]) -> bool:
    """Return whether a spelling of missing is a label: written like all others, and no rarer than the rarest."""
    others = {text.strip(): count for text, count in counts.items() if text.strip() and text.strip() not in MISSING}
    if not 2 <= len(others) <= 100 or count_of(counts, word) < min(others.values()):
        return False
    if word == "NA":
        return all(len(text) == 2 and text.isalpha() for text in others)
    if word == "None":
        return all(text[0].isupper() and text.replace(" ", "").replace("-", "").isalpha() for text in others)
    return not any(character.isalnum() for text in others for character in text)


def without_missing(values: pa.Array, format: ColumnFormat, everything: bool) -> pa.Array:
    """Return the values that are not missing; `everything`: nor spellings that are labels in some columns."""
    present = values.drop_null()
    spellings = format.missing_spellings if everything else format.missing_spellings - {*DISPUTABLE}
    return present.filter(pc.invert(find_missing(present, spellings, format.also_missing)))


def has_leading_zeros(texts: pa.Array) -> bool:
    """Return whether any text starts with a zero and another digit, or 0x: then they are codes, not numbers."""
    if not len(texts) or not pa.types.is_string(texts.type):
        return False
    buffers = texts.buffers()
    if buffers[2] is None:
        return False
    offsets = np.frombuffer(buffers[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(buffers[2], np.uint8)
    if not len(data):
        return False
    starts = offsets[:-1]
    zeros = np.flatnonzero((data[np.minimum(starts, len(data) - 1)] == ord("0")) & (np.diff(offsets) > 1))
    second = data[starts[zeros] + 1]
    return bool((((second >= ord("0")) & (second <= ord("9"))) | (second == ord("x")) | (second == ord("X"))).any())
