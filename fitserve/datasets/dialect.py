"""How a CSV file is written: its delimiter, its header, its decimal sign."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, replace

from fitserve.datasets.table_problems import TableRefused, TableUnreadable
from fitserve.errors import Problem, TooLarge
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions

DELIMITERS = (",", ";", "\t", "|")
_NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")
_COMMA_NUMBER = re.compile(r"\s*[+-]?(\d{1,3}(\.\d{3})+|\d+),\d+\s*")


@dataclass(frozen=True)
class Dialect:
    """`names` are the columns; `skip_space` says that blanks around fields mean nothing."""

    delimiter: str
    quote: str
    header: bool
    names: tuple[str, ...]
    decimal: str = "."
    skip_space: bool = False


def sniff(sample: str, options: UploadOptions, limits: Limits, whole: bool) -> tuple[Dialect, list[Problem]]:
    """The dialect of a file from its beginning, and what had to be mended in its header (lenient mode alone).

    `whole` says that the sample is the whole file. Raises TableUnreadable, TableRefused, TooLarge.
    """
    delimiter = options.delimiter or _delimiter(sample, options.quote, whole)
    rows = [row for row in _records(sample, delimiter, options.quote, whole) if row]
    if not rows:
        raise TableUnreadable("The file has no rows.", expected="a table with a header and at least one row")
    if len(rows[0]) > limits.columns:
        raise TooLarge(
            "The table has more columns than the limit.", received=len(rows[0]), expected=f"at most {limits.columns}"
        )
    has_header = _has_header(rows) if options.header is None else options.header
    if whole and has_header and len(rows) == 1:
        raise TableUnreadable("The table has no rows, only a header.", expected="at least one row of data")
    problems: list[Problem] = []
    if has_header:
        names, problems = _names([name.strip() for name in rows[0]])
        if problems and not options.lenient:
            raise TableRefused(problems[0].detail, problems=problems[:20])
    else:
        names = tuple(f"column_{at}" for at in range(1, len(rows[0]) + 1))
    body = rows[1:] if has_header else rows
    spaced = _is_spaced(body)
    decimal = options.decimal or ("," if delimiter != "," and _has_comma_numbers(body) else ".")
    return Dialect(delimiter, options.quote, has_header, names, decimal, spaced), problems


def without_header(dialect: Dialect) -> Dialect:
    """The same dialect for bytes from the middle of the file."""
    return replace(dialect, header=False)


def _records(sample: str, delimiter: str, quote: str, whole: bool, most: int = 500) -> list[list[str]]:
    csv.field_size_limit(1 << 30)
    records = []
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, quotechar=quote)
    for record in reader:
        records.append(record)
        if len(records) > most:
            break
    cut_off = not whole and len(records) <= most and len(records) > 1
    return records[:-1] if cut_off else records[:most]


def _delimiter(sample: str, quote: str, whole: bool) -> str:
    """The one that gives the most records the same number of fields as the first, then the one found more often."""
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        counts = [len(record) for record in _records(sample, delimiter, quote, whole, 100) if record]
        if not counts or counts[0] < 2:
            continue
        same = sum(count == counts[0] for count in counts) / len(counts)
        if (round(same, 1), counts[0]) > best_score:
            best, best_score = delimiter, (round(same, 1), counts[0])
    return best


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first record names the columns: its fields are not like those below them."""
    first, body = rows[0], rows[1:]
    if all(_is_number(field) or not field.strip() for field in first):
        return False
    if not body:
        return True
    votes = 0
    for at, name in enumerate(first):
        below = [row[at] for row in body if at < len(row) and row[at].strip()]
        if below and sum(map(_is_number, below)) > 0.8 * len(below):
            votes += -1 if _is_number(name) else 1
    if votes:
        return votes > 0
    if any(_is_number(field) for field in first):
        return False
    repeated = sum(name in {row[at] for row in body if at < len(row)} for at, name in enumerate(first))
    return repeated * 2 < len(first)


def _names(header: list[str]) -> tuple[tuple[str, ...], list[Problem]]:
    """Column names; empty and repeated ones are mended, each with its problem."""
    problems, names = [], []
    seen = Counter(header)
    used = set(header)
    given: Counter[str] = Counter()
    for at, name in enumerate(header, 1):
        given[name] += 1
        mended = name
        if not name or given[name] > 1:
            stem = name or "column"
            number = at if not name else given[name]
            mended = f"{stem}_{number}"
            while mended in used:
                number += 1
                mended = f"{stem}_{number}"
            used.add(mended)
        if not name:
            what = f"Column {at} has an empty header."
        elif seen[name] > 1 and given[name] > 1:
            what = f"The header {name!r} stands for column {at} as well as an earlier one."
        else:
            names.append(mended)
            continue
        names.append(mended)
        fix = f"Name it, or upload with lenient=true, which calls it {mended!r}."
        problems.append(
            Problem(what, line=1, column=name or str(at), received=name, expected="a name of its own", fix=fix)
        )
    return tuple(names), problems


def _is_spaced(body: list[list[str]]) -> bool:
    """Whether fields follow their delimiter after a blank (`1, 2, 3`)."""
    fields = [field for row in body for field in row[1:] if field]
    return bool(fields) and sum(field[0] == " " for field in fields) > 0.9 * len(fields)


def _has_comma_numbers(body: list[list[str]]) -> bool:
    fields = [field for row in body for field in row]
    commas = sum(1 for field in fields if _COMMA_NUMBER.fullmatch(field))
    points = sum(1 for field in fields if "." in field and _is_number(field))
    return commas > 2 and commas > points
