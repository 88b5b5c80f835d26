"""The formats of tables, each read in batches by one module of this package; an upload is opened here.

Every module of this package is imported here, and a `TableReader` with a `format` registers itself: to add a format,
add a module, and its name to `Format` and SUFFIXES of `fitserve.wire.datasets`, which the client reads, too.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pyarrow as pa

from fitserve.blobs import CHUNK, disk_full_is_507
from fitserve.datasets import MAX_PROBLEMS, TableEmpty, TableUnreadable, refuse, utf8
from fitserve.datasets.column_plan import ColumnPlan
from fitserve.errors import Problem, TooLarge, UnsupportedMedia
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import Compression, Format, UploadOptions
from fitserve.wire.notices import Notice

HEAD_BYTES = 4096  # bytes from which a format is recognised
FIRST_PIECE = 1024  # bytes of a gzip member that are read first; further pieces are longer
_FOREIGN_FORMATS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x80\x04": "a pickle",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x1f\x8b": "a gzip file within another one",
    b"\x28\xb5\x2f\xfd": "a zstd file within another one",
    b"\x04\x22\x4d\x18": "an lz4 file",
    b"\x1f\x9d": "a file of the program compress",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
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
    b"%%MatrixMarket": "a Matrix Market file",
    b"structure(list(": "a table as R's dput writes it",
    b"BEGIN:VCARD": "a vCard",
    b"BEGIN:VCALENDAR": "a calendar",
    b"UNA:": "an EDI message",
    b"UNB+": "an EDI message",
    b"ISA*": "an EDI message",
    b":20:": "a bank statement in SWIFT's MT940",
    b"\x1e{": "a JSON text sequence",
}
TAR_MARK = b"ustar"  # at offset 257
# Text formats that would parse as CSV but are not.
_ZEROS = re.compile(rb"\0*+")
_RULE = rb"[ \t]*+[|+]?[ \t]*+:?[-=]{2,}+:?(?>([ \t]*+[|+][ \t]*+:?[-=]{2,}+:?)+)[ \t]*+[|+]?[ \t]*+\r?"
_BELOW_A_RULE = rb"([^\n]*+\n){0,2}?" + _RULE + rb"(\n|$)"
# Borders around a printed table, and the rules that database shells draw below column names.
_BOX = rb"[ \t]*+[-=+|]{5,}+[ \t]*+\r?\n[ \t]*+\|"
_SPACED_RULE = rb"([^\n]*+\n){0,2}? *+(?=[^\n]*[-=_]{3})[-=_]{2,}+(?>( ++[-=_]{2,}+)+) *+\r?(\n|$)"
_DRAWN = rb"(" + _BELOW_A_RULE + rb")|" + _BOX + rb"|" + _SPACED_RULE
_DRAWN_TABLE = re.compile(_DRAWN)
_SQL = re.compile(
    rb"\s*+(?>((--|/\*)[^\n]*+\n\s*+)*)(INSERT\s++INTO|CREATE\s++TABLE|DROP\s++TABLE|BEGIN;|PRAGMA\s)", re.IGNORECASE
)
_ARFF = re.compile(rb"\s*+(?>(%[^\n]*+\n\s*+)*)@relation\s", re.IGNORECASE)
_LIBSVM = re.compile(rb"([+-]?[0-9.]++(?>( [0-9]++:[0-9.eE+-]++)+) *+\r?\n){2}")
_YAML = re.compile(rb"(---[ \t]*+\r?\n)?- [A-Za-z_][^\n,;\t:]*+:( [^\n]*+)?\r?\n  [A-Za-z_][^\n,;\t:]*+:")
_LOOSE_JSON = re.compile(rb"\s*+[\[{]?\s*+\{\s*+('[^'\n]*+'|[A-Za-z_]\w*+)\s*+:")
_XML = re.compile(rb"\s*+(<\?xml\s|OFXHEADER:|<[A-Za-z][\w:-]*+(\s[^>\n]*+)?>\s*+<[A-Za-z/])")
_FASTA = re.compile(rb">[^\n,;\t]*+\n[A-Za-z*-]++\r?\n(>|[A-Za-z*-]++(\r?\n|$))")
_LATEX = re.compile(rb"\s*+\\(begin|documentclass)\b")
_SETTINGS = re.compile(rb"\s*+(?>([#;][^\n]*+\n\s*+)*)\[[^]\n,;]++\][ \t\r]*+\n[ \t]*+[\w.-]++[ \t]*+=")
_COMMENTED_JSON = re.compile(rb"\s*+//[^\n]*+\n\s*+[\[{]")
_LIST_OF_VALUES = re.compile(rb"\s*+\[([\d.,eE+\-\s]|null|true|false)*+(\]\s*+)?\Z")
_WEB_PAGE = re.compile(rb"\s*+<(!doctype\s++html|html|table)[\s>]", re.IGNORECASE)


class ReadAgain(Exception):
    """The file must be read again from the start, under the same plans."""


Batches = Generator[tuple[np.ndarray, pa.RecordBatch], None, None]  # row numbers (int64, from 1) and rows
READERS: dict[Format, type[TableReader]] = {}


class TableReader(ABC):
    """A file in one format. Bad records are counted in `rejected`; the first of them are in `problems`.

    In strict mode MAX_PROBLEMS of them end the reading; in lenient mode they are left out.
    """

    format: ClassVar[Format]
    title: ClassVar[str]  # in messages
    # matches a file's beginning; a file that matches no signature is CSV
    signature: ClassVar[re.Pattern[bytes] | None] = None
    is_text: ClassVar[bool] = False  # whether the reader expects UTF-8; other encodings are transcoded first

    def __init__(self, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
        """Read `path`, an uncompressed file; new files are made in `folder`."""
        self.path, self.options, self.limits, self.folder = path, options, limits, folder
        self.description: dict[str, Any] = {}  # how the file is written, as the dataset's `source` shows it
        self.notices: list[Notice] = []  # decisions about the file; part of the upload's response
        self.problems: list[Problem] = []
        self.rejected = 0
        self.set_asides: dict[str, str] = {}  # columns that are ignored unless the request says otherwise, and why
        self.names: Sequence[str] = ()  # the columns; more may be found while reading, which raises ReadAgain

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "format" in cls.__dict__:
            READERS[cls.format] = cls

    @abstractmethod
    def plans(self) -> list[ColumnPlan]:
        """Propose a plan for each column, from a sample of the file."""

    @abstractmethod
    def batches(self) -> Batches:
        """Yield the rows: texts or, under a typed plan, values; null where missing.

        Raises TableRefused, TableUnreadable, TooLarge, ReadAgain.
        """

    def add_notice(
        self,
        code: str,
        message: str,
        *,
        column: str | None = None,
        evidence: str | None = None,
        option: str | None = None,
    ) -> None:
        """Add a notice about the file, unless it was added before."""
        notice = Notice(code=code, message=message, column=column, evidence=evidence, option=option)
        if notice not in self.notices:
            self.notices.append(notice)

    def set_aside(self, name: str, why: str) -> None:
        """Ignore a column that names its rows, unless the request gives it a kind."""
        if name in self.options.kinds:
            return
        self.set_asides[name] = why
        message = f"The column {name!r} is ignored: it is {why}."
        self.add_notice("column_set_aside", message, column=name, option=f"kinds.{name}=categorical")

    def locate(self, problems: Sequence[Problem]) -> list[Problem]:
        """Add line numbers to the problems, if the format has lines."""
        return list(problems)

    def check_width(self, columns: int) -> None:
        """Raise TooLarge where there are more columns than the limit."""
        if columns > self.limits.columns:
            expected = f"at most {self.limits.columns}"
            raise TooLarge("The table has more columns than the limit.", received=columns, expected=expected)

    def check_length(self, rows: int) -> None:
        """Raise TooLarge where there are more rows than the limit."""
        if rows > self.limits.rows:
            received, expected = f"at least {rows} rows", f"at most {self.limits.rows}"
            raise TooLarge("The table has more rows than the limit.", received=received, expected=expected)

    def refuse_if_strict(self, least: int = MAX_PROBLEMS) -> None:
        """Raise TableRefused for a strict upload with at least this many bad records."""
        if not self.options.lenient and self.rejected >= least:
            raise refuse(self.locate(self.problems), self.rejected)


def open_reader(path: Path, options: UploadOptions, limits: Limits, folder: Path) -> TableReader:
    """Open an uploaded file: unpacked, its format recognised, text transcoded to UTF-8.

    New files are made in `folder`. Raises TableUnreadable, TableRefused, TooLarge, UnsupportedMedia.
    """
    path, compression = _unpack(path, folder, limits)
    head = _read_head(path)
    matching = (reader for reader in READERS.values() if reader.signature and reader.signature.match(head))
    reader = READERS[options.format] if options.format else next(matching, READERS["csv"])
    encoding = notice = None
    if reader.is_text:
        _refuse_foreign_format(head)
        text = utf8.to_utf8(path, head, options.encoding, folder, limits)
        path, encoding, notice = text.path, text.encoding, text.notice
        if encoding == "utf-8":
            notice = utf8.note_damage(head)
    opened = reader(path, options, limits, folder)
    if notice is not None:
        opened.notices.insert(0, notice)
    opened.description = {
        "format": reader.format,
        "compression": compression,
        "encoding": encoding,
        "options": options.model_dump(mode="json", exclude_defaults=True),
        **opened.description,
    }
    return opened


def _foreign_text(head: bytes) -> str | None:
    """Name the text format of a file that begins like this and is not a table."""
    formats = {
        "a table drawn with lines, as Markdown and database shells print it": _DRAWN_TABLE.match(head),
        "an SQL script": _SQL.match(head),
        "an ARFF file": _ARFF.match(head),
        "a LIBSVM file": _LIBSVM.match(head),
        "XML": _XML.match(head),
        "YAML": _YAML.match(head),
        "JSON whose names are not in double quotes": _LOOSE_JSON.match(head),
        "a web page": _WEB_PAGE.match(head),
        "a FASTA file": _FASTA.match(head),
        "a LaTeX document": _LATEX.match(head),
        "a file of settings (INI, TOML)": _SETTINGS.match(head),
        "JSON with comments": _COMMENTED_JSON.match(head),
        "one list of values, without rows": _LIST_OF_VALUES.match(head),
    }
    return next((name for name, match in formats.items() if match), None)


def _read_head(path: Path) -> bytes:
    """Return a file's first bytes. Raises TableEmpty."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise TableEmpty("The file is empty.", expected="a table with a header and at least one row")
    return head


def _refuse_foreign_format(head: bytes) -> None:
    """Raise UnsupportedMedia for well-known formats that are no tables here."""
    name = next((name for magic, name in _FOREIGN_FORMATS.items() if head.startswith(magic)), None)
    if name is None and head[257:262] == TAR_MARK:
        name = "a tar archive"
    if name is None:
        name = _foreign_text(head)
    if name is not None:
        *titles, last = (READERS[format].title for format in get_args(Format))
        expected = f"{', '.join(titles)} or {last}, plain, gzip or zstd"
        raise UnsupportedMedia(f"This is {name}.", expected=expected)


# --- compression ---------------------------------------------------------------------------------------------------


def _unpack(path: Path, folder: Path, limits: Limits) -> tuple[Path, Compression | None]:
    """Return the uncompressed file (`path` itself where it is not compressed) and its compression.

    Raises TooLarge where it expands beyond the limits, TableUnreadable where it is damaged.
    """
    head = _read_head(path)
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
    """Yield the content of gzip members, one after the other; zeros after them are padding.

    Of a member short pieces are read first: what follows it in its last piece is copied, and a file of empty members
    would take more than a second per megabyte if that were all the rest of a chunk.
    """
    with path.open("rb") as source:
        data, place = source.read(CHUNK), 0
        while data:
            unpacker, piece_bytes = zlib.decompressobj(wbits=31), FIRST_PIECE
            while not unpacker.eof:
                if place == len(data):
                    data, place = source.read(CHUNK), 0
                    if not data:
                        raise _cut_off("gzip")
                piece = data[place : place + piece_bytes]
                try:
                    chunk = unpacker.decompress(piece, CHUNK)
                except zlib.error as error:
                    raise _damaged("gzip", error) from None
                if chunk:
                    yield chunk
                unread = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
                place += len(piece) - len(unread)
                piece_bytes = min(2 * piece_bytes, CHUNK)
            place = _after_zeros(data, place)
            while data and place == len(data):
                data = source.read(CHUNK)
                place = _after_zeros(data, 0)


def _after_zeros(data: bytes, place: int) -> int:
    match = _ZEROS.match(data, place)
    assert match is not None  # it may match nothing
    return match.end()


def _unzstd(path: Path) -> Iterator[bytes]:
    """Yield the content of zstd frames, one after the other."""
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


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
