"""A CSV file's table as a byte stream for the parser, without lines that are not rows, and its line numbers.

Lines keep their number: a comment becomes an empty line, which the parser ignores.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fitserve.parsing.stray_quotes import QuoteWatch
from fitserve.settings import MB

MAX_LINE = 64 * MB  # gathered until its end is seen
_BLANKS = re.compile(rb'"[^"\n]*+"|[ \t]++')


@dataclass(frozen=True)
class Region:
    """Where a table lies in a file, and what its lines need before they are parsed."""

    start: int = 0  # byte offset
    end: int | None = None  # byte offset; None: the file's end
    lines_before: int = 0
    quote: bytes | None = b'"'
    comment: bytes | None = None  # lines that begin with it are no rows
    quoted_after_blank: bytes | None = None  # this delimiter and blanks may come before a quote
    blank_runs: bool = False  # any number of blanks is one delimiter
    # drop comments with their line ends: in a single column, an empty line is a missing value
    drop_comments: bool = False

    @property
    def is_filtered(self) -> bool:
        """Whether lines are changed on their way to the parser."""
        return self.comment is not None or self.quoted_after_blank is not None or self.blank_runs


class RegionReader(io.RawIOBase):
    """A region's bytes. It remembers whether a NUL byte was read: only then are fields searched for them."""

    def __init__(self, path: Path, region: Region, watch: QuoteWatch | None = None) -> None:
        super().__init__()
        self.watch = watch
        self.file = path.open("rb", buffering=0)
        self.file.seek(region.start)
        self.region = region
        self.left = None if region.end is None else max(0, region.end - region.start)
        self.has_nul = self.has_quote = False
        self._pending = self._ready = b""
        self._at_end = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self.region.is_filtered:
            return self._read_plain(size)
        while not self._ready and not self._at_end:
            self._ready = self._filter_more(MB)
        if size < 0:
            parts = [self._ready]
            while not self._at_end:
                parts.append(self._filter_more(MB))
            data, self._ready = b"".join(parts), b""
            return data
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _read_plain(self, size: int) -> bytes:
        if self.left is not None:
            size = self.left if size < 0 else min(size, self.left)
        data = self.file.read(size) or b""
        if self.left is not None:
            self.left -= len(data)
        if data:
            self.has_nul |= b"\0" in data
            self.has_quote |= self.region.quote is not None and self.region.quote in data
            if self.watch is not None:
                self.watch.see(data)
        return data

    def _filter_more(self, size: int) -> bytes:
        """Read on, and return what can be returned: whole lines, outside of quotes at their end."""
        data = self._read_plain(size)
        self._pending += data
        if not data:
            self._at_end = True
            done, self._pending = self._pending, b""
            return self.filtered(done)
        cut = self._end_of_record(self._pending)
        if not cut and len(self._pending) > MAX_LINE:
            cut = len(self._pending)
        done, self._pending = self._pending[:cut], self._pending[cut:]
        return self.filtered(done)

    def _end_of_record(self, data: bytes) -> int:
        """Return where the last record that ends in `data` ends."""
        cut = len(data)
        for _ in range(1_000):
            cut = data.rfind(b"\n", 0, cut)
            if cut < 0:
                return 0
            if self.region.quote is None or data.count(self.region.quote, 0, cut) % 2 == 0:
                return cut + 1
        return 0

    def filtered(self, data: bytes) -> bytes:
        """Return whole records as the parser is to see them."""
        region = self.region
        if region.comment is not None and region.comment in data:
            data = self._without_comments(data, region.comment)
        if region.quoted_after_blank is not None:
            data = self._without_blanks_before_quotes(data, region.quoted_after_blank)
        if region.blank_runs:
            lines = _BLANKS.sub(lambda run: run[0] if run[0][:1] == b'"' else b" ", data).split(b"\n")
            data = b"\n".join([line.strip() for line in lines])
        return data

    def _without_comments(self, data: bytes, comment: bytes) -> bytes:
        lines, in_quotes = data.split(b"\n"), False
        last = len(lines) - 1
        others = []
        for index, line in enumerate(lines):
            if not in_quotes and line.startswith(comment):
                if not self.region.drop_comments or index == last:
                    others.append(b"")
                continue
            in_quotes ^= self.region.quote is not None and line.count(self.region.quote) % 2 == 1
            others.append(line)
        return b"\n".join(others)

    def _without_blanks_before_quotes(self, data: bytes, delimiter: bytes) -> bytes:
        """Remove blanks between a delimiter (or a line's start) and a quote, outside of quotes."""
        quote = self.region.quote or b'"'
        parts = data.split(quote)
        for index in range(0, len(parts) - 1, 2):  # every other part is outside of quotes
            bare = parts[index].rstrip(b" \t") if delimiter != b"\t" else parts[index].rstrip(b" ")
            if bare.endswith((delimiter, b"\n")) or (not bare and index == 0):
                parts[index] = bare
        return quote.join(parts)

    def close(self) -> None:
        self.file.close()
        super().close()


# --- lines ---------------------------------------------------------------------------------------------------------


def lines_of_rows(path: Path, region: Region, columns: int, rows: Sequence[int]) -> list[int | None]:
    """Return the line (from 1) on which each data row (from 1) begins; a record may span several lines."""
    wanted = sorted({row for row in rows if row > 0})
    line_by_row: dict[int, int] = {}
    records, lines = 0, region.lines_before
    in_quotes = False
    at_start = True  # the last byte ended a record
    source = RegionReader(path, region)
    while len(line_by_row) < len(wanted) and (chunk := source.read(16 * MB)):
        data = np.frombuffer(chunk, np.uint8)
        parity = np.zeros(len(data), np.int64)
        if region.quote is not None:
            # Odd after an opening quote; a doubled quote inside a field changes it twice.
            parity = (np.cumsum(data == ord(region.quote)) + int(in_quotes)) & 1
        newline = data == ord("\n")
        begins = np.flatnonzero(newline & (parity == 0)) + 1
        if at_start:
            begins = np.concatenate([[0], begins])
        at_start = bool(newline[-1]) and not parity[-1]
        begins = begins[begins < len(data)]
        if columns > 1:  # then the parser ignores empty lines
            first, second = data[begins], data[np.minimum(begins + 1, len(data) - 1)]
            begins = begins[~((first == ord("\n")) | ((first == ord("\r")) & (second == ord("\n"))))]
        lines_before = np.cumsum(newline)
        for record in wanted:
            place = record - records - 1
            if 0 <= place < len(begins):
                begin = int(begins[place])
                line_by_row[record] = lines + 1 + int(lines_before[begin - 1] if begin else 0)
        records += len(begins)
        lines += int(lines_before[-1])
        in_quotes = bool(parity[-1])
    source.close()
    return [line_by_row.get(row) for row in rows]


def each_line_has(path: Path, region: Region, delimiter: str, wanted: int, most: int) -> bool:
    """Return whether every line that is not blank has this many delimiters; False where one is longer than `most`."""
    source = RegionReader(path, region)
    sign, pending = ord(delimiter), b""
    try:
        while data := source.read(MB):
            cut = data.rfind(b"\n") + 1
            if cut and not _lines_have(pending + data[:cut], sign, wanted):
                return False
            pending = data[cut:] if cut else pending + data
            if len(pending) > most:
                return False
        return not pending or _lines_have(pending, sign, wanted)
    finally:
        source.close()


def _lines_have(lines: bytes, delimiter: int, wanted: int) -> bool:
    """Return whether every line that is not blank has this many delimiters."""
    data = np.frombuffer(lines if lines.endswith(b"\n") else lines + b"\n", np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    counts = np.cumsum(data == delimiter)[ends]
    lengths = np.diff(ends, prepend=-1) - (data[np.maximum(ends - 1, 0)] == ord("\r"))
    return bool(((np.diff(counts, prepend=0) == wanted) | (lengths <= 1)).all())
