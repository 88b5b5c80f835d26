"""CSV by pyarrow's parser, every field as text, with the exact row and line of whatever is wrong.

All columns are read as strings; `ColumnParser` makes values of them afterwards. So leading zeros, spellings of missing
values and bad numbers keep their text and their row.
"""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fitserve.datasets import LENIENT_FIX, MAX_PROBLEMS, TableUnreadable, bad_value, refuse
from fitserve.datasets.column_plan import ColumnPlan, propose_plans
from fitserve.datasets.readers import Batches, ReadAgain, TableReader
from fitserve.datasets.readers.csv_dialect import CsvDialect, detect_dialect
from fitserve.datasets.source_file import first_invalid_utf8, guess_encoding, transcode
from fitserve.encoding.coercion import clipped
from fitserve.errors import Problem, TooLarge
from fitserve.settings import MB, Limits
from fitserve.spelling.words import DISPUTABLE, MISSING
from fitserve.wire.datasets import UploadOptions

FIRST_BLOCK = MB  # the parser takes some 50 times this much memory
LARGEST_BLOCK = 16 * MB  # a longer row is refused whatever the limit of a field
BATCH_BYTES = 4 * MB
BATCH_ROWS = 32_768
PIECES = 8  # sampled from beyond the file's first megabyte
PIECE_BYTES = 128 * 1024


class _InvalidUtf8(Exception):
    """A byte is not UTF-8: the file must be transcoded and read again."""


class _BlockTooSmall(Exception):
    """A row is longer than a block: the file must be read again with larger ones."""


class CsvReader(TableReader):
    """A CSV file. It is read again with larger blocks or in another encoding where it turns out to need them."""

    format = "csv"
    suffixes = ("csv", "tsv", "txt")
    is_text = True

    def __init__(self, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
        super().__init__(path, options, limits, folder)
        self.block = FIRST_BLOCK
        self._skipped: list[int] = []  # data rows that the parser left out, ascending
        with path.open("rb") as file:
            head = file.read(MB)
        whole = len(head) == path.stat().st_size
        self.dialect, self.header_problems = detect_dialect(head.decode("utf-8", "replace"), options, limits, whole)
        self.names = self.dialect.names
        # Where some fields are quoted and others are not, a quoted NA is a text and an unquoted one is missing.
        by_column = any(format.missing is not None or format.keep for format in options.formats.values())
        self.quoted_words = options.missing is None and not by_column and self._has_quoted_words(head)
        self.missing: tuple[str, ...]
        if by_column:
            self.missing = ("",)  # each column's parser knows its own
        elif options.missing is not None:
            self.missing = ("", *options.missing)
        else:
            self.missing = MISSING if self.quoted_words else tuple(word for word in MISSING if word not in DISPUTABLE)
        self.description = {
            "delimiter": self.dialect.delimiter,
            "header": self.dialect.header,
            "decimal": self.dialect.decimal,
        }

    def plans(self) -> list[ColumnPlan]:
        pieces = [piece for piece in self._sample_pieces() if piece is not None]
        sample = (
            pa.concat_tables(pieces) if pieces else pa.table({name: pa.array([], pa.string()) for name in self.names})
        )
        dialect = self.dialect
        columns = {name: column.combine_chunks() for name, column in zip(self.names, sample.columns, strict=True)}
        return propose_plans(
            columns,
            self.options,
            trim=dialect.trim,
            quoted=self.quoted_words,
            european=dialect.delimiter != ",",
        )

    def _has_quoted_words(self, head: bytes) -> bool:
        """Return whether a spelling of missing is quoted somewhere in a file of which not all fields are quoted."""
        quote, delimiter = self.dialect.quote.encode(), self.dialect.delimiter.encode()
        lines = [line for line in head.splitlines()[1:50] if line]
        fields = [field.strip() for line in lines for field in line.split(delimiter)]
        if all(field[:1] == quote or field[-1:] == quote for field in fields):
            return False
        words = [quote + word.encode() + quote for word in DISPUTABLE]
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(word) >= 0 for word in words)

    def _sample_pieces(self) -> Iterator[pa.Table | None]:
        """Yield the rows of the file's first megabyte and of some pieces of the rest."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            head = file.read(MB)
            yield self._parse_piece(head if len(head) == size else head[: head.rfind(b"\n") + 1], self.dialect.header)
            step = (size - MB) // PIECES
            for at in range(PIECES if step > 2 * PIECE_BYTES else 0):
                file.seek(MB + at * step)
                data = file.read(PIECE_BYTES)
                yield self._parse_piece(data[data.find(b"\n") + 1 : data.rfind(b"\n") + 1], header=False)

    def _parse_piece(self, data: bytes, header: bool) -> pa.Table | None:
        """Return a piece's rows as texts; None where it does not parse: a sample is only a guess."""
        if not data:
            return None
        text = io.BytesIO(data.decode("utf-8", "replace").encode())
        try:
            return pa.csv.read_csv(text, **self._parser_options(max(2 * len(data), 1024), header, lambda _row: "skip"))
        except pa.ArrowInvalid:
            return None

    def _parser_options(self, block: int, header: bool, on_invalid_row: Any) -> dict[str, Any]:
        return {
            "read_options": pa.csv.ReadOptions(
                use_threads=False,
                block_size=block,
                column_names=list(self.names),
                skip_rows_after_names=int(header),
            ),
            "parse_options": pa.csv.ParseOptions(
                delimiter=self.dialect.delimiter,
                quote_char=self.dialect.quote,
                newlines_in_values=True,
                ignore_empty_lines=len(self.names) > 1,  # in a single column an empty line is a missing value
                invalid_row_handler=on_invalid_row,
            ),
            "convert_options": pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in self.names},
                strings_can_be_null=True,
                quoted_strings_can_be_null=not self.quoted_words,
                null_values=list(self.missing),
            ),
        }

    def batches(self) -> Batches:
        while True:
            delivered = False
            try:
                for numbers, batch in self._read_batches():
                    delivered = True
                    yield numbers, batch
                return
            except _BlockTooSmall:
                self.block *= 4
            except _InvalidUtf8:
                encoding = guess_encoding(self.path, first_invalid_utf8(self.path) or 0)
                self.path = transcode(self.path, self.folder / "text", encoding, self.limits)
                self.description["encoding"] = encoding
            if delivered:  # what was delivered may have been read in the wrong encoding
                raise ReadAgain
            self.problems.clear()

    def _read_batches(self) -> Batches:
        """Yield batches of a good size. Raises _InvalidUtf8, _BlockTooSmall, TableRefused, TooLarge."""
        self.rejected, self._skipped = 0, []
        source = _NulDetectingFile(self.path)
        records, position = 0, 1
        last_batch = None
        buffer = _BatchBuffer()
        options = self._parser_options(self.block, self.dialect.header, self._on_invalid_row)
        try:
            parser = pa.csv.open_csv(pa.PythonFile(source, mode="r"), **options)
            while True:
                batch = parser.read_next_batch()
                records += batch.num_rows
                self.check_length(records)
                numbers, position = self._number_rows(batch.num_rows, position)
                numbers, batch = self._leave_out_bad_rows(numbers, batch, source.has_nul)
                self.refuse_if_strict()
                last_batch = batch if batch.num_rows else last_batch
                if buffer.add(numbers, batch):
                    yield buffer.drain()
        except StopIteration:
            if buffer.rows:
                yield buffer.drain()
            if last_batch is not None:
                self._refuse_open_quote(last_batch, position - 1)
        except pa.ArrowInvalid as error:
            self.refuse_if_strict(1)
            raise self._translate(str(error)) from None
        finally:
            source.close()

    def _on_invalid_row(self, row: pa.csv.InvalidRow) -> str:
        number = row.number - int(self.dialect.header)
        self._skipped.append(number)
        self.rejected += 1
        if len(self.problems) < MAX_PROBLEMS:
            problem = Problem(
                f"Row {number} has {row.actual_columns} fields; the header has {row.expected_columns}.",
                row=number,
                received=clipped(row.text),
                expected=f"{row.expected_columns} fields",
                fix=f"{LENIENT_FIX} Is a quote missing?",
            )
            self.problems.append(problem)
        return "skip" if self.options.lenient or self.rejected < MAX_PROBLEMS else "error"

    def _number_rows(self, count: int, position: int) -> tuple[np.ndarray, int]:
        """Return the data rows of the next `count` records, past those that the parser left out, and the next one."""
        self._skipped = [number for number in self._skipped if number >= position]
        candidates = np.arange(position, position + count + len(self._skipped))
        if self._skipped:
            candidates = candidates[~np.isin(candidates, np.array(self._skipped))]
        numbers = candidates[:count]
        return numbers, int(numbers[-1]) + 1 if count else position

    def _leave_out_bad_rows(
        self, numbers: np.ndarray, batch: pa.RecordBatch, has_nul: bool
    ) -> tuple[np.ndarray, pa.RecordBatch]:
        """Leave out rows with NUL bytes or fields that are too long, with a problem for each."""
        bad = np.zeros(batch.num_rows, bool)
        most = self.limits.field_bytes
        for name, column in zip(self.names, batch.columns, strict=True):
            if column.nbytes > most:
                lengths = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
                for at in np.flatnonzero(lengths > most):
                    bad[at] = True
                    received = f"{lengths[at]} bytes"
                    self._report(int(numbers[at]), name, received, f"at most {most} bytes in a field")
            if has_nul:
                hits = pc.match_substring(column, "\0").fill_null(False).to_numpy(zero_copy_only=False)
                for at in np.flatnonzero(hits):
                    bad[at] = True
                    self._report(int(numbers[at]), name, column[int(at)].as_py(), "a text without NUL bytes")
        if not bad.any():
            return numbers, batch
        self.rejected += int(bad.sum())
        return numbers[~bad], batch.filter(pa.array(~bad))

    def _report(self, row: int, column: str, received: object, expected: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(bad_value(row, column, received, expected))

    def _translate(self, message: str) -> Exception:
        """Return what to raise for one of pyarrow's errors, which have no types of their own."""
        if "UTF8" in message or "UTF-8" in message:
            return _InvalidUtf8(message)
        if "straddling" in message:
            if self.block < LARGEST_BLOCK:
                return _BlockTooSmall(message)
            return TooLarge(
                "A row is longer than the limit of a field, or a quote is never closed.",
                expected=f"at most {self.limits.field_bytes} bytes in a field",
                fix=f"Look for a lone {self.dialect.quote} in the file.",
            )
        shown = re.sub(r"\s+", " ", message)[:200]
        return TableUnreadable(f"This cannot be read as CSV: {shown}")

    def _refuse_open_quote(self, last_batch: pa.RecordBatch, row: int) -> None:
        """Raise TableRefused where the last field's quote is never closed: the parser closes it without a word."""
        value = last_batch.column(last_batch.num_columns - 1)[last_batch.num_rows - 1].as_py()
        if value is None:
            return
        quote = self.dialect.quote
        tail = (quote + value.replace(quote, quote + quote)).encode()
        with self.path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - len(tail) - 1))
            end = file.read()
        if end.endswith(tail) and end[: len(end) - len(tail)] in (b"", b"\n", self.dialect.delimiter.encode()):
            name = self.names[-1]
            problem = bad_value(row, name, value, "a field whose quote is closed", " The file ends within it.")
            raise refuse(self.locate([problem]))

    def locate(self, problems: Sequence[Problem]) -> list[Problem]:
        lines = lines_of_rows(self.path, self.dialect, [problem.row or 0 for problem in problems])
        return [replace(problem, line=line) for problem, line in zip(problems, lines, strict=True)]


class _NulDetectingFile(io.RawIOBase):
    """A file that remembers whether a NUL byte was read: only then are fields searched for them."""

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


class _BatchBuffer:
    """Joins the parser's small batches to larger ones."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, pa.RecordBatch]] = []
        self.rows = self.bytes = 0

    def add(self, numbers: np.ndarray, batch: pa.RecordBatch) -> bool:
        """Add a batch; return whether the buffer is full."""
        if batch.num_rows:
            self._parts.append((numbers, batch))
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
        return self.rows >= BATCH_ROWS or self.bytes >= BATCH_BYTES

    def drain(self) -> tuple[np.ndarray, pa.RecordBatch]:
        """Return all rows as one batch and empty the buffer."""
        parts, self._parts, self.rows, self.bytes = self._parts, [], 0, 0
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([numbers for numbers, _ in parts]), pa.concat_batches([batch for _, batch in parts])


def lines_of_rows(path: Path, dialect: CsvDialect, rows: Sequence[int]) -> list[int | None]:
    """Return the line (from 1) on which each data row (from 1) begins; a record may span several lines."""
    wanted = sorted({row + int(dialect.header) for row in rows if row > 0})
    found: dict[int, int] = {}
    records = lines = 0
    in_quotes = False
    at_start = True  # the last byte ended a record
    with path.open("rb") as file:
        while len(found) < len(wanted) and (chunk := file.read(16 * MB)):
            data = np.frombuffer(chunk, np.uint8)
            # Odd after an opening quote; a doubled quote inside a field changes it twice.
            parity = (np.cumsum(data == ord(dialect.quote)) + int(in_quotes)) & 1
            newline = data == ord("\n")
            begins = np.flatnonzero(newline & (parity == 0)) + 1
            if at_start:
                begins = np.concatenate([[0], begins])
            at_start = bool(newline[-1]) and not parity[-1]
            begins = begins[begins < len(data)]
            if len(dialect.names) > 1:  # then the parser ignores empty lines
                first, second = data[begins], data[np.minimum(begins + 1, len(data) - 1)]
                begins = begins[~((first == ord("\n")) | ((first == ord("\r")) & (second == ord("\n"))))]
            lines_before = np.cumsum(newline)
            for record in wanted:
                place = record - records - 1
                if 0 <= place < len(begins):
                    begin = int(begins[place])
                    found[record] = lines + 1 + int(lines_before[begin - 1] if begin else 0)
            records += len(begins)
            lines += int(lines_before[-1])
            in_quotes = bool(parity[-1])
    return [found.get(row + int(dialect.header)) for row in rows]
