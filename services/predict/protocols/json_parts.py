"""Divide JSON bodies of many values into parts, without reading what is in them.

A JSON reader blocks all other threads of the process until it ends: for 2 s if a body of 32 MB has 16 million elements,
which then take 1 GB. Here regular expressions find where the elements of a list begin and end, so that they are counted
before they are read, and are then read a part at a time.

What is within a part is not checked: its reader does that.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from fitserve.errors import Malformed

MANY_VALUES = 500_000  # a body that may have more is divided
PART_ELEMENTS = 2048  # most elements of a part
PART_BYTES = 256 * 1024  # most bytes of a part that has more than one element
MAX_MEMBERS = 10_000  # of an object that is divided
MAX_VALUES = 50_000  # in an element or a value that is larger than a part
MAX_DEPTH = 16  # of containers that are larger than a part
QUICK_DEPTH = 8  # of containers in others; a tensor has at most as many dimensions

_STRING = rb'"(?:[^"\\]++|\\.)*+"'


def _inside(depth: int) -> bytes:
    """Return an expression for what may be between two brackets."""
    nested = rb"|[\[{]" + _inside(depth - 1) + rb"[\]}]" if depth else b""
    return rb"(?:" + _STRING + nested + rb'|[^\[\]{}"]++)*+'


_ONE_ELEMENT = rb"(?:" + _STRING + rb"|[\[{]" + _inside(QUICK_DEPTH - 1) + rb'[\]}]|[^\[\]{}",]++)++'
_ALL_ELEMENTS = rb"(?:%s,){%d}" % (_ONE_ELEMENT, PART_ELEMENTS)
_FIRST_ELEMENTS = rb"(?>(?:%s,)*)(?>(?:%s(?=[\]}]))?)" % (_ONE_ELEMENT, _ONE_ELEMENT)
_ONE_TOKEN = _STRING + rb'|[\[{]|[^\[\]{}",: \t\n\r]++'
_ELEMENT = re.compile(_ONE_ELEMENT, re.DOTALL)
_FULL_PART = re.compile(_ALL_ELEMENTS, re.DOTALL)
_SOME_ELEMENTS = re.compile(_FIRST_ELEMENTS, re.DOTALL)
_TOKEN = re.compile(_ONE_TOKEN, re.DOTALL)
_NAME = re.compile(_STRING, re.DOTALL)
_BLANKS = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb'[^\[\]{}",: \t\n\r]++')


class Span(NamedTuple):
    """Neighbouring elements of a list, or members of an object, and where they are in the text."""

    start: int
    end: int
    elements: int


@dataclass(frozen=True, slots=True)
class Value:
    """A value in a JSON text. `spans` are what is in a list or an object."""

    text: bytes
    start: int
    end: int
    spans: list[Span]

    @property
    def is_list(self) -> bool:
        return self.text.startswith(b"[", self.start)

    @property
    def is_object(self) -> bool:
        return self.text.startswith(b"{", self.start)

    @property
    def starts_with_list(self) -> bool:
        """Whether it is a list whose first element is one."""
        return self.is_list and self.text.startswith(b"[", _after_blanks(self.text, self.start + 1))

    @property
    def count(self) -> int:
        """How many elements or members it has."""
        return sum(span.elements for span in self.spans)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield a list's elements, a part at a time: the place of the first, and their text. Raises Malformed."""
        first = 0
        for span in self.spans:
            piece = self.text[span.start : span.end]
            if piece.isspace():  # two commas: the list that is made of it would be read as an empty one
                raise _not_json(span.end)
            yield first, piece
            first += span.elements

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Yield what `pieces` does, as JSON lists. Raises Malformed at an element of too many values."""
        for first, piece in self.pieces():
            if len(piece) > PART_BYTES:
                _check_values(piece, f"Element {first + 1} of a list")
            yield first, b"[" + piece + b"]"

    def members(self) -> dict[str, Value]:
        """Return an object's members. Raises Malformed if there are too many."""
        members = find_members(self.text[self.start : self.end])
        assert members is not None
        return members

    def whole(self) -> bytes:
        """Return its text. Raises Malformed if it has too many values."""
        text = self.text[self.start : self.end]
        _check_values(text, "A value of the body")
        return text


def should_divide(body: bytes) -> bool:
    """Return whether a large body has NaN, which is read slowly, or may have too many values for one call."""
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    return values > MANY_VALUES or b"NaN" in body or b"Infinity" in body


def find_members(text: bytes) -> dict[str, Value] | None:
    """Return the members of the object that a JSON text is, or None if it is something else. Raises Malformed."""
    place = _after_blanks(text, 0)
    if not text.startswith(b"{", place):
        return None
    members: dict[str, Value] = {}
    place = _after_blanks(text, place + 1)
    if text.startswith(b"}", place):
        _check_end(text, place + 1)
        return members
    for _ in range(MAX_MEMBERS):  # those that have one name too: a million of them take seconds
        name, place = _find_name(text, place)
        members[name] = value = _find_value(text, place, MAX_DEPTH)
        place = _after_blanks(text, value.end)
        if text.startswith(b"}", place):
            _check_end(text, place + 1)
            return members
        if not text.startswith(b",", place):
            raise _not_json(place)
        place = _after_blanks(text, place + 1)
    raise Malformed("A JSON object has too many members.", expected=f"at most {MAX_MEMBERS}")


def _find_name(text: bytes, place: int) -> tuple[str, int]:
    """Return the name that is at a place, and where its value begins."""
    match = _NAME.match(text, place)
    if match is None:
        raise _not_json(place)
    try:
        name = msgspec.json.decode(match[0], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _not_json(place) from None
    place = _after_blanks(text, match.end())
    if not text.startswith(b":", place):
        raise _not_json(place)
    return name, _after_blanks(text, place + 1)


def _find_value(text: bytes, place: int, depth: int) -> Value:
    """Return the value that begins at a place."""
    if text.startswith((b"[", b"{"), place):
        if not depth:
            raise _too_deep()
        spans: list[Span] = []
        return Value(text, place, _find_spans(text, place, depth, spans), spans)
    match = _NAME.match(text, place) if text.startswith(b'"', place) else _SCALAR.match(text, place)
    if match is None:
        raise _not_json(place)
    return Value(text, place, match.end(), [])


def _find_spans(text: bytes, opened: int, depth: int, spans: list[Span]) -> int:
    """Add what is in the list or object that opens at a place to `spans`, and return where it ends."""
    closing, place = b"]" if text.startswith(b"[", opened) else b"}", opened + 1
    if text.startswith(closing, blank := _after_blanks(text, place)):
        return blank + 1
    while True:
        window = place + PART_BYTES
        if match := _FULL_PART.match(text, place, window):
            spans.append(Span(place, match.end() - 1, PART_ELEMENTS))
            place = match.end()
            continue
        match = _SOME_ELEMENTS.match(text, place, window)
        assert match is not None  # it may match nothing
        end = match.end()
        if end > place:
            count = sum(1 for _ in _ELEMENT.finditer(text, place, end))
            is_last = text[end - 1] != ord(",")
            spans.append(Span(place, end if is_last else end - 1, count))
        else:  # one that is larger than a part
            end = _find_element_end(text, place, depth)
            if end < window:
                # A part that is complete would have been found, unless the expressions reach less deep.
                raise _too_deep() if text.startswith((b",", closing), end) else _not_json(end)
            spans.append(Span(place, end, 1))
            is_last = not text.startswith(b",", end)
            end = end if is_last else end + 1
        if is_last:
            if not text.startswith(closing, end):
                raise _not_json(end)
            return end + 1
        place = end


def _find_element_end(text: bytes, place: int, depth: int) -> int:
    """Return where an element, or an object's member, ends: after it and any blanks."""
    value = _find_value(text, _after_blanks(text, place), depth - 1)
    place = _after_blanks(text, value.end)
    if text.startswith(b":", place):
        value = _find_value(text, _after_blanks(text, place + 1), depth - 1)
        place = _after_blanks(text, value.end)
    return place


def _check_values(text: bytes, what: str) -> None:
    """Raise Malformed if a large text has more values than may be read at once."""
    if len(text) > PART_BYTES and next(itertools.islice(_TOKEN.finditer(text), MAX_VALUES, None), None) is not None:
        raise Malformed(f"{what} has too many values.", expected=f"at most {MAX_VALUES}")


def _after_blanks(text: bytes, place: int) -> int:
    match = _BLANKS.match(text, place)
    assert match is not None  # it may match nothing
    return match.end()


def _check_end(text: bytes, place: int) -> None:
    if (end := _after_blanks(text, place)) != len(text):
        raise _not_json(end)


def _too_deep() -> Malformed:
    return Malformed("The body is not JSON: it nests too deep.")


def _not_json(place: int) -> Malformed:
    return Malformed(f"The body is not JSON: there is a mistake, or its end, at byte {place}.")
