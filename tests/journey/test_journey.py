"""The main use case end to end, over HTTP with real processes: upload, train, watch, predict, scrape metrics."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest

from fitserve.embedded_redis import redis_binary
from tests.conftest import Server, free_ports, get_text, listens, start_server, stop_server
from tests.waiting import PATIENCE, wait_until

ROWS = 300


def circle(seed: int = 0) -> str:
    """A table whose classes no line separates: two numbers, a colour, the class."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-5, 5, (ROWS, 2))
    inside = np.hypot(points[:, 0], points[:, 1]) < 3.2
    colours = rng.choice(["red", "green", "blue"], ROWS)
    lines = [
        f"{x:.4f},{y:.4f},{c},{'in' if i else 'out'}" for (x, y), c, i in zip(points, colours, inside, strict=True)
    ]
    return "x,y,colour,side\n" + "\n".join(lines) + "\n"


SPEC = {
    "dataset": "circle",
    "target": "side",
    "network": [{"Dense": {"units": 16, "activation": "tanh"}}, {"Dense": {"units": 8, "activation": "tanh"}}],
    "training": {
        "optimizer": {"Adam": {"learning_rate": 0.02}},
        "epochs": 60,
        "batch_size": 16,
        "early_stopping": {"monitor": "val_loss", "patience": 20, "restore_best_weights": True},
        "seed": 1,
    },
    "model": "circle",
}


def journey(server: Server) -> None:
    api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=PATIENCE)
    uploaded = api.put("/datasets/circle", content=circle(), headers={"Content-Type": "text/csv"})
    assert uploaded.status_code == 201, uploaded.text
    assert uploaded.json()["rows"] == ROWS

    accepted = api.post("/runs", json=SPEC, headers={"Idempotency-Key": "journey-1"})
    assert accepted.status_code == 202, accepted.text
    location = accepted.headers["Location"]
    again = api.post("/runs", json=SPEC, headers={"Idempotency-Key": "journey-1"})
    assert again.json()["id"] == accepted.json()["id"]

    run = wait(api, accepted.json()["id"])
    assert location.endswith(run["id"])
    assert run["state"] == "succeeded", json.dumps(run.get("error"))
    assert run["serves_at"] > run["finished_at"]
    epochs = api.get(f"/runs/{run['id']}/epochs").json()["items"]
    assert len(epochs) >= 20
    assert epochs[-1]["logs"]["loss"] < epochs[0]["logs"]["loss"]

    predict = httpx2.Client(base_url=server.predict_url, headers=server.headers, timeout=PATIENCE)
    rows = [{"x": 0.1, "y": -0.2, "colour": "red"}, {"x": 4.8, "y": 4.7, "colour": "blue"}]
    answer = predict_when_loaded(predict, rows)
    assert answer.headers["X-Model-Version"] == "1"
    results = [dict(row) for row in answer.json()["results"]]
    assert results[0]["in"] > 0.5 > results[0]["out"]
    assert results[1]["out"] > 0.5 > results[1]["in"]
    status = predict.get("/v1/models/circle").json()["model_version_status"]
    assert [(entry["version"], entry["state"]) for entry in status] == [("1", "AVAILABLE")]
    assert "signature_def" in predict.get("/v1/models/circle/metadata").json()["metadata"]

    for address, series in {
        f"{server.base_url}/metrics": "fitserve_runs_created_total",
        f"{server.predict_url}/metrics": "fitserve_predict",
        f"{server.worker_metrics_url}/metrics": "fitserve_epochs_total",
        f"{server.reaper_metrics_url}/metrics": "fitserve_runs{",
    }.items():
        assert series in get_text(address), address


def wait(api: httpx2.Client, run_id: str, patience: float = PATIENCE) -> dict:
    """Wait until a run has ended, and return it; 503 is waited out, as while a slow disk holds the database."""

    def ended() -> dict | None:
        answer = api.get(f"/runs/{run_id}")
        if answer.status_code == 503:
            return None
        run: dict = answer.json()
        return run if run["state"] in ("succeeded", "failed", "cancelled") else None

    return dict(wait_until(ended, f"the end of {run_id}", patience=patience, pause=0.1))


def predict_when_loaded(predict: httpx2.Client, rows: list[dict]) -> httpx2.Response:
    """Predict once the version is loaded: the service polls, so the first answers may be 404."""

    def ask() -> httpx2.Response | None:
        answer = predict.post("/v1/models/circle:classify", json={"examples": rows})
        return answer if answer.status_code == 200 else None

    answer: httpx2.Response = wait_until(ask, "the model circle is served", pause=0.1)
    return answer


def test_the_main_use_case_on_the_embedded_default(server: Server) -> None:
    journey(server)


@pytest.fixture
def tcp_redis(tmp_path: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes"]
    with subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: listens(port), "Redis listens", process=process)
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


def test_the_main_use_case_on_postgresql_and_redis_from_an_installed_wheel(
    postgres_url: str, tcp_redis: str, installed_wheel: Path, tmp_path: Path
) -> None:
    """In a folder whose files have the names of modules."""
    elsewhere = tmp_path / "a folder of somebody's"
    elsewhere.mkdir()
    for name in ("services.py", "json.py", "celery.py"):
        (elsewhere / name).write_text("raise SystemExit('imported from the folder where it was started')\n")
    addresses = {"FITSERVE_DATABASE_URL": postgres_url, "FITSERVE_REDIS_URL": tcp_redis}
    command = (installed_wheel / "bin" / "fitserve", "up")
    running = start_server(tmp_path / "home", *command, cwd=elsewhere, PYTHONPATH="", **addresses)
    try:
        services = psutil.Process(running.process.pid).children(recursive=True)
        assert all(str(installed_wheel) in process.cmdline()[0] for process in services)
        assert "/assets/" in get_text(running.base_url)  # the pages
        key = {"PYTHONPATH": "", "FITSERVE_URL": running.base_url, "FITSERVE_API_KEY": running.token}
        listing = [command[0], "datasets", "list", "--json"]
        listed = subprocess.run(
            listing, cwd=elsewhere, env={**os.environ, **key}, capture_output=True, text=True, check=False
        )
        assert json.loads(listed.stdout) == [], listed.stderr
        journey(running)
    finally:
        assert stop_server(running) == 0
