"""Turn an uploaded file into a dataset: parse it to Parquet in batches, infer kinds, compute the profile.

Usually one pass: each column's plan is proposed from a sample of the whole file and checked on every row. If a plan
does not fit, the pass still reads the rest, and the file is then read once more under revised plans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from fitserve.blobs import disk_full_is_507
from fitserve.datasets import MAX_PROBLEMS, TableRefused, TableUnreadable, bad_value, refuse
from fitserve.datasets.column_parser import ColumnParser
from fitserve.datasets.column_plan import ColumnPlan
from fitserve.datasets.plan_proposal import reconsider
from fitserve.datasets.profile import ColumnCounts, describe_columns
from fitserve.datasets.readers import Batches, ReadAgain, TableReader, open_reader
from fitserve.errors import BadInput, Problem
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.notices import Notice

MAX_PASSES = 6  # passes over the file; each but the last found a column whose plan did not fit
GROUP_ROWS = 65_536  # rows in a Parquet row group: enough to compress well, few enough to be read alone
GROUP_BYTES = 16 * MB
SAMPLE_ROWS = 100_000  # rows for quantiles and histograms; their error is about a third of a per cent of the rows
SAMPLE_BYTES = 48 * MB  # limits the sample of wide rows
MAX_NOTICES = 100  # notices on one table
MAX_LEFT_OUT = 0.1  # largest share of rows left out in lenient mode; one row may always be left out


@dataclass(frozen=True)
class IngestedTable:
    """A parsed table on local disk, not stored yet; columns, profile, refused and notices are the API's JSON."""

    parquet: Path
    rows: int
    columns: list[dict[str, Any]]
    profile: dict[str, Any]
    source: dict[str, Any]
    refused: dict[str, Any] | None
    notices: list[dict[str, Any]]
    seconds: float


def ingest(
    path: Path, options: UploadOptions, limits: Limits, folder: Path, raise_if_stopped: Callable[[], None] | None = None
) -> IngestedTable:
    """Parse an uploaded file. New files go into `folder`, which the caller removes.

    `raise_if_stopped` is called before each batch of rows; an exception from it ends the parsing.
    Raises BadInput (and its subclasses) with problems that name row, column, value and what was expected; TooLarge,
    UnsupportedMedia, StorageFull.
    """
    begun = time.perf_counter()
    parquet = folder / "table.parquet"
    with disk_full_is_507(), ThreadPoolExecutor(4, "ingest") as pool:
        reader = open_reader(path, options, limits, folder)
        _check_stated_columns(options, reader)
        table = _read_until_plans_fit(reader, parquet, options, pool, raise_if_stopped)
    if not table.rows:
        if table.problems or reader.problems:
            raise refuse(reader.locate([*reader.problems, *table.problems]), reader.rejected + table.rejected)
        raise TableUnreadable("The table has no rows, only a header.", expected="at least one row of data")
    _check_enough_is_left(reader, table)
    columns, profile = describe_columns(table.parsers, table.counts, table.sample.table(), table.rows, options.kinds)
    for column in columns:
        if (why := reader.set_asides.get(column["name"])) is not None:
            column["kind"], column["inferred"], column["evidence"] = "ignored", "ignored", why
    problems = [*reader.problems, *table.problems]
    refused = None
    if options.lenient and problems:
        located = sorted(reader.locate(problems), key=lambda problem: problem.row or 0)[:MAX_PROBLEMS]
        refused = {"rows": reader.rejected + table.rejected, "problems": [problem.as_dict() for problem in located]}
    notices = [*reader.notices, *_notices_of_columns(reader, table)]
    shown = [notice.model_dump(mode="json") for notice in notices[:MAX_NOTICES]]
    seconds = time.perf_counter() - begun
    return IngestedTable(parquet, table.rows, columns, profile, reader.description, refused, shown, seconds)


def _notices_of_columns(reader: TableReader, table: _ParsingPass) -> Iterator[Notice]:
    """Yield notices on single columns, without those that a reader's notice on the column's type already explains."""
    named = {notice.column for notice in reader.notices}
    for parser in table.parsers:
        for notice in parser.notices:
            if notice.code != "number_like_text" or parser.name not in named:
                yield notice


def _check_enough_is_left(reader: TableReader, table: _ParsingPass) -> None:
    """Raise TableRefused where a lenient upload would leave out more than a tenth of the rows."""
    left_out = reader.rejected + table.rejected
    total = table.rows + left_out
    if left_out <= max(1, MAX_LEFT_OUT * total):
        return
    problems = reader.locate([*reader.problems, *table.problems])[:MAX_PROBLEMS]
    raise TableRefused(
        f"{left_out} of {total} rows would be left out, which is more than a tenth: nothing is stored.",
        received=left_out,
        expected=f"at most {int(max(1, MAX_LEFT_OUT * total))} bad rows in a lenient upload",
        fix="Read it in another way (delimiter, quote, skip_rows, kinds, missing), or fix the rows that are listed.",
        problems=problems,
    )


def _check_stated_columns(options: UploadOptions, reader: TableReader) -> None:
    unknown = next((name for name in options.kinds if name not in reader.names), None)
    if unknown is not None:
        problem = Problem(
            f"`kinds` names the column {unknown!r}, which the table does not have.",
            pointer=f"/kinds/{unknown}",
            received=unknown,
            expected="one of " + ", ".join(list(reader.names)[:20]),
        )
        raise BadInput(problem.detail, problems=[problem])


def _read_until_plans_fit(
    reader: TableReader,
    parquet: Path,
    options: UploadOptions,
    pool: ThreadPoolExecutor,
    raise_if_stopped: Callable[[], None] | None,
) -> _ParsingPass:
    plans = reader.plans()
    for _ in range(MAX_PASSES):
        table = _ParsingPass(reader, plans, parquet, options, pool)
        try:
            table.run(raise_if_stopped)
        except ReadAgain:
            # The file has more columns, other types or another encoding than its beginning showed
            plans = reader.plans()
            continue
        if table.is_final:
            return table
        plans = table.next_plans
    raise TableUnreadable("No way to parse the columns fits all rows.")


class _ParsingPass:
    """One reading of the whole file under one plan for each column."""

    def __init__(
        self,
        reader: TableReader,
        plans: list[ColumnPlan],
        parquet: Path,
        options: UploadOptions,
        pool: ThreadPoolExecutor,
    ) -> None:
        # Distinct values are counted exactly within a memory budget of 20 million values over all columns.
        max_distinct = int(min(100_000, max(1_001, 20_000_000 / max(1, len(plans)))))
        self.reader, self.plans, self.options, self.pool = reader, plans, options, pool
        self.parsers = [ColumnParser(name, plan) for name, plan in zip(reader.names, plans, strict=True)]
        self.counts = [ColumnCounts(max_distinct) for _ in plans]
        self.sample = _RowSample()
        self.writer = _ParquetWriter(parquet, pool)
        self.rows = self.rejected = 0
        self.problems: list[Problem] = []
        self.next_plans: list[ColumnPlan] = []
        self.is_final = False

    def run(self, raise_if_stopped: Callable[[], None] | None = None) -> None:
        """Read, parse, count and write all rows. Raises TableRefused for a strict upload with bad records or values."""
        self.reader.problems.clear()
        self.reader.rejected = 0
        try:
            for numbers, batch in _prefetch(self.reader.batches(), self.pool):
                if raise_if_stopped is not None:
                    raise_if_stopped()
                self._process(numbers, batch)
            self._conclude()
        except BaseException:
            self.writer.discard()
            raise

    def _process(self, numbers: np.ndarray, batch: pa.RecordBatch) -> None:
        """Parse all columns of a batch, drop rows that strict plans refuse, then count, sample and write."""
        columns = batch.columns
        parsed = self._for_each_column(lambda index: self.parsers[index].parse(columns[index], numbers))
        arrays, masks = [values for values, _ in parsed], [bad for _, bad in parsed if bad is not None]
        if masks:
            good = ~np.logical_or.reduce(masks)
            self.rejected += int((~good).sum())
            arrays = [values.filter(pa.array(good)) for values in arrays]
            if not self.options.lenient and self.rejected >= MAX_PROBLEMS:
                raise refuse(self.reader.locate(self._all_problems()), self.rejected + self.reader.rejected)
        self.rows += len(arrays[0]) if arrays else 0
        if any(parser.plan_changed for parser in self.parsers):
            self.writer.discard()  # the rest is read only to report its bad values
            return
        self._for_each_column(lambda index: self.counts[index].add(arrays[index]))
        table = pa.Table.from_arrays(arrays, names=list(self.reader.names))
        self.sample.add(table)
        self.writer.write(table)

    def _for_each_column(self, work: Callable[[int], Any]) -> list[Any]:
        """Return `work(index)` for each column, on two threads: Arrow and numpy release the interpreter's lock."""
        count = len(self.parsers)
        if count < 2:
            return [work(index) for index in range(count)]
        results: list[Any] = [None] * count
        columns = iter(range(count))

        def work_through() -> None:
            for index in columns:  # next() of a shared iterator is atomic
                results[index] = work(index)

        other_thread = self.pool.submit(work_through)
        work_through()
        other_thread.result()
        return results

    def _conclude(self) -> None:
        """Decide whether this pass is final. Raises TableRefused for bad values in a strict upload."""
        proposed = [
            parser.next_plan(counted.labels() if parser.plan.storage == "string" and not parser.plan_changed else None)
            for parser, counted in zip(self.parsers, self.counts, strict=True)
        ]
        names = list(self.reader.names)
        examples = {parser.name: [*parser.examples, *parser.bad_spellings] for parser in self.parsers}
        after = dict(zip(names, proposed, strict=True))
        self.next_plans = reconsider(dict(zip(names, self.plans, strict=True)), after, examples)
        for parser, plan in zip(self.parsers, self.next_plans, strict=True):
            parser.plan = plan
        everything = self._all_problems()
        if not self.options.lenient and everything:
            bad = sum(parser.bad for parser in self.parsers if parser.plan.strict)
            raise refuse(self.reader.locate(everything), bad + self.reader.rejected)
        self.problems = [problem for problem in everything if problem not in self.reader.problems]
        self.is_final = self.next_plans == self.plans
        if self.is_final:
            self.writer.close()
        else:
            self.writer.discard()

    def _all_problems(self) -> list[Problem]:
        """Return the reader's problems, and problems for values that a strict plan refuses."""
        problems = list(self.reader.problems)
        for parser in self.parsers:
            if not (parser.plan.strict and parser.bad_values):
                continue
            note = f" {parser.good} other values of the column are." if not parser.plan.stated_kind else ""
            expected = parser.plan.expected
            problems += [bad_value(row, parser.name, value, expected, note) for row, value in parser.bad_values]
        return problems


def _prefetch(batches: Batches, pool: ThreadPoolExecutor) -> Batches:
    """Yield the same items, reading the next one on a thread while the caller works on this one."""
    end = object()
    coming: Future[Any] = pool.submit(next, batches, end)
    try:
        while (item := coming.result()) is not end:
            coming = pool.submit(next, batches, end)
            yield item
    finally:
        if not coming.cancel():
            coming.exception()  # wait for it, because a running generator cannot be closed
        batches.close()


class _RowSample:
    """A sample of every n-th row of a table; n doubles when the sample grows too large."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._stride, self._seen, self._rows, self._bytes = 1, 0, 0, 0

    def add(self, table: pa.Table) -> None:
        part = table
        if self._stride > 1:
            part = table.take(np.arange(-self._seen % self._stride, table.num_rows, self._stride))
        self._seen += table.num_rows
        if part.num_rows:
            self._parts.append(part)
            self._rows += part.num_rows
            self._bytes += part.nbytes
        while self._rows > 1 and (self._rows > SAMPLE_ROWS or self._bytes > SAMPLE_BYTES):
            every_second = self.table().take(np.arange(0, self._rows, 2))
            self._parts, self._stride = [every_second], self._stride * 2
            self._rows, self._bytes = every_second.num_rows, every_second.nbytes

    def table(self) -> pa.Table:
        """Return the sampled rows."""
        return pa.concat_tables(self._parts)


class _ParquetWriter:
    """Writes Parquet on another thread, in row groups of GROUP_ROWS."""

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self.path, self.pool = path, pool
        self._writer: pq.ParquetWriter | None = None
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._writing: Future[None] | None = None
        self._discarded = False

    def write(self, table: pa.Table) -> None:
        """Add rows; waits until the previous row group is written."""
        if not table.num_rows:
            return
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if self._writing is not None:
            self._writing.result()
        group, self._tables, self._rows, self._bytes = pa.concat_tables(self._tables), [], 0, 0
        if self._writer is None:
            dictionary = _repetitive_columns(group)
            self._writer = pq.ParquetWriter(
                self.path, group.schema, compression=_codecs(group), use_dictionary=dictionary, write_page_index=False
            )
        self._writing = self.pool.submit(self._writer.write_table, group, group.num_rows)

    def close(self) -> None:
        """Write the rest and end the file."""
        if self._tables:
            self._write_group()
        if self._writing is not None:
            self._writing.result()
        if self._writer is not None:
            self._writer.close()

    def discard(self) -> None:
        """Remove the file."""
        if self._discarded:
            return
        self._discarded = True
        self._tables = []
        if self._writing is not None:
            self._writing.exception()
        if self._writer is not None:
            self._writer.close()
        self.path.unlink(missing_ok=True)


def _repetitive_columns(group: pa.Table) -> list[str]:
    """Return the columns whose values repeat; a dictionary makes them smaller, and only costs time for others."""
    repetitive = []
    for name in group.column_names:
        head = group.column(name).slice(0, 5_000)
        if len(head.unique()) * 3 < len(head) or len(head) < 100:
            repetitive.append(name)
    return repetitive


def _codecs(group: pa.Table) -> dict[str, str]:
    """Return each column's compression: none if snappy would save too little to be worth its time."""
    return {name: "snappy" if _shrinks(group.column(name)) else "none" for name in group.column_names}


def _shrinks(column: pa.ChunkedArray) -> bool:
    sink = pa.BufferOutputStream()
    head = pa.table({"head": column.slice(0, 5_000)}).combine_chunks()
    with pa.ipc.new_stream(sink, head.schema) as stream:
        stream.write_table(head)
    values = sink.getvalue()
    return len(pa.compress(values, "snappy", asbytes=False)) < 0.9 * len(values)
