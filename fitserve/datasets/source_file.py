"""Uploaded bytes as a plain local file: unpacked under a limit of expansion, and text as UTF-8."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from fitserve.blobs import CHUNK, disk_full_is_507
from fitserve.datasets import TableUnreadable
from fitserve.errors import Problem, TooLarge, UnsupportedMedia
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import Compression

HEAD_BYTES = 4096  # in which a format is recognised
CHECKED_BYTES = 4 * MB  # checked to be UTF-8 before parsing; the parser checks the rest
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
# Old Macintosh and rare code pages that charset-normalizer reports for text in Windows' code pages.
_WINDOWS_CODE_PAGES = {
    "mac_cyrillic": "cp1251",
    "kz1048": "cp1251",
    "ptcp154": "cp1251",
    "mac_greek": "cp1253",
    "mac_latin2": "cp1250",
}
_FOREIGN_FORMATS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x80\x04": "a pickle",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
}


def read_head(path: Path) -> bytes:
    """Return a file's first bytes. Raises TableUnreadable where it is empty."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise TableUnreadable("The file is empty.", expected="a table with a header and at least one row")
    return head


def refuse_foreign_format(head: bytes) -> None:
    """Raise UnsupportedMedia for well-known formats that are not text."""
    for magic, name in _FOREIGN_FORMATS.items():
        if head.startswith(magic):
            expected = "CSV, JSON Lines, Parquet or Arrow IPC, plain, gzip or zstd"
            raise UnsupportedMedia(f"This is {name}.", expected=expected)


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


def to_utf8(path: Path, stated: str | None, folder: Path, limits: Limits) -> tuple[Path, str]:
    """Return the text as UTF-8 without a byte order mark (`path` itself where it is so), and its encoding.

    Raises TableUnreadable.
    """
    encoding = _detect_encoding(path, stated)
    if encoding in ("utf-8", "ascii"):
        return path, encoding
    return transcode(path, folder / "text", encoding, limits), encoding


def _detect_encoding(path: Path, stated: str | None) -> str:
    """Return the byte order mark's encoding, else the stated one, else UTF-8 where it is valid, else a guess."""
    head = read_head(path)
    for mark, name in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return name
    if stated is not None:
        try:
            return _text_encoding(stated)
        except (LookupError, ValueError):
            expected = "a name such as utf-8 or gb18030"
            raise TableUnreadable(
                f"The encoding {stated!r} is not known.", received=stated, expected=expected
            ) from None
    position = first_invalid_utf8(path, CHECKED_BYTES)
    return "utf-8" if position is None else guess_encoding(path, position)


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


def guess_encoding(path: Path, position: int) -> str:
    """Guess the legacy encoding of a file whose byte at `position` is not UTF-8.

    Raises TableUnreadable where the text before it is UTF-8 beyond ASCII: then that byte is damage.
    """
    start = max(0, position - 32_768)
    with path.open("rb") as file:
        before = file.read(min(position, 64 * MB))
        file.seek(start)
        sample = file.read(131_072)
    if not before.isascii():
        line = 1 + _count_newlines(path, position)
        problem = Problem(
            f"Line {line} has a byte that is not UTF-8.",
            line=line,
            received=repr(sample[position - start :][:4])[2:-1],
            expected="UTF-8, as the lines before it",
            fix="Fix the line, or name the encoding, for example encoding=latin-1.",
        )
        raise TableUnreadable(problem.detail, problems=[problem])
    return _guess_legacy_encoding(sample[sample.find(b"\n") + 1 :] if position > 32_768 else sample)


def _guess_legacy_encoding(sample: bytes) -> str:
    for name in ("euc_kr", "gb18030", "big5", "shift_jis", "euc_jp"):
        if _reads_as_cjk(sample, name):
            return name
    western = _western_encoding(sample)
    if western and sum(byte >= 0x80 for byte in sample) < 40:
        return western
    from charset_normalizer import from_bytes  # slow to import, rarely needed

    best = from_bytes(sample, cp_exclusion=["utf_16", "utf_32", "utf_7", "cp037", "cp500", "cp1026", "cp1140"]).best()
    if best is None or best.encoding in ("ascii", "utf_8"):
        return western or "cp1252"
    encoding = _WINDOWS_CODE_PAGES.get(best.encoding, best.encoding)
    latin = encoding.startswith(("iso8859_1", "latin", "cp1252", "cp1254", "iso8859_9", "mac_", "cp850", "cp858"))
    return western if western and latin else encoding


def _western_encoding(sample: bytes) -> str | None:
    """Return Latin-1 or its Windows variant where bytes beyond ASCII are few and read as accented letters."""
    high = [byte for byte in sample if byte >= 0x80]
    letters = sum(chr(byte).isalpha() for byte in sample if byte < 0x80)
    name = "cp1252" if any(byte < 0xA0 for byte in high) else "latin-1"
    text = bytes(high).decode(name, "replace")
    good = sum(c.isalpha() or c in "°€£«»’‘“”–—…§©®´·¿¡\xa0" for c in text) - text.count("\ufffd")
    return name if good >= 0.95 * len(high) and len(high) * 3 < letters else None


def _reads_as_cjk(sample: bytes, name: str) -> bool:
    """Return whether the bytes decode, and what is not ASCII is mostly the commonest Han, kana or Hangul."""
    text = codecs.getincrementaldecoder(name)("replace").decode(sample)
    if text.count("\ufffd") > 1:  # one may be cut in two by the sample's end
        return False
    foreign = [c for c in text if c > "\x7f" and c != "\ufffd"]
    wide = [c for c in foreign if "\u3000" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3" or "\uff01" <= c <= "\uff5e"]
    if len(foreign) < 4 or len(wide) < 0.9 * len(foreign):
        return False
    if name == "euc_kr":  # Hangul has the codes of GB 2312's commonest characters: nothing else may be there
        hangul = sum("\uac00" <= c <= "\ud7a3" for c in wide)
        return hangul >= max(8, 0.95 * len(wide))
    if name == "gb18030":  # level 1 of GB 2312 holds the common characters, in rows 0xB0 to 0xD7
        common = sum(0xB0 <= c.encode("gb18030")[0] <= 0xD7 for c in wide)
        return common >= 0.7 * len([c for c in wide if c >= "\u4e00"]) and not _has_kana_or_hangul(wide)
    if name == "big5":  # rows 0xA4 to 0xC6 are the frequent characters
        return sum(0xA4 <= c.encode("big5", "replace")[0] <= 0xC6 for c in wide) >= 0.7 * len(wide)
    return _has_kana_or_hangul(wide)


def _has_kana_or_hangul(characters: list[str]) -> bool:
    count = sum("\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7a3" for c in characters)
    return count >= 0.1 * len(characters)


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
