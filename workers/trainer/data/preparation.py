"""A run's rows: read and split them, fit encodings on the training rows, encode; stream them if they exceed memory."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.dataset_facts import DatasetFacts
from fitserve.datasets.folds import Fold, divide, held_out_by
from fitserve.datasets.split import Split, split
from fitserve.datasets.unusable_values import unusable
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import numbers_of
from fitserve.errors import BadInput, Problem
from fitserve.settings import MB
from fitserve.spec.ensemble import members_of
from fitserve.spec.feature import encoded_inputs
from fitserve.spec.spec import Spec, parse
from fitserve.spec.training import Training
from fitserve.spec.usable_rows import LEAVE_OUT, describe
from fitserve.target_encoder import FittedTarget, TargetEncoder
from workers.trainer.data.feeds import (
    EncodedRows,
    Order,
    Resident,
    Spool,
    Streamed,
    free_bytes,
    in_file_order,
    read_picked,
    shuffled,
)
from workers.trainer.engine.checkpoint import ReadingMode
from workers.trainer.engine.compact_rows import Compact
from workers.trainer.engine.compiled import RowTensors
from workers.trainer.engine.loop import Feed
from workers.trainer.interface import Reporter, TrainingRequest

MEMORY_SHARE = 1 / 6  # share of this process's memory limit for encoded rows; raw rows and copies take as much again
SAMPLE_ROWS = {"train": 200_000, "validation": 50_000, "test": 50_000}
SAMPLE_BYTES = 256 * MB  # limit for these rows, encoded; of wide rows, fewer are sampled
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class FittedEncoding:
    """The encodings fitted on the training rows. Encodes any rows of the dataset."""

    encoder: Encoder
    targets: TargetEncoder
    class_weights: dict[str, np.ndarray]  # by target: a weight for each label
    sample_weight: str | None  # a column

    def encode(self, table: pa.Table, train: bool, compact: Compact | None = None) -> EncodedRows:
        """Encode rows as arrays, or in a compact form. As in Keras, class weights apply to training only.

        Raises BadInput.
        """
        x = self.encoder.encode(table) if compact is None else compact.encode(table)
        y = self.targets.encode(table)
        weights: dict[str, np.ndarray] = {}
        by_row = _sample_weights(table, self.sample_weight) if self.sample_weight else None
        for target in self.targets.targets:
            by_class = self.class_weights.get(target.name) if train else None
            weight = by_row if by_class is None else by_class[_labels(target, y[target.name])]
            if by_row is not None and by_class is not None:
                weight = weight * by_row
            if weight is not None:
                weights[target.name] = weight.astype(np.float32)
        if weights and len(weights) < len(y):
            weights = {name: weights.get(name, np.ones(table.num_rows, np.float32)) for name in y}
        return EncodedRows(x, y, weights or None)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A run's rows, split, and their fitted encoding."""

    table: pa.Table  # all rows, or a sample where the run is streamed
    parts: Split  # rows of `table`
    encoding: FittedEncoding
    streamed: Split | None = None  # rows of the whole file, where the run is streamed
    # Row numbers in the dataset that each member of an ensemble trains on, and is held back from.
    folds: Sequence[Fold] = ()
    sampled: np.ndarray | None = None  # the numbers in the dataset of the table's rows, where the run is streamed
    left_out: Mapping[str, int] = field(default_factory=dict)  # number of unusable rows, by column

    def rows_of(self, part: str) -> np.ndarray:
        """Return the numbers in the dataset of the part's rows in `table`."""
        rows: np.ndarray = getattr(self.parts, part)
        return rows if self.sampled is None else self.sampled[rows]

    @property
    def whole(self) -> Split:
        """The dataset's row numbers for training, validation and test."""
        return self.streamed or self.parts

    def encode(self, part: str, compact: Compact | None = None) -> EncodedRows:
        """Encode `train`, `validation` or `test`. Raises BadInput."""
        return self.encoding.encode(self.table.take(getattr(self.parts, part)), part == "train", compact)


def columns_of(spec: Spec) -> list[str]:
    """Return the dataset's columns that a run reads."""
    names = [feature.column for feature in spec.features or ()]
    names += [column for target in spec.target for column in target.columns]
    names += [name for name in (spec.training.sample_weight, spec.split.by) if name]
    return list(dict.fromkeys(names))


def prepare(request: TrainingRequest, spec: Spec, facts: DatasetFacts, report: Reporter) -> PreparedData:
    """Read the rows, split them, and fit the encodings on the training rows. Raises BadInput."""
    if encoded_bytes(spec, facts) <= (memory_budget() if request.room is None else request.room.memory):
        table = read_columns(request.table, columns_of(spec))
        usable, left_out = usable_rows(table, spec, report)
        parts, folds = split_rows(table, spec, usable)
        fitted = fit(table.take(parts.train), spec, facts, request.source)
        return PreparedData(table, parts, fitted, folds=folds, left_out=left_out)
    whole_table = read_columns(request.table, _columns_to_split_by(spec, facts))
    usable, left_out = usable_rows(whole_table, spec, report)
    whole, folds = split_rows(whole_table, spec, usable)
    sampled = Split(*(_evenly_spread(getattr(whole, part), SAMPLE_ROWS[part]) for part in PARTS))
    together = np.unique(np.concatenate([getattr(sampled, part) for part in PARTS]))  # with folds, a row is in two
    table = read_picked(request.table, columns_of(spec), together)
    parts = Split(*(np.searchsorted(together, getattr(sampled, part)) for part in PARTS))
    report.event(
        "info",
        "The dataset is larger than memory, so it is streamed; encodings and figures are computed on a sample of"
        f" {len(together)} rows.",
        {"rows": facts.rows, "sample": len(together)},
    )
    fitted = fit(table.take(parts.train), spec, facts, request.source)
    return PreparedData(table, _encodable(parts, spec, facts), fitted, whole, folds, together, left_out)


def _encodable(parts: Split, spec: Spec, facts: DatasetFacts) -> Split:
    """Return the same parts, in the same proportion, of a sample that is small enough to be encoded in memory."""
    rows = sum(len(getattr(parts, part)) for part in PARTS)
    most = SAMPLE_BYTES // max(1, encoded_bytes(spec, facts) // max(1, facts.rows))
    if rows <= most:
        return parts
    each = (parts.train, parts.validation, parts.test)
    return Split(*(_evenly_spread(own, max(1, len(own) * most // rows)) for own in each))


def _columns_to_split_by(spec: Spec, facts: DatasetFacts) -> list[str]:
    """Return the columns that decide which rows are used, and in which part; read whole even in a streamed run."""
    targets = [column for target in spec.target for column in target.columns]
    infinite = [name for name in columns_of(spec) if facts.by_name[name].infinite]
    return list(dict.fromkeys([spec.split.by or targets[0], *targets, *infinite]))


def usable_rows(table: pa.Table, spec: Spec, report: Reporter) -> tuple[np.ndarray | None, dict[str, int]]:
    """Return the usable rows (None: all), and the number of unusable rows by column.

    Raises BadInput if unusable rows must not be dropped; only runs submitted before the API checked this get here.
    """
    targets = {column for target in spec.target for column in target.columns}
    used = [name for name in dict.fromkeys(columns_of(spec)) if name in table.column_names and name != spec.split.by]
    bad = {name: unusable(table.column(name), name in targets) for name in used}
    bad = {name: mask for name, mask in bad.items() if mask.any()}
    if not bad:
        return None, {}
    if spec.rows_without_target == "refuse":
        problems = [_unusable(name, mask, name in targets) for name, mask in bad.items()]
        raise BadInput(problems[0].detail, problems=problems)
    usable = np.flatnonzero(~np.logical_or.reduce(list(bad.values())))
    left_out = {name: int(mask.sum()) for name, mask in bad.items()}
    rows = table.num_rows - len(usable)
    if not len(usable):
        raise BadInput("Every row would be left out.", received=left_out)
    message = f"{rows} of {table.num_rows} rows are left out, without a usable value: {describe(left_out)}."
    report.event("warn", message, {"rows": rows, "columns": left_out})
    return usable, left_out


def _unusable(name: str, mask: np.ndarray, is_target: bool) -> Problem:
    rows = [int(row) + 1 for row in np.flatnonzero(mask)]
    shown = ", ".join(map(str, rows[:20])) + (", ..." if len(rows) > 20 else "")
    what = "has no finite value" if is_target else "is infinite"
    return Problem(
        f"{name!r} {what} in {len(rows)} of {len(mask)} rows: {shown}.",
        row=rows[0],
        column=name,
        received={"count": len(rows), "rows": rows[:1000]},
        fix=LEAVE_OUT,
    )


def encoded_bytes(spec: Spec, facts: DatasetFacts) -> int:
    """Return the size of all rows once encoded, in bytes."""
    inputs = encoded_inputs(list(spec.features or ()), facts)
    width = sum(int(np.prod(one.shape)) for one in inputs) + sum(target.units for target in spec.target)
    return 4 * width * facts.rows


def memory_budget() -> int:
    """Return how many bytes of encoded rows may be held in memory."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(MEMORY_SHARE * (memory if limit == resource.RLIM_INFINITY else min(memory, limit)))


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    return pq.read_table(path, columns=list(columns), memory_map=True)


def split_rows(table: pa.Table, spec: Spec, usable: np.ndarray | None = None) -> tuple[Split, list[Fold]]:
    """Split the usable rows into training, validation and test rows, and an ensemble's folds. Raises BadInput.

    With folds, all rows except the test part are in both of the other parts: each trains some members and validates
    another.
    """
    seed = spec.training.seed if spec.split.seed is None else spec.split.seed
    target, ensemble = spec.target[0].columns[0], spec.ensemble
    if usable is not None:
        table = table.select(list(dict.fromkeys([spec.split.by or target, target]))).take(usable)
    in_table = np.arange(table.num_rows) if usable is None else usable
    parts = split(table, spec.split, seed, target)
    folds: list[Fold] = []
    if ensemble is not None and ensemble.validation == "folds":
        rows = np.sort(np.concatenate([parts.train, parts.validation]))
        folds = divide(table, rows, spec.split, members_of(ensemble), seed, target)
        validated = rows[held_out_by(folds, rows) >= 0]  # in a split by time, the later ones
        parts = Split(rows, validated, parts.test)
    if usable is None:
        return parts, folds
    parts = Split(*(in_table[getattr(parts, part)] for part in PARTS))
    return parts, [Fold(in_table[fold.train], in_table[fold.held_out]) for fold in folds]


def fingerprint(parts: Split) -> str:
    """Return a SHA-256 of the split: the rows for training, validation and test."""
    digest = hashlib.sha256()
    for rows in (parts.train, parts.validation, parts.test):
        digest.update(len(rows).to_bytes(8, "little") + np.ascontiguousarray(rows, "<i8").tobytes())
    return digest.hexdigest()


# --- fitting -------------------------------------------------------------------------------------------


def fit(table: pa.Table, spec: Spec, facts: DatasetFacts, source: Path | None = None) -> FittedEncoding:
    """Fit the encodings on `table`, the training rows, or take those of the weights' source. Raises BadInput.

    `source` is the manifest of the artifact that the network begins with.
    """
    targets = TargetEncoder.fit(spec.target, table, facts)
    if spec.initial_weights is not None and spec.initial_weights.encoding == "source":
        if source is None:  # under another encoding the same weights would compute something else
            raise ValueError("the source of the initial weights is not there")
        manifest = json.loads(source.read_bytes())
        encoder = Encoder.from_json(manifest["encoder"])
        targets = _as_in_source(targets, spec, manifest)
    else:
        encoder = Encoder.fit(list(spec.features or ()), table, facts)
    weights: dict[str, np.ndarray] = {}
    if spec.training.class_weight is not None:
        encoded = targets.encode(table)
        for target in targets.targets:
            if target.task in ("binary", "multiclass"):
                weights[target.name] = _class_weights(spec.training, target, _labels(target, encoded[target.name]))
    return FittedEncoding(encoder, targets, weights, spec.training.sample_weight)


def _as_in_source(targets: TargetEncoder, spec: Spec, manifest: Mapping[str, Any]) -> TargetEncoder:
    """Return targets with the scale of the source's outputs, and the range of answers of the new rows."""
    own = {target.name: target for target in TargetEncoder.from_json(manifest["targets"]).targets}
    same = {target.name for target in parse(manifest["spec"]).target if target in spec.target}
    return TargetEncoder(
        tuple(
            replace(own[fitted.name], low=fitted.low, high=fitted.high) if fitted.name in same else fitted
            for fitted in targets.targets
        )
    )


def _labels(target: FittedTarget, encoded: np.ndarray) -> Any:
    """Return the label's index of each row."""
    if target.encoding == "one_hot":
        return encoded.argmax(axis=1)
    return encoded.reshape(len(encoded)).astype(np.int64)


def _class_weights(training: Training, target: FittedTarget, labels: Any) -> np.ndarray:
    """Return a weight for each label.

    `balanced` is rows / (labels * rows of the label), as in scikit-learn; labels missing from a mapping weigh 1.
    """
    names = target.labels or ()
    if training.class_weight == "balanced":
        counts = np.bincount(labels, minlength=len(names))
        return np.where(counts > 0, len(labels) / (len(names) * np.maximum(counts, 1)), 1.0)
    by_label: Any = training.class_weight or {}
    return np.array([float(by_label.get(name, 1.0)) for name in names])


def _sample_weights(table: pa.Table, name: str) -> np.ndarray:
    values = numbers_of(table.column(name))
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        row = int(bad[0])
        problem = Problem(
            f"The sample weight {name!r} is {values[row]} in row {row + 1}.",
            row=row + 1,
            column=name,
            received=str(values[row]),
            expected="a finite number of at least 0",
        )
        raise BadInput(problem.detail, problems=[problem])
    return values.astype(np.float32)


def _evenly_spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of these row numbers, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


# --- feeds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Feeds:
    """The feeds of a run: `train` and `validation` by seed, `held_out` by part, where there are such rows."""

    train: Callable[[int], Feed]
    validation: Callable[[int], Feed | None]
    held_out: Mapping[str, Feed]
    reading: ReadingMode = "memory"


def as_tensors(spec: Spec, part: EncodedRows) -> RowTensors:
    """Return arrays as `train_step` of the spec's network takes them: targets in the structure of the outputs."""
    names = [target.name for target in spec.target]
    weight = None if part.weight is None else {name: part.weight[name] for name in names}
    return RowTensors.of(part.x, {name: part.y[name] for name in names}, weight)


def epoch_rows(spec: Spec, prepared: PreparedData, batch_size: int) -> int | None:
    """Return how many rows an epoch has, None for all. Members of an ensemble have epochs of the same length."""
    if spec.training.steps_per_epoch:
        return spec.training.steps_per_epoch * batch_size
    return min(len(fold.train) for fold in prepared.folds) if prepared.folds else None


def make_feeds(
    request: TrainingRequest,
    spec: Spec,
    prepared: PreparedData,
    rows: Mapping[str, RowTensors],
    batch_size: int,
    report: Reporter,
    compact: Compact | None = None,
) -> Feeds:
    """Return feeds of `rows`, or of the file where the run is streamed; its rows then have the same form."""
    take = epoch_rows(spec, prepared, batch_size)
    if prepared.streamed is None:
        return _resident_feeds(spec, prepared, rows, take)
    return _streamed_feeds(request, spec, prepared, rows, batch_size, take, report, compact)


def _resident_feeds(spec: Spec, prepared: PreparedData, rows: Mapping[str, RowTensors], take: int | None) -> Feeds:
    training, parts, folds = spec.training, prepared.parts, prepared.folds
    held_out = {part: Resident(rows[part]) for part in PARTS[1:] if rows[part].count}

    def order(seed: int) -> Order:
        return shuffled(seed) if training.shuffle else in_file_order

    def train(seed: int) -> Feed:
        if not folds:
            return Resident(rows["train"], order(seed), take)
        own = np.searchsorted(parts.train, folds[seed - training.seed].train)
        return Resident.of_some(rows["train"], own, order(seed), take or len(own))

    def validation(seed: int) -> Feed | None:
        if not folds:
            return held_out.get("validation")
        own = np.searchsorted(parts.validation, folds[seed - training.seed].held_out)
        return Resident(rows["validation"].map(lambda t: keras.ops.take(t, own, axis=0)))

    return Feeds(train, validation, held_out)


def _streamed_feeds(
    request: TrainingRequest,
    spec: Spec,
    prepared: PreparedData,
    rows: Mapping[str, RowTensors],
    batch_size: int,
    take: int | None,
    report: Reporter,
    compact: Compact | None,
) -> Feeds:
    training, whole, folds, columns = spec.training, prepared.whole, prepared.folds, columns_of(spec)
    spools: dict[str, Spool] = {}

    def streamed(
        part: str, seed: int | None = None, take: int | None = None, fold: Callable[[Fold], Any] | None = None
    ) -> Streamed:
        picked = getattr(whole, part)
        mask = None if fold is None or not folds else np.isin(picked, fold(folds[(seed or 0) - training.seed]))
        return Streamed(
            request.table,
            columns,
            picked,
            lambda table: prepared.encoding.encode(table, part == "train", compact),
            lambda encoded: as_tensors(spec, encoded),
            batch_size,
            seed if part == "train" and training.shuffle else None,
            take,
            spools.get(part),
            mask,
        )

    parts = [part for part in PARTS if len(getattr(whole, part))]
    row_bytes = sum(leaf[:1].numpy().nbytes for leaf in keras.tree.flatten(rows["train"].as_tuple()))
    free = free_bytes(request.folder) if request.room is None else request.room.disk
    if Spool.fits(free, row_bytes * sum(len(getattr(whole, part)) for part in parts)):
        spools |= {part: streamed(part).spooled(request.folder / "spool" / part, report.progress) for part in parts}
    return Feeds(
        lambda seed: streamed("train", seed, take, lambda fold: fold.train),
        lambda seed: streamed("validation", seed, None, lambda fold: fold.held_out) if "validation" in parts else None,
        {part: streamed(part) for part in parts if part != "train"},
        "spool" if spools else "file",
    )
