"""CSV by pyarrow's parser, every field as text, with the exact row of whatever is wrong.

All columns are read as strings: what a field means is judged afterwards (`judge`), so that leading zeros, spellings
of missing and bad numbers keep their text and their row.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fitserve.datasets.dialect import Dialect
from fitserve.datasets.table_problems import MOST, TableUnreadable, bad_value, ragged, refuse
from fitserve.errors import Problem, TooLarge
from fitserve.settings import MB, Limits

BLOCK = MB  # the parser takes some 50 times this much memory
LARGEST_BLOCK = 16 * MB  # a longer row is refused whatever the limit of a field
BATCH_BYTES = 4 * MB
BATCH_ROWS = 32_768
MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN"),
    *("null", "NULL", "Null", "None", "?"),
)


class InvalidUtf8(Exception):
    """A byte that is not UTF-8 came up; the source must be opened again with another encoding."""


class _Watched(io.RawIOBase):
    """A file that remembers whether a NUL byte came by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = path.open("rb", buffering=0)
        self.has_nul = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        if data and b"\0" in data:
            self.has_nul = True
        return data or b""

    def close(self) -> None:
        self.file.close()
        super().close()


class _Gathered:
    """Small batches put together to one of a good size."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, pa.RecordBatch]] = []
        self.rows = self.bytes = 0

    def add(self, numbers: np.ndarray, batch: pa.RecordBatch) -> bool:
        """Whether there is enough."""
        if batch.num_rows:
            self.parts.append((numbers, batch))
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
        return self.rows >= BATCH_ROWS or self.bytes >= BATCH_BYTES

    def take(self) -> tuple[np.ndarray, pa.RecordBatch]:
        """All of it."""
        parts, self.parts, self.rows, self.bytes = self.parts, [], 0, 0
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([numbers for numbers, _ in parts]), pa.concat_batches([batch for _, batch in parts])


class CsvReader:
    """Batches of text columns. Bad records are gathered in `problems`; `refused` counts them.

    In strict mode 20 of them end the reading; in lenient mode they are left out.
    """

    def __init__(
        self, path: Path, dialect: Dialect, missing: Sequence[str], limits: Limits, lenient: bool, block: int = BLOCK
    ) -> None:
        self.path, self.dialect, self.limits, self.lenient = path, dialect, limits, lenient
        self.names = dialect.names
        self.missing = list(missing)
        self.block = block
        self.problems: list[Problem] = []
        self.refused = 0
        self._skipped: list[int] = []  # data rows that the parser left out, ascending

    def batches(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers (int64, from 1) and their fields as strings, null where missing.

        Raises TableRefused, TooLarge.
        """
        source = _Watched(self.path)
        read, position = 0, 1
        numbers, last = np.empty(0, np.int64), None
        gathered = _Gathered()
        try:
            reader = self._open(source)
            while True:
                batch = reader.read_next_batch()
                numbers, position = self._numbered(batch.num_rows, position)
                read += batch.num_rows
                if read > self.limits.rows:
                    raise TooLarge("The table has more rows than the limit.", expected=f"at most {self.limits.rows}")
                numbers, batch = self._checked(numbers, batch, source.has_nul)
                self._enough()
                last = batch if batch.num_rows else last
                if gathered.add(numbers, batch):
                    yield gathered.take()
        except StopIteration:
            if gathered.rows:
                yield gathered.take()
            if last is not None:
                self._refuse_open_quote(last, position - 1)
        except pa.ArrowInvalid as error:
            self._enough(1)
            raise self._unreadable(str(error)) from None
        finally:
            source.close()

    def _open(self, source: _Watched) -> pa.csv.CSVStreamingReader:
        one = len(self.names) == 1  # then an empty line is a missing value
        return pa.csv.open_csv(
            pa.PythonFile(source, mode="r"),
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                block_size=self.block,
                column_names=list(self.names),
                skip_rows_after_names=int(self.dialect.header),
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self.dialect.delimiter,
                quote_char=self.dialect.quote,
                newlines_in_values=True,
                ignore_empty_lines=not one,
                invalid_row_handler=self._on_invalid_row,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in self.names},
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=self.missing,
            ),
        )

    def _on_invalid_row(self, row: pa.csv.InvalidRow) -> str:
        number = row.number - int(self.dialect.header)
        self._skipped.append(number)
        self.refused += 1
        if len(self.problems) < MOST:
            self.problems.append(ragged(number, row.expected_columns, row.actual_columns, row.text))
        return "skip" if self.lenient or self.refused < MOST else "error"

    def _numbered(self, rows: int, position: int) -> tuple[np.ndarray, int]:
        """The data rows of the next `rows` records, where the parser has left some out."""
        skipped = [number for number in self._skipped if number >= position]
        self._skipped = skipped
        candidates = np.arange(position, position + rows + len(skipped))
        if skipped:
            candidates = candidates[~np.isin(candidates, np.array(skipped))]
        numbers = candidates[:rows]
        return numbers, int(numbers[-1]) + 1 if rows else position

    def _checked(self, numbers: np.ndarray, batch: pa.RecordBatch, has_nul: bool) -> tuple[np.ndarray, pa.RecordBatch]:
        """Leaves out rows with NUL bytes or fields that are too long, with a problem for each."""
        bad = np.zeros(batch.num_rows, bool)
        most = self.limits.field_bytes
        for name, column in zip(self.names, batch.columns, strict=True):
            if column.nbytes > most:
                lengths = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
                for at in np.flatnonzero(lengths > most):
                    bad[at] = True
                    size = int(lengths[at])
                    self._report(int(numbers[at]), name, f"{size} bytes", f"at most {most} bytes in a field")
            if has_nul:
                hits = pc.match_substring(column, "\0").fill_null(False).to_numpy(zero_copy_only=False)
                for at in np.flatnonzero(hits):
                    bad[at] = True
                    self._report(int(numbers[at]), name, column[int(at)].as_py(), "a text without NUL bytes")
        if not bad.any():
            return numbers, batch
        self.refused += int(bad.sum())
        return numbers[~bad], batch.filter(pa.array(~bad))

    def _report(self, row: int, column: str, received: object, expected: str) -> None:
        if len(self.problems) < MOST:
            self.problems.append(bad_value(row, column, received, expected))

    def _enough(self, least: int = MOST) -> None:
        if not self.lenient and self.refused >= least:
            raise refuse(self.locate(self.problems), self.refused)

    def _unreadable(self, message: str) -> Exception:
        if "UTF8" in message or "UTF-8" in message:
            return InvalidUtf8(message)
        if "straddling" in message:
            if self.block < LARGEST_BLOCK:
                return LargerBlocks()
            return TooLarge(
                "A row is longer than the limit of a field, or a quote is never closed.",
                expected=f"at most {self.limits.field_bytes} bytes in a field",
                fix=f"Look for a lone {self.dialect.quote} in the file.",
            )
        shown = re.sub(r"\s+", " ", message)[:200]
        return TableUnreadable(f"This cannot be read as CSV: {shown}")

    def _refuse_open_quote(self, last: pa.RecordBatch, row: int) -> None:
        """The parser takes a quote that is never closed as closed at the end; a person should know."""
        value = last.column(last.num_columns - 1)[last.num_rows - 1].as_py()
        if value is None:
            return
        quote = self.dialect.quote
        tail = (quote + value.replace(quote, quote + quote)).encode()
        with self.path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - len(tail) - 1))
            end = file.read()
        preceded = end[: len(end) - len(tail)] in (b"", b"\n", self.dialect.delimiter.encode())
        if end.endswith(tail) and preceded:
            name = self.names[-1]
            problem = bad_value(row, name, value, "a field whose quote is closed", " The file ends within it.")
            raise refuse(self.locate([problem]))

    def locate(self, problems: list[Problem]) -> list[Problem]:
        """The same problems with the file's lines."""
        lines = lines_of_rows(self.path, self.dialect, [problem.row or 0 for problem in problems])
        return [_on_line(problem, line) for problem, line in zip(problems, lines, strict=True)]


class LargerBlocks(Exception):
    """A row did not fit a block: read again with larger ones."""


def _on_line(problem: Problem, line: int | None) -> Problem:
    members = {key: getattr(problem, key) for key in Problem.__dataclass_fields__}
    return Problem(**{**members, "line": line})


def lines_of_rows(path: Path, dialect: Dialect, rows: Sequence[int]) -> list[int | None]:
    """The line (from 1) on which each data row (from 1) begins. Records of quotes with line breaks count as one."""
    wanted = sorted({row + int(dialect.header) for row in rows if row > 0})
    found: dict[int, int] = {}
    records = lines = 0
    inside = False
    at_start = True  # the last byte ended a record
    with path.open("rb") as file:
        while len(found) < len(wanted) and (chunk := file.read(16 * MB)):
            data = np.frombuffer(chunk, np.uint8)
            parity = (np.cumsum(data == ord(dialect.quote)) + int(inside)) & 1
            newline = data == 10
            ends = np.flatnonzero(newline & (parity == 0))
            begins = ends + 1
            if at_start:
                begins = np.concatenate([[0], begins])
            at_start = bool(len(data)) and bool(data[-1] == 10) and not parity[-1]
            begins = begins[begins < len(data)]
            if len(dialect.names) > 1:  # then empty lines are no records
                first = data[begins]
                after = data[np.minimum(begins + 1, len(data) - 1)]
                begins = begins[~((first == 10) | ((first == 13) & (after == 10)))]
            breaks = np.cumsum(newline)
            for record in wanted:
                place = record - records - 1
                if 0 <= place < len(begins):
                    begin = int(begins[place])
                    found[record] = lines + 1 + int(breaks[begin - 1] if begin else 0)
            records += len(begins)
            lines += int(breaks[-1])
            inside = bool(parity[-1])
    return [found.get(row + int(dialect.header)) for row in rows]
