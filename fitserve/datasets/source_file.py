"""Uploaded bytes as a plain local file: unpacked under a limit of expansion, and text as UTF-8."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fitserve.blobs import CHUNK, disk_full_is_507
from fitserve.datasets import TableUnreadable, text_encoding
from fitserve.errors import Problem, TooLarge, UnsupportedMedia
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import Compression
from fitserve.wire.notices import Notice

HEAD_BYTES = 4096  # in which a format is recognised
CHECKED_BYTES = 4 * MB  # checked to be UTF-8 before parsing; the parser checks the rest
SURE_CHARACTERS = 12  # of UTF-8 before a byte that is not: then the rest is UTF-8 too, and the byte is damage
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What `encoding` may name, beside the families iso8859-, cp (code pages), mac- and koi8-.
TEXT_ENCODINGS = frozenset(
    {"ascii", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le"}
    | {
        "big5",
        "big5hkscs",
        "gb2312",
        "gbk",
        "gb18030",
        "hz",
        "euc_jp",
        "euc_jis_2004",
        "euc_jisx0213",
        "euc_kr",
        "johab",
    }
    | {"shift_jis", "shift_jis_2004", "shift_jisx0213", "iso2022_jp", "iso2022_jp_1", "iso2022_jp_2", "iso2022_jp_3"}
    | {"iso2022_jp_2004", "iso2022_jp_ext", "iso2022_kr", "tis-620", "hp-roman8", "kz1048", "ptcp154"}
)
REPLACED = "\ufffd"
FEW_WORDS = 3  # different ones, of which none is by chance what encoding twice gives
TEXT_CHARACTERS = 20_000
_FOREIGN_FORMATS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x80\x04": "a pickle",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"FEA1": "a Feather file of version 1",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"\x93NUMPY": "a NumPy array",
    b"\0" * 12 + b"\xc2\xea\x81\x60": "a table of SAS",
    b"<stata_dta>": "a table of Stata",
    b"RDX": "a file of R",
    b"X\n\0\0\0": "a file of R",
    b"$FL2": "an SPSS file",
    b"{\\rtf": "a document in rich text",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML document",
}
# Text formats that would parse as CSV but are something else.
_RULE = rb"[ \t]*+[|+]?[ \t]*+:?[-=]{2,}+:?([ \t]*+[|+][ \t]*+:?[-=]{2,}+:?)++[ \t]*+[|+]?[ \t]*+\r?"
_BELOW_A_RULE = rb"([^\n]*+\n){0,2}?" + _RULE + rb"(\n|$)"
_DRAWN_TABLE = re.compile(_BELOW_A_RULE)
_SQL = re.compile(
    rb"\s*+((--|/\*)[^\n]*+\n\s*+)*+(INSERT\s++INTO|CREATE\s++TABLE|DROP\s++TABLE|BEGIN;|PRAGMA\s)", re.IGNORECASE
)
_ARFF = re.compile(rb"\s*+(%[^\n]*+\n\s*+)*+@relation\s", re.IGNORECASE)
_LIBSVM = re.compile(rb"([+-]?[0-9.]++( [0-9]++:[0-9.eE+-]++)++ *+\r?\n){2}")
_YAML = re.compile(rb"(---[ \t]*+\r?\n)?- [A-Za-z_][^\n,;\t:]*+:( [^\n]*+)?\r?\n  [A-Za-z_][^\n,;\t:]*+:")
_LOOSE_JSON = re.compile(rb"\s*+[\[{]?\s*+\{\s*+('[^'\n]*+'|[A-Za-z_]\w*+)\s*+:")
_XML = re.compile(rb"\s*+<\?xml\s")
_WEB_PAGE = re.compile(rb"\s*+<(!doctype\s++html|html|table)[\s>]", re.IGNORECASE)


def _foreign_text(head: bytes) -> str | None:
    """Return the kind of a file that begins like this, if it is a text but not a table."""
    formats = {
        "a table drawn with lines, as Markdown and database shells print it": _DRAWN_TABLE.match(head),
        "an SQL script": _SQL.match(head),
        "an ARFF file": _ARFF.match(head),
        "a LIBSVM file": _LIBSVM.match(head),
        "XML": _XML.match(head),
        "YAML": _YAML.match(head),
        "JSON whose names are not in double quotes": _LOOSE_JSON.match(head),
        "a web page": _WEB_PAGE.match(head),
    }
    return next((name for name, match in formats.items() if match), None)


def read_head(path: Path) -> bytes:
    """Return a file's first bytes. Raises TableUnreadable where it is empty."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise TableUnreadable("The file is empty.", expected="a table with a header and at least one row")
    return head


def refuse_foreign_format(head: bytes) -> None:
    """Raise UnsupportedMedia for well-known formats that are no tables here."""
    name = next((name for magic, name in _FOREIGN_FORMATS.items() if head.startswith(magic)), None)
    if name is None:
        name = _foreign_text(head)
    if name is not None:
        raise UnsupportedMedia(
            f"This is {name}.", expected="CSV, JSON Lines, Parquet or Arrow IPC, plain, gzip or zstd"
        )


# --- compression ---------------------------------------------------------------------------------------------------


def unpack(path: Path, folder: Path, limits: Limits) -> tuple[Path, Compression | None]:
    """Return the uncompressed file (`path` itself where it is not compressed) and its compression.

    Raises TooLarge where it expands beyond the limits, TableUnreadable where it is damaged.
    """
    head = read_head(path)
    compression: Compression
    if head[:2] == b"\x1f\x8b":
        compression = "gzip"
    elif head[:4] == b"\x28\xb5\x2f\xfd":
        compression = "zstd"
    else:
        return path, None
    most = min(limits.expanded_bytes, max(64 * MB, limits.expansion_ratio * path.stat().st_size))
    plain, written = folder / "plain", 0
    with disk_full_is_507(), plain.open("wb") as target:
        for chunk in _gunzip(path) if compression == "gzip" else _unzstd(path):
            written += len(chunk)
            if written > most:
                raise TooLarge(
                    "The file expands to more than is allowed.",
                    received=f"more than {most} bytes from {path.stat().st_size}",
                    expected=f"at most {limits.expansion_ratio} times its size, and {limits.expanded_bytes} bytes",
                )
            target.write(chunk)
    return plain, compression


def _gunzip(path: Path) -> Iterator[bytes]:
    """Yield what gzip members hold, one after the other; zeros after the last one are padding."""
    with path.open("rb") as source:
        unpacker = zlib.decompressobj(wbits=31)
        data = source.read(CHUNK)
        while data:
            try:
                chunk = unpacker.decompress(data, CHUNK)
            except zlib.error as error:
                raise _damaged("gzip", error) from None
            if chunk:
                yield chunk
            data = unpacker.unconsumed_tail
            if unpacker.eof:
                data = unpacker.unused_data or source.read(CHUNK)
                if not data.strip(b"\0"):
                    return
                unpacker = zlib.decompressobj(wbits=31)
            elif not data:
                data = source.read(CHUNK)
    raise _cut_off("gzip")


def _unzstd(path: Path) -> Iterator[bytes]:
    """Yield what zstd frames hold, one after the other."""
    with pa.input_stream(str(path), compression="zstd") as source:
        while True:
            try:
                chunk = source.read(CHUNK)
            except OSError as error:
                if error.errno:  # the disk's, not zstd's
                    raise
                raise (_cut_off("zstd") if "Truncated" in str(error) else _damaged("zstd", error)) from None
            if not chunk:
                return
            yield chunk


def _damaged(compression: Compression, error: Exception) -> TableUnreadable:
    return TableUnreadable(f"The {compression} stream is damaged: {error}.", fix="Compress and upload it again.")


def _cut_off(compression: Compression) -> TableUnreadable:
    return TableUnreadable(f"The {compression} stream ends too early: the upload was cut off.", fix="Upload it again.")


# --- text encodings ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A text in UTF-8, without a byte order mark."""

    path: Path
    encoding: str  # that it came in
    notice: Notice | None = None  # where that was guessed


def to_utf8(path: Path, stated: str | None, folder: Path, limits: Limits) -> Text:
    """Return the text as UTF-8: the file itself where it is so, else a copy in `folder`.

    The encoding is that of the byte order mark, else the stated one, else UTF-8 where the text is valid, else the
    likeliest one. Raises TableUnreadable, also where several are as likely.
    """
    head = read_head(path)
    for mark, name in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return Text(transcode(path, folder / "text", name, limits), name)
    if stated is not None:
        encoding = _stated_encoding(stated)
        if encoding in ("utf-8", "ascii"):
            _refuse_invalid_utf8(path, encoding)
            return Text(path, encoding)
        return Text(transcode(path, folder / "text", encoding, limits), encoding)
    if (wide := text_encoding.wide_encoding(head)) is not None:
        return Text(transcode(path, folder / "text", wide, limits), wide, _guess_notice(wide, ""))
    position = first_invalid_utf8(path, CHECKED_BYTES)
    return Text(path, "utf-8") if position is None else transcode_guessed(path, position, folder, limits)


def transcode_guessed(path: Path, position: int, folder: Path, limits: Limits) -> Text:
    """Return a text with a byte at `position` that is not UTF-8, transcoded from the file's likeliest encoding.

    Raises TableUnreadable where the text before it is UTF-8 beyond ASCII (then that byte is damage), or where no
    encoding is likelier than others.
    """
    guess, others = text_encoding.guess(path)
    if _characters_before(path, position) >= SURE_CHARACTERS or (guess is None and _characters_before(path, position)):
        raise _damage(path, position)
    if guess is None:
        shown = ", ".join(f"{other.encoding} ({other.example!r})" for other in others)
        raise TableUnreadable(
            "The text is not UTF-8, and its encoding cannot be told from its words.",
            expected="UTF-8, or the name of the encoding",
            fix=f"Name it: encoding=..., such as {shown}." if shown else "Name it: encoding=...",
        )
    text = transcode(path, folder / "text", guess.encoding, limits)
    return Text(text, guess.encoding, _guess_notice(guess.encoding, guess.example))


def note_damage(head: bytes) -> Notice | None:
    """Note text that was damaged before the upload: encoded twice, or with characters that were replaced."""
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
    """Return how many non-ASCII characters precede a position, all valid UTF-8; counts until there are enough."""
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
        return _text_encoding(stated)
    except (LookupError, ValueError):
        expected = "a name such as utf-8 or gb18030"
        raise TableUnreadable(f"The encoding {stated!r} is not known.", received=stated, expected=expected) from None


def _text_encoding(stated: str) -> str:
    """Return a character encoding's name in Python. Raises LookupError, ValueError.

    Python's codecs include others: archives (zip, base64, uu), and some whose decoders take quadratic time (punycode).
    """
    codec = codecs.lookup(stated)
    allowed = codec.name in TEXT_ENCODINGS or codec.name.startswith(("iso8859-", "cp", "mac-", "koi8-"))
    if not allowed:
        raise LookupError(stated)
    return codec.name


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
    try:
        decoder = codecs.getincrementaldecoder(encoding)("strict")
        with disk_full_is_507(), path.open("rb") as source, target.open("wb") as out:
            while True:
                chunk = source.read(CHUNK)
                data = decoder.decode(chunk, final=not chunk).encode("utf-8")
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
