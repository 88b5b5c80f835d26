"""Parquet and Arrow IPC: typed columns, read in small batches under a budget of expanded bytes."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from fitserve.datasets import LENIENT_FIX, MAX_PROBLEMS, TableRefused, TableUnreadable, bad_value
from fitserve.datasets.column_parser import as_texts, storage_of, typed_plan
from fitserve.datasets.column_plan import ColumnPlan
from fitserve.datasets.kinds import POSSIBLE
from fitserve.datasets.parquet_batches import batches_of
from fitserve.datasets.plan_proposal import propose_plans
from fitserve.datasets.readers import Batches, ReadAgain, TableReader
from fitserve.datasets.readers.arrow_lengths import expanded_bytes
from fitserve.datasets.readers.plain_values import Overflow, readings_of
from fitserve.errors import Problem, TooLarge, UnsupportedMedia
from fitserve.parsing.column_format import PLAIN
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import UploadOptions

BATCH_ROWS = 65_536
_NUMBER_BYTES = 8
_DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError, EOFError)  # raised for damaged files


class ColumnarReader(TableReader):
    """A file of typed columns. Types stay as they are; dictionaries become their values.

    A column whose stated kind needs another storage class is read as text.
    """

    def __init__(self, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
        super().__init__(path, options, limits, folder)
        size = path.stat().st_size
        self.budget = min(limits.expanded_bytes, max(256 * MB, limits.expansion_ratio * size))
        try:
            schema = self._schema()
            self.fields = list(schema)
            self.names, self.left_unnamed = _names_of(schema)
            self.description = {"types": {field.name: str(field.type) for field in schema}}
        except UnicodeDecodeError as error:
            received = repr(error.object[:40])[2:-1]
            raise TableUnreadable(
                "A column's name is not UTF-8.", received=received, fix="Rename the column."
            ) from None
        except _DAMAGED as error:
            raise self._unreadable(error) from None
        self._check_names()
        ignored = {name for name, kind in options.kinds.items() if kind == "ignored"}
        self.readings = [
            readings_of(field.type, ignored=name in ignored) or self._refuse_nested(field)
            for name, field in zip(self.names, self.fields, strict=True)
        ]
        for name in self.left_unnamed:
            self.set_aside(name, "the index of a pandas frame, without a name of its own")

    @property
    def types(self) -> list[pa.DataType]:
        """The types under which the columns' values are stored."""
        return [readings[0].arrow_type for readings in self.readings]

    @property
    def as_text(self) -> set[str]:
        """The columns whose stated kind or format asks for another reading than their type's: read as texts, parsed."""
        return {name for name, kind in zip(self.names, self.types, strict=True) if self._is_read_anew(name, kind)}

    def _is_read_anew(self, name: str, kind: pa.DataType) -> bool:
        storage = storage_of(kind)
        if self.options.kinds.get(name, "ignored") not in POSSIBLE[storage]:
            return True
        stated = self.options.formats.get(name, PLAIN)
        if storage == "string":
            return stated != PLAIN or self.options.missing is not None
        return storage in ("int64", "float64") and stated != PLAIN

    def _refuse_nested(self, field: pa.Field) -> NoReturn:
        """Raise TableRefused for a column without plain values."""
        kind = str(field.type)[:200]
        what = f"Column {field.name!r} is {kind}, not a plain value."
        fix = f"Flatten it into columns of plain values, or leave it out: kinds.{field.name}=ignored."
        raise TableRefused(what, problems=[Problem(what, column=field.name, received=kind, fix=fix)])

    @staticmethod
    @abstractmethod
    def stored_schema(path: Path) -> pa.Schema:
        """Return the columns of a file that is a part of a table, as they are stored."""

    @staticmethod
    @abstractmethod
    def stored_batches(path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows of such a file, as they are stored."""

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
        counts = Counter(self.names)
        for position, name in enumerate(self.names, 1):
            if name and counts[name] == 1:
                continue
            what = f"The name {name!r} stands for several columns." if name else f"Column {position} has an empty name."
            problem = Problem(
                what,
                column=name or str(position),
                received=name,
                expected="a name of its own",
                fix="Rename the column where the file is written.",
            )
            raise TableRefused(what, problems=[problem])

    def plans(self) -> list[ColumnPlan]:
        kinds = self.options.kinds
        head = self._first_batch() if self.as_text else None
        texts = {
            name: head.column(index) if head is not None else pa.nulls(0, pa.string())
            for index, name in enumerate(self.names)
            if name in self.as_text
        }
        # Texts stay texts, as their type says, unless the request says how they are written as numbers or times.
        stay = {
            name
            for name, kind in zip(self.names, self.types, strict=True)
            if name in texts and name not in kinds and storage_of(kind) == "string" and not self._is_value(name)
        }
        options = self.options.model_copy(update={"kinds": {**kinds, **dict.fromkeys(stay, "categorical")}})
        proposed = zip(texts, propose_plans(texts, options), strict=True)
        plans = {name: replace(plan, stated_kind=None) if name in stay else plan for name, plan in proposed}
        return [
            plans[name] if name in plans else typed_plan(arrow_type, kinds.get(name))
            for name, arrow_type in zip(self.names, self.types, strict=True)
        ]

    def _is_value(self, name: str) -> bool:
        stated = self.options.formats.get(name, PLAIN)
        return bool(stated.decimal or stated.thousands or stated.units or stated.time)

    def _first_batch(self) -> pa.RecordBatch | None:
        while True:
            try:
                return next((batch for _, batch in self.batches()), None)
            except ReadAgain:  # with another type; there are only a few
                continue

    def batches(self) -> Batches:
        rows = expanded = 0
        self.rejected = 0
        as_text = self.as_text
        try:
            for batch in self._raw_batches():
                expanded += sum(_expanded_bytes(column) for column in batch.columns)
                self.check_expansion(expanded)
                self.check_length(rows + batch.num_rows)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    part = batch.slice(start, BATCH_ROWS)
                    numbers = np.arange(rows + 1, rows + 1 + part.num_rows)
                    rows += part.num_rows
                    yield self._read(part, numbers, as_text)
        except _DAMAGED as error:
            raise self._unreadable(error) from None
        self.refuse_if_strict(1)
        self._say_what_changes()

    def _read(self, batch: pa.RecordBatch, numbers: np.ndarray, as_text: set[str]) -> tuple[np.ndarray, pa.RecordBatch]:
        """Return a batch's rows under the dataset's types, without those that have a value that cannot be read."""
        arrays, bad = [], np.zeros(batch.num_rows, bool)
        for index, column in enumerate(batch.columns):
            try:
                values, wrong = self.readings[index][0].convert(column)
            except Overflow:
                del self.readings[index][0]
                raise ReadAgain from None
            if wrong is not None:
                self._report(index, column, wrong, numbers)
                bad |= wrong
            arrays.append(
                as_texts(values) if self.names[index] in as_text and not pa.types.is_string(values.type) else values
            )
        renamed = pa.RecordBatch.from_arrays(arrays, names=list(self.names))
        if not bad.any():
            return numbers, renamed
        self.rejected += int(bad.sum())
        self.refuse_if_strict()
        return numbers[~bad], renamed.filter(pa.array(~bad))

    def _report(self, index: int, column: pa.Array, wrong: np.ndarray, numbers: np.ndarray) -> None:
        name, expected = self.names[index], self.readings[index][0].expected
        if wrong.sum() > 0.5 * len(wrong) and wrong.sum() > 1:
            received = _shown(column[int(np.flatnonzero(wrong)[0])])
            what = f"Column {name!r} is {self.fields[index].type}: most of its values are not {expected}."
            fix = f"Leave the column out: kinds.{name}=ignored, or write it as another type."
            problem = Problem(what, column=name, received=received, expected=expected, fix=fix)
            raise TableRefused(what, problems=[problem])
        for row in np.flatnonzero(wrong)[: MAX_PROBLEMS - len(self.problems)]:
            problem = bad_value(int(numbers[row]), name, _shown(column[int(row)]), expected)
            self.problems.append(replace(problem, fix=LENIENT_FIX))

    def _say_what_changes(self) -> None:
        for name, readings in zip(self.names, self.readings, strict=True):
            if readings[0].notice is not None:
                code, message = readings[0].notice
                self.add_notice(code, message, column=name)

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
        if "crypt" in str(error).lower():
            return UnsupportedMedia("This Parquet file is encrypted.", fix="Decrypt it, and upload it again.")
        shown = " ".join(str(error).split())[:160].replace(str(self.path), "the file")
        return TableUnreadable(
            f"This cannot be read as {self.title}: {shown}",
            fix="Was the upload cut off, or the file damaged? Write it again.",
        )


class ParquetReader(ColumnarReader):
    """A Parquet file."""

    format = "parquet"
    signature = re.compile(rb"PAR[1E]")
    title = "Parquet"
    # Repeated texts stay dictionary-encoded until they are counted. Not every encoding can be read this way; we do not
    # ask which one a column has, because for an encrypted column that question crashes the process.
    in_dictionaries = True

    @staticmethod
    def stored_schema(path: Path) -> pa.Schema:
        schema: pa.Schema = pq.read_schema(path)
        return schema

    @staticmethod
    def stored_batches(path: Path) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path, buffer_size=MB) as file:
            yield from batches_of(file, BATCH_ROWS, use_threads=False)

    def _open(self, **options: Any) -> pq.ParquetFile:
        return pq.ParquetFile(
            self.path,
            buffer_size=MB,
            thrift_string_size_limit=16 * MB,
            thrift_container_size_limit=1_000_000,
            **options,
        )

    def _schema(self) -> pa.Schema:
        _refuse_encrypted(self.path)
        file = self._open()
        metadata = file.metadata
        self.check_width(metadata.num_columns)
        self.check_length(metadata.num_rows)
        self.check_expansion(sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)))
        return file.schema_arrow

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        texts = [field.name for field in self.fields if _is_text(field.type)] if self.in_dictionaries else []
        rows = max(1, min(BATCH_ROWS, 64 * MB // (8 * max(1, len(self.fields)))))
        try:
            yield from batches_of(self._open(read_dictionary=texts), rows, use_threads=False)
        except _DAMAGED:
            if not texts:
                raise
            self.in_dictionaries = False
            raise ReadAgain from None


def _refuse_encrypted(path: Path) -> None:
    """Raise UnsupportedMedia where a Parquet file says that it is encrypted, footer and all."""
    with path.open("rb") as file:
        if file.read(4) == b"PARE":
            raise UnsupportedMedia("This Parquet file is encrypted.", fix="Decrypt it, and upload it again.")


class ArrowReader(ColumnarReader):
    """An Arrow IPC file or stream."""

    format = "arrow"
    signature = re.compile(rb"ARROW1|\xff\xff\xff\xff")
    title = "Arrow IPC"

    @staticmethod
    def stored_schema(path: Path) -> pa.Schema:
        with _opened_arrow(path) as reader:
            schema: pa.Schema = reader.schema
            return schema

    @staticmethod
    def stored_batches(path: Path) -> Iterator[pa.RecordBatch]:
        with _opened_arrow(path) as reader:
            if isinstance(reader, pa.ipc.RecordBatchFileReader):
                yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                yield from reader

    def _schema(self) -> pa.Schema:
        schema = self.stored_schema(self.path)
        self.check_expansion(expanded_bytes(self.path))
        return schema

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self.stored_batches(self.path):
            columns = [_unchecked_texts(column) for column in batch.columns]
            batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
            batch.validate(full=True)
            yield batch


@contextmanager
def _opened_arrow(path: Path) -> Iterator[pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader]:
    with pa.OSFile(str(path)) as file:
        is_file = bytes(file.read(6)) == b"ARROW1"
        file.seek(0)
        yield pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def _unchecked_texts(column: pa.Array) -> pa.Array:
    """Return texts as bytes, so that one that is not UTF-8 is reported with its row, as in Parquet."""
    if pa.types.is_string(column.type):
        return column.view(pa.binary())
    return column.view(pa.large_binary()) if pa.types.is_large_string(column.type) else column


def _names_of(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Return the columns' names, and those given to indices that pandas wrote without a name."""
    names = list(schema.names)
    decoded = []
    for index, name in enumerate(names):
        if re.fullmatch(r"__index_level_\d+__", name):
            stem = "index" if name == "__index_level_0__" else f"index_{name[14:-2]}"
            names[index] = next(free for free in (stem, f"{stem}_pandas", name) if free not in names)
            decoded.append(names[index])
    return names, decoded


def _shown(value: pa.Scalar) -> str:
    """Return a value that cannot be read, for an error message."""
    if pa.types.is_timestamp(value.type) or pa.types.is_date(value.type):
        unit: Any = getattr(value.type, "unit", "D" if pa.types.is_date32(value.type) else "ms")
        return str(np.datetime64(value.value, unit))
    if pa.types.is_dictionary(value.type):
        return _shown(value.value)
    buffer = value.as_buffer() if hasattr(value, "as_buffer") else None
    return repr(bytes(buffer)[:20])[2:-1] if buffer is not None else str(value)[:40]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _expanded_bytes(column: pa.Array) -> int:
    """Return the bytes of a column once its dictionary or its runs are decoded, without decoding them."""
    if pa.types.is_null(column.type):  # takes no byte in a file, however long it is
        return len(column) * _NUMBER_BYTES
    if pa.types.is_run_end_encoded(column.type):
        begin = column.offset
        ends = np.clip(column.run_ends.to_numpy().astype(np.int64), begin, begin + len(column))
        return int(np.dot(np.diff(ends, prepend=begin).astype(float), _bytes_of_each(column.values)))
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    each = _bytes_of_each(column.dictionary)[column.indices.drop_null().to_numpy()]
    return int(each.sum()) + 4 * int(column.null_count)


def _bytes_of_each(values: pa.Array) -> np.ndarray:
    """Return how many bytes each value takes in a column of its own."""
    if not (_is_text(values.type) or pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        return np.full(len(values), float(_NUMBER_BYTES))
    return np.asarray(pc.binary_length(values).fill_null(0), float) + 4
