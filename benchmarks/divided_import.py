"""Time one import on one worker and on two, each with its own core, from the claim to the commit.

    python -m benchmarks.divided_import csv 200        megabytes, in objects of 8 MB in an S3 of this machine (moto)
    python -m benchmarks.divided_import csv.gz 60
    python -m benchmarks.divided_import parquet 200

Rounds of one and two workers take turns; the last line is JSON with the medians and their ratio.
"""

from __future__ import annotations

import gzip
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.large_import import MB, rows
from fitserve.runs import create
from fitserve.settings import Limits
from fitserve.states import RunKind, RunState
from tests.conftest import free_ports, listens
from tests.faults.cluster import Cluster
from tests.waiting import wait_until

OBJECT_MB = 8
ROUNDS = 3
LEASES = {"FITSERVE_LEASE_SECONDS": "60", "FITSERVE_HEARTBEAT_SECONDS": "5"}


def object_of(kind: str) -> bytes:
    """Return an object of about OBJECT_MB."""
    sink, table = io.BytesIO(), rows()
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        pyarrow.csv.write_csv(table, sink)
    whole = sink.getvalue()
    return gzip.compress(whole, 1) if kind.endswith(".gz") else whole


@contextmanager
def bucket(kind: str, megabytes: int) -> Iterator[dict[str, Any]]:
    """Yield a connection to a bucket that holds so many megabytes under `parts/`."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: listens(port), "the S3 server", process=process)
            options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"}}
            store, data = fsspec.filesystem("s3", **options), object_of(kind)
            store.mkdir("lake")
            for number in range(max(2, round(megabytes * MB / len(data)))):
                store.pipe(f"lake/parts/{number:05}.{kind}", data)
            yield {"url": "s3://lake", "options": options}
        finally:
            process.kill()


def seconds_with(workers: int, kind: str, connection: dict[str, Any]) -> float:
    """Import on so many workers. Raises AssertionError if the import fails."""
    with tempfile.TemporaryDirectory(prefix="divided-import-") as name:
        connections = Path(name) / "connections.json"
        connections.write_text(json.dumps({"lake": connection}))
        environment = {**LEASES, "FITSERVE_CONNECTIONS_FILE": str(connections)}
        with Cluster(Path(name) / "home", environment=environment) as cluster:
            for core in range(workers):
                member = cluster.start("worker")
                psutil.Process(member.process.pid).cpu_affinity([core % (psutil.cpu_count() or 1)])
            time.sleep(8)  # imports, registration, and nothing to wait for in the database alone
            source = {"s3": {"connection": "lake", "path": f"parts/*.{kind}"}}
            resolved = {"name": "divided", "source": source, "options": {}, "known": None}
            new = create.NewRun("tester", None, {}, resolved, {}, kind=RunKind.import_)
            run = cluster.wait_over(create.create_run(cluster.engine, new, Limits(), None)[0].id, 900)
            assert run.state == RunState.succeeded, run.error
            assert run.started_at is not None
            assert run.finished_at is not None
            return (run.finished_at - run.started_at).total_seconds()


def main(kind: str, megabytes: int) -> None:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with bucket(kind, megabytes) as connection:
        for _ in range(ROUNDS):
            for workers, taken in seconds.items():
                taken.append(seconds_with(workers, kind, connection))
                print(f"{kind} {megabytes} MB, {workers} worker(s): {taken[-1]:.1f} s", flush=True)
    one, two = (statistics.median(taken) for taken in seconds.values())
    print(json.dumps({"kind": kind, "megabytes": megabytes, "one": one, "two": two, "ratio": round(one / two, 2)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
