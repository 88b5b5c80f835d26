"""Processes stay small."""

from __future__ import annotations

import subprocess
import sys

import anyio
import psutil
import pytest

from fitserve.errors import BadInput
from services.control.datasets import upload_request
from tests.conftest import Server
from tests.waiting import PATIENCE

PROGRAM = """
import io, sys
from fitserve.process_start import hide_unused_modules
hide_unused_modules()
from services.http.memory import release_memory, stay_small
stay_small()
import pyarrow as pa
import pyarrow.csv, pyarrow.parquet
assert pa.array(["a", None]).null_count == 1
from limits.storage import RedisStorage
RedisStorage("redis://127.0.0.1:1")
assert not {"pandas", "pyarrow._s3fs", "valkey", "watchfiles", "opentelemetry.sdk.metrics"} & set(sys.modules)
assert pa.default_memory_pool().backend_name == "system"
table = pyarrow.csv.read_csv(io.BytesIO(b"a,b\\n" + b"1,x\\n" * 100_000))
pyarrow.parquet.write_table(table, file := io.BytesIO())
assert pa.mimalloc_memory_pool().max_memory() == 0  # Arrow's own readers and writers take the same pool
release_memory()
"""


def test_unused_modules_are_not_loaded_and_memory_goes_back() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=PATIENCE)


@pytest.mark.parametrize("refused", [False, True])
def test_memory_goes_back_after_a_refused_upload_too(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[bool] = []
    monkeypatch.setattr(upload_request, "release_memory", lambda: released.append(True))

    def work() -> int:
        if refused:
            raise BadInput("No table.")
        return 1

    if refused:
        with pytest.raises(BadInput):
            anyio.run(upload_request.run_ingest, work)
    else:
        assert anyio.run(upload_request.run_ingest, work) == 1
    assert released == [True]


@pytest.mark.skipif(sys.platform != "linux", reason="maps of other processes")
def test_no_process_of_a_server_loads_pandas(server: Server) -> None:
    """Their own children are trainers, which may, to export."""
    processes = psutil.Process(server.process.pid).children()
    files = {file.path for process in processes for file in process.memory_maps()}
    assert any("/pyarrow/" in path for path in files)
    assert [path for path in files if "/pandas/" in path] == []
