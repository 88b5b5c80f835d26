"""The gate: compare a new version with the champion on the same held-out rows, using the artifacts that are served."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve import artifacts
from fitserve.blobs import BlobStore
from fitserve.datasets import store
from fitserve.datasets.split import split
from fitserve.datasets.unusable_values import unusable
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import labels_of, numbers_of
from fitserve.errors import BadInput
from fitserve.spec.spec import parse
from fitserve.tables import Dataset
from fitserve.wire.automations import Gate

MAX_ROWS = 50_000  # most rows predicted, evenly spread; more would change no decision
FEWEST_UNSEEN = 30  # rows new to the champion; with fewer, all held-out rows are compared
RESAMPLES = 2_000
_LEAST = 1e-7  # least probability, so that its logarithm is finite


@dataclass(frozen=True, slots=True)
class GateRows:
    """The rows of the comparison: a table with the columns of both networks and the target."""

    table: pa.Table
    target: str
    task: str
    unseen: bool  # whether the champion was trained on none of the rows


def held_out_rows(
    blobs: BlobStore, dataset: Dataset, resolved: Mapping[str, Any], scratch: Path, known_rows: int | None
) -> GateRows:
    """Return the candidate's test rows, or its validation rows where it has none.

    `known_rows` is the number of rows of the champion's own table, if this table continues it: the rows after them are
    new to the champion. Raises BadInput if there are no held-out rows.
    """
    spec = parse({key: value for key, value in resolved.items() if key != "search"})
    target = spec.target[0]
    if len(target.columns) != 1 or target.task == "multilabel":
        raise BadInput("A gate compares the first target, which must be one column.", received=list(target.columns))
    name = target.columns[0]
    table = pq.read_table(store.local_parquet(blobs, dataset, scratch / "blobs"))
    usable = np.flatnonzero(~unusable(table.column(name), True))
    seed = spec.training.seed if spec.split.seed is None else spec.split.seed
    parts = split(table.take(usable) if len(usable) < table.num_rows else table, spec.split, seed, name)
    rows = usable[parts.test if len(parts.test) else parts.validation]
    unseen = False
    if known_rows is not None and (rows >= known_rows).sum() >= FEWEST_UNSEEN:
        rows, unseen = rows[rows >= known_rows], True
    if not len(rows):
        raise BadInput("The new version has no held-out rows to compare it on.", fix="Give its split a test share.")
    if len(rows) > MAX_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, MAX_ROWS).astype(np.int64)]
    return GateRows(table.take(rows), name, str(target.task), unseen)


def losses(blobs: BlobStore, artifact: str, rows: GateRows, metric: str) -> np.ndarray:
    """Return each row's loss, (rows,): 0 or 1 for accuracy, the squared error for RMSE, else the metric's own term."""
    manifest = artifacts.read(blobs, artifact).manifest
    output = next((one for one in manifest["outputs"] if one["name"] == rows.target), manifest["outputs"][0])
    encoder = Encoder.from_json(manifest["encoder"])
    if missing := set(encoder.names) - set(rows.table.column_names):
        raise BadInput(f"The table has no column {min(missing)!r}, which a version needs.")
    session = artifacts.onnx_session(blobs.read(manifest["onnx"]["sha256"]))
    values = np.asarray(session.run([output["name"]], encoder.encode(rows.table))[0]).reshape(rows.table.num_rows, -1)
    truth = rows.table.column(rows.target)
    if metric in ("rmse", "mae"):
        errors = values[:, 0].astype(np.float64) - numbers_of(truth)
        return np.asarray(errors**2 if metric == "rmse" else np.abs(errors))
    codes, names = labels_of(truth)
    known = [str(label) for label in output["labels"]]
    place = np.array([known.index(str(one)) if str(one) in known else -1 for one in names] + [-1])[codes]
    shares = np.hstack([1 - values, values]) if values.shape[1] == 1 else values
    if metric == "accuracy":
        best = (values[:, 0] >= 0.5).astype(int) if values.shape[1] == 1 else values.argmax(axis=1)
        return np.asarray((best != place).astype(np.float64))
    label_shares = np.where(place >= 0, shares[np.arange(len(place)), np.maximum(place, 0)], 0.0)
    return np.asarray(-np.log(np.clip(label_shares, _LEAST, 1.0)))


def metric_for(gate: Gate, task: str) -> str:
    """Return the metric that a gate compares by. Raises BadInput where it does not fit the task."""
    regression = task == "regression"
    metric = gate.metric or ("rmse" if regression else "accuracy")
    if regression is not (metric in ("rmse", "mae")):
        raise BadInput(f"{metric} is no metric of a {task}.", pointer="/gate/metric", received=metric)
    return metric


def figure(metric: str, values: np.ndarray) -> float:
    """Return the metric of rows' losses."""
    mean = float(values.mean())
    return 1.0 - mean if metric == "accuracy" else math.sqrt(mean) if metric == "rmse" else mean


def judge(blobs: BlobStore, gate: Gate, rows: GateRows, candidate: str, champion: str) -> dict[str, Any]:
    """Compare two artifacts on the same rows. Return whether the candidate passes, with the figures.

    The paired test resamples rows (bootstrap): the share of samples in which the candidate is not `margin` better.
    """
    metric = metric_for(gate, rows.task)
    ours, theirs = (losses(blobs, artifact, rows, metric) for artifact in (candidate, champion))
    sign = 1.0 if metric == "accuracy" else -1.0
    mine, other = figure(metric, ours), figure(metric, theirs)
    better = sign * (mine - other)
    chance = _chance(metric, ours, theirs, gate.margin)
    passes = better >= gate.margin and (gate.significance is None or chance <= gate.significance)
    why = f"{metric} {mine:.4g} against {other:.4g} of the champion on {len(ours)} rows"
    if not passes and better >= gate.margin:
        why += f"; by chance with probability {chance:.2g}, {gate.significance:g} allowed"
    elif not passes:
        why += f"; {gate.margin:g} better was asked"
    return {
        "passes": bool(passes),
        "why": why,
        "metric": metric,
        "candidate": mine,
        "champion": other,
        "better": better,
        "margin": gate.margin,
        "chance": chance,
        "rows": len(ours),
        "unseen_by_champion": rows.unseen,
    }


def _chance(metric: str, ours: np.ndarray, theirs: np.ndarray, margin: float) -> float:
    """Return the share of resamples in which the candidate is less than `margin` better."""
    generator = np.random.default_rng(0)
    count, worse = len(ours), 0
    for _ in range(RESAMPLES // 100):
        # A hundred resamples at a time, as multinomial counts, to bound the memory.
        picks = generator.multinomial(count, np.full(count, 1 / count), size=100 if count <= 5_000 else 10)
        means = picks @ np.column_stack([ours, theirs]) / count
        figures = np.sqrt(means) if metric == "rmse" else means
        better = figures[:, 1] - figures[:, 0]  # all figures are losses (also accuracy's), so less is better
        worse += int((better < margin).sum() + 0.5 * (better == margin).sum())
    total = RESAMPLES // 100 * (100 if count <= 5_000 else 10)
    return worse / total
