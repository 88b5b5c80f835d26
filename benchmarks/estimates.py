"""Estimated seconds of a run relative to the seconds it takes: the default network of each real table.

`make bench-estimates`, or `python -m benchmarks.estimates --tables titanic insurance` for some tables. Each table is
uploaded as it is and trained on one server, smallest first, so later estimates follow the pace of earlier runs. An
estimate assumes that no run stops early; it is compared for the epochs that were trained. The last line is JSON:
the ratio of each table, and `worst`, the largest factor between estimated and taken seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.accuracy.bar import RAW
from benchmarks.accuracy.tables import Table
from benchmarks.default_models import DATA
from fitserve.runs.queries import expected_seconds
from fitserve.states import TERMINAL
from tests.conftest import start_server, stop_server
from tests.waiting import wait_until


def train(api: httpx2.Client, table: Table) -> dict[str, Any]:
    """Train a table's default network, and return the run."""
    assert table.file is not None
    content = (DATA / table.file).read_bytes()
    content = gzip.decompress(content) if table.file.endswith(".gz") else content
    api.put(f"/datasets/{table.name}", content=content, headers={"Content-Type": "text/csv"}).raise_for_status()
    posted = api.post("/runs", json={"dataset": table.name, "target": table.target, "training": {"seed": 0}})
    path = f"/runs/{posted.raise_for_status().json()['id']}"
    wait_until(lambda: api.get(path).json()["state"] in TERMINAL)
    return dict(api.get(path).json())


def seconds(run: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds of a run as estimated for the epochs that it trained, and as taken."""
    estimated = expected_seconds(run["estimates"], run["result"])
    assert estimated is not None
    return estimated, sum(run["result"]["seconds"].values())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tables", nargs="+", default=[table.name for table in RAW])
    chosen = set(arguments.parse_args().tables)
    if not DATA.is_dir():
        sys.exit(f"The tables of {DATA} are missing.")
    tables = sorted((t for t in RAW if t.name in chosen), key=lambda t: (DATA / str(t.file)).stat().st_size)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder) / "home")
        try:
            api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=300)
            for table in tables:
                run = train(api, table)
                estimated, taken = seconds(run)
                figures[table.name] = round(estimated / taken, 2)
                line = f"{table.name:16} estimated {estimated:6.1f} s, taken {taken:6.1f} s"
                print(f"{line}: {estimated / taken:5.2f}, pace {run['estimates']['pace']}", flush=True)
        finally:
            stop_server(server)
    print(json.dumps({**figures, "worst": max(max(ratio, round(1 / ratio, 2)) for ratio in figures.values())}))


if __name__ == "__main__":
    main()
