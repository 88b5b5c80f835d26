"""Request bodies from uploads: a path, bytes, an open binary file, a pandas or polars frame, an Arrow table."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

from fitserve.client.dataframes import library_of
from fitserve.errors import BadInput
from fitserve.wire.datasets import COMPRESSION_SUFFIXES, SUFFIXES

CHUNK = 1024 * 1024  # bytes
PARQUET = SUFFIXES["parquet"]["parquet"]
_MEDIA_TYPES = {f".{suffix}": kind for of_format in SUFFIXES.values() for suffix, kind in of_format.items()}
_COMPRESSIONS = tuple(f".{suffix}" for suffix in COMPRESSION_SUFFIXES)
TABLE_SUFFIXES = (*(_MEDIA_TYPES.keys() - {".json"}), *_COMPRESSIONS)  # without .json, since a spec is JSON too
Progress = Callable[[int, int | None], None]  # called with the bytes sent so far and the total


@dataclass(slots=True)
class UploadBody:
    """A request body with a type and a name, which can be sent again from its start."""

    source: Path | bytes | IO[bytes]
    content_type: str
    stem: str | None = None  # the file name's stem, which names the dataset
    progress: Progress | None = None
    size: int | None = None
    start: int = 0  # the offset of an open file when we got it

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes from their beginning, reporting progress."""
        sent = 0
        for chunk in self._read():
            yield chunk
            sent += len(chunk)
            self.report(sent)

    def _read(self) -> Iterator[bytes]:
        if isinstance(self.source, bytes):
            for start in range(0, len(self.source), CHUNK):
                yield self.source[start : start + CHUNK]
        elif isinstance(self.source, Path):
            with self.source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        else:
            if self.source.seekable():
                self.source.seek(self.start)
            while chunk := self.source.read(CHUNK):
                yield chunk

    def piece(self, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset` on."""
        if isinstance(self.source, bytes):
            return self.source[offset : offset + count]
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                file.seek(offset)
                return file.read(count)
        self.source.seek(self.start + offset)
        return self.source.read(count)

    def report(self, sent: int) -> None:
        """Report how many bytes have been sent."""
        if self.progress is not None:
            self.progress(sent, self.size)

    @property
    def repeatable(self) -> bool:
        """Whether the bytes can be read again from their beginning."""
        return isinstance(self.source, bytes | Path) or self.source.seekable()


def upload_of(data: Any, progress: Progress | None = None) -> UploadBody:
    """Return the argument of `datasets.upload` as a request body. Raises BadInput for what is not a table."""
    if isinstance(data, str | PathLike):
        return _file(Path(data), progress)
    if isinstance(data, bytes | bytearray):
        return UploadBody(bytes(data), "application/octet-stream", None, progress, len(data))
    if hasattr(data, "read"):
        return _open_file(data, progress)
    content, content_type = _frame(data)
    return UploadBody(content, content_type, None, progress, len(content))


def dataset_name(stem: str) -> str:
    """Return a dataset name made from a file name: `[a-z0-9][a-z0-9._-]{0,62}`."""
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    return name[:63] or "dataset"


def _file(path: Path, progress: Progress | None) -> UploadBody:
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", received=str(path), expected="a file, or a frame")
    stem, content_type = _stem_and_type(path.name)
    return UploadBody(path, content_type, stem, progress, path.stat().st_size)


def _stem_and_type(name: str) -> tuple[str, str]:
    bare = Path(name)
    while bare.suffix.lower() in _COMPRESSIONS:
        bare = Path(bare.stem)
    return bare.stem, _MEDIA_TYPES.get(bare.suffix.lower(), "application/octet-stream")


def _open_file(file: IO[bytes], progress: Progress | None) -> UploadBody:
    name = getattr(file, "name", None)
    stem, content_type = _stem_and_type(name) if isinstance(name, str) else (None, "application/octet-stream")
    if isinstance(file, io.TextIOBase):
        raise BadInput("An open file must be binary.", fix='Open it with mode "rb".')
    if not file.seekable():
        return UploadBody(file, content_type, stem, progress)
    start = file.tell()
    size = file.seek(0, io.SEEK_END) - start
    file.seek(start)
    return UploadBody(file, content_type, stem, progress, size, start)


def _frame(data: Any) -> tuple[bytes, str]:
    """Return a frame as Parquet, which keeps its types; a pandas frame without a Parquet engine as CSV."""
    library = library_of(data)
    buffer = io.BytesIO()
    if library == "polars":
        data.collect().write_parquet(buffer) if hasattr(data, "collect") else data.write_parquet(buffer)
        return buffer.getvalue(), PARQUET
    if library == "pandas":
        try:
            data.to_parquet(buffer, index=False)
        except ImportError:
            return data.to_csv(index=False).encode(), "text/csv"
        return buffer.getvalue(), PARQUET
    if library == "pyarrow":
        import pyarrow.parquet

        pyarrow.parquet.write_table(data, buffer)
        return buffer.getvalue(), PARQUET
    raise BadInput(
        f"A {type(data).__name__} is not a table.",
        expected="a path, bytes, an open binary file, a pandas or polars frame, or a pyarrow Table",
    )
