"""Several prediction processes on one port: changes reach all of them, and no answer mixes two versions."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from fitserve import api_keys, registry
from tests.predict.test_changes import ROW, swap_under_load
from tests.predict.toy_registry import RunningService, ToyRegistry, eventually, numeric, run_service
from tests.waiting import PATIENCE

PROCESSES = 2
CONNECTIONS = 24  # that all of them reach the same one of two processes has a chance of 1 in 10 million


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    toys = ToyRegistry(tmp_path_factory.mktemp("two"))
    toys.register("m", numeric(1))
    with run_service(toys, FITSERVE_PREDICT_PROCESSES=str(PROCESSES)) as running:
        eventually(lambda: listening(running) == PROCESSES)
        yield running


def listening(served: RunningService) -> int:
    """Return how many sockets listen on the port: one for each process, as anybody may see (Linux)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(f":{served.port:04X}") and line[3] == "0A" for line in lines)


def processes(served: RunningService) -> list[int]:
    """Return the ids of the processes that answer."""
    return [child.pid for child in psutil.Process(served.process.pid).children()]


@dataclass
class Answer:
    status: int
    version: str | None
    label: str | None
    body: Any


def answers(served: RunningService, path: str, token: str | None = None) -> list[Answer]:
    """Return one answer for each of many connections."""
    headers = {"Authorization": f"Bearer {token or served.toys.token}"}
    received = []
    for _ in range(CONNECTIONS):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        connection.request("POST", path, json.dumps({"instances": ROW}), headers)
        response = connection.getresponse()
        version, label = response.headers["x-model-version"], response.headers["x-model-label"]
        received.append(Answer(response.status, version, label, json.loads(response.read())))
        connection.close()
    return received


def all_answer(
    served: RunningService,
    path: str,
    status: int,
    version: str | None = None,
    label: str | None = None,
    token: str | None = None,
) -> bool:
    return {(one.status, one.version, one.label) for one in answers(served, path, token)} == {(status, version, label)}


def test_versions_labels_and_keys_reach_every_process(two: RunningService) -> None:
    toys, path = two.toys, "/v1/models/m:predict"
    eventually(lambda: all_answer(two, path, 200, "1"))
    toys.register("m", numeric(2))
    eventually(lambda: all_answer(two, path, 200, "2"))
    toys.change(registry.set_label, "m", "champion", version_number=1)
    eventually(lambda: all_answer(two, path, 200, "1"))
    checkpoint = toys.store_artifact(numeric(12), run=toys.run_of("m", 1))
    toys.change(registry.set_label, "m", "epoch-12", version_number=1, artifact=checkpoint)
    labelled = "/v1/models/m/labels/epoch-12:predict"
    eventually(lambda: all_answer(two, labelled, 200, "1", "epoch-12"))
    wanted = numeric(12).answer(ROW)["y"].tolist()
    assert all(one.body["predictions"] == wanted for one in answers(two, labelled))
    token = toys.create_key(["predict"])
    eventually(lambda: all_answer(two, path, 200, "1", token=token))
    toys.change(api_keys.revoke, token.split(".")[0])
    eventually(lambda: all_answer(two, path, 401, token=token))
    toys.change(registry.set_loaded, "m", False)
    eventually(lambda: all_answer(two, path, 404))
    toys.change(registry.set_loaded, "m", True)
    eventually(lambda: all_answer(two, path, 200, "1"))


def test_swaps_under_load_of_two_processes(two: RunningService) -> None:
    """16 clients; every answer has the values of the version that it names."""
    swap_under_load(two, "swapped", swaps=2, pause=0.5)
    assert listening(two) == PROCESSES


def test_a_process_that_dies_is_replaced(two: RunningService) -> None:
    killed = processes(two)[0]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: killed not in processes(two) and listening(two) == PROCESSES)
    eventually(lambda: all_answer(two, "/v1/models/m:predict", 200, "1"))
