"""Imports through flat memory: a server generates the file while it is read, and the peak of the importer is measured.

    python -m benchmarks.large_import csv 100 10000          megabytes; each in a process of its own
    python -m benchmarks.large_import parquet 100 10000

Nothing is kept: the file, and the dataset made of it, are in a temporary folder below TMPDIR. It takes about twice the
file's size there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

MB = 1_000_000
GROUP = 50_000  # rows


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
        self.end_headers()  # the end of the connection is that of the file
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


def measure(address: str, folder: Path) -> dict[str, Any]:
    """Import a file as the API does, on SQLite and local disk. Return rows, processor seconds and peaks."""
    import migrations
    from fitserve import blobs, db
    from fitserve.datasets.sources import Importer
    from fitserve.settings import Settings
    from fitserve.wire.datasets import UploadOptions
    from fitserve.wire.sources import Source

    url = f"sqlite:///{folder}/db"
    settings = Settings(home=folder, database_url=url, outgoing_networks="127.0.0.1/32")
    migrations.upgrade(url)
    imports = Importer(settings, db.make_engine(url), blobs.open_store(settings.resolved_blob_url), "ann")
    source = Source.model_validate({"https": {"url": address}})
    place = folder / "fetched"
    place.mkdir()
    peak, began_at = Peak(), time.process_time()
    fetched = imports.fetch(source, place, UploadOptions(), None)
    made, _ = imports.store("large", source, UploadOptions(), fetched)
    seconds = time.process_time() - began_at
    return {"rows": made.rows, "seconds": seconds, "before": peak.first, "peak": peak.most}


def peak_of(format: str, megabytes: int) -> dict[str, Any]:
    """Return what an import of a file of so many megabytes takes, in a process of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Generating)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory(prefix="large-import-") as folder:
            address = f"http://127.0.0.1:{server.server_port}/{megabytes}.{format}"
            command = [sys.executable, "-m", "benchmarks.large_import", "--measure", address, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            return {"format": format, "megabytes": megabytes, **json.loads(done.stdout.splitlines()[-1])}
    finally:
        server.shutdown()
        server.server_close()


def main(arguments: list[str]) -> None:
    if arguments[0] == "--measure":
        print(json.dumps(measure(arguments[1], Path(arguments[2]))))
        return
    for megabytes in arguments[1:]:
        found = peak_of(arguments[0], int(megabytes))
        print(
            f"{found['format']} {megabytes} MB: {found['rows']} rows, {found['seconds']:.0f} s of processor, "
            f"peak {found['peak']:.0f} MB ({found['before']:.0f} before)"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
