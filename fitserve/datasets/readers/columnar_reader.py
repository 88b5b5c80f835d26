"""Parquet and Arrow IPC: typed columns, read in small batches under a budget of expanded bytes."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from fitserve.datasets import MAX_PROBLEMS, TableRefused, TableUnreadable, bad_value, refuse
from fitserve.datasets.column_parser import ColumnPlan, as_texts, propose_plan, storage_of, typed_plan
from fitserve.datasets.kinds import POSSIBLE
from fitserve.datasets.readers import Batches, TableReader
from fitserve.errors import Problem, TooLarge
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import UploadOptions

BATCH_ROWS = 65_536
_DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError, EOFError)  # raised for damaged files


class ColumnarReader(TableReader):
    """A file of typed columns. Types stay as they are; dictionaries become their values.

    A column whose stated kind needs another storage class is read as text.
    """

    title: str

    def __init__(self, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
        super().__init__(path, options, limits, folder)
        size = path.stat().st_size
        self.budget = min(limits.expanded_bytes, max(256 * MB, limits.expansion_ratio * size))
        try:
            schema = self._schema()
        except _DAMAGED as error:
            raise self._unreadable(error) from None
        self.names = schema.names
        self._check_names()
        self.types = [_plain_type(field) for field in schema]
        self.as_text: set[str] = set()
        for at, (name, arrow_type) in enumerate(zip(self.names, self.types, strict=True)):
            if options.kinds.get(name, "ignored") not in POSSIBLE[storage_of(arrow_type)]:
                self.as_text.add(name)
                self.types[at] = pa.string()
        self.description = {"types": {field.name: str(field.type) for field in schema}}

    @abstractmethod
    def _schema(self) -> pa.Schema:
        """Read the schema, and refuse a table that says it is too large."""

    @abstractmethod
    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the file's own batches."""

    def _check_names(self) -> None:
        if not self.names:
            raise TableUnreadable("The table has no columns.")
        self.check_width(len(self.names))
        for position, name in enumerate(self.names, 1):
            if name and list(self.names).count(name) == 1:
                continue
            what = f"The name {name!r} stands for several columns." if name else f"Column {position} has an empty name."
            problem = Problem(what, column=name or str(position), received=name, expected="a name of its own")
            raise TableRefused(what, problems=[problem])

    def plans(self) -> list[ColumnPlan]:
        kinds = self.options.kinds
        head = next((batch for _, batch in self.batches()), None) if self.as_text else None
        plans = []
        for at, (name, arrow_type) in enumerate(zip(self.names, self.types, strict=True)):
            if name not in self.as_text:
                plans.append(typed_plan(arrow_type, kinds.get(name)))
            else:
                plans.append(
                    propose_plan(head.column(at) if head is not None else pa.nulls(0, arrow_type), kinds.get(name))
                )
        return plans

    def batches(self) -> Batches:
        rows = expanded = 0
        try:
            for batch in self._raw_batches():
                expanded += sum(_expanded_bytes(column) for column in batch.columns)
                self.check_expansion(expanded)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    part = batch.slice(start, BATCH_ROWS)
                    numbers = np.arange(rows + 1, rows + 1 + part.num_rows)
                    rows += part.num_rows
                    self.check_length(rows)
                    arrays = [self._convert(at, column, numbers) for at, column in enumerate(part.columns)]
                    yield numbers, pa.RecordBatch.from_arrays(arrays, names=list(self.names))
        except _DAMAGED as error:
            raise self._unreadable(error) from None

    def check_expansion(self, expanded: int) -> None:
        """Raise TooLarge where the table takes more bytes in memory than the file may expand to."""
        if expanded > self.budget:
            raise TooLarge(
                "The file expands to more than is allowed.",
                received=f"more than {self.budget} bytes from {self.path.stat().st_size}",
                expected=f"at most {self.limits.expansion_ratio} times its size, at most {self.budget} bytes",
            )

    def _unreadable(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno:  # the disk's error, not the file's
            return error
        shown = " ".join(str(error).split())[:160].replace(str(self.path), "the file")
        return TableUnreadable(
            f"This cannot be read as {self.title}: {shown}",
            fix="Was the upload cut off, or the file damaged? Write it again.",
        )

    def _convert(self, at: int, column: pa.Array, numbers: np.ndarray) -> pa.Array:
        """Return a column's values under the type that the dataset has."""
        name, arrow_type = self.names[at], self.types[at]
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.type == arrow_type:
            return column
        if name in self.as_text:
            return as_texts(column)
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            return column.cast(arrow_type)
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            problems = [
                bad_value(int(number), name, repr(value[:20]), "UTF-8 text")
                for number, value in zip(numbers, column.to_pylist(), strict=True)
                if value is not None and not _is_utf8(value)
            ]
            raise refuse(problems[:MAX_PROBLEMS]) from None


class ParquetReader(ColumnarReader):
    """A Parquet file."""

    format = "parquet"
    suffixes = ("parquet", "pq")
    signature = re.compile(rb"PAR1")
    title = "Parquet"

    def _open(self, **options: Any) -> pq.ParquetFile:
        return pq.ParquetFile(
            self.path,
            buffer_size=MB,
            thrift_string_size_limit=16 * MB,
            thrift_container_size_limit=1_000_000,
            **options,
        )

    def _schema(self) -> pa.Schema:
        file = self._open()
        metadata = file.metadata
        self.check_width(metadata.num_columns)
        self.check_length(metadata.num_rows)
        self.check_expansion(sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups)))
        return file.schema_arrow

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        schema = self._schema()
        texts = [field.name for field in schema if _is_text(field.type)]
        rows = max(1, min(BATCH_ROWS, 64 * MB // (8 * max(1, len(schema)))))
        # A text that is repeated stays one in a dictionary, until it is counted.
        yield from self._open(read_dictionary=texts).iter_batches(batch_size=rows, use_threads=False)


class ArrowReader(ColumnarReader):
    """An Arrow IPC file or stream."""

    format = "arrow"
    suffixes = ("arrow", "feather", "ipc")
    signature = re.compile(rb"ARROW1|\xff\xff\xff\xff")
    title = "Arrow IPC"

    def _open(self, file: pa.OSFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
        is_file = bytes(file.read(6)) == b"ARROW1"
        file.seek(0)
        return pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)

    def _schema(self) -> pa.Schema:
        with pa.OSFile(str(self.path)) as file:
            return self._open(file).schema

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self.path)) as file:
            reader = self._open(file)
            if isinstance(reader, pa.ipc.RecordBatchFileReader):
                batches: Any = (reader.get_batch(at) for at in range(reader.num_record_batches))
            else:
                batches = reader
            for batch in batches:
                batch.validate(full=True)
                yield batch


def _plain_type(field: pa.Field) -> pa.DataType:
    """Return the type under which a column's values are stored. Raises TableRefused for nested columns and the like."""
    kind, types = field.type, pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind) or types.is_duration(kind):
        return pa.int64()
    if types.is_float16(kind):
        return pa.float32()
    as_text = (types.is_uint64, types.is_string_view, types.is_time, types.is_binary, types.is_large_binary)
    if any(is_kind(kind) for is_kind in as_text):
        return pa.string()
    plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_string)
    if any(is_kind(kind) for is_kind in (*plain, types.is_large_string, types.is_timestamp, types.is_date)):
        return kind
    what = f"Column {field.name!r} is {kind}, not a plain value."
    fix = "Flatten it into columns of numbers, texts, booleans or times."
    raise TableRefused(what, problems=[Problem(what, column=field.name, received=str(kind), fix=fix)])


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _expanded_bytes(column: pa.Array) -> int:
    """Return the bytes of a column once its dictionary is decoded, without decoding it."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary
    if not (_is_text(values.type) or pa.types.is_binary(values.type)):
        return len(column) * 8
    lengths = pc.binary_length(values).fill_null(0)
    return int(pc.sum(lengths.take(column.indices.drop_null())).as_py() or 0) + 4 * len(column)
