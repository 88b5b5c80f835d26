"""Start-up time and memory of each process, and the time until a warm worker starts a run.

`make bench-startup`. Times are seconds from the process's start to its first `200` on `/readyz`; memory is the
resident set of the process itself, in MB, once it is ready, and `api_mb_after_uploads` that of the API after a hundred
uploads of 5,000 rows. `first_epoch_ms` is the median over several runs of the time from `POST /runs` to the commit of
the first epoch's row, on the embedded default with a warm trainer, for networks that it has not trained yet;
`first_epoch_again_ms` that of the same networks with another seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

import migrations
from fitserve.embedded_redis import EmbeddedRedis
from services.up.ports import is_ready
from tests.conftest import free_ports, start_server, stop_server

_POINTS = [(i % 7 - 3, i % 5 - 2) for i in range(200)]
TABLE = "x,y,side\n" + "\n".join(f"{x},{y},{'in' if x * y > 0 else 'out'}" for x, y in _POINTS)
SPEC: dict[str, Any] = {
    "dataset": "points",
    "target": "side",
    "network": [{"Dense": {"units": 8, "activation": "tanh"}}],
    "training": {"epochs": 20, "batch_size": 32, "seed": 0},
}


def start_and_measure(module: str, port_variable: str, environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds until one process is ready, and its resident MB."""
    (port,) = free_ports(1)
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", module],
        env={**os.environ, **environment, port_variable: str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not is_ready(f"http://127.0.0.1:{port}/readyz"):
            if process.poll() is not None or time.perf_counter() - started > 60:
                raise SystemExit(f"{module} did not become ready")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        resident = psutil.Process(process.pid).memory_info().rss / 1e6
        process.terminate()
        process.wait(30)
    return seconds, resident


def mb_after_uploads() -> float:
    """Return the API's resident MB after a hundred uploads."""
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder) / "home")
        try:
            api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=60)
            for upload in range(100):
                table = TABLE + "".join(f"\n{row}.5,{upload},out" for row in range(5000))
                path, kind = f"/datasets/points{upload}", {"Content-Type": "text/csv"}
                api.put(path, content=table, headers=kind).raise_for_status()
            children = psutil.Process(server.process.pid).children()
            (process,) = (child for child in children if "services.control" in child.cmdline())
            return process.memory_info().rss / 1e6
        finally:
            stop_server(server)


def _spec(units: int, seed: int) -> dict[str, Any]:
    network = [{"Dense": {"units": units, "activation": "tanh"}}]
    return {**SPEC, "network": network, "training": {**SPEC["training"], "seed": seed}}


def first_epochs(runs: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds from POST to the first epoch's row on a warm worker: of new networks, and again."""
    milliseconds: dict[int, list[float]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder) / "home")
        try:
            api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=30)
            api.put("/datasets/points", content=TABLE, headers={"Content-Type": "text/csv"}).raise_for_status()
            for run, seed in [(run, seed) for run in range(runs + 1) for seed in (0, 1)]:
                posted = time.perf_counter()
                run_id = api.post("/runs", json=_spec(8 + run, seed)).raise_for_status().json()["id"]
                while not api.get(f"/runs/{run_id}/epochs?limit=1").json()["items"]:
                    time.sleep(0.005)
                milliseconds[seed].append((time.perf_counter() - posted) * 1000)
                while api.get(f"/runs/{run_id}").json()["state"] in ("queued", "running"):
                    time.sleep(0.05)
                time.sleep(0.5)
        finally:
            stop_server(server)
    return milliseconds[0][1:], milliseconds[1][1:]  # the trainer may have been warming up for the first run


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=5)
    repeats = arguments.parse_args().repeats
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis") as broker:
        environment = {"FITSERVE_HOME": folder, "FITSERVE_REDIS_URL": broker.url, "FITSERVE_GRPC_PORT": "0"}
        migrations.upgrade(f"sqlite:///{Path(folder).resolve() / 'fitserve.db'}")
        for name, module, variable in (
            ("api", "services.control", "FITSERVE_PORT"),
            ("predict", "services.predict", "FITSERVE_PREDICT_PORT"),
            ("worker", "workers", "FITSERVE_WORKER_METRICS_PORT"),
            ("reaper", "workers.reaper", "FITSERVE_REAPER_METRICS_PORT"),
        ):
            measured = [start_and_measure(module, variable, environment) for _ in range(repeats)]
            figures[f"{name}_ready_s"] = round(statistics.median(seconds for seconds, _ in measured), 2)
            figures[f"{name}_mb"] = round(statistics.median(resident for _, resident in measured), 1)
            print(f"{name:8} ready in {figures[f'{name}_ready_s']:5.2f} s, {figures[f'{name}_mb']:6.1f} MB")
    figures["api_mb_after_uploads"] = round(mb_after_uploads(), 1)
    print(f"api after a hundred uploads {figures['api_mb_after_uploads']:6.1f} MB")
    first, again = map(statistics.median, first_epochs(repeats))
    figures |= {"first_epoch_ms": round(first, 1), "first_epoch_again_ms": round(again, 1)}
    print(f"POST /runs to the first epoch on a warm worker: {first:.0f} ms, again {again:.0f} ms (median of {repeats})")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
