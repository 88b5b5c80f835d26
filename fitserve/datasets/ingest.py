"""A file to a dataset: parsed in batches to Parquet while kinds are told and the profile is computed.

Mostly one pass: each column's plan (`judge.Plan`) is proposed from pieces of the whole file and checked on every
row. Where a plan does not last, the pass goes on to see the rest, and the file is read once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.blobs import disk_full_is_507
from fitserve.datasets.column_parser import Judge, settled_plan
from fitserve.datasets.column_types import EXPECTED, Plan
from fitserve.datasets.open_file import open_source
from fitserve.datasets.reader import Reader, Restart
from fitserve.datasets.readers import make_reader
from fitserve.datasets.summary import Summary, summarise
from fitserve.datasets.table_problems import MOST, TableUnreadable, bad_value, refuse
from fitserve.errors import BadInput, Problem
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import UploadOptions

GROUP_ROWS = 65_536
GROUP_BYTES = 16 * MB
SAMPLE_ROWS = 100_000
SAMPLE_BYTES = 48 * MB


@dataclass(frozen=True)
class Ingested:
    """A dataset on local disk, not yet stored: `columns` and `profile` as the API shows them."""

    parquet: Path
    rows: int
    columns: list[dict[str, Any]]
    profile: dict[str, Any]
    source: dict[str, Any]
    refused: dict[str, Any] | None
    seconds: float


def ingest(path: Path, options: UploadOptions, limits: Limits, folder: Path) -> Ingested:
    """Reads an uploaded file; all new files are made in `folder`, which the caller empties.

    Raises BadInput (and subclasses) with problems naming row, column, value and what was expected; TooLarge,
    UnsupportedMedia, StorageFull.
    """
    begun = time.perf_counter()
    source = open_source(path, options, limits, folder)
    parquet = folder / "table.parquet"
    with disk_full_is_507(), ThreadPoolExecutor(4, "ingest") as pool:
        reader, described, notes = make_reader(source, options, limits, folder)
        _known_columns(options, reader.names)
        plans = reader.plans()
        for _ in range(6):
            one = _Pass(reader, plans, parquet, options, limits, pool)
            try:
                one.run()
            except Restart:
                plans = plans if len(plans) == len(reader.names) else reader.plans()
                continue
            if one.settled:
                break
            plans = one.next_plans
        else:
            raise TableUnreadable("The table's columns could not be told apart.")
    if not one.rows:
        raise _no_rows(reader, one)
    summary: Summary = summarise(one.judges, one.sample_table(), one.rows, options.kinds)
    problems = [*notes, *reader.problems, *one.problems]
    left_out = reader.refused + one.refused
    refused = None
    if options.lenient and problems:
        problems = sorted(reader.locate(problems), key=lambda problem: problem.row or 0)
        refused = {"rows": left_out, "problems": [problem.as_dict() for problem in problems[:MOST]]}
    return Ingested(
        parquet,
        one.rows,
        summary.columns,
        summary.profile,
        described,
        refused,
        time.perf_counter() - begun,
    )


def _known_columns(options: UploadOptions, names: Sequence[str]) -> None:
    unknown = [name for name in options.kinds if name not in names]
    if unknown:
        problem = Problem(
            f"`kinds` names the column {unknown[0]!r}, which the table does not have.",
            pointer=f"/kinds/{unknown[0]}",
            received=unknown[0],
            expected="one of " + ", ".join(list(names)[:20]),
        )
        raise BadInput(problem.detail, problems=[problem])


def _no_rows(reader: Reader, one: _Pass) -> Exception:
    problems = [*reader.problems, *one.problems]
    if problems:
        return refuse(reader.locate(problems), reader.refused + one.refused)
    return TableUnreadable("The table has no rows, only a header.", expected="at least one row of data")


@dataclass
class _Pass:
    """One reading of the whole file under one plan for each column."""

    reader: Reader
    plans: list[Plan]
    parquet: Path
    options: UploadOptions
    limits: Limits
    pool: ThreadPoolExecutor
    rows: int = 0
    refused: int = 0
    problems: list[Problem] = field(default_factory=list)
    next_plans: list[Plan] = field(default_factory=list)
    settled: bool = False

    def run(self) -> None:
        """Reads, checks, writes. Raises TableRefused where strict columns or records are bad."""
        names = self.reader.names
        most = int(min(100_000, max(1_001, 20_000_000 / max(1, len(names)))))
        self.judges = [Judge(name, plan, most) for name, plan in zip(names, self.plans, strict=True)]
        self.reader.problems.clear()
        self.reader.refused = 0
        self._sample: list[pa.Table] = []
        self._stride, self._sample_bytes, self._sample_rows = 1, 0, 0
        writer = _Writer(self.parquet, self.pool)
        try:
            for numbers, batch in _ahead(self.reader.batches(), self.pool):
                self._take(numbers, batch, writer)
            self._settle(writer)
        except BaseException:
            writer.abandon()
            raise

    def _take(self, numbers: np.ndarray, batch: pa.RecordBatch, writer: _Writer) -> None:
        """One batch: read all columns, leave out what strict plans refuse, count, sample, write."""
        columns = batch.columns
        read = self._each(lambda at: self.judges[at].read(columns[at], numbers))
        masks = [mask for _, mask in read if mask is not None]
        arrays = [values for values, _ in read]
        if masks:
            kept = ~np.logical_or.reduce(masks)
            self.refused += int((~kept).sum())
            arrays = [values.filter(pa.array(kept)) for values in arrays]
            if not self.options.lenient and self.refused >= MOST:
                raise refuse(self.reader.locate(self._gathered()), self.refused + self.reader.refused)
        self.rows += len(arrays[0]) if arrays else 0
        self._each(lambda at: self.judges[at].observe(arrays[at]))
        if any(judge.changed for judge in self.judges):
            writer.abandon()
            return
        table = pa.Table.from_arrays(arrays, names=list(self.reader.names))
        self._keep_sample(table)
        writer.write(table)

    def _each(self, work: Callable[[int], Any]) -> list[Any]:
        """`work` for each column, on two threads (Arrow's and numpy's kernels leave the interpreter's lock)."""
        count = len(self.judges)
        if count < 2:
            return [work(at) for at in range(count)]
        done: list[Any] = [None] * count
        places = iter(range(count))

        def some() -> None:
            for at in places:  # next() of one shared iterator is atomic
                done[at] = work(at)

        other = self.pool.submit(some)
        some()
        other.result()
        return done

    def _keep_sample(self, table: pa.Table) -> None:
        """Every `stride`-th row; the stride doubles when there are too many."""
        first = self.rows - table.num_rows
        start = -first % self._stride
        part = table.slice(start) if self._stride == 1 else table.take(np.arange(start, table.num_rows, self._stride))
        if self._stride == 1:
            part = part.slice(0)
        if not part.num_rows:
            return
        self._sample.append(part)
        self._sample_rows += part.num_rows
        self._sample_bytes += part.nbytes
        while self._sample_rows > 1 and (self._sample_rows > SAMPLE_ROWS or self._sample_bytes > SAMPLE_BYTES):
            whole = pa.concat_tables(self._sample)
            thinned = whole.take(np.arange(0, whole.num_rows, 2))
            self._sample, self._stride = [thinned], self._stride * 2
            self._sample_rows, self._sample_bytes = thinned.num_rows, thinned.nbytes

    def sample_table(self) -> pa.Table:
        """The sampled rows."""
        return pa.concat_tables(self._sample)

    def _gathered(self) -> list[Problem]:
        found = [*self.reader.problems]
        for judge in self.judges:
            if not (judge.plan.strict and judge.bad_rows):
                continue
            share = f" {judge.good} of {judge.good + judge.bad} values are."
            note = "" if judge.plan.kind else share
            expected = EXPECTED[judge.plan.storage] if judge.plan.kind != "boolean" else "a boolean"
            found += [bad_value(row, judge.name, value, expected, note) for row, value in judge.bad_rows]
        return found

    def _settle(self, writer: _Writer) -> None:
        """Whether this pass stands; refuses what is bad where the request is not lenient."""
        self.next_plans = [settled_plan(judge) for judge in self.judges]
        turned_strict = any(
            plan.strict and not judge.plan.strict for judge, plan in zip(self.judges, self.next_plans, strict=True)
        )
        for judge, plan in zip(self.judges, self.next_plans, strict=True):
            judge.plan = plan
        self.problems = [problem for problem in self._gathered() if problem not in self.reader.problems]
        if not self.options.lenient and (self.problems or self.reader.problems):
            bad = sum(judge.bad for judge in self.judges if judge.plan.strict)
            raise refuse(self.reader.locate(self._gathered()), bad + self.reader.refused)
        self.settled = not turned_strict and not any(judge.changed for judge in self.judges)
        if self.settled:
            writer.close()
        else:
            writer.abandon()


def _ahead(batches: Iterator[Any], pool: ThreadPoolExecutor) -> Iterator[Any]:
    """The same items, the next one read while this one is worked on."""
    end = object()
    coming: Future[Any] = pool.submit(next, batches, end)
    try:
        while (item := coming.result()) is not end:
            coming = pool.submit(next, batches, end)
            yield item
    finally:
        if not coming.cancel():
            coming.exception()
        close = getattr(batches, "close", None)
        if close is not None:
            close()


class _Writer:
    """Parquet on a thread of its own, in row groups of a good size."""

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self.path, self.pool = path, pool
        self.writer: pq.ParquetWriter | None = None
        self.tables: list[pa.Table] = []
        self.rows = self.bytes = 0
        self.busy: Future[None] | None = None
        self.abandoned = False

    def write(self, table: pa.Table) -> None:
        """Takes a batch; waits while the group before it is being written."""
        if self.abandoned:
            return
        self.tables.append(table)
        self.rows += table.num_rows
        self.bytes += table.nbytes
        if self.rows >= GROUP_ROWS or self.bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self.busy is not None:
            self.busy.result()
        group, self.tables, self.rows, self.bytes = pa.concat_tables(self.tables), [], 0, 0
        if self.writer is None:
            self.writer = pq.ParquetWriter(
                self.path, group.schema, compression="snappy", use_dictionary=_repetitive(group), write_page_index=False
            )
        self.busy = self.pool.submit(self.writer.write_table, group, group.num_rows)

    def close(self) -> None:
        """Ends the file."""
        if self.tables:
            self._flush()
        if self.busy is not None:
            self.busy.result()
        if self.writer is not None:
            self.writer.close()

    def abandon(self) -> None:
        """Leaves nothing behind."""
        if self.abandoned:
            return
        self.abandoned = True
        self.tables = []
        if self.busy is not None:
            self.busy.exception()
        if self.writer is not None:
            self.writer.close()
        self.path.unlink(missing_ok=True)


def _repetitive(group: pa.Table) -> list[str]:
    """Columns whose values repeat: a dictionary makes them small; for others it only costs time."""
    few = []
    for name in group.column_names:
        head = group.column(name).slice(0, 5_000)
        if len(head.unique()) * 3 < len(head) or len(head) < 100:
            few.append(name)
    return few
