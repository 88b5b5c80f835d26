"""Expand, then contract: the previous release's processes work on the new schema, beside the new ones."""

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
from tests.layout.test_layout import SHORT, ask, finish, submit, upload

pytestmark = pytest.mark.xdist_group("layout")

ROLES = ("api", "predict", "worker", "reaper")


def git(*arguments: str) -> bytes:
    """What git says, or the test is skipped."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not on this machine")
    if done.returncode:
        pytest.skip(f"the previous release's code is not in this clone: git {' '.join(arguments)}: {done.stderr!r}")
    return done.stdout.strip()


def previous_releases() -> list[str]:
    """The newest tag; before there is one, the commits before the newest step of the schema, newest first."""
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


def is_whole(folder: Path) -> bool:
    """Whether a tree can be imported: not every commit between releases can."""
    needed = "import workers.__main__, workers.reaper, workers.trainer.train, services.control.app, services.predict.app"
    told = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, "-c", needed], cwd=folder, env=told, capture_output=True).returncode == 0


@pytest.fixture
def old_code(tmp_path: Path) -> Path:
    """The previous release's tree."""
    for commit in previous_releases():
        folder = tmp_path / commit[:12]
        with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", commit))) as archive:
            archive.extractall(folder, filter="data")
        if is_whole(folder):
            return folder
    pytest.fail("no tree before the newest step of the schema can be imported")


@pytest.fixture
def layout(postgres: str, tmp_path: Path) -> Iterator[Layout]:
    name = new_id("t")
    _run_sql(postgres, f"CREATE DATABASE {name}")
    database = _with_database(postgres, name)
    blobs = f"file://{tmp_path / 'blobs'}"
    made = Layout(tmp_path, {**LEASES, "FITSERVE_DATABASE_URL": database, "FITSERVE_BLOB_URL": blobs})
    try:
        made.make_secrets()
        made.start_redis()
        yield made
    finally:
        made.close()
        _run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def client(layout: Layout, name: str) -> httpx2.Client:
    """A client of one member, without a proxy."""
    address = f"http://127.0.0.1:{layout.members[name].port}"
    return httpx2.Client(base_url=address, headers={"Authorization": f"Bearer {layout.token}"}, timeout=30)


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
        before = ask(predict, 1)
        assert before[0]["in"] > 0.5 > before[1]["in"]

        # The new ones come, the old worker and reaper go; a run that an old API took is trained by the new worker.
        for role in ROLES:
            layout.add(f"{role}-new").start()
        layout.wait_ready()
        for role in ("worker", "reaper"):
            layout.members[f"{role}-old"].kill()
        with client(layout, "api-new") as new_api, client(layout, "predict-new") as new_predict:
            assert ask(new_predict, 1) == before
            run_id = submit(api, SHORT)
            finish(new_api, run_id)
            finish(api, run_id)
            assert ask(predict, 2) == ask(new_predict, 2)
            assert {run["id"] for run in new_api.get("/api/v1/runs").json()["items"]} == {
                run["id"] for run in api.get("/api/v1/runs").json()["items"]
            }
