"""One deployment for a long time: memory, open files and the database's size against predictions and runs.

`python -m benchmarks.soak` asks 10 million predictions of one model, a hundred rows a request, while 300 runs are
trained one after the other, and prints what grows. `--predictions` and `--runs` make it shorter. What is printed last
is JSON: for each process, the growth in the second half of the time, when caches are full; by predictions and by runs,
each as if it were the cause of all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

from tests.conftest import Server, start_server, stop_server
from tests.journey.test_journey import SPEC, circle, predict_when_loaded

ROWS = 100  # a request
SPREAD = [{"x": (n % 20) / 2 - 5, "y": (n // 20) - 2.5, "colour": "red"} for n in range(ROWS)]
PATIENCE = 60.0


@dataclass
class Sample:
    """Resources that one deployment uses at one moment."""

    seconds: float
    predictions: int
    runs: int
    memory: dict[str, int]  # bytes by process
    files: dict[str, int]
    database: int  # bytes


@dataclass
class Soak:
    """Load generator that predicts and trains, and samples the processes every few seconds."""

    server: Server
    predictions: int
    runs: int
    asked: int = 0
    trained: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    def run(self) -> None:
        """Run the whole load. Raises HTTPError if the table is refused."""
        headers = self.server.headers
        api = httpx2.Client(base_url=self.server.base_url + "/api/v1", headers=headers, timeout=PATIENCE)
        predict = httpx2.Client(base_url=self.server.predict_url, headers=headers, timeout=PATIENCE)
        api.put("/datasets/circle", content=circle(), headers={"Content-Type": "text/csv"}).raise_for_status()
        self._train(api)
        predict_when_loaded(predict, SPREAD[:1])
        threads = [threading.Thread(target=self._ask_all, args=(predict,))]
        threads.append(threading.Thread(target=self._train_all, args=(api,)))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._look(time.monotonic() - began)
            time.sleep(2)
        self._look(time.monotonic() - began)

    def _ask_all(self, predict: httpx2.Client) -> None:
        body = json.dumps({"instances": SPREAD})
        while self.asked < self.predictions:
            with self._counted("predict"):
                predict.post("/v1/models/circle:predict", content=body).raise_for_status()
                self.asked += ROWS

    def _train_all(self, api: httpx2.Client) -> None:
        while self.trained < self.runs:
            with self._counted("train"):
                self._train(api)
                self.trained += 1

    def _train(self, api: httpx2.Client) -> None:
        training = {**SPEC["training"], "epochs": 20, "seed": self.trained}  # type: ignore[dict-item]
        answer = api.post("/runs", json={**SPEC, "training": training}).raise_for_status()
        run: dict[str, Any] = {"state": "queued"}
        while run["state"] in ("queued", "running"):
            time.sleep(0.1)
            run = api.get(f"/runs/{answer.json()['id']}").raise_for_status().json()
        if run["state"] != "succeeded":
            self.errors[f"run {run['state']}"] += 1

    @contextlib.contextmanager
    def _counted(self, what: str) -> Any:
        """Count an error and continue, since only growth is measured."""
        try:
            yield
        except httpx2.HTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", "")
            self.errors[f"{what}: {type(error).__name__} {status}".strip()] += 1
            time.sleep(0.5)

    def _look(self, seconds: float) -> None:
        memory: Counter[str] = Counter()
        files: Counter[str] = Counter()
        for process in psutil.Process(self.server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                name = _name(process.cmdline())
                memory[name] += process.memory_full_info().uss
                files[name] += process.num_fds()
        own = list(self.server.home.glob("fitserve.db*"))
        database = sum(path.stat().st_size for path in own if path.exists())
        self.samples.append(Sample(seconds, self.asked, self.trained, dict(memory), dict(files), database))

    def figures(self) -> dict[str, Any]:
        """Return the memory and files of each process, and their growth in the second half of the soak."""
        half = [sample for sample in self.samples if sample.seconds >= self.samples[-1].seconds / 2]
        first, last = half[0], half[-1]
        names = sorted(set(first.memory) & set(last.memory))
        done = np.array([sample.predictions / 1e6 for sample in half])
        trained = np.array([float(sample.runs) for sample in half])
        growth: dict[str, Any] = {}
        for name in names:
            own = [(at, s.memory[name] / 1e6) for at, s in enumerate(half) if name in s.memory]
            places, used = [at for at, _ in own], np.array([mb for _, mb in own])
            growth[name] = {
                "mb": round(float(used[-1])),
                "mb_per_million_predictions": round(_slope(done[places], used), 2),
                "mb_per_100_runs": round(100 * _slope(trained[places], used), 2),
                "files": [first.files[name], last.files[name]],
            }
        runs = max(1, last.runs - first.runs)
        return {
            "seconds": round(last.seconds),
            "predictions": last.predictions,
            "runs": last.runs,
            "errors": dict(self.errors),
            "processes": growth,
            "database_mb": round(last.database / 1e6, 2),
            "database_kb_per_run": round((last.database - first.database) / runs / 1e3, 1),
        }


def _name(command: list[str]) -> str:
    """Name a process by its module: its own trainer, or Redis, among them."""
    if "-m" in command:
        return command[command.index("-m") + 1]
    return Path(command[0]).name if command else "ended"


def _slope(x: Any, y: Any) -> float:
    """Return the least-squares slope; 0 where nothing was done."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 2 and float(np.ptp(x)) > 0 else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fitserve-soak-") as folder:
        server = start_server(Path(folder) / "home")
        try:
            soak = Soak(server, args.predictions, args.runs)
            soak.run()
        finally:
            stop_server(server)
    figures = soak.figures()
    for name, own in figures["processes"].items():
        print(f"{name:28} {own}")
    print(json.dumps(figures))
    return int(bool(figures["errors"]))


if __name__ == "__main__":
    sys.exit(main())
