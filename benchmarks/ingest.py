"""Ingest of a large CSV with mixed columns, compared with plain pyarrow; upload, compared with the disk.

    python -m benchmarks.ingest [--size-mb 1000] [--rounds 3] [--folder /a/large/disk]

Both sides of each ratio are interleaved in one run, each reading in its own process; medians count. The plain side is
pyarrow's streaming CSV reader, with types inferred from its first block, written batch by batch to Parquet: the fastest
alternative tried (pyarrow whole-table and polars' sink took longer on two cores). Ours infers kinds over the whole file
and computes the profile. The upload's time is that of receiving, hashing and writing the body, compared with hashing
and writing the same bytes to disk.

A query's rows from PostgreSQL become a dataset too, compared with ADBC that only delivers them
(`benchmarks.sql_import`).

The last line is JSON: engine_ratio, peak_mb (of the ingesting process), upload_ratio, sql_ratio.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.sql_import import sql_ratio

ROWS = 50_000  # rows of a generated block
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "his",
    "but",
    "at",
    "are",
    "this",
    "have",
    "from",
    "or",
    "had",
    "an",
    "they",
]
CITIES = ("Berlin", "Paris", "New York", "Tokyo", "São Paulo", "Łódź", "北京", "Lima")


def generate(path: Path, size: int) -> int:
    """Write a CSV of at least `size` bytes (numbers, labels, codes, times, texts, gaps); return its rows."""
    random = np.random.default_rng(0)
    rows = 0
    with path.open("wb") as file:
        while file.tell() < size:
            options = pa.csv.WriteOptions(include_header=rows == 0)
            pa.csv.write_csv(_block(random, rows), file, options)
            rows += ROWS
    return rows


def _block(random: np.random.Generator, first: int) -> pa.Table:
    texts = np.array([" ".join(words) for words in np.array(WORDS)[random.integers(0, len(WORDS), (ROWS // 10, 12))]])
    seconds = random.integers(0, 10**8, ROWS).astype("timedelta64[s]")
    return pa.table(
        {
            "row_id": np.arange(first, first + ROWS),
            "age": pa.array(random.integers(18, 90, ROWS), mask=random.random(ROWS) < 0.03),
            "income": np.round(random.lognormal(10, 1, ROWS), 2),
            "score": pa.array(random.normal(0, 1, ROWS), mask=random.random(ROWS) < 0.05),
            "rank": random.integers(1, 5, ROWS),
            "city": np.array(CITIES)[random.integers(0, len(CITIES), ROWS)],
            "member": np.where(random.random(ROWS) < 0.5, "yes", "no"),
            "code": np.char.zfill(random.integers(0, 99_999, ROWS).astype(str), 5),
            "joined": np.datetime_as_string(np.datetime64("2019-01-01T00:00:00") + seconds),
            "share": random.random(ROWS),
            "percent": np.round(random.random(ROWS) * 100, 3),
            "visits": random.poisson(3, ROWS),
            "flag": random.integers(0, 2, ROWS),
            "comment": texts[random.integers(0, len(texts), ROWS)],
        }
    )


def plain_pyarrow(path: Path, folder: Path) -> dict[str, float]:
    """Convert with pyarrow alone: CSV to Parquet."""
    started, cpu = time.perf_counter(), time.process_time()
    reader = pa.csv.open_csv(path)
    with pq.ParquetWriter(folder / "bare.parquet", reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "peak_mb": _peak()}


def ours(path: Path, folder: Path) -> dict[str, float]:
    """Ingest with kinds and profile."""
    from fitserve.datasets.ingest import ingest
    from fitserve.settings import Limits
    from fitserve.wire.datasets import UploadOptions

    started, cpu = time.perf_counter(), time.process_time()
    ingest(path, UploadOptions(), Limits(), folder)
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "peak_mb": _peak()}


def _peak() -> float:
    """Return this process's peak resident MB; getrusage would include its parent's from before the exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def isolated(work: Callable[[Path, Path], dict[str, float]], path: Path, scratch: Path) -> dict[str, float]:
    """Run `work` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=scratch) as folder, context.Pool(1) as pool:
        return pool.apply(work, (path, Path(folder)))


def write_and_hash(path: Path, scratch: Path) -> float:
    """Return the seconds to hash the bytes and write them to disk."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        started = time.perf_counter()
        digest = hashlib.sha256()
        with path.open("rb") as source, (Path(folder) / "copy").open("wb") as target:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                target.write(chunk)
        return time.perf_counter() - started


def serve(home: Path, port: Any) -> None:
    """Run the control API in its own process, without authentication."""
    import uvicorn

    import migrations
    from fitserve.settings import Settings
    from services.control.app import create_app

    settings = Settings(home=home, auth=False, redis_url="redis://127.0.0.1:1/0")
    home.mkdir(parents=True, exist_ok=True)
    migrations.upgrade(settings.resolved_database_url)
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning"))

    def report_port() -> None:
        while not server.started:
            time.sleep(0.02)
        port.value = server.servers[0].sockets[0].getsockname()[1]

    threading.Thread(target=report_port, daemon=True).start()
    server.run()


def upload(port: int, path: Path) -> float:
    """Return the seconds the API took to receive the file, from its Server-Timing header."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600, blocksize=1 << 20)
    with path.open("rb") as body:
        connection.request("PUT", "/api/v1/datasets/bench", body, {"Content-Length": str(path.stat().st_size)})
        answer = connection.getresponse()
        text = answer.read(500)
    if answer.status not in (200, 201):
        raise SystemExit(f"the upload was answered {answer.status}: {text!r}")
    timing = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
    return float(timing["receive"]) / 1000


def main() -> None:
    """Print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="for scratch files: three times the size")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=arguments.folder))
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=serve, args=(scratch / "home", port), daemon=True)
    try:
        path = scratch / "table.csv"
        rows = generate(path, arguments.size_mb * 1_000_000)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {rows} rows, 14 columns, {os.cpu_count()} cores\n")
        rounds = [
            (isolated(plain_pyarrow, path, scratch), isolated(ours, path, scratch)) for _ in range(arguments.rounds)
        ]
        server.start()
        while not port.value:
            if not server.is_alive():
                raise SystemExit("the API did not start")
            time.sleep(0.05)
        upload(port.value, path)  # parse once; uploading the same content again returns the same dataset
        transfers = [(write_and_hash(path, scratch), upload(port.value, path)) for _ in range(arguments.rounds)]
        queries = sql_ratio(arguments.size_mb * 1_000, arguments.rounds, scratch)
        report(rounds, transfers, queries)
    finally:
        if server.is_alive():
            server.terminate()
            server.join()
        shutil.rmtree(scratch, ignore_errors=True)


def report(
    rounds: list[tuple[dict[str, float], dict[str, float]]],
    transfers: list[tuple[float, float]],
    queries: tuple[float, float, float],
) -> None:
    """Print the table and the line of JSON."""
    median = statistics.median
    engine, own = (median(side["seconds"] for side in sides) for sides in zip(*rounds, strict=True))
    engine_cpu, own_cpu = (median(side["cpu"] for side in sides) for sides in zip(*rounds, strict=True))
    disk, http_seconds = (median(sides) for sides in zip(*transfers, strict=True))
    peak = max(own["peak_mb"] for _, own in rounds)
    print(f"{'':28}{'seconds':>10}{'CPU s':>10}{'peak MB':>10}")
    print(f"{'pyarrow, CSV to Parquet':28}{engine:10.2f}{engine_cpu:10.2f}{rounds[0][0]['peak_mb']:10.0f}")
    print(f"{'ours, kinds and profile':28}{own:10.2f}{own_cpu:10.2f}{peak:10.0f}")
    print(f"{'write and hash':28}{disk:10.2f}")
    print(f"{'upload over HTTP':28}{http_seconds:10.2f}")
    print(f"{'ADBC, a query':28}{queries[0]:10.2f}")
    print(f"{'ours, the query as a dataset':28}{queries[1]:10.2f}\n")
    figures = {
        "engine_ratio": round(median(own["seconds"] / plain["seconds"] for plain, own in rounds), 3),
        "peak_mb": round(peak, 1),
        "upload_ratio": round(median(ours / disk for disk, ours in transfers), 3),
        "cpu_ratio": round(own_cpu / engine_cpu, 3),
        "sql_ratio": round(queries[2], 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
