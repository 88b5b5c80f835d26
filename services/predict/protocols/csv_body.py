"""Rows of a CSV body: a header of column names, a line for each row, an empty field where a value is missing.

Lines of the file that a model was trained on are accepted as they stand there, with its delimiter and quotes.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fitserve.errors import Malformed
from fitserve.parsing.charsets import charset_named
from fitserve.parsing.stray_quotes import double_stray_quotes
from fitserve.wire.datasets import NO_CHARACTER
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel

PART_LINES = 2048  # lines that are split at a time
SEPARATOR = "\x1f"  # ASCII's unit separator


def read_csv(
    model: LoadedModel,
    body: bytes,
    charset: str | None = None,
    check_count: Callable[[int], None] = lambda rows: None,
) -> InputRows:
    """Return the rows of a CSV body, in UTF-8 unless its content type declares otherwise.

    `check_count` may refuse the number of rows before their values are read. Raises Malformed, and any error of
    `check_count`.
    """
    try:
        name = charset_named(charset or "utf-8")
        text, delimiter = _delimited(model, body.decode("utf-8-sig" if name == "utf-8" else name))
        lines = _lines(text, delimiter, model.columns.csv)
    except (UnicodeError, csv.Error) as error:
        raise Malformed(f"The body is not CSV in {charset or 'UTF-8'}: {error}.") from None
    except LookupError:
        raise Malformed("The body's encoding is not known.", received=str(charset)[:40], expected="utf-8") from None
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise Malformed("The body needs a header and at least one row.")
    check_count(len(lines) - 1)
    header, data = _as_in_table(model.columns.table, *lines)
    inputs = [_csv_input(model, name) for name in header]
    named = [name for name in inputs if name is not None]
    if len(set(named)) != len(named):
        raise Malformed("The header names a column twice.")
    # Numbers in the usual form are read here, which is fast; all other fields are read as in an uploaded table.
    plain = {column.name for column in model.columns.fitted if column.kind == "numeric" and column.format.is_plain}
    for number, line in enumerate(data, 1):
        if len(line) != len(header):
            raise Malformed(f"Row {number} has {len(line)} fields; the header has {len(header)}.")
    fields = dict(zip(inputs, zip(*data, strict=True), strict=True))
    columns: list[Sequence[Any]] = [
        list(map(_number, fields[name])) if name in plain and name in fields else fields.get(name, [None] * len(data))
        for name in model.columns.names
    ]
    left_out = {name: len(data) for name, own in zip(header, inputs, strict=True) if own is None}
    return InputRows.by_column(model.columns.names, columns, left_out)


def _as_in_table(table: Sequence[str], header: list[str], *data: list[str]) -> tuple[list[str], Sequence[list[str]]]:
    """Return a header with the names that the upload gave to columns without one of their own, and the rows.

    A file may have row names without a header, delimiters at its lines' ends, and names that are empty or repeated.
    """
    width = len(header)
    if all(len(line) == width + 1 for line in data):
        if not any(line[-1].strip() for line in data):
            data = tuple(line[:-1] for line in data)
        elif len(table) == width + 1 and table[0] not in header:
            header = [table[0], *header]
    elif not header[-1].strip() and len(table) < width and not any(line[-1].strip() for line in data):
        header, data = header[:-1], tuple(line[:-1] for line in data)
    if len(header) == len(table):
        own = [name.strip() for name in header]
        renamed = [
            (not name and table[place] not in own) or (own.count(name) > 1 and table[place].startswith(f"{name}_"))
            for place, name in enumerate(own)
        ]
        header = [table[place] if renamed[place] else name for place, name in enumerate(header)]
    return header, data


def _lines(text: str, delimiter: str, table: Mapping[str, str]) -> list[list[str]]:
    """Return the fields of each line, whose quotes are those of the training table's file or usual ones.

    `table` has the file's quote, none if nothing is quoted there, and its escape sign, where they are unusual.
    Raises csv.Error.
    """
    quote, escape = table.get("quote", '"'), table.get("escape")
    if quote == NO_CHARACTER:
        lines = _fields(text, delimiter, None)
        if len(set(map(len, filter(None, lines)))) == 1 and '""' not in text:
            return lines
    elif quote != '"' and _has_quoted(text, delimiter, quote):
        return _fields(text, delimiter, quote)
    if escape is not None and f'{escape}"' in text:
        return _fields(text, delimiter, '"', escape)
    try:
        return _fields(text, delimiter)
    except csv.Error:
        return _fields(double_stray_quotes(text, delimiter), delimiter)


def _has_quoted(text: str, delimiter: str, quote: str) -> bool:
    return re.search(rf"(?:^|{re.escape(delimiter)}) *{re.escape(quote)}", text, re.MULTILINE) is not None


def _fields(text: str, delimiter: str, quote: str | None = '"', escape: str | None = None) -> list[list[str]]:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quotechar=quote or '"',
        quoting=csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL,
        escapechar=escape,
        skipinitialspace=quote == "'",
        strict=True,
    )
    lines: list[list[str]] = []
    while part := list(itertools.islice(reader, PART_LINES)):  # one call for all would block other threads
        lines += part
    return lines


def _csv_input(model: LoadedModel, name: str) -> str | None:
    try:
        return model.columns.input_named(name)
    except KeyError:
        expected = ", ".join(model.columns.names[:50])
        raise Malformed(f"The header has an unknown column {name[:63]!r}.", expected=expected) from None


def _delimited(model: LoadedModel, text: str) -> tuple[str, str]:
    """Return the text, and the delimiter that splits its header into the most names of the table's columns.

    A delimiter of several characters, or of the blanks that align columns, is replaced by a single character.
    """
    own, quote = model.columns.csv.get("delimiter", ","), model.columns.csv.get("quote", '"')
    of_table = {*model.columns.names, *model.columns.others} - {""}

    def known(delimiter: str) -> int:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        return len({name.strip().strip(quote) for name in header} & of_table)

    usual = [",", ";", "\t", "|"]
    if len(own) == 1 and own != " ":
        usual.append(own)
    best = max(usual, key=known)  # on a tie, the first
    if own in usual:
        return text, best
    sign = r"[ \t]+" if own == " " else r"[ \t]{2,}" if own.isspace() else re.escape(own)
    parts = re.compile(rf'("[^"\n]*")|{sign}')
    lines = [
        parts.sub(lambda part: part[1] or SEPARATOR, line.strip() if own.isspace() else line)
        for line in text.splitlines()
    ]
    header = lines[0].replace('"', "").split(SEPARATOR) if lines else []
    return ("\n".join(lines), SEPARATOR) if len(of_table.intersection(header)) > known(best) else (text, best)


def _number(field: str) -> Any:
    """Return the field as a number if it has the usual form; else the text, which the encoder reads or refuses."""
    field = field.strip()
    try:
        return int(field) if field.lstrip("+-").isdecimal() else float(field.replace("_", "x"))
    except ValueError:
        return field
