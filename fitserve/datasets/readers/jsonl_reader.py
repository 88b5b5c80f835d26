"""JSON Lines: an object on each line, read strictly, its members as texts for `ColumnParser`.

Numbers keep their spelling, null is missing, and a nested list or object is its JSON text. A JSON array of objects is
read too, and one object that holds a table (`json_shapes`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from fitserve.datasets import MAX_PROBLEMS, TableRefused, TableUnreadable, refuse
from fitserve.datasets.column_plan import ColumnPlan
from fitserve.datasets.plan_proposal import propose_plans
from fitserve.datasets.readers import Batches, ReadAgain, TableReader
from fitserve.datasets.readers.json_shapes import rows_of, rows_of_lists
from fitserve.errors import Problem, TooLarge
from fitserve.excerpts import excerpt_of_cell
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import UploadOptions

BATCH_ROWS = 10_000
BATCH_BYTES = 16 * MB
NAMED_ROWS = 1_000  # rows whose members are the initial columns
SAMPLED_ROWS = 2_000  # rows from which plans are proposed
SAMPLED_VALUES = 1_000_000  # limits the sampled rows of a wide table
ARRAY_BYTES = 64 * MB  # a larger array must have an object on each line
_NO_NUMBER = re.compile(rb"[:\[,]\s*+-?(NaN|Infinity|nan|inf)\b")
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the last one: nested thousands deep


class _BadMember(Exception):
    """One member of an object cannot be read."""


class JsonLinesReader(TableReader):
    """A JSON Lines file, a JSON array of objects, or one object that holds a table."""

    format = "jsonl"
    title = "JSON Lines"
    signature = re.compile(rb'[\xef\xbb\xbf \t\r\n]*+[{\[]\s*+["{}\[]')
    is_text = True

    def __init__(self, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
        path, where = _to_lines(path, folder / "lines")
        super().__init__(path, options, limits, folder)
        if where is not None:
            self.add_notice(
                "rows_in_object",
                "The JSON is read as a table, although its rows are no objects of their own.",
                evidence=where,
            )
        self.missing = frozenset(("", *(options.missing or ())))  # null is the usual spelling; a text is a text
        self._add_names(self._first_members())

    def _first_members(self) -> list[str]:
        names: dict[str, None] = {}
        for row, line, text in self._lines():
            try:
                names.update(dict.fromkeys(_decoder.decode(text)))
            except _UNREADABLE as error:
                if row == 1 and not self.options.lenient:
                    raise refuse([_unreadable(row, line, text, error)]) from None
            self.check_width(len(names))
            if row > NAMED_ROWS:
                break
        if not names:
            raise TableUnreadable("There is no object with any member.", expected='lines such as {"age": 31}')
        return list(names)

    def _add_names(self, names: Iterable[str]) -> None:
        self.names = list(dict.fromkeys([*self.names, *names]))
        self.check_width(len(self.names))
        if "" in self.names:
            raise TableRefused("A member has an empty name.", expected="a name for each column")

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield row (from 1), line (from 1) and object of each line that has one, without an array's punctuation."""
        row = line = 0
        most = max(self.limits.field_bytes * 2, 64 * MB)
        with self.path.open("rb") as file:
            while text := file.readline(most):
                line += 1
                if len(text) >= most:
                    raise TooLarge(f"Line {line} is longer than the limit.", expected=f"at most {most} bytes")
                text = text.strip()
                if text in (b"[", b"]", b""):
                    continue
                text = text.removesuffix(b",")
                if row == 0 and text.startswith(b"[{"):
                    text = text[1:]
                if text.startswith(b"{") and text.endswith(b"}]"):
                    text = text[:-1]
                row += 1
                yield row, line, text

    def plans(self) -> list[ColumnPlan]:
        sample = []
        nested: dict[str, str] = {}
        for row, _, text in self._lines():
            try:
                members = _decoder.decode(text)
                for name, value in members.items():
                    if bytes(value)[:1] in (b"[", b"{"):
                        nested.setdefault(name, bytes(value).decode("utf-8", "replace"))
                sample.append([self._text(members.get(name)) for name in self.names])
            except (*_UNREADABLE, _BadMember):
                pass  # reported when the rows are read
            if row > SAMPLED_ROWS or row * len(self.names) > SAMPLED_VALUES:
                break
        for name, example in nested.items():
            message = f"{name!r} holds objects or lists, which are read as texts: write their parts as columns."
            self.add_notice("nested_as_text", message, column=name, evidence=f"such as {example[:60]}")
        columns = list(zip(*sample, strict=True)) or [()] * len(self.names)
        texts = {name: pa.array(column, pa.string()) for name, column in zip(self.names, columns, strict=True)}
        return propose_plans(texts, self.options, quoted=self.options.missing is None)

    def batches(self) -> Batches:
        numbers: list[int] = []
        rows: list[list[str | None]] = []
        size = 0
        for row, line, text in self._lines():
            self.check_length(row)
            try:
                rows.append(self._values(text))
            except (*_UNREADABLE, _BadMember) as error:
                self._reject(_unreadable(row, line, text, error))
                continue
            numbers.append(row)
            size += len(text)
            if len(rows) >= BATCH_ROWS or size > BATCH_BYTES:
                yield np.array(numbers), self._batch(rows)
                numbers, rows, size = [], [], 0
        if rows:
            yield np.array(numbers), self._batch(rows)

    def _batch(self, rows: list[list[str | None]]) -> pa.RecordBatch:
        arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, names=list(self.names))

    def _values(self, text: bytes) -> list[str | None]:
        """Return an object's members in the columns' order. Raises ReadAgain where it has a new one, _BadMember."""
        members = _decoder.decode(text)
        # Nested objects and texts with a quote and a colon are counted as well; few rows have more than members.
        if text.count(b'":') + text.count(b'" :') > len(members) and (name := _repeated_name(text)) is not None:
            raise _BadMember(f"it names {name!r} twice")
        values = [self._text(members.pop(name, None)) for name in self.names]
        if members:
            self._add_names(members)
            raise ReadAgain
        return values

    def _text(self, raw: msgspec.Raw | None) -> str | None:
        data = b"null" if raw is None else bytes(raw)
        if data == b"null":
            return None
        text = msgspec.json.decode(data) if data[:1] == b'"' else None
        if len(data) > self.limits.field_bytes:
            raise _BadMember(f"a member has {len(data)} bytes; the limit is {self.limits.field_bytes}")
        if isinstance(text, str):
            if "\0" in text:
                raise _BadMember("a text has a NUL byte")
            return None if text in self.missing else text
        if data[:1] in b"[{":
            return msgspec.json.encode(msgspec.json.decode(data)).decode()
        return data.decode()

    def _reject(self, problem: Problem) -> None:
        self.rejected += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        self.refuse_if_strict()

    def locate(self, problems: Sequence[Problem]) -> list[Problem]:
        wanted = {problem.row for problem in problems if problem.line is None and problem.row}
        lines: dict[int | None, int] = {}
        for row, line, _ in self._lines() if wanted else ():
            if row in wanted:
                lines[row] = line
            if len(lines) == len(wanted):
                break
        return [replace(problem, line=problem.line or lines.get(problem.row)) for problem in problems]


def _repeated_name(text: bytes) -> str | None:
    """Return a name that an object has twice: the decoder would keep the last value in silence."""
    names: set[str] = set()
    for name, _ in json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str):
        if name in names:
            return str(name)
        names.add(name)
    return None


def _unreadable(row: int, line: int, text: bytes, error: Exception) -> Problem:
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    no_number = _NO_NUMBER.search(text)
    return Problem(
        f"Row {row} (line {line}) cannot be read: {why}.",
        row=row,
        line=line,
        received=excerpt_of_cell(text.decode("utf-8", "replace")),
        expected="a JSON object on one line",
        fix=f"JSON has no {no_number[1].decode()}: write null where a value is missing." if no_number else None,
    )


def _to_lines(path: Path, target: Path) -> tuple[Path, str | None]:
    """Write a JSON file that is one value as JSON Lines, wherever its lines break; leave any other file as it is.

    Returns the file to read, and where the rows of an object stood.
    """
    with path.open("rb") as file:
        first = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if path.stat().st_size > ARRAY_BYTES or not (first == b"[" or (first == b"{" and _is_one_object(path))):
            return path, None
        file.seek(0)
        data = file.read()
    where = None
    if first == b"{":
        rows = rows_of(data)
        if rows is None:
            return path, None
        items, where = rows
    else:
        try:
            items = [bytes(item) for item in msgspec.json.decode(data, type=list[msgspec.Raw])]
        except _UNREADABLE:
            items = [line for line in map(bytes.strip, data.split(b"\n")) if line]
            if not all(line[:1] == b"[" and line[-1:] == b"]" for line in items):
                return path, None  # the error is reported with its line when the rows are read
        if items and all(item[:1] == b"[" for item in items):
            if (lists := rows_of_lists(items)) is None:
                return path, None
            items, where = lists
    with target.open("wb") as out:
        for item in items:
            out.write(b" ".join(item.split(b"\n")) + b"\n")
    return target, where


def _is_one_object(path: Path) -> bool:
    """Return whether a file that begins with an object may hold that one alone: no second one begins a line."""
    with path.open("rb") as file:
        file.readline(ARRAY_BYTES)
        return not any(line.startswith(b"{") for line in file)
