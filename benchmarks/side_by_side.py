"""Two runs at the same time relative to the same runs one after the other: whether they get in each other's way.

`make bench-side_by_side`. One worker trains up to two runs at a time (`FITSERVE_TRAINERS=2`). A ratio of 1 gains
nothing, one above 1 means that they do. Each kind of run is repeated; the last line is JSON with the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from fitserve.states import TERMINAL
from tests.conftest import start_server, stop_server
from tests.waiting import wait_until

WIDE = [{"Dense": {"units": 256, "activation": "relu"}}, {"Dense": {"units": 256, "activation": "relu"}}]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"dataset": "small", "preset": "plain", "training": {"epochs": 400}},
    "default": {"dataset": "small", "training": {"epochs": 60, "early_stopping": False}},
    "wide": {
        "dataset": "large",
        "network": WIDE,
        "training": {"epochs": 25, "batch_size": 256, "early_stopping": False},
    },
}


def table(rows: int) -> str:
    """Return CSV of ten numbers and a label."""
    numbers = np.random.default_rng(0).normal(size=(rows, 10))
    labels = np.where(numbers[:, 0] * numbers[:, 1] > 0, "in", "out")
    rows_of = zip(numbers, labels, strict=True)
    lines = (",".join([*(f"{number:.3f}" for number in row), label]) for row, label in rows_of)
    return "\n".join([",".join([*(f"x{index}" for index in range(10)), "side"]), *lines])


def seconds_of(api: httpx2.Client, kind: str, seeds: list[int]) -> float:
    """Return the seconds until runs with these seeds, submitted together, have ended."""
    began, spec = time.perf_counter(), KINDS[kind]
    for path in [_submit(api, {**spec, "target": "side", "training": {**spec["training"], "seed": s}}) for s in seeds]:
        wait_until(lambda path=path: api.get(path).json()["state"] in TERMINAL)
    return time.perf_counter() - began


def _submit(api: httpx2.Client, spec: dict[str, Any]) -> str:
    return f"/runs/{api.post('/runs', json=spec).raise_for_status().json()['id']}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=3)
    repeats = arguments.parse_args().repeats
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder) / "home", FITSERVE_TRAINERS="2")
        try:
            api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=60)
            for name, rows in (("small", 1_600), ("large", 17_000)):
                headers = {"Content-Type": "text/csv"}
                api.put(f"/datasets/{name}", content=table(rows), headers=headers).raise_for_status()
            for kind in KINDS:
                seconds_of(api, kind, [0, 1])  # both trainers trace it
            for repeat in range(repeats):
                for kind in KINDS:
                    first = 4 * repeat + 2
                    alone = sum(seconds_of(api, kind, [seed]) for seed in (first, first + 1))
                    together = seconds_of(api, kind, [first + 2, first + 3])
                    ratios[kind].append(together / alone)
                    print(f"{kind:8} one after the other {alone:5.2f} s, side by side {together:5.2f} s", flush=True)
        finally:
            stop_server(server)
    print(json.dumps({f"side_by_side_{kind}": round(statistics.median(each), 2) for kind, each in ratios.items()}))


if __name__ == "__main__":
    main()
