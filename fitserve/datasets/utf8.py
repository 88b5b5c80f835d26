"""Transcode a text file to UTF-8 from the encoding that the upload states, that marks show, or that is likeliest.

Marks are byte order marks, zero bytes, escape sequences of 7-bit encodings and EBCDIC letters; `text_encoding` guesses
from words.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from fitserve.blobs import CHUNK, disk_full_is_507
from fitserve.datasets import TableUnreadable, text_encoding
from fitserve.datasets.text_encoding import TYPOGRAPHY, Guess
from fitserve.errors import Problem, TooLarge
from fitserve.parsing.charsets import charset_named
from fitserve.settings import MB, Limits
from fitserve.wire.notices import Notice

SEARCHED_BYTES = MB // 4  # bytes searched for marks of 7-bit encodings
CHECKED_BYTES = 4 * MB  # checked to be UTF-8 before parsing; the parser checks the rest
# after this many non-ASCII UTF-8 characters, an invalid byte is damage rather than another encoding
SURE_CHARACTERS = 12
MAX_UTF7_BYTES = MB  # UTF-7 letters without a break, which are decoded again with each chunk
REPLACED = "\ufffd"
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"+/v8-", "utf-7"),
)
NEXT_LINE = "\x85"  # line end of mainframes
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
FEW_WORDS = 3  # least distinct words that must look encoded twice; fewer may by chance
TEXT_CHARACTERS = 20_000


@dataclass(frozen=True)
class DecodedText:
    """A text in UTF-8, without a byte order mark."""

    path: Path
    encoding: str  # encoding of the upload
    notice: Notice | None = None  # set if the encoding was guessed


def to_utf8(path: Path, head: bytes, stated: str | None, folder: Path, limits: Limits) -> DecodedText:
    """Return the text as UTF-8: the file itself if it is valid UTF-8, else a copy in `folder`.

    The encoding comes from the byte order mark, else from the request; else it is UTF-8 if the text is valid, else the
    likeliest one. Raises TableUnreadable, also if several encodings are equally likely.
    """
    for mark, name in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return DecodedText(transcode(path, folder / "text", name, limits), name)
    if stated is not None:
        encoding = _stated_encoding(stated)
        if encoding in ("utf-8", "ascii"):
            _refuse_invalid_utf8(path, encoding)
            return DecodedText(path, encoding)
        return DecodedText(transcode(path, folder / "text", encoding, limits), encoding)
    if (wide := wide_encoding(head)) is not None:
        return DecodedText(transcode(path, folder / "text", wide, limits), wide, _guess_notice(wide, ""))
    with path.open("rb") as file:
        marked = marked_encoding(file.read(SEARCHED_BYTES))
    if marked is not None:
        notice = _guess_notice(marked.encoding, marked.example)
        return DecodedText(transcode(path, folder / "text", marked.encoding, limits), marked.encoding, notice)
    position = first_invalid_utf8(path, CHECKED_BYTES)
    return DecodedText(path, "utf-8") if position is None else transcode_guessed(path, position, folder, limits)


def transcode_guessed(path: Path, position: int, folder: Path, limits: Limits) -> DecodedText:
    """Transcode a text whose byte at `position` is not UTF-8 from the file's likeliest encoding.

    Raises TableUnreadable if the text before it contains non-ASCII UTF-8 (then that byte is damage), or if no encoding
    is likelier than others.
    """
    guess, others = text_encoding.guess(path)
    before = _characters_before(path, position)
    # Two bytes of a Latin text almost never form a valid UTF-8 character; two of a Chinese text may.
    if before >= SURE_CHARACTERS or (before and (guess is None or guess.encoding in text_encoding.LATIN)):
        raise _damage(path, position)
    if guess is None:
        shown = ", ".join(f"{other.encoding} ({other.example!r})" for other in others)
        raise TableUnreadable(
            "The text is not UTF-8, and its encoding cannot be told from its words.",
            expected="UTF-8, or the name of the encoding",
            fix=f"Name it: encoding=..., such as {shown}." if shown else "Name it: encoding=...",
        )
    text = transcode(path, folder / "text", guess.encoding, limits)
    return DecodedText(text, guess.encoding, _guess_notice(guess.encoding, guess.example))


def wide_encoding(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32 with its byte order for a text without a byte order mark; None for other bytes."""
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
    """Return the encoding shown by marks within a file's beginning: UTF-7, HZ, ISO 2022, EBCDIC."""
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
    """Return the UTF-7 sequences of non-ASCII letters in a text; none if a plus begins anything else."""
    parts = []
    for match in _UTF7.finditer(data):
        if not match[1] and match[0] == b"+-":
            continue  # "+-" encodes a plus
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


def note_damage(head: bytes) -> Notice | None:
    """Note text that was damaged before the upload: encoded twice, or with replacement characters."""
    text = head.decode("utf-8", "ignore")
    if REPLACED in text:
        line = next(line for line in text.splitlines() if REPLACED in line)
        message = "Some characters of the text were lost before the upload: they are marks of what could not be read."
        return Notice(code="characters_lost", message=message, evidence=f"such as {line.strip()[:60]!r}")
    words = list(dict.fromkeys(word for word in text[:TEXT_CHARACTERS].split() if not word.isascii()))
    twice = [word for word in words if _encoded_once(word) is not None]
    if len(twice) < FEW_WORDS or len(twice) < len(words):
        return None
    return Notice(
        code="encoded_twice",
        message="The text seems to have been encoded as UTF-8 twice: write the file anew.",
        evidence=f"{twice[0]!r} may mean {_encoded_once(twice[0])!r}",
    )


def _encoded_once(word: str) -> str | None:
    try:
        return word.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None


def _guess_notice(encoding: str, example: str) -> Notice:
    return Notice(
        code="encoding_recognised",
        message=f"The text is read as {encoding}.",
        evidence=f"so it reads {example!r}" if example else "every other byte of its separators is zero",
        option="encoding=...",
    )


def _characters_before(path: Path, position: int) -> int:
    """Count the non-ASCII characters before a position, all valid UTF-8; stops once there are enough."""
    count = 0
    with path.open("rb") as file:
        while position > 0 and count < SURE_CHARACTERS and (chunk := file.read(min(CHUNK, position))):
            position -= len(chunk)
            if not chunk.isascii():
                count += sum(byte >= 0xC0 for byte in chunk)
    return count


def _refuse_invalid_utf8(path: Path, encoding: str) -> None:
    """Raise TableUnreadable where a text is not in the encoding that was declared for it."""
    position = first_invalid_utf8(path)
    if position is not None:
        raise _damage(path, position, f"{encoding}, as declared")


def _damage(path: Path, position: int, expected: str = "UTF-8, as the lines before it") -> TableUnreadable:
    line = 1 + _count_newlines(path, position)
    with path.open("rb") as file:
        file.seek(position)
        received = repr(file.read(4))[2:-1]
    problem = Problem(
        f"Line {line} has a byte that is not UTF-8.",
        line=line,
        received=received,
        expected=expected,
        fix="Fix the line, or name the encoding of the whole file: encoding=...",
    )
    return TableUnreadable(problem.detail, problems=[problem])


def _stated_encoding(stated: str) -> str:
    try:
        return charset_named(stated)
    except (LookupError, ValueError):
        expected = "a name such as utf-8 or gb18030"
        raise TableUnreadable(f"The encoding {stated!r} is not known.", received=stated, expected=expected) from None


def first_invalid_utf8(path: Path, most: int | None = None) -> int | None:
    """Return the position of the first byte that is not UTF-8, or None; `most` limits the bytes that are checked."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    with path.open("rb") as file:
        while (most is None or done < most) and (chunk := file.read(4 * MB)):
            if not chunk.isascii() or decoder.getstate()[0]:
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    return done - pending + error.start
            done += len(chunk)
    pending = len(decoder.getstate()[0])
    return done - pending if pending and (most is None or done < most) else None


def _count_newlines(path: Path, until: int) -> int:
    count = 0
    with path.open("rb") as file:
        while until > 0 and (chunk := file.read(min(CHUNK, until))):
            count += chunk.count(b"\n")
            until -= len(chunk)
    return count


def transcode(path: Path, target: Path, encoding: str, limits: Limits) -> Path:
    """Write the text as UTF-8 without a byte order mark.

    Raises TableUnreadable naming the line of the first bytes that do not decode, TooLarge.
    """
    written = lines = 0
    held = ""  # the last character, because the next chunk may begin with an accent that belongs to it
    try:
        decoder = codecs.getincrementaldecoder(encoding)("strict")
        with disk_full_is_507(), path.open("rb") as source, target.open("wb") as out:
            while True:
                chunk = source.read(CHUNK)
                text = decoder.decode(chunk, final=not chunk)
                if encoding == "utf-7" and len(decoder.getstate()[0]) > MAX_UTF7_BYTES:
                    raise UnicodeError("letters without an end")
                if encoding in MAINFRAME:
                    text = text.replace(NEXT_LINE, "\n")
                if encoding == text_encoding.COMPOSED:
                    text = unicodedata.normalize("NFC", held + text)
                    text, held = (text[:-1], text[-1:]) if chunk else (text, "")
                data = text.encode("utf-8")
                lines += data.count(b"\n")
                written += out.write(data)
                if written > limits.expanded_bytes:
                    raise TooLarge("The text is larger than the limit.", expected=f"{limits.expanded_bytes} bytes")
                if not chunk:
                    return target
    except (UnicodeError, LookupError) as error:
        bad, start = getattr(error, "object", b""), getattr(error, "start", 0)
        is_bytes = isinstance(bad, bytes)
        line = lines + 1 + (bad[:start].count(b"\n") if is_bytes else 0)
        problem = Problem(
            f"Line {line} has bytes that are not {encoding}.",
            line=line,
            received=repr(bad[start : start + 4] if is_bytes else str(error)),
            expected=encoding,
        )
        raise TableUnreadable(problem.detail, problems=[problem]) from None
