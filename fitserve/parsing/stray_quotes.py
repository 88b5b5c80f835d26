"""Quotes within quoted fields that are not doubled: `"The "Wave" Ltd"`, `"Weird" Al`, `"never closed,5`.

Parsers of CSV end the field's quotes there and go on without them, which drops a character, or joins two lines to one
row. Here such a field is rewritten so that each of its characters is kept: if its last character is a quote, what is
between the first and the last one; if not, or if the quotes reached beyond the line, all of it. Fields that hold a
quote and are not quoted (`5" pipe`) are quoted, so that whoever counts quotes finds the ends of rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

import numpy as np

NEWLINE, RETURN = 10, 13
MAX_FIELD = 64 << 20  # bytes in which a quote is closed, if ever


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

    def mend(self, data: bytes, is_last: bool) -> bytes:
        """Return as much as can be returned of the data, rewritten: whole fields."""
        data = self._pending + data
        usual, bare, opened, rest = _patterns(
            self.delimiter, self.quote, self.escape, self.blank_before_quote, self.comment
        )
        cut = len(data) if is_last else data.rfind(b"\n") + 1
        done: list[bytes] = []
        at = 0
        while at < cut:
            end = _end(usual.match(data, at, cut), at)
            done.append(data[at:end])
            self._lines += data.count(b"\n", at, end)
            at = end
            if at == cut:
                break
            if (field := bare.match(data, at, cut)) is not None:
                done.append(self._quoted(field[0]))
                at = field.end()
                continue
            closed = _end(opened.match(data, at, cut), cut)
            if closed == cut:  # the quotes are closed further on, or never
                break
            at = self._rewrite(data, at, closed, rest, done)
        if is_last or len(data) - at > MAX_FIELD:
            done.append(data[at:])
            at = len(data)
        self._pending = data[at:]
        return b"".join(done)

    def _rewrite(self, data: bytes, at: int, closed: int, rest: re.Pattern[bytes], done: list[bytes]) -> int:
        """Append a field rewritten, and return where it ends. `closed`: behind the quote that is followed by text."""
        is_joined = b"\n" in data[at:closed] or b"\r" in data[at:closed]
        end = _end(rest.match(data, at if is_joined else closed), closed)
        text = data[at:end].strip(b" \t") if self.blank_before_quote else data[at:end]
        inner = text
        if not is_joined and len(text) > 1 and text.endswith(self.quote):
            inner = text[1:-1].replace(self.quote * 2, self.quote)
        done.append(self._quoted(inner))
        if self.first is None:
            self.first = self._lines, text.decode("utf-8", "replace")
        self.count += 1
        self.joined += is_joined
        return end

    def _quoted(self, text: bytes) -> bytes:
        return self.quote + text.replace(self.quote, self.quote * 2) + self.quote


def double_stray_quotes(text: str, delimiter: str) -> str:
    """Return a whole table's text with its stray quotes doubled."""
    mender = StrayQuotes(delimiter.encode())
    return mender.mend(text.encode(), is_last=True).decode()


def _end(match: re.Match[bytes] | None, otherwise: int) -> int:
    return otherwise if match is None else match.end()


@cache
def _patterns(
    delimiter: bytes, quote: bytes, escape: bytes | None, blank_before_quote: bool, comment: bytes | None
) -> tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]:
    """Return four patterns: usual fields; a field that is not quoted; one up to the end of its quotes; its rest."""
    sign, mark = re.escape(delimiter), re.escape(quote)
    blanks = rb" *+" if delimiter == b"\t" else rb"[ \t]*+"
    before = blanks if blank_before_quote else rb""
    within = rb"[^" + mark + rb"]++"
    if escape is not None:
        sign_of_escape = re.escape(escape)
        within = rb"[^" + mark + sign_of_escape + rb"]++|" + sign_of_escape + rb"."
    opened = before + mark + rb"(?:" + within + rb"|" + mark + mark + rb")*+" + mark
    rest = rb"[^" + sign + rb"\r\n]*+"
    behind = rb"(?=[" + sign + rb"\r\n]|\Z)"
    bare = rb"(?!" + before + mark + rb")[^" + sign + rb"\r\n]++"
    without_quotes = rb"[^" + sign + mark + rb"\r\n]++" + behind
    parts = [opened + blanks + behind, without_quotes, rb"[" + sign + rb"\r\n]++"]
    if comment is not None:  # what is pending begins with a line or a quote
        parts.insert(0, rb"(?:(?<=\n)|\A)" + re.escape(comment) + rb"[^\n]*+")
    usual = re.compile(rb"(?:" + rb"|".join(parts) + rb")*+", re.DOTALL)
    return usual, re.compile(bare), re.compile(opened, re.DOTALL), re.compile(rest)
