"""A killed worker costs a run only time: end to end, with the real trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.conftest import Server, start_server, stop_server
from tests.journey.test_journey import SPEC, circle, wait
from tests.waiting import wait_until

EPOCHS = 800
TRAINING = {
    "optimizer": {"Adam": {"learning_rate": 0.002}},
    "epochs": EPOCHS,
    "batch_size": 16,
    "early_stopping": None,
    "seed": 3,
}


def _epochs(api: httpx2.Client, run_id: str) -> list[dict[str, Any]]:
    """Fetch all epochs, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(f"/runs/{run_id}/epochs", params={"limit": "500", **cursor}).json()
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


@pytest.mark.xdist_group("server")
def test_a_run_whose_worker_is_killed_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    quick = {
        "FITSERVE_CHECKPOINT_SECONDS": "0.2",
        "FITSERVE_LEASE_SECONDS": "4",
        "FITSERVE_HEARTBEAT_SECONDS": "1",
        "FITSERVE_REAP_SECONDS": "1",
    }
    server = start_server(tmp_path / "home", **quick)
    try:
        api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=30)
        api.put("/datasets/circle", content=circle(), headers={"Content-Type": "text/csv"}).raise_for_status()
        spec = {**SPEC, "training": TRAINING, "model": None}
        calm = wait(api, api.post("/runs", json=spec).json()["id"])
        disturbed = api.post("/runs", json=spec).json()["id"]
        wait_until(lambda: api.get(f"/runs/{disturbed}").json()["checkpoint_epoch"] is not None, "a checkpoint")
        _kill_worker(server)
        run = wait(api, disturbed)
        assert (calm["state"], run["state"]) == ("succeeded", "succeeded"), json.dumps(run["error"])
        assert run["attempt"] >= 2  # more where a busy machine let a lease expire: what is promised is the result
        events = api.get(f"/runs/{disturbed}/events", params={"limit": "500"}).json()["items"]
        assert any("Resumed at epoch" in event["message"] for event in events), [e["message"] for e in events]

        one, other = _epochs(api, calm["id"]), _epochs(api, disturbed)
        assert [row["epoch"] for row in other] == list(range(1, EPOCHS + 1)) == [row["epoch"] for row in one]
        for undisturbed, resumed in zip(one, other, strict=True):
            assert resumed["logs"] == pytest.approx(undisturbed["logs"], rel=1e-6, abs=1e-9), resumed["epoch"]
        for part, metrics in calm["result"]["metrics"].items():
            assert run["result"]["metrics"][part] == pytest.approx(metrics, rel=1e-6, abs=1e-9), part
    finally:
        stop_server(server)
