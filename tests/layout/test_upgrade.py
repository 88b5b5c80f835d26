"""Expand, then contract: the previous release's processes work on the new schema, next to the new ones."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from alembic.script import ScriptDirectory

import migrations
from fitserve.ids import new_id
from tests.conftest import PROJECT, _run_sql, _with_database
from tests.layout.layout import LEASES, Layout
from tests.layout.test_layout import SHORT, finish, predict_points, submit, upload
from tests.needs import need
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("layout")

ROLES = ("api", "predict", "worker", "reaper")


def git(*arguments: str) -> bytes:
    """Return git's output, or skip the test."""
    done = subprocess.run([need("git"), *arguments], cwd=PROJECT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the previous release's code is not in this clone: git {' '.join(arguments)}: {done.stderr!r}")
    return done.stdout.strip()


def previous_releases() -> list[str]:
    """Return the newest tag, or without one the commits before the newest migration, newest first."""
    tagged = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"], cwd=PROJECT, capture_output=True, check=False
    )
    if tagged.returncode == 0:
        return [tagged.stdout.decode().strip()]
    scripts = ScriptDirectory.from_config(migrations.config("sqlite://"))
    newest = Path(scripts.get_revision("head").path).relative_to(PROJECT)
    if git("rev-parse", "--is-shallow-repository") == b"true":
        pytest.skip("a shallow clone has no previous release; fetch the whole history to run this")
    added = git("log", "--diff-filter=A", "--format=%H", "-1", "--", str(newest)).decode()
    if not added:
        pytest.skip(f"{newest} is not committed yet")
    return git("log", "--format=%H", "-8", f"{added}^").decode().split()


def can_be_imported(folder: Path) -> bool:
    """Whether a tree can be imported; not every commit between releases can."""
    modules = (
        "import workers.__main__, workers.reaper, workers.trainer.train, services.control.app, services.predict.app"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return (
        subprocess.run([sys.executable, "-c", modules], cwd=folder, env=environment, capture_output=True).returncode
        == 0
    )


@pytest.fixture
def old_code(tmp_path: Path) -> Path:
    """Check out the previous release."""
    for commit in previous_releases():
        folder = tmp_path / commit[:12]
        with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", commit))) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
            archive.extractall(folder)
        if can_be_imported(folder):
            return folder
    pytest.fail("no commit before the newest migration can be imported")


@pytest.fixture
def layout(postgres: str, tmp_path: Path) -> Iterator[Layout]:
    name = new_id("t")
    _run_sql(postgres, f"CREATE DATABASE {name}")
    database = _with_database(postgres, name)
    blobs = f"file://{tmp_path / 'blobs'}"
    layout = Layout(tmp_path, {**LEASES, "FITSERVE_DATABASE_URL": database, "FITSERVE_BLOB_URL": blobs})
    try:
        layout.make_secrets()
        layout.start_redis()
        yield layout
    finally:
        layout.close()
        _run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def client(layout: Layout, name: str) -> httpx2.Client:
    """Return a client of one member, without the proxy."""
    address = f"http://127.0.0.1:{layout.members[name].port}"
    return httpx2.Client(base_url=address, headers={"Authorization": f"Bearer {layout.token}"}, timeout=PATIENCE)


@pytest.mark.long
def test_old_code_on_the_new_schema_beside_new_code(layout: Layout, old_code: Path) -> None:
    layout.run_job("services.migrate")  # the new code's
    assert not migrations.pending(layout.variables["FITSERVE_DATABASE_URL"])
    for role in ROLES:
        layout.add(f"{role}-old", {"PYTHONPATH": str(old_code)}).start()
    layout.wait_ready()
    with client(layout, "api-old") as api, client(layout, "predict-old") as predict:
        upload(api)
        finish(api, submit(api, SHORT))
        before = predict_points(predict, 1)
        assert before[0]["in"] > 0.5 > before[1]["in"]

        # New processes start, the old worker and reaper end: the new worker trains a run that the old API accepted.
        for role in ROLES:
            layout.add(f"{role}-new").start()
        layout.wait_ready()
        for role in ("worker", "reaper"):
            layout.members[f"{role}-old"].kill()
        with client(layout, "api-new") as new_api, client(layout, "predict-new") as new_predict:
            assert predict_points(new_predict, 1) == before
            run_id = submit(api, SHORT)
            finish(new_api, run_id)
            finish(api, run_id)
            assert predict_points(predict, 2) == predict_points(new_predict, 2)
            assert {run["id"] for run in new_api.get("/api/v1/runs").json()["items"]} == {
                run["id"] for run in api.get("/api/v1/runs").json()["items"]
            }
