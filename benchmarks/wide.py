"""A large table with a wide column: memory, time and accuracy of a run, beside a linear model on hashed names.

`python -m benchmarks.wide`. Two million rows, a column of 95,000 names whose effect on the label is each name's own,
and two numbers. `index` is what a spec gets that names no encoding (an Embedding); `hashing` is
`{hashing: {bins: 4096}}`, which rows of 32 GB would be needed for if their zeros were stored. Memory is the peak of
the trainer's resident set, accuracy that of held-out rows. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
MEMORY = 14 * 1024**3  # memory limit of the trainer, as set by a worker
SPECS: dict[str, dict[str, Any]] = {
    "index": {"target": "bought"},
    "hashing": {
        "target": "bought",
        "features": ["x", "y", {"name": {"hashing": {"bins": 4096}}}],
        "network": [{"Dense": {"units": 64, "activation": "relu"}}, {"Dense": {"units": 64, "activation": "relu"}}],
        "training": {"epochs": 5, "batch_size": 1024, "optimizer": {"Adam": {"learning_rate": 0.003}}},
    },
}


def table(rows: int, names: int) -> pa.Table:
    """Rows whose label follows from the name's own effect and one product of two numbers."""
    rng = np.random.default_rng(0)
    which = rng.zipf(1.2, size=rows) % names
    x, y = rng.normal(size=(2, rows))
    score = 2.0 * rng.normal(size=names)[which] + 1.5 * x * y + 0.5 * rng.normal(size=rows)
    return pa.table(
        {
            "name": pa.array([f"customer {one}" for one in range(names)]).take(pa.array(which)),
            "x": x,
            "y": y,
            "bought": pa.array(["no", "yes"]).take(pa.array((score > 0).astype(np.int64))),
        }
    )


def linear(rows: pa.Table, bins: int = 4096) -> float:
    """Return the held-out accuracy of logistic regression on the numbers and hashed names."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression

    from fitserve.encoding.hashing import hash_bins

    names = rows.column("name").combine_chunks().dictionary_encode()
    places = hash_bins(names.dictionary.to_pylist(), bins, (133, 137))[names.indices.to_numpy()]
    at = np.arange(rows.num_rows)
    hashed = csr_matrix((np.ones(len(at), np.float32), (at, places)), shape=(len(at), bins))
    numbers = csr_matrix(np.stack([rows.column("x"), rows.column("y")], axis=1).astype(np.float32))
    features, truth = hstack([numbers, hashed]).tocsr(), np.asarray(rows.column("bought")) == "yes"
    held_out = np.random.default_rng(1).random(len(at)) < 0.1
    model = LogisticRegression(max_iter=30, solver="lbfgs").fit(features[~held_out], truth[~held_out])
    return float(model.score(features[held_out], truth[held_out]))


def run(body: dict[str, Any], folder: str, rows: int, names: int, answer: Any) -> None:
    """Train in a process of its own, and send what the run took."""
    import resource

    from tests.trainer.requests import RecordingReporter, request_of
    from workers.trainer.__main__ import peak_bytes, reset_peak
    from workers.trainer.engine.device import warm_up
    from workers.trainer.train import train

    warm_up(0)
    request = request_of(table(rows, names), body, Path(folder))
    reporter = RecordingReporter(keep_checkpoints=False)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    reset_peak()
    before = psutil.Process().memory_info().rss
    began_at, used = time.perf_counter(), time.process_time()
    result = train(request, reporter).result
    metrics = result["metrics"].get("test") or result["metrics"]["validation"]
    answer.send(
        {
            "seconds": time.perf_counter() - began_at,
            "cpu_seconds": time.process_time() - used,
            "peak_mb": peak_bytes() / 1e6,
            "before_mb": before / 1e6,
            "accuracy": metrics.get("accuracy") or metrics.get("binary_accuracy"),
            "epochs": len(reporter.epochs),
        }
    )


def main() -> None:
    """Print what each run took, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--names", type=int, default=95_000)
    parser.add_argument("--specs", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--without-linear", action="store_true")
    options = parser.parse_args()
    found: dict[str, float] = {}
    for name in options.specs:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            arguments = (SPECS[name], folder, options.rows, options.names, theirs)
            process = multiprocessing.get_context("spawn").Process(target=run, args=arguments)
            process.start()
            theirs.close()
            figures = ours.recv()
            process.join()
        print(name, json.dumps({key: round(value, 3) for key, value in figures.items()}), flush=True)
        found |= {f"wide_{name}_{key}": value for key, value in figures.items()}
    if not options.without_linear:
        found["wide_linear_accuracy"] = linear(table(options.rows, options.names))
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
