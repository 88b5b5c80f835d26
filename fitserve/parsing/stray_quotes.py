"""Quotes within quoted fields that are not doubled: `"The "Wave" Ltd"`, `"Weird" Al`, `"never closed,5`.

Parsers of CSV end the field's quotes there and go on without them, which drops a character, or joins two lines to one
row. Here such a field is rewritten so that each of its characters is kept: if its last character is a quote, what is
between the first and the last one; if not, or if the quotes reached beyond the line, all of it. Fields that hold a
quote and are not quoted (`5" pipe`) are quoted, so that whoever counts quotes finds the ends of rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

NEWLINE, RETURN = 10, 13
# The patterns' signs, into which those of a table are translated. UTF-8 has no bytes from 252 on.
DELIMITER, QUOTE, BLANKS, ESCAPE, COMMENT = b",", b'"', b"\xfc\xfd", b"\xfe", b"\xff"
MAX_FIELD = 64 << 20  # bytes in which a quote is closed, if ever
_OPENED = re.compile(rb'[\xfc\xfd]*+"(?:[^"\xfe]++|""|\xfe.)*+"', re.DOTALL)
_BARE = re.compile(rb'(?![\xfc\xfd]*+")[^,\r\n]++')
_REST = re.compile(rb"[^,\r\n]*+")
# Comments (what is pending begins with a line or a quote), quoted fields, fields without quotes, and what separates.
_USUAL = re.compile(
    rb'(?:(?:(?<=\n)|\A)\xff[^\n]*+|[\xfc\xfd]*+"(?:[^"\xfe]++|""|\xfe.)*+"[ \xfc]*+(?=[,\r\n]|\Z)'
    rb'|[^,"\r\n]++(?=[,\r\n]|\Z)|[,\r\n]++)*+',
    re.DOTALL,
)


class QuoteWatch:
    """Watches a table's bytes pass by: a quote that closes quotes is followed by a delimiter, a line's end or a quote.

    That is no proof of a stray one, because it does not know fields that hold a quote and are not quoted. It is fast.
    """

    def __init__(self, delimiter: bytes, quote: bytes) -> None:
        self.is_suspicious = False
        self._quote = quote[0]
        self._is_text = np.ones(256, bool)
        self._is_text[[delimiter[0], self._quote, NEWLINE, RETURN]] = False
        self._is_open = self._closed_last = False

    def see(self, data: bytes) -> None:
        """Look at the next bytes."""
        if self.is_suspicious or not data:
            return
        values = np.frombuffer(data, np.uint8)
        places = np.flatnonzero(values == self._quote)
        closing = places[int(not self._is_open) :: 2]
        behind = values[closing[closing < len(values) - 1] + 1]
        first = self._closed_last and self._is_text[values[0]]
        self.is_suspicious = bool(first or self._is_text[behind].any())
        self._is_open ^= len(places) % 2 == 1
        self._closed_last = bool(len(closing)) and closing[-1] == len(values) - 1


@dataclass
class StrayQuotes:
    """Doubles stray quotes in the bytes of a table that are passed to `mend` piece by piece."""

    delimiter: bytes
    quote: bytes = b'"'
    escape: bytes | None = None
    blank_before_quote: bool = False
    comment: bytes | None = None
    count: int = 0  # fields that were rewritten
    joined: int = 0  # of these, fields whose quotes reached beyond the line
    first: tuple[int, str] | None = None  # the first one's line, from 0, and its beginning
    _lines: int = 0
    _pending: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        self._there, self._back = _translations(self)

    def mend(self, data: bytes, is_last: bool) -> bytes:
        """Return as much as can be returned of the data, rewritten: whole fields."""
        data = self._pending + data.translate(self._there)
        cut = len(data) if is_last else data.rfind(b"\n") + 1
        done: list[bytes] = []
        at = 0
        while at < cut:
            end = _end(_USUAL.match(data, at, cut), at)
            done.append(data[at:end])
            self._lines += data.count(b"\n", at, end)
            at = end
            if at == cut:
                break
            if (bare := _BARE.match(data, at, cut)) is not None:
                done.append(_quoted(bare[0]))
                at = bare.end()
                continue
            closed = _end(_OPENED.match(data, at, cut), cut)
            if closed == cut:  # the quotes are closed further on, or never
                break
            at = self._rewrite(data, at, closed, done)
        if is_last or len(data) - at > MAX_FIELD:
            done.append(data[at:])
            at = len(data)
        self._pending = data[at:]
        return b"".join(done).translate(self._back)

    def _rewrite(self, data: bytes, at: int, closed: int, done: list[bytes]) -> int:
        """Append a field rewritten, and return where it ends. `closed`: behind the quote that is followed by text."""
        is_joined = b"\n" in data[at:closed] or b"\r" in data[at:closed]
        end = _end(_REST.match(data, at if is_joined else closed), closed)
        text = data[at:end].strip(BLANKS)
        inner = text
        if not is_joined and len(text) > 1 and text.endswith(QUOTE):
            inner = text[1:-1].replace(QUOTE * 2, QUOTE)
        done.append(_quoted(inner))
        if self.first is None:
            self.first = self._lines, text.translate(self._back).decode("utf-8", "replace")
        self.count += 1
        self.joined += is_joined
        return end


def _end(match: re.Match[bytes] | None, otherwise: int) -> int:
    return otherwise if match is None else match.end()


def _quoted(text: bytes) -> bytes:
    return QUOTE + text.replace(QUOTE, QUOTE * 2) + QUOTE


def _translations(table: StrayQuotes) -> tuple[bytes, bytes]:
    """Return tables for `bytes.translate` from a table's signs to those of the patterns, and back."""
    wanted = {table.delimiter: DELIMITER, table.quote: QUOTE}
    if table.escape is not None:
        wanted[table.escape] = ESCAPE
    if table.blank_before_quote:
        wanted |= {b" ": BLANKS[:1]} | ({} if table.delimiter == b"\t" else {b"\t": BLANKS[1:]})
    if table.comment is not None and len(table.comment) == 1:
        wanted[table.comment] = COMMENT
    there = bytearray(range(256))
    for sign, ours in wanted.items():
        other = there.index(ours)
        there[other], there[sign[0]] = there[sign[0]], there[other]
    back = bytearray(256)
    for value, ours_value in enumerate(there):
        back[ours_value] = value
    return bytes(there), bytes(back)


def double_stray_quotes(text: str, delimiter: str) -> str:
    """Return a whole table's text with its stray quotes doubled."""
    mender = StrayQuotes(delimiter.encode())
    return mender.mend(text.encode(), is_last=True).decode()
