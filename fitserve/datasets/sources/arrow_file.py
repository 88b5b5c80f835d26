"""An Arrow file written batch by batch, with a SHA-256 of its content that does not depend on the batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from fitserve.blobs import disk_full_is_507
from fitserve.datasets.sources.fetched import never_stop
from fitserve.errors import TooLarge
from fitserve.settings import Limits


class TableSize:
    """Counts a table's rows and bytes. Raises TooLarge above their limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.rows, self.bytes = limits, 0, 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        self.rows += batch.num_rows
        self.bytes += batch.nbytes
        if self.rows > self.limits.rows:
            raise TooLarge("The table has more rows than the limit.", expected=f"at most {self.limits.rows}")
        if self.bytes > self.limits.upload_bytes:
            raise TooLarge("The table is larger than the limit.", expected=f"at most {self.limits.upload_bytes} bytes")


class ArrowFile:
    """Writes batches of one schema to a file. Raises TooLarge above the limits of rows and bytes."""

    def __init__(
        self, path: Path, schema: pa.Schema, limits: Limits, raise_if_stopped: Callable[[], None] = never_stop
    ) -> None:
        self.path, self.schema, self._raise_if_stopped = path, schema, raise_if_stopped
        self._size = TableSize(limits)
        self._content = [_ColumnHash(field.type) for field in schema]
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def __enter__(self) -> ArrowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with disk_full_is_507():
            self._writer.close()
            self._sink.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._raise_if_stopped()
        self._size.add(batch)
        for content, column in zip(self._content, batch.columns, strict=True):
            content.add(column)
        with disk_full_is_507():
            self._writer.write_batch(batch)

    def write_all(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Add the rows of all batches; the next one is fetched while this one is hashed and written."""
        coming = iter(batches)
        with ThreadPoolExecutor(1, "fetch") as pool:
            batch = next(coming, None)
            while batch is not None:
                following = pool.submit(next, coming, None)
                self.write(batch)
                batch = following.result()

    @property
    def sha256(self) -> str:
        """The SHA-256 of names, types and values; equal for the same rows in the same order."""
        whole = hashlib.sha256()
        for field, content in zip(self.schema, self._content, strict=True):
            whole.update(f"{field.name}\0{field.type}\0{content.hexdigest()}\n".encode())
        return whole.hexdigest()


class _ColumnHash:
    """Hashes a column's values as they arrive, independently of how they are divided into batches."""

    def __init__(self, kind: pa.DataType) -> None:
        self._values, self._lengths, self._missing = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        types = pa.types
        self._is_binary = types.is_string(kind) or types.is_binary(kind)
        self._is_large = types.is_large_string(kind) or types.is_large_binary(kind)
        fixed = types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind)
        self._width = kind.bit_width // 8 if fixed and not types.is_boolean(kind) else 0

    def add(self, column: pa.Array) -> None:
        """Hash the next values."""
        if not len(column):
            return
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.storage
        self._missing.update(
            _bytes(pc.is_null(column).cast(pa.uint8()), 1) if column.null_count else bytes(len(column))
        )
        if pa.types.is_boolean(column.type):
            self._values.update(_bytes(column.fill_null(False).cast(pa.uint8()), 1))
        elif self._width:
            self._values.update(_filled(column, self._width))
        elif self._is_binary or self._is_large:
            large = pa.large_binary() if self._is_large else pa.binary()
            filled = column.cast(large).fill_null(b"")
            self._lengths.update(_bytes(pc.binary_length(filled).cast(pa.int64()), 8))
            offsets = memoryview(filled.buffers()[1]).cast("q" if self._is_large else "i")
            begin, end = offsets[filled.offset], offsets[filled.offset + len(filled)]
            if end > begin:
                self._values.update(memoryview(filled.buffers()[2])[begin:end])
        else:
            for value in column.to_pylist():
                self._values.update(f"{value!r}\n".encode())

    def hexdigest(self) -> str:
        """Return the hash of all values so far."""
        return "".join(part.hexdigest() for part in (self._missing, self._lengths, self._values))


def _filled(column: pa.Array, width: int) -> memoryview:
    """Return the bytes of a column of fixed width, zeros where values are missing."""
    data = _bytes(column, width)
    if not column.null_count:
        return data
    values = np.frombuffer(data, np.uint8).reshape(len(column), width).copy()
    values[pc.is_null(column).to_numpy(zero_copy_only=False)] = 0
    return memoryview(values.tobytes())


def _bytes(column: pa.Array, width: int) -> memoryview:
    start = column.offset * width
    return memoryview(column.buffers()[1])[start : start + len(column) * width]
