"""`fitserve start` and `fitserve copy-blobs` become the server's modules, from any folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from fitserve.blobs import open_store
from fitserve.cli import server
from tests.conftest import PROJECT, free_ports

SHADOW = "raise SystemExit('imported from the folder where it was started')\n"


def as_a_process(*words: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Run the command in a folder whose files have the names of modules."""
    for name in ("services.py", "workers.py", "celery.py"):
        (folder / name).write_text(SHADOW)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "fitserve.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("part", server.ServerProcess)
def test_each_part_has_its_module(part: server.ServerProcess) -> None:
    module = server._MODULES[part]
    assert importlib.util.find_spec(module) is not None
    run_as_main = (PROJECT / Path(*module.split(".")) / "__main__.py", PROJECT / f"{module.replace('.', '/')}.py")
    assert any(path.is_file() for path in run_as_main)


def test_a_part_starts_alone(tmp_path: Path, sqlite_url: str, redis_url: str) -> None:
    (port,) = free_ports(1)
    addresses = {"FITSERVE_DATABASE_URL": sqlite_url, "FITSERVE_REDIS_URL": redis_url, "FITSERVE_HOME": str(tmp_path)}
    addresses["FITSERVE_REAPER_METRICS_PORT"] = str(port)
    with as_a_process("start", "reaper", folder=tmp_path, **addresses) as process:
        try:
            while not answers(f"http://127.0.0.1:{port}/readyz"):
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.1)
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode == 0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_blobs_are_copied(tmp_path: Path) -> None:
    stores = [f"file://{tmp_path}/{name}" for name in ("from", "to")]
    source, target = (open_store(url) for url in stores)
    source.prepare()
    blob = source.put_bytes(b"a blob")
    with as_a_process("copy-blobs", *stores, folder=tmp_path) as process:
        assert process.wait() == 0, process.communicate()[1]
    assert [name for name, _ in target.listing()] == [blob.sha256]
