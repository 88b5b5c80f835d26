"""Features by pattern: `pixel*` stands for all columns that match it, `-pixel0` removes a column from them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.spec.feature import Feature
from fitserve.spec.target import unknown_column

MAX_PATTERNS = 100
_OUT = "-"
_WILD = re.compile(r"[*?]")


@dataclass(frozen=True, slots=True)
class PlacedFeature:
    """A feature of one column, and where the spec names it."""

    feature: Feature
    place: int


def is_pattern(name: str) -> bool:
    """Return whether a feature's name that is not a column is a pattern: it adds several columns or removes some."""
    return name.startswith(_OUT) or _WILD.search(name) is not None


def expand(
    features: Sequence[Feature], facts: DatasetFacts, taken: frozenset[str], problems: list[Problem]
) -> list[PlacedFeature]:
    """Return the features with patterns replaced by their columns, without ignored columns and those in `taken`.

    `*` matches any text, `?` one character. A leading `-` removes columns from the features before it; at the start of
    the list, it removes them from all columns. A column that is also named on its own becomes only that feature. An
    exact column name wins over its reading as a pattern.
    """
    patterns = [feature.column for feature in features if _is_one(feature, facts) and _WILD.search(feature.column)]
    if len(patterns) > MAX_PATTERNS:
        detail = f"The features have {len(patterns)} patterns."
        problems.append(Problem(detail, "/features", received=len(patterns), expected=f"at most {MAX_PATTERNS}"))
        return []
    named = {feature.column for feature in features if not _is_one(feature, facts)}
    open_to_patterns = [
        column.name
        for column in facts.columns
        if column.name not in taken and column.name not in named and column.kind != "ignored"
    ]
    placed: list[PlacedFeature] = []
    for place, feature in enumerate(features):
        if not _is_one(feature, facts):
            placed.append(PlacedFeature(feature, place))
        elif feature.column.startswith(_OUT):
            out = set(_matching(feature.column[1:], facts.by_name))
            problems += _misuse(feature, bool(out), facts, f"/features/{place}")
            if place == 0:
                placed = [PlacedFeature(Feature(column=name), place) for name in open_to_patterns]
            placed = [one for one in placed if one.feature.column not in out]
        else:
            if not any(_matching(feature.column, facts.by_name)):
                problems.append(_no_match(feature.column, facts, f"/features/{place}"))
            columns = set(_matching(feature.column, open_to_patterns)) - {one.feature.column for one in placed}
            placed += [
                PlacedFeature(feature.model_copy(update={"column": name}), place)
                for name in open_to_patterns
                if name in columns
            ]
    return placed


def _is_one(feature: Feature, facts: DatasetFacts) -> bool:
    return feature.column not in facts.by_name and is_pattern(feature.column)


def _matching(pattern: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the names that a pattern matches; one without wildcards matches itself."""
    if not _WILD.search(pattern):
        return (name for name in names if name == pattern)
    plain = pattern.replace("[", "[[]")  # brackets match themselves; fnmatch would read a character class
    return (name for name in names if fnmatch.fnmatchcase(name, plain))


def _misuse(feature: Feature, matches: bool, facts: DatasetFacts, pointer: str) -> Iterator[Problem]:
    if feature.encoding is not None or feature.input is not None:
        detail = f"{feature.column!r} takes columns out; it has no encoding and no input."
        yield Problem(detail, pointer, received=feature.column, fix=f"Write {feature.column!r} alone.")
    if not matches:
        yield _no_match(feature.column[1:], facts, pointer)


def _no_match(pattern: str, facts: DatasetFacts, pointer: str) -> Problem:
    if not _WILD.search(pattern):
        return unknown_column(pattern, facts, pointer)
    detail = f"No column of {facts.name}@{facts.version} matches {pattern!r}."
    return Problem(detail, pointer, received=pattern, expected="a column's name; * is any text, ? one character")
