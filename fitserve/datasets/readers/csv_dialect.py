"""How a CSV file is written, detected from its beginning: delimiter, header, decimal sign."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass

from fitserve.datasets import MAX_PROBLEMS, TableRefused, TableUnreadable
from fitserve.errors import Problem, TooLarge
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions

DELIMITERS = (",", ";", "\t", "|")
# Possessive, so that no field makes them try each split of its digits.
_NUMBER = re.compile(r"\s*+[+-]?(\d++[.,]?\d*+|[.,]\d++)([eE][+-]?\d++)?\s*+")
_COMMA_NUMBER = re.compile(r"\s*+[+-]?(\d{1,3}(\.\d{3})++|\d++),\d++\s*+")


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file is written."""

    delimiter: str
    quote: str
    header: bool
    names: tuple[str, ...]  # of the columns
    decimal: str = "."
    trim: bool = False  # blanks around fields mean nothing


def detect_dialect(
    sample: str, options: UploadOptions, limits: Limits, whole: bool
) -> tuple[CsvDialect, list[Problem]]:
    """Return the dialect of a file that begins with `sample`, and what was fixed in its header (lenient mode only).

    `whole`: the sample is the whole file. Raises TableUnreadable, TableRefused, TooLarge.
    """
    delimiter = options.delimiter or _detect_delimiter(sample, options.quote, whole)
    records = [record for record in _records(sample, delimiter, options.quote, whole) if record]
    if not records:
        raise TableUnreadable("The file has no rows.", expected="a table with a header and at least one row")
    width = len(records[0])
    if width > limits.columns:
        expected = f"at most {limits.columns}"
        raise TooLarge("The table has more columns than the limit.", received=width, expected=expected)
    has_header = _has_header(records) if options.header is None else options.header
    body = records[1:] if has_header else records
    if whole and not body:
        raise TableUnreadable("The table has no rows, only a header.", expected="at least one row of data")
    problems: list[Problem] = []
    if has_header:
        names, problems = _unique_names([name.strip() for name in records[0]])
        if problems and not options.lenient:
            raise TableRefused(problems[0].detail, problems=problems[:MAX_PROBLEMS])
    else:
        names = tuple(f"column_{number}" for number in range(1, width + 1))
    decimal = options.decimal or ("," if delimiter != "," and _has_decimal_commas(body) else ".")
    return CsvDialect(delimiter, options.quote, has_header, names, decimal, _has_padded_fields(body)), problems


def _records(sample: str, delimiter: str, quote: str, whole: bool, most: int = 500) -> list[list[str]]:
    """Parse the first records; one that may be cut off by the sample's end is left out."""
    csv.field_size_limit(1 << 30)
    records = []
    for record in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, quotechar=quote):
        records.append(record)
        if len(records) > most:
            break
    is_cut_off = not whole and 1 < len(records) <= most
    return records[:-1] if is_cut_off else records[:most]


def _detect_delimiter(sample: str, quote: str, whole: bool) -> str:
    """Return the delimiter that gives most records as many fields as the first; of equals, that with more fields."""
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        widths = [len(record) for record in _records(sample, delimiter, quote, whole, 100) if record]
        if not widths or widths[0] < 2:
            continue
        score = (round(widths.count(widths[0]) / len(widths), 1), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _has_header(records: list[list[str]]) -> bool:
    """Return whether the first record names the columns: its fields are unlike those below them."""
    first, body = records[0], records[1:]
    if all(_is_number(field) or not field.strip() for field in first):
        return False
    if not body:
        return True
    votes = 0
    for at, name in enumerate(first):
        below = [record[at] for record in body if at < len(record) and record[at].strip()]
        if below and sum(map(_is_number, below)) > 0.8 * len(below):
            votes += -1 if _is_number(name) else 1
    if votes:
        return votes > 0
    if any(_is_number(field) for field in first):
        return False
    repeated = sum(name in {record[at] for record in body if at < len(record)} for at, name in enumerate(first))
    return repeated * 2 < len(first)


def _unique_names(header: list[str]) -> tuple[tuple[str, ...], list[Problem]]:
    """Return column names, with a problem for each that is empty or repeated and was replaced."""
    problems, names = [], []
    used = set(header)
    occurrences: Counter[str] = Counter()
    next_number: dict[str, int] = {}  # by stem: those below it are taken
    for position, name in enumerate(header, 1):
        occurrences[name] += 1
        if name and occurrences[name] == 1:
            names.append(name)
            continue
        stem, number = (name, occurrences[name]) if name else ("column", position)
        number = max(number, next_number.get(stem, 0))
        while (replacement := f"{stem}_{number}") in used:
            number += 1
        next_number[stem] = number + 1
        used.add(replacement)
        names.append(replacement)
        what = f"The header {name!r} stands for column {position} as well as an earlier one."
        problem = Problem(
            what if name else f"Column {position} has an empty header.",
            line=1,
            column=name or str(position),
            received=name,
            expected="a name of its own",
            fix=f"Name it, or upload with lenient=true, which calls it {replacement!r}.",
        )
        problems.append(problem)
    return tuple(names), problems


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _has_padded_fields(body: list[list[str]]) -> bool:
    """Return whether fields are separated by a delimiter and a blank (`1, 2, 3`)."""
    fields = [field for record in body for field in record[1:] if field]
    return bool(fields) and sum(field[0] == " " for field in fields) > 0.9 * len(fields)


def _has_decimal_commas(body: list[list[str]]) -> bool:
    fields = [field for record in body for field in record]
    commas = sum(1 for field in fields if _COMMA_NUMBER.fullmatch(field))
    points = sum(1 for field in fields if "." in field and _is_number(field))
    return commas > 2 and commas > points
