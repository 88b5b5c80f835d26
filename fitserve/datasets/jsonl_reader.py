"""JSON Lines: an object on each line, read strictly, its values as text for the judge.

Numbers keep their spelling; true, false and null are what they say; a nested list or object is kept as its JSON text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from fitserve.datasets.column_types import Plan, propose
from fitserve.datasets.csv_reader import MISSING
from fitserve.datasets.reader import Restart
from fitserve.datasets.table_problems import MOST, TableRefused, TableUnreadable, refuse
from fitserve.encoding.coercion import clipped
from fitserve.errors import Problem, TooLarge
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions

BATCH = 10_000  # lines
ARRAY_BYTES = 64 << 20  # an array is read at once up to this size; a larger one must have an object on each line
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the last: nested thousands deep


class JsonLinesTable:
    """A JSON Lines file; a JSON array of objects with one object a line is understood too."""

    def __init__(self, path: Path, options: UploadOptions, limits: Limits) -> None:
        self.path, self.options, self.limits = path, options, limits
        self.missing = frozenset(MISSING if options.missing is None else ("", *options.missing))
        self.problems: list[Problem] = []
        self.refused = 0
        self.names: Sequence[str] = self._first_names()

    def _first_names(self) -> list[str]:
        names: dict[str, None] = {}
        for row, line, text in self._lines():
            try:
                names.update(dict.fromkeys(_decoder.decode(text)))
            except _UNREADABLE as error:
                if row == 1 and not self.options.lenient:
                    raise refuse([self._problem(row, line, text, error)]) from None
            if row > 1000:
                break
        if not names:
            raise TableUnreadable("There is no object with any member.", expected='lines such as {"age": 31}')
        return self._named(names)

    def _named(self, names: dict[str, None]) -> list[str]:
        if len(names) > self.limits.columns:
            raise TooLarge(
                "The table has more columns than the limit.", received=len(names), expected=f"{self.limits.columns}"
            )
        if "" in names:
            raise TableRefused("A member has an empty name.", expected="a name for each column")
        return list(names)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Row (from 1), line (from 1) and text of each line that is not blank."""
        row = 0
        most = max(self.limits.field_bytes * 2, 64 * 1024 * 1024)
        with self.path.open("rb") as file:
            line = 0
            while text := file.readline(most):
                line += 1
                if len(text) >= most:
                    raise TooLarge(f"Line {line} is longer than the limit.", expected=f"at most {most} bytes")
                text = text.strip()
                if text in (b"[", b"]", b""):
                    continue
                if text.endswith(b","):
                    text = text[:-1]
                if row == 0 and text.startswith(b"[{"):
                    text = text[1:]
                if text.startswith(b"{") and text.endswith(b"}]"):
                    text = text[:-1]
                row += 1
                yield row, line, text

    def plans(self) -> list[Plan]:
        """From the first lines."""
        columns: list[list[str | None]] = [[] for _ in self.names]
        for row, line, text in self._lines():
            values = self._values(row, line, text, quiet=True)
            if values is not None:
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
            if row > 2000:
                break
        kinds = self.options.kinds
        return [
            propose(pa.array(column, pa.string()), kinds.get(name), ".", False)
            for name, column in zip(self.names, columns, strict=True)
        ]

    def batches(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers and texts. Raises TableRefused, and Restart where a new member comes up."""
        numbers: list[int] = []
        rows: list[list[str | None]] = []
        size = 0
        for row, line, text in self._lines():
            if row > self.limits.rows:
                raise TooLarge("The table has more rows than the limit.", expected=f"at most {self.limits.rows}")
            values = self._values(row, line, text)
            if values is None:
                continue
            numbers.append(row)
            rows.append(values)
            size += len(text)
            if len(rows) >= BATCH or size > 16 << 20:
                yield np.array(numbers), self._batch(rows)
                numbers, rows, size = [], [], 0
        if rows:
            yield np.array(numbers), self._batch(rows)

    def _batch(self, rows: list[list[str | None]]) -> pa.RecordBatch:
        arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, names=list(self.names))

    def _values(self, row: int, line: int, text: bytes, quiet: bool = False) -> list[str | None] | None:
        """A line's values in the columns' order; None where it is refused."""
        try:
            members = _decoder.decode(text)
            values = [self._text(members.pop(name, None)) for name in self.names]
        except (*_UNREADABLE, _BadField) as error:
            if not quiet:
                self._refuse(self._problem(row, line, text, error))
            return None
        if members and not quiet:
            self.names = self._named({**dict.fromkeys(self.names), **dict.fromkeys(members)})
            raise Restart
        return values

    def _text(self, raw: msgspec.Raw | None) -> str | None:
        if raw is None:
            return None
        data = bytes(raw)
        if data[:1] == b'"':
            value: str = msgspec.json.decode(data)
            if len(data) > self.limits.field_bytes:
                raise _BadField(f"a member has {len(data)} bytes; the limit is {self.limits.field_bytes}")
            if "\0" in value:
                raise _BadField("a text has a NUL byte")
            return None if value in self.missing else value
        if data == b"null":
            return None
        if len(data) > self.limits.field_bytes:
            raise _BadField(f"a member has {len(data)} bytes; the limit is {self.limits.field_bytes}")
        if data[:1] in b"[{":
            return msgspec.json.encode(msgspec.json.decode(data)).decode()
        return data.decode()

    def _problem(self, row: int, line: int, text: bytes, error: Exception) -> Problem:
        shown: Any = clipped(text.decode("utf-8", "replace"))
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        detail = f"Row {row} (line {line}) cannot be read: {why}."
        return Problem(detail, row=row, line=line, received=shown, expected="a JSON object on one line")

    def _refuse(self, problem: Problem) -> None:
        self.refused += 1
        if len(self.problems) < MOST:
            self.problems.append(problem)
        if not self.options.lenient and self.refused >= MOST:
            raise refuse(self.problems, self.refused)

    def locate(self, problems: list[Problem]) -> list[Problem]:
        """With the file's lines: those of unreadable rows are known, others are looked up."""
        wanted = {problem.row for problem in problems if problem.line is None}
        lines: dict[int | None, int] = {}
        if wanted:
            last = max((row for row in wanted if row), default=0)
            for row, line, _ in self._lines():
                if row in wanted:
                    lines[row] = line
                if row >= last:
                    break
        members = list(Problem.__dataclass_fields__)
        return [
            Problem(**{**{m: getattr(p, m) for m in members}, "line": p.line or lines.get(p.row)}) for p in problems
        ]


def lines_of_array(path: Path, target: Path) -> Path:
    """A JSON array of objects, wherever its lines break, as JSON Lines; any other file as it is."""
    with path.open("rb") as file:
        if file.read(4096).lstrip()[:1] != b"[" or path.stat().st_size > ARRAY_BYTES:
            return path
        file.seek(0)
        try:
            items = msgspec.json.decode(file.read(), type=list[msgspec.Raw])
        except _UNREADABLE:
            return path  # the error is told line by line
    with target.open("wb") as out:
        for item in items:
            out.write(b" ".join(bytes(item).split(b"\n")) + b"\n")
    return target


class _BadField(Exception):
    """One member of a line cannot be taken."""
