"""Files that are parts of one table, joined by column names into one file, which is read as an upload is."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from fitserve.blobs import disk_full_is_507
from fitserve.datasets.parquet_batches import batches_of
from fitserve.datasets.readers import ReadAgain, TableReader, open_reader
from fitserve.datasets.sources.arrow_file import ArrowFile
from fitserve.datasets.sources.connections import SourceRefused
from fitserve.datasets.sources.fetched import Fetched, Place
from fitserve.datasets.sources.parts import Part, joined_rows, read_stream, unify
from fitserve.errors import BadInput
from fitserve.settings import MB
from fitserve.wire.notices import Notice

BATCH_ROWS = 65_536
_OF_TEXTS = ("format", "delimiter", "quote", "encoding", "header", "skip_rows", "footer", "comment")  # options


@dataclass(frozen=True)
class PartFile:
    """A part on local disk."""

    name: str
    path: Path
    sha256: str
    bytes: int


def join(files: Sequence[PartFile], place: Place, snapshot: dict[str, Any]) -> Fetched:
    """Return one file with the rows of all parts, in their order.

    One part stays as it is. Raises BadInput and its subclasses, which name the part.
    """
    if len(files) == 1:
        (only,) = files
        return Fetched(only.path, only.sha256, only.bytes, snapshot, stem=only.name)
    whole = hashlib.sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()
    size = sum(file.bytes for file in files)
    readers = [_reader(file, place) for file in files]
    formats = {reader.format: file.name for reader, file in zip(reversed(readers), reversed(files), strict=True)}
    if len(formats) > 1:
        shown = ", ".join(f"{name} is {format}" for format, name in formats.items())
        raise SourceRefused("The parts are of several formats.", received=shown, expected="parts of one format")
    (format,) = formats
    joining: Callable[..., tuple[Path, list[Notice]]] = {"csv": _join_csv, "jsonl": _join_lines}.get(
        format, _join_typed
    )
    path, notices = joining(files, readers, place)
    reading = place.options.model_copy(update={**dict.fromkeys(_OF_TEXTS), "format": None})
    return Fetched(path, whole, size, snapshot, notices, reading=reading)


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


def _reader(file: PartFile, place: Place) -> TableReader:
    folder = file.path.with_suffix(".read")
    folder.mkdir()
    options = place.options.model_copy(update={"kinds": {}, "formats": {}})
    with _naming(file):
        known = open_reader(file.path, options, place.limits, folder)
    if known.path != file.path:
        file.path.unlink()  # unpacked or transcoded: only the copy is read from here on
    return known


def _join_typed(files: Sequence[PartFile], readers: Sequence[TableReader], place: Place) -> tuple[Path, list[Notice]]:
    parts = []
    for file, reader in zip(files, readers, strict=True):
        schema = pq.read_schema(reader.path) if reader.format == "parquet" else _arrow_schema(reader.path)
        read = _parquet_batches if reader.format == "parquet" else _arrow_batches
        parts.append(Part(file.name, schema, partial(read, reader.path)))
    schema, notices = unify(parts)
    path = place.folder / "joined.arrow"
    with ArrowFile(path, schema, place.limits) as joined:
        joined.write_all(joined_rows(parts, schema))
    return path, notices


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, buffer_size=MB) as file:
        yield from batches_of(file, BATCH_ROWS, use_threads=False)


def _arrow_schema(path: Path) -> pa.Schema:
    return next(_arrow_opened(path)).schema


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    for reader in _arrow_opened(path):
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
        else:
            yield from reader


def _arrow_opened(path: Path) -> Iterator[Any]:
    with pa.OSFile(str(path)) as file:
        is_file = bytes(file.read(6)) == b"ARROW1"
        file.seek(0)
        yield pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def _join_csv(files: Sequence[PartFile], readers: Sequence[TableReader], place: Place) -> tuple[Path, list[Notice]]:
    """Write the fields of all parts as texts into one CSV file, so that kinds are inferred from all rows."""
    parts, notices = [], []
    for at, (file, reader) in enumerate(zip(files, readers, strict=True)):
        segment = place.folder / f"texts-{at}.arrow"
        with _naming(file):
            _write_texts(reader, segment)
        parts.append(
            Part(file.name, pa.schema([(name, pa.string()) for name in reader.names]), partial(read_stream, segment))
        )
        if reader.rejected:
            message = f"{reader.rejected} rows of {file.name} were left out."
            notices.append(Notice(code="rows_left_out", message=message, evidence=reader.problems[0].detail))
    schema, differences = unify(parts)
    path = place.folder / "joined.csv"
    with disk_full_is_507(), pa.csv.CSVWriter(str(path), schema) as writer:
        for batch in joined_rows(parts, schema):
            writer.write_batch(batch)
    return path, [*notices, *differences]


def _write_texts(reader: TableReader, segment: Path) -> None:
    while True:
        try:
            schema = pa.schema([(name, pa.string()) for name in reader.names])
            with disk_full_is_507(), pa.ipc.new_stream(str(segment), schema) as writer:
                for _, batch in reader.batches():
                    writer.write_batch(batch)
            reader.refuse_if_strict(1)
            return
        except ReadAgain:
            continue


def _join_lines(files: Sequence[PartFile], readers: Sequence[TableReader], place: Place) -> tuple[Path, list[Notice]]:
    """Write all parts' lines below each other."""
    path = place.folder / "joined.jsonl"
    with disk_full_is_507(), path.open("wb") as joined:
        for reader in readers:
            with reader.path.open("rb") as part:
                shutil.copyfileobj(part, joined, MB)
            joined.write(b"\n")
    parts = [
        Part(file.name, pa.schema([(name, pa.null()) for name in reader.names]), lambda: iter(()))
        for file, reader in zip(files, readers, strict=True)
    ]
    return path, unify(parts)[1]
