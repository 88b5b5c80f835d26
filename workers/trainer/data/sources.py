"""Where a run's rows are: in memory, or streamed from the dataset's file when they are too many."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.dataset_facts import DatasetFacts
from fitserve.datasets.split import Split
from fitserve.spec.feature import encoded_inputs
from fitserve.spec.spec import Spec
from workers.trainer.data import encoded_rows
from workers.trainer.data.encoded_rows import Encoded, Fitted
from workers.trainer.data.feed import Feed, Resident, in_file_order, shuffled
from workers.trainer.data.spool import Spool, fits
from workers.trainer.data.stream import Streamed, read_some
from workers.trainer.engine.compiled import Rows
from workers.trainer.engine.signature import outputs_of
from workers.trainer.job import Reporter, TrainingJob

SHARE = 1 / 6  # of the memory that this process may have, for the encoded rows; raw rows and copies take as much
SAMPLE_ROWS = {"train": 200_000, "validation": 50_000, "test": 50_000}
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run's rows, divided and fitted. Of a streamed run, `table` is a sample, `parts` are its rows,
    and `streamed` the rows of the whole file; of any other, `table` is all of it."""

    table: pa.Table
    parts: Split
    fitted: Fitted
    streamed: Split | None = None

    @property
    def whole(self) -> Split:
        """Which rows of the dataset train, validate and test."""
        return self.streamed or self.parts


def prepare(job: TrainingJob, spec: Spec, facts: DatasetFacts, report: Reporter) -> Prepared:
    """Read, divide, and learn from the training rows. Raises BadInput."""
    if encoded_bytes(spec, facts) <= budget():
        table = encoded_rows.read(job.table, encoded_rows.columns_of(spec))
        parts = encoded_rows.divide(table, spec)
        return Prepared(table, parts, encoded_rows.fit(table.take(parts.train), spec, facts))
    needed = list(dict.fromkeys([spec.split.by or spec.target[0].columns[0], spec.target[0].columns[0]]))
    whole = encoded_rows.divide(pq.read_table(job.table, columns=needed, memory_map=True), spec)
    sampled = Split(*(_sample(getattr(whole, part), SAMPLE_ROWS[part]) for part in PARTS))
    together = np.sort(np.concatenate([getattr(sampled, part) for part in PARTS]))
    table = read_some(job.table, encoded_rows.columns_of(spec), together)
    parts = Split(*(np.searchsorted(together, getattr(sampled, part)) for part in PARTS))
    report.event(
        "info",
        f"The dataset is larger than memory and is streamed; encodings and figures are of {len(together)} of its rows.",
        {"rows": facts.rows, "sample": len(together)},
    )
    return Prepared(table, parts, encoded_rows.fit(table.take(parts.train), spec, facts), whole)


def encoded_bytes(spec: Spec, facts: DatasetFacts) -> int:
    """What all rows take once encoded."""
    inputs = encoded_inputs(list(spec.features or ()), facts)
    width = sum(int(np.prod(one.shape)) for one in inputs) + sum(target.units for target in spec.target)
    return 4 * width * facts.rows


def budget() -> int:
    """Bytes of encoded rows that may be held in memory."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(SHARE * (memory if limit == resource.RLIM_INFINITY else min(memory, limit)))


def as_rows(model: keras.Model, part: Encoded) -> Rows:
    """Arrays as the model's `train_step` takes them: targets in the structure of the outputs."""
    names = list(outputs_of(model))
    weight = None if part.weight is None else {name: part.weight[name] for name in names}
    return Rows.of(part.x, {name: part.y[name] for name in names}, weight)


@dataclass(frozen=True, slots=True)
class Feeds:
    """The feeds of a run: `train` by seed, `held_out` by part, where the part has rows."""

    train: Callable[[int], Feed]
    held_out: Mapping[str, Feed]


def feeds(
    job: TrainingJob,
    spec: Spec,
    prepared: Prepared,
    model: keras.Model,
    rows: Mapping[str, Rows],
    batch_size: int,
    report: Reporter,
) -> Feeds:
    """Feeds of `rows`, or of the file where the run is streamed."""
    training = spec.training
    take = training.steps_per_epoch * batch_size if training.steps_per_epoch else None
    whole = prepared.streamed
    if whole is None:
        return Feeds(
            lambda seed: Resident(rows["train"], shuffled(seed) if training.shuffle else in_file_order, take),
            {part: Resident(rows[part]) for part in PARTS[1:] if rows[part].count},
        )
    columns = encoded_rows.columns_of(spec)

    def streamed(part: str, seed: int | None, take: int | None = None, spool: Spool | None = None) -> Streamed:
        return Streamed(
            job.table,
            columns,
            getattr(whole, part),
            lambda table: prepared.fitted.encode(table, train=part == "train"),
            lambda encoded: as_rows(model, encoded),
            batch_size,
            seed,
            take,
            spool,
        )

    parts = [part for part in PARTS if len(getattr(whole, part))]
    spools: dict[str, Spool] = {}
    size = sum(leaf[:1].numpy().nbytes for leaf in keras.tree.flatten(rows["train"].as_tuple()))
    if fits(job.folder, size * sum(len(getattr(whole, part)) for part in parts)):
        spools = {part: streamed(part, None).spooled(job.folder / "spool" / part, report.progress) for part in parts}
    return Feeds(
        lambda seed: streamed("train", seed if training.shuffle else None, take, spools.get("train")),
        {part: streamed(part, None, None, spools.get(part)) for part in parts if part != "train"},
    )


def _sample(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of these row numbers, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
