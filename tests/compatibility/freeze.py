"""`python -m tests.compatibility.freeze COMMIT NAME`: freeze what one release left behind, as NAME.tar.gz beside this.

The release's own code, from git, serves a home: a table, a trained model with the answers it gave, and a run that
was killed after a checkpoint. What is kept is the home's database and blobs, and `answers.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.faults.cluster import wait_for
from tests.ports import free_port
from tests.waiting import PATIENCE

PROJECT = Path(__file__).resolve().parents[2]
TABLE = "age,income,plan,joined,ok\n" + "".join(
    f"{20 + n % 50},{1000 + 37 * n % 900 if n % 9 else ''},{'abc'[n % 3]},2024-0{1 + n % 9}-11,"
    f"{'yes' if n % 7 < 3 else 'no'}\n"
    for n in range(90)
)
ROWS = [
    {"age": 33, "income": 1500, "plan": "a", "joined": "2024-03-11"},
    {"age": 61, "income": None, "plan": "c", "joined": "2024-07-01"},
]
SPEC = {
    "dataset": "frozen",
    "target": "ok",
    "network": [{"Dense": {"units": 4, "activation": "tanh"}}, {"Dropout": 0.1}],
    "training": {"epochs": 3, "batch_size": 16, "seed": 3, "optimizer": "Adam"},
    "model": "frozen",
}


def freeze(commit: str, target: Path) -> None:
    """Run the release and write what it left. Raises CalledProcessError, AssertionError."""
    folder = Path(tempfile.mkdtemp(prefix="fitserve-freeze-"))
    try:
        archive = subprocess.run(["git", "archive", commit], cwd=PROJECT, check=True, capture_output=True).stdout
        code = folder / "code"
        code.mkdir()
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
        answers = {"commit": commit, **_served(code, folder / "home")}
        (folder / "home" / "answers.json").write_text(json.dumps(answers, indent=1))
        with tarfile.open(target, "w:gz", compresslevel=9) as pack:
            for name in ("answers.json", "blobs", "fitserve.db"):
                pack.add(folder / "home" / name, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _served(code: Path, home: Path) -> dict[str, Any]:
    names = ("FITSERVE_PORT", "FITSERVE_PREDICT_PORT", "FITSERVE_WORKER_METRICS_PORT", "FITSERVE_REAPER_METRICS_PORT")
    ports = {name: str(free_port()) for name in names}
    variables = {
        **os.environ,
        **ports,
        "PYTHONPATH": str(code),
        "FITSERVE_HOME": str(home),
        "FITSERVE_AUTH": "false",
        "FITSERVE_GRPC_PORT": "0",
        "FITSERVE_CHECKPOINT_SECONDS": "0.2",
    }
    log = (home.parent / "log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "services.up"], cwd=code, env=variables, stdout=log, stderr=log, start_new_session=True
    )
    try:
        api = httpx2.Client(base_url=f"http://127.0.0.1:{ports['FITSERVE_PORT']}/api/v1", timeout=PATIENCE)
        predict = httpx2.Client(base_url=f"http://127.0.0.1:{ports['FITSERVE_PREDICT_PORT']}", timeout=PATIENCE)
        wait_for(lambda: server.poll() is not None or _is_up(api, predict), 180, "the release is up")
        answer = api.put("/datasets/frozen", content=TABLE, headers={"Content-Type": "text/csv"})
        assert answer.status_code == 201, answer.text
        run = _submit(api, SPEC)
        wait_for(lambda: api.get(f"/runs/{run}").json()["state"] not in ("queued", "running"), 300, "the run")
        assert api.get(f"/runs/{run}").json()["state"] == "succeeded", api.get(f"/runs/{run}").text
        question = {"instances": ROWS}
        url = "/v1/models/frozen:predict"
        wait_for(lambda: predict.post(url, json=question).status_code == 200, 60, "the model serves")
        answers = predict.post(url, json=question).json()["predictions"]
        training = {**SPEC["training"], "epochs": 200_000}  # type: ignore[dict-item]
        interrupted = _submit(api, {**{k: v for k, v in SPEC.items() if k != "model"}, "training": training})
        wait_for(lambda: _has_checkpoint(home, interrupted), 120, "a checkpoint")
    except AssertionError:
        print((home.parent / "log").read_text()[-4000:], file=sys.stderr)
        raise
    finally:
        processes = psutil.Process(server.pid).children(recursive=True)  # some have groups of their own
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(1)  # trainers notice that their parent is gone
    with sqlite3.connect(home / "fitserve.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("PRAGMA journal_mode=DELETE")
    return {"run": run, "interrupted": interrupted, "rows": ROWS, "predictions": answers}


def _is_up(*clients: httpx2.Client) -> bool:
    try:
        return all(client.get("/readyz").status_code in (200, 404) for client in clients)
    except httpx2.HTTPError:
        return False


def _submit(api: httpx2.Client, spec: dict[str, Any]) -> str:
    answer = api.post("/runs", json=spec)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _has_checkpoint(home: Path, run: str) -> bool:
    with sqlite3.connect(f"file:{home / 'fitserve.db'}?mode=ro", uri=True) as database:
        found = database.execute("SELECT checkpoint FROM runs WHERE id = ?", (run,)).fetchone()
    return bool(found and found[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("name")
    arguments = parser.parse_args()
    freeze(arguments.commit, Path(__file__).with_name(f"{arguments.name}.tar.gz"))
