"""Parquet and Arrow IPC: typed columns, read in small batches under a budget of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from fitserve.datasets.column_types import Plan, propose, storage_of
from fitserve.datasets.kinds import POSSIBLE
from fitserve.datasets.open_file import Source
from fitserve.datasets.table_problems import MOST, TableRefused, TableUnreadable, bad_value, refuse
from fitserve.encoding.coercion import labels_of
from fitserve.errors import Problem, TooLarge
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import UploadOptions

BATCH = 65_536  # rows
_DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError, EOFError)


class ColumnarTable:
    """A Parquet or an Arrow IPC file (or stream). Types are kept; dictionaries become their values."""

    def __init__(self, source: Source, options: UploadOptions, limits: Limits, described: dict[str, Any]) -> None:
        self.path, self.format = source.path, source.format
        self.options, self.limits = options, limits
        self.problems: list[Problem] = []
        self.refused = 0
        size = self.path.stat().st_size
        self.budget = min(limits.expanded_bytes, max(256 * MB, limits.expansion_ratio * size))
        schema = self._schema()
        self.names: Sequence[str] = schema.names
        self._check_names()
        types = [self._target(field) for field in schema]
        self.as_text = {
            name
            for name, kind in zip(self.names, types, strict=True)
            if options.kinds.get(name, "ignored") not in POSSIBLE[storage_of(kind)]
        }
        named = zip(self.names, types, strict=True)
        self.types = [pa.string() if name in self.as_text else kind for name, kind in named]
        described["types"] = {field.name: str(field.type) for field in schema}

    def _schema(self) -> pa.Schema:
        try:
            if self.format == "parquet":
                return self._parquet().schema_arrow
            with pa.OSFile(str(self.path)) as file:
                return self._ipc(file).schema
        except _DAMAGED as error:
            raise self._unreadable(error) from None

    def _parquet(self) -> pq.ParquetFile:
        file = pq.ParquetFile(
            self.path,
            memory_map=False,
            buffer_size=MB,
            thrift_string_size_limit=16 * MB,
            thrift_container_size_limit=1_000_000,
        )
        if file.metadata.num_columns > self.limits.columns:
            raise self._too_wide(file.metadata.num_columns)
        if file.metadata.num_rows > self.limits.rows:
            raise TooLarge("The table has more rows than the limit.", received=file.metadata.num_rows)
        claimed = sum(file.metadata.row_group(at).total_byte_size for at in range(file.metadata.num_row_groups))
        self._within(claimed)
        return file

    def _ipc(self, file: pa.OSFile) -> Any:
        if self.path.stat().st_size >= 6:
            magic = bytes(file.read(6))
            file.seek(0)
            if magic == b"ARROW1":
                return pa.ipc.open_file(file)
        return pa.ipc.open_stream(file)

    def _too_wide(self, columns: int) -> TooLarge:
        return TooLarge(
            "The table has more columns than the limit.", received=columns, expected=f"at most {self.limits.columns}"
        )

    def _within(self, expanded: int) -> None:
        if expanded > self.budget:
            raise TooLarge(
                "The file expands to more than is allowed.",
                received=f"more than {self.budget} bytes from {self.path.stat().st_size}",
                expected=f"at most {self.limits.expansion_ratio} times its size, at most {self.budget} bytes",
            )

    def _unreadable(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno:
            return error
        shown = " ".join(str(error).split())[:160].replace(str(self.path), "the file")
        return TableUnreadable(
            f"This cannot be read as {'Parquet' if self.format == 'parquet' else 'Arrow IPC'}: {shown}",
            fix="Was the upload cut off, or the file damaged? Write it again.",
        )

    def _check_names(self) -> None:
        if not self.names:
            raise TableUnreadable("The table has no columns.")
        if len(self.names) > self.limits.columns:
            raise self._too_wide(len(self.names))
        for at, name in enumerate(self.names, 1):
            if not name or list(self.names).count(name) > 1:
                what = f"The name {name!r} stands for several columns." if name else f"Column {at} has an empty name."
                raise TableRefused(
                    what, problems=[Problem(what, column=name or str(at), received=name, expected="a name of its own")]
                )

    def _target(self, field: pa.Field) -> pa.DataType:
        """The type that is kept. Raises TableRefused for what is no table of plain values."""
        kind, types = field.type, pa.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_null(kind):
            return pa.int64()
        if types.is_uint64(kind) or types.is_string_view(kind) or types.is_time(kind):
            return pa.string()
        if types.is_duration(kind) or types.is_float16(kind):
            return pa.int64() if types.is_duration(kind) else pa.float32()
        if types.is_binary(kind) or types.is_large_binary(kind):
            return pa.string()
        plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_string)
        if any(is_kind(kind) for is_kind in (*plain, types.is_large_string, types.is_timestamp, types.is_date)):
            return kind
        what = f"Column {field.name!r} is {kind}, which is no plain value."
        fix = "Flatten it into columns of numbers, texts, booleans or times."
        raise TableRefused(what, problems=[Problem(what, column=field.name, received=str(kind), fix=fix)])

    def plans(self) -> list[Plan]:
        """Types are kept as they are, but for columns whose stated kind needs another: those are read as text."""
        kinds = self.options.kinds
        head = next((batch for _, batch in self.batches()), None) if self.as_text else None
        plans = []
        for at, (name, kind) in enumerate(zip(self.names, self.types, strict=True)):
            typed = name not in self.as_text
            values = pa.nulls(0, kind) if typed or head is None else head.column(at)
            plans.append(propose(values, kinds.get(name), ".", False, typed=typed))
        return plans

    def batches(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers and values. Raises TableUnreadable, TooLarge."""
        row, expanded = 1, 0
        try:
            for batch in self._raw_batches():
                expanded += sum(_expanded_bytes(column) for column in batch.columns)
                self._within(expanded)
                for at in range(0, batch.num_rows, BATCH):
                    part = batch.slice(at, BATCH)
                    numbers = np.arange(row, row + part.num_rows)
                    row += part.num_rows
                    if row > self.limits.rows + 1:
                        raise TooLarge("The table has more rows than the limit.", expected=f"{self.limits.rows}")
                    yield numbers, self._kept(numbers, part)
        except _DAMAGED as error:
            raise self._unreadable(error) from None

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        if self.format == "parquet":
            schema = self._parquet().schema_arrow
            texts = [field.name for field in schema if _is_text(field.type)]
            file = pq.ParquetFile(
                self.path,
                read_dictionary=texts,  # a text that is repeated stays one, until it is counted
                buffer_size=MB,
                thrift_string_size_limit=16 * MB,
                thrift_container_size_limit=1_000_000,
            )
            rows = max(1, min(BATCH, 64 * MB // (8 * max(1, len(schema)))))
            yield from file.iter_batches(batch_size=rows, use_threads=False)
            return
        with pa.OSFile(str(self.path)) as file:
            reader = self._ipc(file)
            if hasattr(reader, "num_record_batches"):
                for at in range(reader.num_record_batches):
                    batch = reader.get_batch(at)
                    batch.validate(full=True)
                    yield batch
                return
            for batch in reader:
                batch.validate(full=True)
                yield batch

    def _kept(self, numbers: np.ndarray, batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = []
        for name, column, kind in zip(self.names, batch.columns, self.types, strict=True):
            arrays.append(self._converted(name, column, kind, numbers))
        return pa.RecordBatch.from_arrays(arrays, names=list(self.names))

    def _converted(self, name: str, column: pa.Array, kind: pa.DataType, numbers: np.ndarray) -> pa.Array:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.type == kind:
            return column
        if name in self.as_text:
            codes, labels = labels_of(column)
            indices = pa.array(codes, pa.int64(), mask=codes < 0)
            return pa.DictionaryArray.from_arrays(indices, pa.array(labels, pa.string())).dictionary_decode()
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            return self._texts(name, column, numbers)
        return column.cast(kind)

    def _texts(self, name: str, column: pa.Array, numbers: np.ndarray) -> pa.Array:
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            problems = []
            for number, value in zip(numbers, column.to_pylist(), strict=True):
                if value is not None and not _is_utf8(value):
                    problems.append(bad_value(int(number), name, repr(value[:20]), "UTF-8 text"))
                if len(problems) >= MOST:
                    break
            raise refuse(problems) from None

    def locate(self, problems: list[Problem]) -> list[Problem]:
        """Rows are all that there is."""
        return problems


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _expanded_bytes(column: pa.Array) -> int:
    """Bytes once every value stands for itself: counted before a dictionary is decoded."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary
    if not (_is_text(values.type) or pa.types.is_binary(values.type)):
        return len(column) * 8
    lengths = pc.binary_length(values).fill_null(0)
    return int(pc.sum(lengths.take(column.indices.drop_null())).as_py() or 0) + 4 * len(column)
