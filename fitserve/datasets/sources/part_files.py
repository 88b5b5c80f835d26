"""Files that are parts of one table: each read by itself, then joined by column names into one file.

The joined file is read as an upload is. Parts may be read by several processes, and joined by one of them. Columnar
formats are joined as typed values, JSON Lines as lines, and every other format as texts in one CSV file.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc

from fitserve.blobs import disk_full_is_507
from fitserve.datasets import TableEmpty
from fitserve.datasets.readers import READERS, ReadAgain, TableReader, open_reader
from fitserve.datasets.readers.columnar_reader import BATCH_ROWS, ColumnarReader
from fitserve.datasets.readers.jsonl_reader import JsonLinesReader
from fitserve.datasets.sources.arrow_file import ArrowFile
from fitserve.datasets.sources.connections import SourceRefused
from fitserve.datasets.sources.fetched import Fetched, Place
from fitserve.datasets.sources.part_folders import FolderColumns
from fitserve.datasets.sources.parts import MAX_NAMED, TablePart, joined_rows, read_stream, unify
from fitserve.errors import BadInput, TooLarge
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import Format
from fitserve.wire.notices import Notice

_OF_TEXTS = ("format", "delimiter", "quote", "encoding", "header", "skip_rows", "footer", "comment")  # options


@dataclass(frozen=True)
class PartFile:
    """A part on local disk, as it came."""

    name: str
    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True)
class PartTable:
    """A part that has been read: an unpacked columnar file, JSON lines in UTF-8, or an Arrow stream of texts.

    `schema` has the columns of texts as such, those of JSON Lines without types.
    """

    name: str
    sha256: str  # hash of the part as received; `bytes` is its size
    bytes: int
    format: Format | None  # None: it has no rows, as Spark writes some parts; no bytes, or a header alone
    schema: pa.Schema
    expanded: int  # bytes of the part once unpacked, in UTF-8
    local: Callable[[], Path]  # brings the file to local disk, where it is not there
    rejected: int = 0  # records that a lenient import leaves out, and the first of them
    first_rejected: str | None = None


def read_parts(files: Sequence[PartFile], place: Place) -> list[PartTable]:
    """Read each part by itself. Raises BadInput and its subclasses, which name the part, and TooLarge."""
    readers, expanded = [], 0
    for file in files:
        place.raise_if_stopped()
        reader = _reader(file, place)
        readers.append(reader)
        expanded += reader.path.stat().st_size if isinstance(reader, TableReader) else 0
        check_expanded(expanded, place.limits)
    formats = [
        (file.name, reader.format)
        for file, reader in zip(files, readers, strict=True)
        if isinstance(reader, TableReader)
    ]
    if formats:
        _one_format(formats)
    return [_read_part(file, reader, place) for file, reader in zip(files, readers, strict=True)]


def check_expanded(size: int, limits: Limits) -> None:
    """Raise TooLarge where parts together unpack to more bytes than one file may."""
    if size > limits.expanded_bytes:
        raise TooLarge(
            "The parts expand to more than is allowed.", expected=f"at most {limits.expanded_bytes} bytes together"
        )


def _reader(file: PartFile, place: Place) -> TableReader | TableEmpty:
    """Return a part's reader, or what says that it has no rows."""
    folder = file.path.with_suffix(".read")
    folder.mkdir()
    options = place.options.model_copy(update={"kinds": {}, "formats": {}})
    with _naming(file):
        try:
            reader = open_reader(file.path, options, place.limits, folder)
        except TableEmpty as empty:
            return empty
    if reader.path != file.path:
        file.path.unlink()  # unpacked or transcoded: only the copy is read from here on
    return reader


def _read_part(file: PartFile, reader: TableReader | TableEmpty, place: Place) -> PartTable:
    if isinstance(reader, TableEmpty):
        header = pa.schema([(name, pa.string()) for name in reader.names])
        return PartTable(file.name, file.sha256, file.bytes, None, header, 0, lambda: file.path)
    path, expanded = reader.path, reader.path.stat().st_size
    if _joins_texts(reader.format):
        path = reader.folder / "texts.arrow"
        with _naming(file):
            _write_texts(reader, path, place)
    return PartTable(
        file.name,
        file.sha256,
        file.bytes,
        reader.format,
        _schema(reader),
        expanded,
        lambda: path,
        reader.rejected,
        reader.problems[0].detail if reader.rejected else None,
    )


def _one_format(parts: Sequence[tuple[str, Format | None]]) -> Format:
    """Return the format that all parts with rows have. Raises TableEmpty, SourceRefused."""
    formats = {format: name for name, format in reversed(parts) if format is not None}
    if not formats:
        raise TableEmpty("No part has a row.", expected="a part with a header and at least one row")
    if len(formats) > 1:
        shown = ", ".join(f"{name} is {format}" for format, name in formats.items())
        raise SourceRefused("The parts are of several formats.", received=shown, expected="parts of one format")
    (format,) = formats
    return format


def join(tables: Sequence[PartTable], place: Place, snapshot: dict[str, Any]) -> Fetched:
    """Return one file with the rows of all parts, in their order. Raises BadInput and its subclasses, TooLarge."""
    all_names, all_tables = [str(part["name"]) for part in snapshot["parts"]], tables
    tables = [table for table in all_tables if table.format is not None]
    check_expanded(sum(table.expanded for table in tables), place.limits)
    format = _one_format([(table.name, table.format) for table in tables])
    if place.options.header is None:
        _refuse_rows_as_headers(all_tables, {name for table in tables for name in table.schema.names})
    texts, lines = _joins_texts(format), _joins_lines(format)
    joining = _join_texts if texts else _join_lines if lines else _join_typed
    names = [name for name, table in zip(all_names, all_tables, strict=True) if table.format is not None]
    folders = FolderColumns.of(names, [table.schema for table in tables], as_texts=texts)
    path, notices = joining(tables, place, folders)
    notices = [*folders.notices(read=not lines), *_note_empty(all_tables), *notices]
    content = [table.sha256 for table in tables]
    content += [repr(own) for own in folders.values if own and not lines]
    whole = hashlib.sha256("\n".join(content).encode()).hexdigest()
    reading = place.options.model_copy(update={**dict.fromkeys(_OF_TEXTS), "format": None})
    size = sum(table.bytes for table in tables)
    return Fetched(path, whole, size, snapshot, notices, reading=reading)


def _refuse_rows_as_headers(tables: Sequence[PartTable], names: Collection[str]) -> None:
    """Raise SourceRefused for a part whose only line names no column of the others: it may be a row of texts."""
    for table in tables:
        if table.format is None and table.schema.names and not set(table.schema.names) & set(names):
            what = f"{table.name} has one line, which names no column of the other parts: a header, or a row?"
            shown, fix = ", ".join(table.schema.names)[:120], "State header=false (a row) or header=true (no rows)."
            raise SourceRefused(what, received=shown, expected=f"one of {', '.join(sorted(names))[:120]}", fix=fix)


def _note_empty(tables: Sequence[PartTable]) -> Iterator[Notice]:
    """Yield a notice of parts without rows."""
    names = [table.name for table in tables if table.format is None]
    if names:
        shown = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
        message = f"{len(names)} of {len(tables)} parts have no rows."
        yield Notice(code="parts_empty", message=message, evidence=shown)


@contextmanager
def _naming(file: PartFile) -> Iterator[None]:
    """Add the part's name to errors about it."""
    try:
        yield
    except BadInput as error:
        problems = [replace(problem, detail=f"{file.name}: {problem.detail}") for problem in error.problems]
        raise type(error)(
            f"{file.name}: {error.detail}",
            received=error.received,
            expected=error.expected,
            fix=error.fix,
            problems=problems,
        ) from None


def _columnar(format: Format) -> type[ColumnarReader] | None:
    reader = READERS[format]
    return reader if issubclass(reader, ColumnarReader) else None


def _joins_lines(format: Format) -> bool:
    return issubclass(READERS[format], JsonLinesReader)


def _joins_texts(format: Format) -> bool:
    return _columnar(format) is None and not _joins_lines(format)


def _schema(reader: TableReader) -> pa.Schema:
    if isinstance(reader, ColumnarReader):
        return reader.stored_schema(reader.path)
    kind = pa.string() if _joins_texts(reader.format) else pa.null()
    return pa.schema([(name, kind) for name in reader.names])


def _with_folders(index: int, table: PartTable, folders: FolderColumns) -> TablePart:
    return TablePart(table.name, folders.schema_of(table.schema), lambda: folders.rows_of(index, _batches(table)))


def _join_typed(tables: Sequence[PartTable], place: Place, folders: FolderColumns) -> tuple[Path, list[Notice]]:
    parts = [_with_folders(index, table, folders) for index, table in enumerate(tables)]
    schema, notices = unify(parts)
    path = place.folder / "joined.arrow"
    with ArrowFile(path, schema, place.limits, place.raise_if_stopped) as joined:
        joined.write_all(joined_rows(parts, schema))
    return path, notices


def _batches(table: PartTable) -> Iterator[pa.RecordBatch]:
    """Yield a part's rows, few at a time: one batch of a small Arrow file may have two billion, in one run."""
    columnar = None if table.format is None else _columnar(table.format)
    for batch in columnar.stored_batches(table.local()) if columnar else read_stream(table.local()):
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _join_texts(tables: Sequence[PartTable], place: Place, folders: FolderColumns) -> tuple[Path, list[Notice]]:
    """Write the fields of all parts as texts into one CSV file, so that kinds are inferred from all rows."""
    parts, notices = [], []
    for index, table in enumerate(tables):
        parts.append(_with_folders(index, table, folders))
        if table.rejected:
            message = f"{table.rejected} rows of {table.name} were left out."
            notices.append(Notice(code="rows_left_out", message=message, evidence=table.first_rejected))
    schema, differences = unify(parts)
    path = place.folder / "joined.csv"
    with disk_full_is_507(), pa.csv.CSVWriter(str(path), schema) as writer:
        for batch in joined_rows(parts, schema):
            place.raise_if_stopped()
            writer.write_batch(batch)
    return path, [*notices, *differences]


def _write_texts(reader: TableReader, segment: Path, place: Place) -> None:
    while True:
        try:
            schema = pa.schema([(name, pa.string()) for name in reader.names])
            with disk_full_is_507(), pa.ipc.new_stream(str(segment), schema, options=_PACKED) as writer:
                for _, batch in reader.batches():
                    place.raise_if_stopped()
                    writer.write_batch(batch)
            reader.refuse_if_strict(1)
            return
        except ReadAgain:
            continue


_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")  # the segments of all parts are on disk at once


def _join_lines(tables: Sequence[PartTable], place: Place, folders: FolderColumns) -> tuple[Path, list[Notice]]:
    """Write all parts' lines below each other."""
    path = place.folder / "joined.jsonl"
    with disk_full_is_507(), path.open("wb") as joined:
        for table in tables:
            place.raise_if_stopped()
            with table.local().open("rb") as part:
                shutil.copyfileobj(part, joined, MB)
            joined.write(b"\n")
    parts = [TablePart(table.name, table.schema, lambda: iter(())) for table in tables]
    return path, unify(parts)[1]
