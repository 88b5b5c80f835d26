"""Encodings that a text's first bytes tell: byte order marks, zero bytes, escapes of seven bits, EBCDIC."""

from __future__ import annotations

import codecs
import re
import unicodedata

from fitserve.datasets.text_encoding import TYPOGRAPHY, Guess

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"+/v8-", "utf-7"),
)
NEXT_LINE = "\x85"  # ends the lines of mainframes
MAINFRAME = ("cp037", "cp273", "cp424", "cp500", "cp875", "cp1026", "cp1140")
_ESCAPES = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$B", "iso2022_jp"), (b"\x1b$@", "iso2022_jp"), (b"\x1b(J", "iso2022_jp"))
_UTF7 = re.compile(rb"\+([A-Za-z0-9+/]*+)-?")
_HZ = re.compile(rb"~\{((?:[!-w][!-~])++)~\}")
# Letters, digits and separators of EBCDIC; its line ends.
_EBCDIC = (
    bytes((*range(0x81, 0x8A), *range(0x91, 0x9A), *range(0xA2, 0xAA), *range(0xC1, 0xCA), *range(0xD1, 0xDA)))
    + bytes((*range(0xE2, 0xEA), *range(0xF0, 0xFA), 0x05, 0x0D, 0x15, 0x25))
    + b"\x40\x4b\x5e\x60\x61\x6b\x6d\x7f"
)


def wide_encoding(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32 with its byte order for a text that begins so without a mark; None for other bytes."""
    if b"\0" not in head:
        return None
    if len(head) >= 8 and (name := _best_of(head, ("utf-32-le", "utf-32-be"), 4)):
        return name
    return _best_of(head, ("utf-16-le", "utf-16-be"), 2)


def _best_of(head: bytes, names: tuple[str, str], size: int) -> str | None:
    rated = []
    for name in names:
        try:
            text = head[: len(head) // size * size].decode(name, "strict" if size == 4 else "ignore")
        except UnicodeDecodeError:
            continue
        usual = sum(character in ',;\t\n\r |.0123456789"' for character in text)
        odd = sum(
            unicodedata.category(character) in ("Cc", "Co", "Cn") and character not in "\t\n\r\x1a"
            for character in text
        )
        if text and odd == 0 and usual >= max(3, len(text) / 12) and ("\n" in text or "\r" in text):
            rated.append((usual / len(text), name))
    return max(rated)[1] if rated else None


def marked_encoding(data: bytes) -> Guess | None:
    """Return the encoding that marks within a file's beginning tell: UTF-7, HZ, ISO 2022, EBCDIC."""
    data = data[: data.rfind(b"\n") + 1] or data
    if b"\x1b" in data:
        name = next((name for mark, name in _ESCAPES if mark in data), None)
        return _read_as(data, name, data[data.find(b"\x1b") :][:60]) if name else None
    if not data.isascii():
        has_lines = (b"\x15" in data or b"\x25" in data) and b"\n" not in data
        is_mainframe = has_lines and len(data.translate(None, _EBCDIC)) < 0.2 * len(data)
        return Guess("cp037", data.decode("cp037")[:30].splitlines()[0].strip()) if is_mainframe else None
    if b"~{" in data and data.count(b"~{") == len(found := list(_HZ.finditer(data))):
        return _read_as(data, "hz", found[0][0])
    if b"+" in data and (parts := _utf7_parts(data)):
        return _read_as(data, "utf-7", parts[0])
    return None


def _utf7_parts(data: bytes) -> list[bytes]:
    """Return the parts of a text that are letters beyond ASCII in UTF-7; none where a plus begins anything else."""
    parts = []
    for match in _UTF7.finditer(data):
        if not match[1] and match[0] == b"+-":
            continue  # a plus
        try:
            letters = match[0].decode("utf-7")
        except UnicodeError:
            return []
        if not letters or letters.isascii() or match[1].isdigit():
            return []
        if not all(letter.isalpha() or letter in TYPOGRAPHY for letter in letters):
            return []
        parts.append(match[0])
    return parts if len(parts) > 1 else []


def _read_as(data: bytes, name: str, example: bytes) -> Guess | None:
    try:
        data.decode(name)
        return Guess(name, example.decode(name, "ignore").split("\n")[0][:30])
    except UnicodeError:
        return None
