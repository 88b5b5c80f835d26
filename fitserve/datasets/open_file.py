"""Uploaded bytes to a plain local file: format and compression recognised, bombs stopped, text made UTF-8."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from fitserve.blobs import CHUNK, disk_full_is_507
from fitserve.datasets.table_problems import TableUnreadable
from fitserve.errors import Problem, TooLarge, UnsupportedMedia
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import Compression, Format, UploadOptions

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Old Macintosh and rare code pages that the guess mistakes Windows' for.
_WINDOWS = {
    "mac_cyrillic": "cp1251",
    "kz1048": "cp1251",
    "ptcp154": "cp1251",
    "mac_greek": "cp1253",
    "mac_latin2": "cp1250",
}
HEAD = 4 * MB  # looked at before parsing
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x80\x04": "a pickle",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
}


@dataclass(frozen=True)
class Source:
    """A plain file: uncompressed, and UTF-8 without BOM where it is text."""

    path: Path
    format: Format
    compression: Compression | None
    encoding: str | None  # what the text was in


def open_source(path: Path, options: UploadOptions, limits: Limits, folder: Path) -> Source:
    """Recognises and unpacks; new files go into `folder`. Raises TableUnreadable, TooLarge, UnsupportedMedia."""
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise TableUnreadable("The file is empty.", expected="a table with a header and at least one row")
    compression = _compression(head)
    if compression is not None:
        plain = folder / "plain"
        _unpack(path, plain, compression, limits)
        path = plain
    with path.open("rb") as file:
        start, size = file.read(4096), path.stat().st_size
    if not start:
        raise TableUnreadable("The file is empty.", expected="a table with a header and at least one row")
    kind = options.format or _format(start)
    if kind in ("parquet", "arrow"):
        return Source(path, kind, compression, None)
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise UnsupportedMedia(
                f"This is {what}.", expected="CSV, JSON Lines, Parquet or Arrow IPC, plain, gzip or zstd"
            )
    encoding = _encoding(path, start, size, options.encoding)
    if encoding not in ("utf-8", "ascii"):
        path = transcode(path, folder / "text", encoding, limits)
    return Source(path, kind, compression, encoding)


def _compression(head: bytes) -> Compression | None:
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if head[:4] == b"\x28\xb5\x2f\xfd" else None


def _format(start: bytes) -> Format:
    if start[:4] == b"PAR1":
        return "parquet"
    if start[:6] == b"ARROW1" or start[:4] == b"\xff\xff\xff\xff":
        return "arrow"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return "jsonl" if text[:1] in (b"{", b"[") and (text[1:].lstrip()[:1] in (b'"', b"}", b"{")) else "csv"


def _unpack(path: Path, plain: Path, compression: Compression, limits: Limits) -> None:
    most = min(limits.expanded_bytes, max(64 * MB, limits.expansion_ratio * path.stat().st_size))
    written = 0
    try:
        with disk_full_is_507(), path.open("rb") as source, plain.open("wb") as target:
            for chunk in _gunzip(source) if compression == "gzip" else _unzstd(source):
                written += len(chunk)
                if written > most:
                    raise TooLarge(
                        "The file expands to more than is allowed.",
                        received=f"more than {most} bytes from {path.stat().st_size}",
                        expected=f"at most {limits.expansion_ratio} times its size, and {limits.expanded_bytes} bytes",
                    )
                target.write(chunk)
    except (zlib.error, zstandard.ZstdError) as error:
        raise TableUnreadable(
            f"The {compression} stream is damaged: {error}.", fix="Pack and upload it again."
        ) from None


def _gunzip(source: IO[bytes]) -> Iterator[bytes]:
    """Members one after the other, as gzip allows. Raises TableUnreadable where the last one is cut off."""
    unpacker = zlib.decompressobj(wbits=31)
    data = source.read(CHUNK)
    while data:
        chunk = unpacker.decompress(data, CHUNK)
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
    raise TableUnreadable("The gzip stream ends too early: the upload was cut off.", fix="Upload it again.")


def _unzstd(source: IO[bytes]) -> Iterator[bytes]:
    unpacker = zstandard.ZstdDecompressor(max_window_size=128 * MB).decompressobj(read_across_frames=False)
    data = source.read(64 * 1024)
    while data:
        # One call may expand its input 10^5 times; small steps keep that in bounds.
        for at in range(0, len(data), 4096):
            if unpacker.eof:
                break
            chunk = unpacker.decompress(data[at : at + 4096])
            if chunk:
                yield chunk
        if unpacker.eof:
            rest = unpacker.unused_data + data[at + 4096 :] if at + 4096 < len(data) else unpacker.unused_data
            data = rest or source.read(64 * 1024)
            if not data:
                return
            unpacker = zstandard.ZstdDecompressor(max_window_size=128 * MB).decompressobj()
        else:
            data = source.read(64 * 1024)
    raise TableUnreadable("The zstd stream ends too early: the upload was cut off.", fix="Upload it again.")


def _encoding(path: Path, start: bytes, size: int, stated: str | None) -> str:
    """By BOM, as stated, else UTF-8 where all bytes are; else the likeliest of the legacy encodings."""
    for bom, name in BOMS:
        if start.startswith(bom):
            return name
    if stated is not None:
        try:
            return codecs.lookup(stated).name
        except LookupError:
            raise TableUnreadable(
                f"The encoding {stated!r} is not known.", received=stated, expected="a name such as utf-8 or gb18030"
            ) from None
    bad = first_invalid_utf8(path, HEAD)  # the rest is checked by the parser, while it reads
    if bad is None:
        return "utf-8"
    return guess_encoding(path, bad)


def first_invalid_utf8(path: Path, most: int | None = None) -> int | None:
    """Where the first byte stands that is not UTF-8, or None; of the first `most` bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    with path.open("rb") as file:
        while (most is None or done < most) and (chunk := file.read(4 * MB)):
            if not chunk.isascii() or decoder.getstate()[0]:
                held = len(decoder.getstate()[0])
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    return done - held + error.start
            done += len(chunk)
    held = len(decoder.getstate()[0])
    return done - held if held and (most is None or done < most) else None


def guess_encoding(path: Path, bad: int) -> str:
    """The legacy encoding of a file with a byte at `bad` that is not UTF-8.

    Raises TableUnreadable where the text before it is UTF-8 beyond ASCII: then the byte is damage, no other encoding.
    """
    with path.open("rb") as file:
        before = file.read(min(bad, 64 * MB))
        file.seek(max(0, bad - 32_768))
        sample = file.read(131_072)
    if not before.isascii():
        line = 1 + _count_newlines(path, bad)
        problem = Problem(
            f"Line {line} has a byte that is not UTF-8.",
            line=line,
            received=repr(sample[bad - max(0, bad - 32_768) :][:4])[2:-1],
            expected="UTF-8, as the lines before it",
            fix="Mend the line, or name the encoding: encoding=latin-1, for one.",
        )
        raise TableUnreadable(problem.detail, problems=[problem])
    return _likeliest(sample[sample.find(b"\n") + 1 :] if bad > 32_768 else sample)


def _likeliest(sample: bytes) -> str:
    for name in ("euc_kr", "gb18030", "big5", "shift_jis", "euc_jp"):
        if _reads_as_cjk(sample, name):
            return name
    if (western := _western(sample)) and sum(byte >= 0x80 for byte in sample) < 40:
        return western
    from charset_normalizer import from_bytes  # slow to import, rarely needed

    best = from_bytes(sample, cp_exclusion=["utf_16", "utf_32", "utf_7", "cp037", "cp500", "cp1026", "cp1140"]).best()
    if best is None or best.encoding in ("ascii", "utf_8"):
        return western or "cp1252"
    encoding = _WINDOWS.get(best.encoding, best.encoding)
    latin = encoding.startswith(("iso8859_1", "latin", "cp1252", "cp1254", "iso8859_9", "mac_", "cp850", "cp858"))
    return western if western and latin else encoding


def _western(sample: bytes) -> str | None:
    """Latin-1 or its Windows variant, where what is not ASCII is now and then an accented letter."""
    high = [byte for byte in sample if byte >= 0x80]
    letters = sum(chr(byte).isalpha() for byte in sample if byte < 0x80)
    name = "cp1252" if any(byte < 0xA0 for byte in high) else "latin-1"
    text = bytes(high).decode(name, "replace")
    good = sum(c.isalpha() or c in "°€£«»’‘“”–—…§©®´·¿¡\xa0" for c in text) - text.count("\ufffd")
    return name if good >= 0.95 * len(high) and len(high) * 3 < letters else None


def _reads_as_cjk(sample: bytes, name: str) -> bool:
    """Whether the text decodes strictly, and what is not ASCII is mostly the commonest Han, kana or Hangul."""
    text = codecs.getincrementaldecoder(name)("replace").decode(sample)
    if text.count("\ufffd") > 1:
        return False
    foreign = [character for character in text if character > "\x7f" and character != "\ufffd"]
    wide = [c for c in foreign if "\u3040" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3" or "\u3000" <= c <= "\u303f"]
    wide += [c for c in foreign if "\uff01" <= c <= "\uff5e"]
    if len(foreign) < 4 or len(wide) < 0.9 * len(foreign):
        return False
    if name == "euc_kr":  # Hangul stands where GB 2312 has its commonest characters: nothing else may be there
        hangul = sum("\uac00" <= c <= "\ud7a3" for c in wide)
        return hangul >= max(8, 0.95 * len(wide))
    if name == "gb18030":  # level 1 of GB 2312 holds the common characters, in rows 0xB0 to 0xD7
        common = sum(1 for c in wide if 0xB0 <= c.encode("gb18030")[0] <= 0xD7)
        return common >= 0.7 * len([c for c in wide if c >= "\u4e00"]) and not _has_kana_or_hangul(wide)
    if name == "big5":  # rows 0xA4 to 0xC6 are the frequent characters
        common = sum(1 for c in wide if 0xA4 <= c.encode("big5", "replace")[0] <= 0xC6)
        return common >= 0.7 * len(wide)
    return _has_kana_or_hangul(wide)


def _has_kana_or_hangul(characters: list[str]) -> bool:
    count = sum(1 for c in characters if "\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7a3")
    return count >= 0.1 * len(characters)


def _count_newlines(path: Path, until: int) -> int:
    count = 0
    with path.open("rb") as file:
        while until > 0 and (chunk := file.read(min(CHUNK, until))):
            count += chunk.count(b"\n")
            until -= len(chunk)
    return count


def transcode(path: Path, target: Path, encoding: str, limits: Limits) -> Path:
    """The text as UTF-8 without BOM. Raises TableUnreadable naming the line of the first byte that does not decode."""
    written = lines = 0
    try:
        decoder = codecs.getincrementaldecoder(encoding)("strict")
        with disk_full_is_507(), path.open("rb") as source, target.open("wb") as out:
            while True:
                chunk = source.read(CHUNK)
                text = decoder.decode(chunk, final=not chunk)
                data = text.encode("utf-8")
                lines += data.count(b"\n")
                written += out.write(data)
                if written > limits.expanded_bytes:
                    raise TooLarge("The text is larger than the limit.", expected=f"{limits.expanded_bytes} bytes")
                if not chunk:
                    return target
    except (UnicodeError, LookupError) as error:
        bad = getattr(error, "object", b"")
        start = getattr(error, "start", 0)
        line = lines + 1 + (bad[:start].count(b"\n") if isinstance(bad, bytes) else 0)
        received = bad[start : start + 4] if isinstance(bad, bytes) else str(error)
        problem = Problem(
            f"Line {line} has bytes that are not {encoding}.", line=line, received=repr(received), expected=encoding
        )
        raise TableUnreadable(problem.detail, problems=[problem]) from None
