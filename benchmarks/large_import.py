"""Imports through flat memory: a server generates the file while it is read, and the peak of the importer is measured.

    python -m benchmarks.large_import csv 100 10000          megabytes; each in a process of its own
    python -m benchmarks.large_import parquet 100 10000
    python -m benchmarks.large_import s3 100 2000            a CSV object in a store that answers ranges as S3 does
    python -m benchmarks.large_import parts 1000 10000       objects of 100 MB of Parquet there, all with the same rows
    python -m benchmarks.large_import sql 100 2000           a query on PostgreSQL; of 150 bytes a row

Nothing is kept: the file, and the dataset made of it, are in a temporary folder below TMPDIR. It takes about twice the
file's size there, for an object or a query three times.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.sql_import import QUERY, database

MB = 1_000_000
GROUP = 50_000  # rows
ROW_BYTES = 150  # approximate bytes per row of `sql_import`'s table


def rows(seed: int = 0) -> pa.Table:
    """Return a group of rows: numbers, texts with few and many values, days, truth values."""
    random = np.random.default_rng(seed)
    return pa.table(
        {
            **{f"f{at}": random.normal(size=GROUP) for at in range(6)},
            **{f"k{at}": random.integers(0, 10 ** (at + 2), GROUP) for at in range(3)},
            "shop": [f"shop {number}" for number in random.integers(0, 97, GROUP)],
            "code": [f"{number:016x}" for number in random.integers(0, 2**62, GROUP)],
            "day": pa.array(random.integers(15_000, 20_000, GROUP), pa.int32()).cast(pa.date32()),
            "paid": random.random(GROUP) < 0.5,
        }
    )


class Generating(BaseHTTPRequestHandler):
    """Answers `/<megabytes>.csv` and `/<megabytes>.parquet`, a group of rows after the other, never all of them."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        name, _, suffix = self.path.lstrip("/").partition(".")
        size, table = int(name) * MB, rows()
        self.send_response(200)
        self.end_headers()  # closing the connection marks the end of the file
        if suffix == "csv":
            sink = pa.BufferOutputStream()
            pyarrow.csv.write_csv(table, sink)
            text = sink.getvalue().to_pybytes()
            header, _, body = text.partition(b"\n")
            self.wfile.write(header + b"\n")
            for _ in range(max(1, size // len(body))):
                self.wfile.write(body)
            return
        written = 0
        with pq.ParquetWriter(pa.PythonFile(self.wfile, "w"), table.schema) as writer:
            while written < size:
                writer.write_table(table)
                written += table.nbytes


class Stored(BaseHTTPRequestHandler):
    """Answers for the objects of a bucket, all of them one file on disk, as S3 does: list, sizes, ranges."""

    path_of: Path
    objects = 1

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(0, self.path_of.stat().st_size, 200)

    def do_GET(self) -> None:
        if "list-type=" in self.path:
            self._list()
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, self.path_of.stat().st_size)
        self._answer(start, end, 206)
        with self.path_of.open("rb") as file:
            file.seek(start)
            self.wfile.write(file.read(end - start))

    def _list(self) -> None:
        size, moment = self.path_of.stat().st_size, "<LastModified>2026-11-28T08:00:00.000Z</LastModified>"
        listed = "".join(
            f'<Contents><Key>parts/{at:05}.parquet</Key>{moment}<ETag>"whole"</ETag><Size>{size}</Size></Contents>'
            for at in range(self.objects)
        )
        name = "<Name>bucket</Name><IsTruncated>false</IsTruncated>"
        body = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{name}{listed}</ListBucketResult>'
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def _answer(self, start: int, end: int, status: int) -> None:
        self.send_response(status)
        self.send_header("ETag", '"whole"')
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 08:00:00 GMT")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{self.path_of.stat().st_size}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()


class Peak(threading.Thread):
    """Watches this process's own memory, in megabytes; the kernel takes pages of mapped files back."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = self.first = self._own()
        self.start()

    def run(self) -> None:
        while True:
            self.most = max(self.most, self._own())
            time.sleep(0.01)

    @staticmethod
    def _own() -> float:
        (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon"))
        return int(line.split()[1]) * 1024 / MB


def measure(stated: dict[str, Any], connections: Path, folder: Path) -> dict[str, Any]:
    """Import a source as the API does, on SQLite and local disk. Return rows, processor seconds and peaks."""
    import migrations
    from fitserve import blobs, db
    from fitserve.datasets.sources import Importer
    from fitserve.settings import Settings
    from fitserve.wire.datasets import UploadOptions
    from fitserve.wire.sources import Source

    url = f"sqlite:///{folder}/db"
    settings = Settings(home=folder, database_url=url, outgoing_networks="127.0.0.1/32", connections_file=connections)
    migrations.upgrade(url)
    imports = Importer(settings, db.make_engine(url), blobs.open_store(settings.resolved_blob_url), "ann")
    source = Source.model_validate(stated)
    place = folder / "fetched"
    place.mkdir()
    peak, began_at = Peak(), time.process_time()
    fetched = imports.fetch(source, place, UploadOptions(), None)
    made, _ = imports.store("large", source, UploadOptions(), fetched)
    seconds = time.process_time() - began_at
    return {"rows": made.rows, "seconds": seconds, "before": peak.first, "peak": peak.most}


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yield the address of a server with this handler."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def source_of(kind: str, megabytes: int, folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield a source of so many megabytes, and the connections that it needs."""
    if kind == "sql":
        with database(megabytes * MB // ROW_BYTES) as url:
            yield {"sql": {"connection": "large", "query": QUERY}}, {"large": {"url": url}}
    elif kind in ("s3", "parts"):
        stated, size, objects = ("object.csv", megabytes, 1)
        if kind == "parts":
            stated, size, objects = "parts/*.parquet", min(100, megabytes), max(1, megabytes // 100)
        file_of = folder / f"object.{stated.rpartition('.')[2]}"
        with served(Generating) as address, urllib.request.urlopen(f"{address}/{size}{file_of.suffix}") as body:
            with file_of.open("wb") as file:
                shutil.copyfileobj(body, file)
        with served(type("Bucket", (Stored,), {"path_of": file_of, "objects": objects})) as address:
            options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": address}}
            large = {"url": "s3://bucket", "options": options}
            yield {"s3": {"connection": "large", "path": stated}}, {"large": large}
    else:
        with served(Generating) as address:
            yield {"https": {"url": f"{address}/{megabytes}.{kind}"}}, {}


def peak_of(kind: str, megabytes: int) -> dict[str, Any]:
    """Return what an import of so many megabytes takes, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="large-import-") as name:
        folder, connections = Path(name), Path(name) / "connections.json"
        with source_of(kind, megabytes, folder) as (source, known):
            connections.write_text(json.dumps(known))
            arguments = ["--measure", json.dumps(source), str(connections), name]
            command = [sys.executable, "-m", "benchmarks.large_import", *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return {"format": kind, "megabytes": megabytes, **json.loads(done.stdout.splitlines()[-1])}


def main(arguments: list[str]) -> None:
    if arguments[0] == "--measure":
        print(json.dumps(measure(json.loads(arguments[1]), Path(arguments[2]), Path(arguments[3]))))
        return
    for megabytes in arguments[1:]:
        found = peak_of(arguments[0], int(megabytes))
        print(
            f"{found['format']} {megabytes} MB: {found['rows']} rows, {found['seconds']:.0f} s of processor, "
            f"peak {found['peak']:.0f} MB ({found['before']:.0f} before)"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
