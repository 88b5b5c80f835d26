"""CSV by pyarrow's parser, every field as text, with the exact row and line of whatever is wrong.

All columns are read as strings; `ColumnParser` makes values of them afterwards. So leading zeros, spellings of missing
values and bad numbers keep their text and their row.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fitserve.datasets import LENIENT_FIX, MAX_PROBLEMS, TableUnreadable, bad_value, refuse
from fitserve.datasets.column_plan import ColumnPlan
from fitserve.datasets.plan_proposal import propose_plans
from fitserve.datasets.readers import Batches, ReadAgain, TableReader
from fitserve.datasets.readers.batch_buffer import BatchBuffer
from fitserve.datasets.readers.csv_dialect import detect_dialect
from fitserve.datasets.readers.csv_layout import Grammar, find_end
from fitserve.datasets.readers.csv_quotes import (
    double_stray_quotes,
    fewest_joined,
    has_quoted_words,
    joins_rows,
    lines_at,
    note_stray_quotes,
    open_field,
    watch_quotes,
)
from fitserve.datasets.readers.csv_region import Region, RegionReader, each_line_has, lines_of_rows
from fitserve.datasets.readers.csv_rewrites import end_lines_as_usual, find_rewrite, unusual_line_end, write_anew
from fitserve.datasets.utf8 import first_invalid_utf8, transcode_guessed
from fitserve.errors import Problem, TooLarge
from fitserve.excerpts import excerpt_of_cell
from fitserve.parsing.missing import MISSING, UNDISPUTED
from fitserve.parsing.stray_quotes import QuoteWatch
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import NO_CHARACTER, UploadOptions

FIRST_BLOCK = MB  # bytes; the parser takes about 50 times this much memory
MAX_BLOCK = 16 * MB  # a longer row is refused, whatever the limit per field
PIECES = 8  # pieces sampled from beyond the file's first megabyte
PIECE_BYTES = 128 * 1024
HEAD_BYTES = 64 * 1024  # bytes that decide whether lines are rewritten
SHOWN_RAGGED = 3  # rows shown per wrong number of fields
END_OF_FILE = "\x1a\0"  # DOS's mark, and padding
_MARK = re.compile(rb"\xef\xbb\xbf")
_LINE_ENDS = re.compile(rb"\r\n|\n|\r")


class _InvalidUtf8(Exception):
    """A byte is not UTF-8: the file must be transcoded and read again."""


class _QuotesAreText(Exception):
    """Quotes join lines that are rows each: the file must be read again with quotes as text."""


class _QuotesDoubled(Exception):
    """Stray quotes, which the parser drops, have been doubled: the file must be read again."""


class _BlockTooSmall(Exception):
    """A row is longer than a block: the file must be read again with larger ones."""


class CsvReader(TableReader):
    """A CSV file. It is read again with larger blocks or in another encoding where it turns out to need them."""

    format = "csv"
    title = "CSV"
    is_text = True

    def __init__(self, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
        if (line_end := unusual_line_end(_head_of(path))) is not None:
            path = end_lines_as_usual(path, folder / "lines", line_end)
        rewrite = find_rewrite(_head_of(path).rpartition("\n")[0], options)
        self._names_before = int(bool(rewrite and rewrite.names))
        if rewrite is not None:
            path = write_anew(path, folder / "rewritten", rewrite)
            update = {"delimiter": rewrite.delimiter, **({"header": True} if rewrite.names else {})}
            options = options.model_copy(update=update)
        super().__init__(path, options, limits, folder)
        self.block = FIRST_BLOCK
        self._skipped: list[int] = []  # data rows that the parser left out, ascending
        self._ragged: Counter[int] = Counter()  # number of rows by field count, if it differs from the header's
        self._quotes_are_sure = options.quote is not None
        self._has_doubled_quotes = False
        self._before_doubling: Path | None = None  # the file whose stray quotes were doubled
        self._counted: Path | None = None  # the file with its unquoted fields that hold a quote quoted, to find lines
        with path.open("rb") as file:
            head = file.read(MB)
        whole = len(head) == path.stat().st_size
        text = head.decode("utf-8", "replace").rstrip(END_OF_FILE if whole else "").replace("\n\ufeff", "\n")
        self.dialect, self.notices = detect_dialect(text, options, limits, whole)
        self.names = self.dialect.names
        self.region = self._find_region(head)
        rows = head[self.region.start :]
        # Where some fields are quoted and others are not, a quoted NA is a text and an unquoted one is missing.
        by_column = any(format.missing is not None or format.keep for format in options.formats.values())
        self.quoted_words = options.missing is None and not by_column and has_quoted_words(path, self.dialect, rows)
        self.missing: tuple[str, ...]
        if by_column:
            self.missing = ("",)  # each column's parser applies its own spellings
        elif options.missing is not None:
            self.missing = ("", *options.missing)
        else:
            self.missing = MISSING if self.quoted_words else UNDISPUTED
        if self.dialect.index is not None:
            self.set_aside(self.dialect.index, "a first column without a header, as pandas and R write row names")
        self.description = {
            "delimiter": self.dialect.delimiter,
            "header": self.dialect.header,
            "decimal": self.dialect.decimal,
        }
        if self.dialect.quote != '"':
            self.description["quote"] = self.dialect.quote or NO_CHARACTER
        if self.dialect.escape is not None:
            self.description["escape"] = self.dialect.escape
        if options.quote is None and self.dialect.quote != '"':
            self._say_quote()
        if rewrite is not None:
            evidence, option = "each line has as many fields so", None
            if rewrite.names:
                evidence, option = "every field of the first lines is so", f"delimiter={rewrite.shown}"
            self.add_notice(rewrite.code, rewrite.message, evidence=evidence, option=option)
            self.description["delimiter"] = rewrite.shown or self.dialect.delimiter
        if line_end is not None:
            self.add_notice("unusual_line_ends", f"Lines end in {line_end}.", evidence="no line ends as usual")

    def _say_quote(self) -> None:
        quote = self.dialect.quote
        message = (
            f"Fields are quoted with {quote}" if quote else "Quotes are read as part of the text: nothing is quoted."
        )
        self.add_notice("quote", message, evidence="so each line has as many fields", option='quote="')

    def _find_region(self, head: bytes) -> Region:
        """Return the region of the file that contains the rows."""
        dialect = self.dialect
        ends = [match.end() for match in islice(_LINE_ENDS.finditer(head), dialect.first_line)]
        start = 0 if not dialect.first_line else ends[-1] if len(ends) == dialect.first_line else len(head)
        region = Region(
            start=start,
            lines_before=dialect.first_line,
            quote=(dialect.quote or "").encode() or None,
            comment=(dialect.comment or "").encode() or None,
            quoted_after_blank=dialect.delimiter.encode() if dialect.blank_before_quote else None,
            blank_runs=dialect.blank_runs,
            drop_comments=len(dialect.names) == 1,
        )
        grammar = Grammar(dialect.delimiter, dialect.quote, dialect.escape, dialect.blank_before_quote)
        end, notices = find_end(
            self.path, region.start, head[region.start :], grammar, len(self.names), self.options.footer
        )
        self.notices += [notice for notice in notices if notice not in self.notices]
        return replace(region, end=end)

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
            european=dialect.delimiter != "," and len(self.names) > 1,
        )

    def _sample_pieces(self) -> Iterator[pa.Table | None]:
        """Yield the rows of the region's first megabyte and of some pieces of the rest."""
        region = self.region
        size = self.path.stat().st_size if region.end is None else region.end
        reader = RegionReader(self.path, region)
        try:
            with self.path.open("rb") as file:
                for start in (region.start, *self._piece_starts(region.start, size)):
                    file.seek(start)
                    most = MB if start == region.start else PIECE_BYTES
                    data = file.read(min(most, size - start))
                    if start + len(data) < size:
                        data = data[: data.rfind(b"\n") + 1]
                    if start > region.start:
                        data = data[data.find(b"\n") + 1 :]
                    yield self._parse_piece(reader.filtered(data))
        finally:
            reader.close()

    def _piece_starts(self, start: int, size: int) -> list[int]:
        step = (size - start - MB) // PIECES
        return [start + MB + index * step for index in range(PIECES)] if step > 2 * PIECE_BYTES else []

    def _parse_piece(self, data: bytes) -> pa.Table | None:
        """Return a piece's rows as texts; None if it does not parse, because it may begin within a record."""
        if not data:
            return None
        text = io.BytesIO(data.decode("utf-8", "replace").encode())
        try:
            table = pa.csv.read_csv(text, **self._parser_options(max(2 * len(data), 1024), lambda _row: "skip"))
        except pa.ArrowInvalid:
            return None
        first = _without_marks(table.column(0).combine_chunks())
        table = table.set_column(0, table.field(0), first).select(list(self.names)).combine_chunks()
        if self.dialect.header and len(self.names) > 1 and table.num_rows:
            table = table.filter(pa.array(~self._repeat_the_header(table.to_batches()[0])))
        return table

    def _parser_options(self, block: int, on_invalid_row: Any) -> dict[str, Any]:
        names = [*self.names, ""] if self.dialect.trailing else list(self.names)
        return {
            "read_options": pa.csv.ReadOptions(use_threads=False, block_size=block, column_names=names),
            "parse_options": pa.csv.ParseOptions(
                delimiter=self.dialect.delimiter,
                quote_char=self.dialect.quote or False,
                escape_char=self.dialect.escape or False,
                newlines_in_values=self.dialect.quote is not None,
                ignore_empty_lines=len(names) > 1,  # in a single column an empty line is a missing value
                invalid_row_handler=on_invalid_row,
            ),
            "convert_options": pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
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
            except _QuotesAreText:
                self.dialect = replace(self.dialect, quote=None, escape=None)
                self.region = replace(self.region, quote=None, quoted_after_blank=None)
                self.description["quote"] = NO_CHARACTER
                self._say_quote()
            except _QuotesDoubled:
                pass
            except _InvalidUtf8:
                self._transcode()
            if delivered:  # batches already delivered may have been read in the wrong encoding
                raise ReadAgain
            self.problems.clear()

    def _transcode(self) -> None:
        """Transcode a text that turned out not to be UTF-8; its lines may then begin at other bytes."""
        text = transcode_guessed(self.path, first_invalid_utf8(self.path) or 0, self.folder, self.limits)
        self.path, self.description["encoding"], self._counted = text.path, text.encoding, None
        with self.path.open("rb") as file:
            self.region = self._find_region(file.read(MB))
        if text.notice is not None:
            self.notices.insert(0, text.notice)

    def _read_batches(self) -> Batches:
        """Yield batches of a good size. Raises _InvalidUtf8, _BlockTooSmall, TableRefused, TooLarge."""
        self.rejected, self._skipped = 0, []
        self._ragged.clear()
        watch = None if self._has_doubled_quotes else watch_quotes(self.region, self.dialect)
        source = RegionReader(self.path, self.region, watch)
        records, position = 0, 1
        last_batch = None
        buffer = BatchBuffer()
        options = self._parser_options(self.block, self._on_invalid_row)
        try:
            parser = pa.csv.open_csv(pa.PythonFile(source, mode="r"), **options)
            while True:
                batch = parser.read_next_batch()
                records += batch.num_rows
                self.check_length(records)
                numbers, position = self._number_rows(batch.num_rows, position)
                if source.has_quote and not self._quotes_are_sure:
                    self._check_quotes(batch)
                self._double_stray_quotes(watch)
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
            self._double_stray_quotes(watch)
            self.refuse_if_strict(1)
            raise self._translate(str(error)) from None
        finally:
            source.close()

    def _on_invalid_row(self, row: pa.csv.InvalidRow) -> str:
        number = row.number
        self._skipped.append(number)
        self.rejected += 1
        self._ragged[row.actual_columns] += 1
        if len(self.problems) < MAX_PROBLEMS and self._ragged[row.actual_columns] <= SHOWN_RAGGED:
            fields, usual = row.actual_columns, row.expected_columns
            problem = Problem(
                f"Row {number} has {fields} fields; the others have {usual}, the last one empty."
                if self.dialect.trailing
                else f"Row {number} has {fields} fields; the header has {usual}.",
                row=number,
                received=excerpt_of_cell(row.text),
                expected=f"{usual} fields",
                fix=f"{LENIENT_FIX} Is a quote missing?",
            )
            self.problems.append(problem)
        return "skip" if self.options.lenient or self.rejected < MAX_PROBLEMS else "error"

    def refuse_if_strict(self, least: int = MAX_PROBLEMS) -> None:
        """Raise TableRefused for a strict upload with this many bad records; many of one width are one problem."""
        if not self.options.lenient and self.rejected >= least:
            raise refuse(self.locate([*self._summaries(), *self.problems]), self.rejected)

    def _summaries(self) -> list[Problem]:
        """Return one problem for each wrong field count that has more rows than are shown."""
        width = len(self.names)
        return [
            Problem(
                f"{'At least ' if self.rejected >= MAX_PROBLEMS else ''}{count} rows have {fields} fields; "
                f"the header has {width}.",
                expected=f"{width} fields",
                fix="Is the header complete, the delimiter right, or a quote part of the text (quote=none)? "
                "Lines before or after the table: skip_rows, footer, comment.",
            )
            for fields, count in self._ragged.items()
            if count > SHOWN_RAGGED
        ]

    def _check_quotes(self, batch: pa.RecordBatch) -> None:
        """Raise _QuotesAreText where quotes joined lines that are rows each: a quote is a character of such a file."""
        if joins_rows(batch, self.dialect):
            self._quotes_are_sure = True  # asked once
            if self._reads_without_quotes():
                raise _QuotesAreText

    def _double_stray_quotes(self, watch: QuoteWatch | None) -> None:
        """Where a quote may be stray, look through the file. Raises _QuotesDoubled if one is, or _QuotesAreText."""
        if watch is None or not watch.is_suspicious or self._has_doubled_quotes:
            return
        self._has_doubled_quotes = True  # looked for once
        target = self.folder / "quotes"
        found = double_stray_quotes(self.path, target, self.region, self.dialect)
        if not found.count:
            self._counted = target
            return
        if found.joined >= fewest_joined(self.dialect) and not self._quotes_are_sure and self._reads_without_quotes():
            raise _QuotesAreText
        self._before_doubling, self.path = self.path, target
        with target.open("rb") as file:
            self.region = self._find_region(file.read(MB))
        self.notices.append(note_stray_quotes(found, self.region))
        raise _QuotesDoubled

    def _reads_without_quotes(self) -> bool:
        """Return whether each line of the table has as many fields as there are columns, with quotes as text."""
        wanted = len(self.names) - 1 + int(self.dialect.trailing)
        return each_line_has(self.path, replace(self.region, quote=None), self.dialect.delimiter, wanted, MAX_BLOCK)

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
        first = batch.column(0)
        if (unmarked := _without_marks(first)) is not first:
            batch = batch.set_column(0, batch.field(0), unmarked)
        bad = np.zeros(batch.num_rows, bool)
        most = self.limits.field_bytes
        if self.dialect.trailing:
            last = pc.utf8_trim_whitespace(batch.column(batch.num_columns - 1).fill_null(""))
            extra = pc.not_equal(last, "").to_numpy(zero_copy_only=False)
            for index in np.flatnonzero(extra):
                bad[index] = True
                received, expected = (
                    batch.column(batch.num_columns - 1)[int(index)].as_py(),
                    "nothing after the last delimiter",
                )
                self._report(int(numbers[index]), str(len(self.names) + 1), received, expected)
            batch = batch.select(list(self.names))
        if self.dialect.header and len(self.names) > 1 and (again := self._repeat_the_header(batch)).any():
            where = f"the first is row {numbers[again][0]}"
            if not any(notice.code == "header_repeated" for notice in self.notices):
                self.add_notice("header_repeated", "Rows that repeat the header are left out.", evidence=where)
            numbers, batch, bad = numbers[~again], batch.filter(pa.array(~again)), bad[~again]
        for name, column in zip(self.names, batch.columns, strict=True):
            if column.nbytes > most:
                lengths = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
                for index in np.flatnonzero(lengths > most):
                    bad[index] = True
                    received = f"{lengths[index]} bytes"
                    self._report(int(numbers[index]), name, received, f"at most {most} bytes in a field")
            if has_nul:
                hits = pc.match_substring(column, "\0").fill_null(False).to_numpy(zero_copy_only=False)
                for index in np.flatnonzero(hits):
                    bad[index] = True
                    self._report(int(numbers[index]), name, column[int(index)].as_py(), "a text without NUL bytes")
        if not bad.any():
            return numbers, batch
        self.rejected += int(bad.sum())
        return numbers[~bad], batch.filter(pa.array(~bad))

    def _repeat_the_header(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return a mask (bool) of the rows that repeat the header, as in files that were put together."""
        first = pc.equal(batch.column(0), self.names[0]).fill_null(False).to_numpy(zero_copy_only=False)
        again = np.zeros(batch.num_rows, bool)
        for index in np.flatnonzero(first):
            row = batch.slice(int(index), 1)
            again[index] = all(
                (row.column(one)[0].as_py() or "").strip() == name for one, name in enumerate(self.names)
            )
        return again

    def _report(self, row: int, column: str, received: object, expected: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(bad_value(row, column, received, expected))

    def _translate(self, message: str) -> Exception:
        """Return the error to raise for one of pyarrow's, which have no types of their own."""
        if "UTF8" in message or "UTF-8" in message:
            return _InvalidUtf8(message)
        if "straddling" in message:
            if self.block < MAX_BLOCK:
                return _BlockTooSmall(message)
            if not self._quotes_are_sure and self._reads_without_quotes():
                return _QuotesAreText()
            return TooLarge(
                "A row is longer than the limit of a field, or a quote is never closed.",
                expected=f"at most {self.limits.field_bytes} bytes in a field",
                fix=f"Look for a lone {self.dialect.quote} in the file; quote=none reads quotes as text.",
            )
        shown = re.sub(r"\s+", " ", message)[:200]
        return TableUnreadable(f"This cannot be read as CSV: {shown}")

    def _refuse_open_quote(self, last_batch: pa.RecordBatch, row: int) -> None:
        """Raise TableRefused where the last field's quote is never closed."""
        value = open_field(self.path, self.region, self.dialect, last_batch)
        if value is None:
            return
        if not self._quotes_are_sure and self.dialect.delimiter == "\t" and self._reads_without_quotes():
            raise _QuotesAreText
        expected = "a field whose quote is closed"
        raise refuse(self.locate([bad_value(row, self.names[-1], value, expected, " The file ends within it.")]))

    def locate(self, problems: Sequence[Problem]) -> list[Problem]:
        path, region = self.path, self.region
        if self._counted is not None:
            path, grown = self._counted, self._counted.stat().st_size - self.path.stat().st_size
            region = replace(region, end=None if region.end is None else region.end + grown)
        lines = lines_of_rows(path, region, len(self.names), [problem.row or 0 for problem in problems])
        if self._before_doubling is not None:  # say what the client wrote
            shown = lines_at(self._before_doubling, {line for line in lines if line})
            problems = [
                replace(problem, received=excerpt_of_cell(shown[line].rstrip("\r\n")))
                if line and problem.column is None and isinstance(problem.received, str)
                else problem
                for problem, line in zip(problems, lines, strict=True)
            ]
        before = self._names_before
        return [replace(problem, line=line and line - before) for problem, line in zip(problems, lines, strict=True)]


def _head_of(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).decode("utf-8", "replace")


def _without_marks(first: pa.Array) -> pa.Array:
    """Return a first column without byte order marks, which stand before rows where files were put together."""
    data = first.buffers()[2]
    if data is None or _MARK.search(data) is None:
        return first
    return pc.replace_substring_regex(first, "^\ufeff", "")
