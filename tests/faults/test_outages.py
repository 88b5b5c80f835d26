"""Full disks and an unavailable database: a clear refusal, recovery without help, nothing half-written."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.errors import StorageFull
from fitserve.ids import new_id
from fitserve.runs import create
from fitserve.settings import Limits
from fitserve.tables import Dataset
from tests.faults.chaos import Chaos, FaultPlan, Postgres
from tests.faults.checker import AcknowledgedRun, check_runs
from tests.faults.cluster import CALM, Cluster, Member, wait_for
from tests.live_files import files_under
from tests.needs import need
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("faults")
MB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    need("the right to mount a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Write a file that leaves `leave` bytes free. Returns it."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(bytes(max(0, free - leave)))
    return ballast


def call(
    api: Member, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", int(api.environment["FITSERVE_PORT"]), timeout=PATIENCE)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None, answer.headers


def start_api(cluster: Cluster) -> Member:
    api = cluster.start("api")
    Chaos(FaultPlan(seed=0, runs=0), cluster).wait_for_api(api)
    return api


def test_an_upload_on_a_full_disk_is_507_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    environment = {"FITSERVE_BLOB_URL": f"file://{small_disk / 'blobs'}"}
    with Cluster(tmp_path / "home", environment=environment) as cluster:
        api = start_api(cluster)
        ballast = fill(small_disk, 30_000)
        rows = "\n".join(f"{n},{n * 7919 % 104729},{os.urandom(8).hex()}" for n in range(20_000))
        table = f"a,b,c\n{rows}\n".encode()
        status, problem, _ = call(api, "PUT", "/api/v1/datasets/full", table, **{"Content-Type": "text/csv"})
        assert (status, problem["type"]) == (507, "urn:fitserve:problem:storage-full")
        assert not [path for path in files_under(small_disk) if path.suffix == ".part"]
        ballast.unlink()
        assert call(api, "PUT", "/api/v1/datasets/full", table, **{"Content-Type": "text/csv"})[0] == 201


def test_an_artifact_on_a_full_disk_is_tried_again_and_then_fails(tmp_path: Path, small_disk: Path) -> None:
    environment = {"FITSERVE_BLOB_URL": f"file://{small_disk / 'blobs'}", "FITSERVE_MAX_ATTEMPTS": "2", **CALM}
    with Cluster(tmp_path / "home", environment=environment) as cluster:
        cluster.start("worker")
        cluster.start("reaper")
        cluster.wait_over(cluster.submit())
        ballast = fill(small_disk, 50_000)
        run = cluster.wait_over(cluster.submit(bytes=1 * MB))
        assert run.state == "failed"
        assert run.error is not None
        assert (run.error["cause"], run.attempt) == ("disk_full", 2)
        assert not [path for path in files_under(small_disk) if path.suffix == ".part"]
        ballast.unlink()
        run_id = cluster.submit(seed=2, bytes=1 * MB)
        cluster.wait_over(run_id)
        assert check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 2, 3)]).ok


def test_sqlite_on_a_full_disk_is_507_and_keeps_what_it_has(tmp_path: Path, small_disk: Path) -> None:
    with Cluster(tmp_path / "home", f"sqlite:///{small_disk / 'fitserve.db'}") as cluster:
        first = cluster.submit()
        ballast = fill(small_disk, 0)
        big = {"fake": {"epochs": 1}, "padding": "x" * 200_000}
        with pytest.raises(StorageFull):
            for _ in range(50):
                new = create.NewRun("tester", cluster.dataset_id, big, big, {})
                create.create_run(cluster.engine, new, Limits())
        assert cluster.run(first).state == "queued"
        ballast.unlink()
        assert cluster.run(cluster.submit()).state == "queued"


def test_a_blob_on_a_full_disk_leaves_no_temporary_file(small_disk: Path) -> None:
    store = FolderStore(small_disk / "blobs")
    fill(small_disk, 20_000)
    with pytest.raises(StorageFull):
        store.put_bytes(os.urandom(MB))
    assert not list((small_disk / "blobs").glob(".*"))


def database_gone(home: Path, seconds: float) -> None:
    """Stop PostgreSQL immediately while a run trains and clients submit, then start it again."""
    postgres = Postgres(Path("/tmp") / new_id("fitserve-pg"))
    try:
        with Cluster(home, postgres.start(), environment={"FITSERVE_LEASE_SECONDS": "2"}) as cluster:
            chaos = Chaos(FaultPlan(seed=0, runs=0, epochs=3, epoch_seconds=0.05), cluster)
            chaos.parent_id = chaos.create_failed_run()
            api = start_api(cluster)
            cluster.start("worker")
            cluster.start("reaper")
            training = cluster.submit(seed=9, epochs=8, seconds=0.3)
            cluster.wait_epoch(training, 2)
            postgres.stop_immediately()
            begun, answers = time.monotonic(), []
            while time.monotonic() - begun < seconds:
                path = f"/api/v1/runs/{chaos.parent_id}/retry"
                status, problem, headers = call(api, "POST", path, **{"Idempotency-Key": f"k{len(answers)}"})
                answers.append(status)
                assert status == 503, problem  # no false 202, no 500
                assert int(headers["Retry-After"]) >= 1
                assert call(api, "GET", "/readyz")[0] == 503
                time.sleep(min(1.0, seconds / 5))
            postgres.start()
            wait_for(lambda: call(api, "GET", "/readyz")[0] == 200, 30)
            run_id = chaos.submit("k0")  # the client repeats its request, with the same key
            wanted = [AcknowledgedRun(training, 9, 8), AcknowledgedRun(run_id, 7, 3, "k0")]
            for run in wanted:
                cluster.wait_over(run.run_id, 60)
            verdict = check_runs(cluster.engine, cluster.blobs, wanted)
            assert verdict.ok, f"{verdict}\n{cluster.tail()}"
            with db.reading(cluster.engine) as session:
                assert create.existing_run(session, "anonymous", create.idempotency_key("k1", b"x")) is None
    finally:
        with contextlib.suppress(Exception):
            postgres.start()
        postgres.cleanup()


def test_the_database_gone_for_a_while_is_503_and_nothing_is_lost(tmp_path: Path) -> None:
    database_gone(tmp_path / "home", 4)


@pytest.mark.long
def test_the_database_gone_for_30_seconds_is_503_and_nothing_is_lost(tmp_path: Path) -> None:
    database_gone(tmp_path / "home", 30)


def test_a_table_that_is_corrupted_after_a_run_trains_no_other(tmp_path: Path) -> None:
    with Cluster(tmp_path / "home") as cluster:
        cluster.start("worker")
        first = cluster.submit(seed=1)
        assert cluster.wait_over(first).state == "succeeded"
        with db.reading(cluster.engine) as session:
            sha256 = session.get_one(Dataset, cluster.dataset_id).blob
        path = cluster.blobs.local(sha256, tmp_path)
        path.write_bytes(path.read_bytes().replace(b"a dataset", b"A dataset"))
        second = cluster.wait_over(cluster.submit(seed=2))
        assert second.state == "failed"
        assert "corrupt" in str(second.error)
