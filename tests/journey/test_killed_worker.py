"""A killed worker costs a run only time: end to end, with the real trainer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from fitserve.embedded_redis import die_with_parent
from tests.conftest import Server, start_server, stop_server
from tests.faults.test_slow_database import slow_address
from tests.journey.test_journey import SPEC, circle, wait
from tests.waiting import PATIENCE, wait_until

EPOCHS = 200
TRAINING = {
    "optimizer": {"Adam": {"learning_rate": 0.002}},
    "epochs": EPOCHS,
    "batch_size": 16,
    "early_stopping": None,
    "seed": 3,
}


def _asked(request: Callable[..., httpx2.Response], path: str, **more: Any) -> Any:
    """Return the answer's JSON; while a disk that is asked to sync holds the database, it is 503: ask again."""

    def answer() -> httpx2.Response | None:
        response = request(path, **more)
        return None if response.status_code == 503 else response

    return wait_until(answer, f"an answer of {path}", pause=0.5).raise_for_status().json()


def _epochs(api: httpx2.Client, run_id: str) -> list[dict[str, Any]]:
    """Fetch all epochs, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = _asked(api.get, f"/runs/{run_id}/epochs", params={"limit": "500", **cursor})
        found += page["items"]
        if not page.get("next_cursor"):
            return found
        cursor = {"cursor": page["next_cursor"]}


def _kill_worker(server: Server) -> None:
    """Kill the supervisor alone, as the kernel would; its trainer must end by itself."""
    for process in psutil.Process(server.process.pid).children(recursive=True):
        if process.cmdline()[1:] == ["-m", "workers"]:
            process.kill()
            return
    pytest.fail("no worker is running")


QUICK = {
    "FITSERVE_CHECKPOINT_SECONDS": "0.2",
    "FITSERVE_LEASE_SECONDS": "4",
    # A busy machine costs attempts as well: what is tested is that none is lost or repeats an epoch.
    "FITSERVE_MAX_ATTEMPTS": "100",
    "FITSERVE_HEARTBEAT_SECONDS": "1",
    "FITSERVE_REAP_SECONDS": "1",
}


def _has_checkpoint(api: httpx2.Client, run_id: str) -> bool:
    return _asked(api.get, f"/runs/{run_id}")["checkpoint_epoch"] is not None


@contextlib.contextmanager
def _served(home: Path, **settings: str) -> Iterator[tuple[Server, httpx2.Client, dict[str, Any]]]:
    """A server with a table, a client, and a spec that trains on it."""
    server = start_server(home, **{**QUICK, **settings})
    try:
        api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=PATIENCE)
        api.put("/datasets/circle", content=circle(), headers={"Content-Type": "text/csv"}).raise_for_status()
        yield server, api, {**SPEC, "training": TRAINING, "model": None}
    finally:
        stop_server(server)


def _kill_while_it_trains(
    server: Server, api: httpx2.Client, spec: dict[str, Any], calm: dict[str, Any], patience: float = PATIENCE
) -> int:
    """Kill a run's worker after a checkpoint, and compare the run with an undisturbed one. Returns its attempts.

    A run may end before the kill, where the answer that tells of its checkpoint comes late: then another one is tried.
    """
    for _ in range(10):
        disturbed = _asked(api.post, "/runs", json=spec)["id"]
        wait_until(partial(_has_checkpoint, api, disturbed), "a checkpoint", patience=patience)
        _kill_worker(server)
        run = wait(api, disturbed, patience)
        assert (calm["state"], run["state"]) == ("succeeded", "succeeded"), json.dumps(run["error"])
        if run["attempt"] > 1:  # 2, more where a busy machine let a lease expire: what is promised is the result
            break
    assert run["attempt"] > 1
    events = _asked(api.get, f"/runs/{disturbed}/events", params={"limit": "500"})["items"]
    assert any("Resumed at epoch" in event["message"] for event in events), [e["message"] for e in events]

    one, other = _epochs(api, calm["id"]), _epochs(api, disturbed)
    assert [row["epoch"] for row in other] == list(range(1, EPOCHS + 1)) == [row["epoch"] for row in one]
    for undisturbed, resumed in zip(one, other, strict=True):
        assert resumed["logs"] == pytest.approx(undisturbed["logs"], rel=1e-6, abs=1e-9), resumed["epoch"]
    for part, metrics in calm["result"]["metrics"].items():
        assert run["result"]["metrics"][part] == pytest.approx(metrics, rel=1e-6, abs=1e-9), part
    return int(run["attempt"])


@pytest.mark.xdist_group("killed_worker")
def test_a_run_whose_worker_is_killed_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    with _served(tmp_path / "home") as (server, api, spec):
        calm = wait(api, _asked(api.post, "/runs", json=spec)["id"])
        _kill_while_it_trains(server, api, spec, calm)


LONG = 1800.0  # seconds for one run, beside all that
_BUSY = "while True: pass"
_SYNCING = """
import os, sys
with open(sys.argv[1], "wb") as file:
    while True:
        file.seek(0)
        file.write(bytes(8_000_000))
        file.flush()
        os.fsync(file.fileno())
"""


@contextlib.contextmanager
def _load(folder: Path) -> Iterator[None]:
    """Six busy loops, or FITSERVE_TEST_BUSY_LOOPS, and a process that keeps the disk's syncs slow."""
    commands = [[sys.executable, "-c", _BUSY]] * int(os.environ.get("FITSERVE_TEST_BUSY_LOOPS", "6"))
    commands.append([sys.executable, "-c", _SYNCING, str(folder / "synced")])
    processes = [subprocess.Popen(command, preexec_fn=die_with_parent) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


SYNCED = {"FITSERVE_TEST_HOOKS": "0"}  # commits wait for the slow disk, as outside of tests


SERVERS = int(os.environ.get("FITSERVE_TEST_SERVERS", "3"))


def _kill_again_and_again(folder: Path, settings: Sequence[dict[str, str]]) -> None:
    """Fifty times, or FITSERVE_TEST_KILLS, divided among servers that run side by side with these settings.

    Prints the count, since a flaw here shows once in many. Where a server fails, the others go on with what remains.
    """
    kills = int(os.environ.get("FITSERVE_TEST_KILLS", "50"))
    numbers = iter(range(1, kills + 1))

    def kill_on(home: Path, environment: dict[str, str]) -> None:
        with _served(home, **SYNCED, **environment) as (server, api, spec):
            calm = wait(api, _asked(api.post, "/runs", json=spec)["id"], LONG)
            for number in numbers:
                began_at = time.monotonic()
                attempts = _kill_while_it_trains(server, api, spec, calm, LONG)
                print(f"{number} of {kills}: {attempts} attempts, {time.monotonic() - began_at:.0f} s", flush=True)

    with _load(folder), ThreadPoolExecutor(len(settings)) as pool:
        tasks = [pool.submit(kill_on, folder / f"home{number}", one) for number, one in enumerate(settings)]
        for task in tasks:
            task.result()


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.xdist_group("killed_worker")
def test_a_worker_that_is_killed_again_and_again_beside_other_load(tmp_path: Path) -> None:
    _kill_again_and_again(tmp_path, [{}] * SERVERS)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.xdist_group("server")
def test_a_worker_that_is_killed_again_and_again_far_from_its_database(
    tmp_path: Path, new_postgres_url: Callable[[], str]
) -> None:
    """200 ms away: the worker falls behind its trainer, which goes on writing checkpoints."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(slow_address(new_postgres_url(), 0.1)) for _ in range(SERVERS)]
        _kill_again_and_again(
            tmp_path, [{"FITSERVE_DATABASE_URL": url, "FITSERVE_LEASE_SECONDS": "12"} for url in urls]
        )
