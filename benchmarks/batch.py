"""A batch prediction beside a script of polars and ONNX Runtime: part of `make bench-serving`.

Both read the same Parquet file, of half a million rows of 38 numbers and 3 categories, encode them alike, run the same
network with a thread for each core, and write the same probabilities. The sides alternate; the least time counts.

    python -m benchmarks.batch [--rows 494021]        the figures alone, as one JSON object
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder
from fitserve.spec.feature import Feature
from tests.predict.toy_registry import ToyModel, ToyRegistry, graph
from workers.batch.model import ArtifactModel
from workers.batch.rows import in_order, part_chunks

ROUNDS = 3
OUTPUTS = [{"name": "y", "task": "multiclass", "labels": [str(one) for one in range(5)], "units": 5}]
LABELS = {"protocol": 3, "service": 66, "flag": 11}


def make_table(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    numbers: dict[str, Any] = {f"n{place}": random.integers(0, 10 ** (1 + place % 6), rows) for place in range(23)}
    numbers |= {f"x{place}": random.uniform(0, 1, rows).round(2) for place in range(15)}
    texts = {name: random.choice([f"{name}_{at}" for at in range(count)], rows) for name, count in LABELS.items()}
    return pa.table(numbers | texts)


def make_model(table: pa.Table) -> ToyModel:
    columns = []
    for name in table.column_names:
        labels = sorted(table.column(name).unique().to_pylist()) if name in LABELS else None
        kind, storage = ("categorical", "string") if labels else ("numeric", str(table.column(name).type))
        storage = storage.replace("double", "float64")
        columns.append(
            ColumnFacts.model_validate(
                {"name": name, "kind": kind, "storage": storage, "rows": table.num_rows}
                | {"distinct": len(labels) if labels else 100, "labels": labels, "min": 0.0, "max": 1e6}
            )
        )
    facts = DatasetFacts(name="t", version=1, sha256="0" * 64, rows=table.num_rows, columns=tuple(columns))
    features = [Feature(column=name) for name in table.column_names]
    encoder = Encoder.fit(features, table.slice(0, 20_000), facts)
    return ToyModel(encoder, graph(encoder.inputs[0].shape[0], OUTPUTS, hidden=(64, 32)), OUTPUTS)


def by_hand(source: Path, target: Path, model: ToyModel, session: Any) -> None:
    """Predict with a hand-written script: numbers scaled and labels one-hot encoded by polars' expressions."""
    frame = pl.read_parquet(source)
    parts = []
    for column in model.encoder.columns:
        one = pl.col(column.name)
        if "labels" in column.fitted:
            unknown = (~one.is_in(column.fitted["labels"])).cast(pl.Float32)
            known = [
                (one == label).cast(pl.Float32).alias(f"{column.name}_{label}") for label in column.fitted["labels"]
            ]
            parts += [unknown.alias(f"{column.name}_"), *known]
        else:
            parts.append(((one.cast(pl.Float64) - column.fitted["center"]) / column.fitted["scale"]).cast(pl.Float32))
    values = frame.select(parts).to_numpy()
    answers = [session.run(None, {"features": values[at : at + 20_000]})[0] for at in range(0, len(values), 20_000)]
    joined = np.concatenate(answers)
    best = pl.Series("predicted_y", [str(one) for one in range(5)]).gather(joined.argmax(axis=1))
    units = {f"predicted_y_{unit}": joined[:, unit].astype(np.float64) for unit in range(5)}
    pl.DataFrame({"predicted_y": best, **units}).write_parquet(target)


def ours(source: Path, target: Path, model: ArtifactModel) -> None:
    writer = None
    parts = part_chunks(source, 0, pq.read_metadata(source).num_rows)
    for predicted in in_order(model.predict, parts, os.cpu_count() or 1):
        writer = writer or pq.ParquetWriter(target, predicted.schema)
        writer.write_table(predicted)
    assert writer is not None
    writer.close()


def least_seconds(*sides: Callable[[], Any]) -> list[float]:
    least = [float("inf")] * len(sides)
    for _ in range(ROUNDS):
        for place, side in enumerate(sides):
            started = time.perf_counter()
            side()
            least[place] = min(least[place], time.perf_counter() - started)
    return least


def figures(folder: Path, rows: int = 494_021) -> dict[str, float]:
    """Return `batch_ratio`, and the seconds of both sides."""
    folder.mkdir(exist_ok=True)
    source, table = folder / "rows.parquet", make_table(rows)
    pq.write_table(table, source)
    toys = ToyRegistry(folder / "home")
    toy, threads = make_model(table), os.cpu_count() or 1
    model = ArtifactModel(toys.blobs, toys.store_artifact(toy))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(toy.onnx, options, providers=["CPUExecutionProvider"])
    paths = folder / "ours.parquet", folder / "by_hand.parquet"
    seconds = least_seconds(lambda: ours(source, paths[0], model), lambda: by_hand(source, paths[1], toy, session))
    first, second = (pq.read_table(path).column("predicted_y_1").to_numpy() for path in paths)
    assert np.abs(first - second).max() < 1e-5
    ratio = seconds[0] / seconds[1]
    return {"batch_ratio": round(ratio, 3), "batch_s": round(seconds[0], 2), "batch_by_hand_s": round(seconds[1], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=494_021)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(figures(Path(folder), parser.parse_args().rows)))


if __name__ == "__main__":
    main()
