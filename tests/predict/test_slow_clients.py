"""Clients that are silent, drip their heads or send half a body delay nobody else; one that leaves is no error."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import httpx2
import pytest

from tests.predict.toy_registry import RunningService, ToyRegistry, eventually, numeric, run_service
from tests.waiting import PATIENCE

BODY = json.dumps({"instances": [[1.5, -2.0, 3.25, 4.0, 5.0, 6.0]]})
ADDRESSES = 4  # of this machine, as one has at most a thousand connections


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    toys = ToyRegistry(tmp_path / "toys")
    toys.register("m1", numeric())
    with run_service(toys, FITSERVE_HEAD_SECONDS="120") as made:
        yield made


def connect(service: RunningService, number: int) -> socket.socket:
    source = (f"127.0.0.{1 + number % ADDRESSES}", 0)
    return socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE, source_address=source)


class SlowClients:
    """Connections in three kinds, by turns: silent, half a head, half a body under one key; or of some kinds alone."""

    def __init__(self, service: RunningService, count: int, kinds: Sequence[int] = range(3)) -> None:
        token = service.toys.create_key(["predict"], models=["m1"])
        ready = f"{service.url}/v1/models/m1"
        # The service learns of a new key at its next poll.
        eventually(
            lambda: httpx2.get(ready, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE).status_code == 200
        )
        head = f"POST /v1/models/m1:predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        whole = f"{head}Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY[:20]}"
        self.dripping: list[socket.socket] = []
        self.all = [connect(service, number) for number in range(count)]
        for connection, kind in zip(self.all, cycle(kinds), strict=False):
            if kind == 1:
                connection.sendall(head.encode())
                self.dripping.append(connection)
            elif kind == 2:
                connection.sendall(whole.encode())

    def drip(self) -> None:
        """Send each of the half heads a little more."""
        for connection in self.dripping:
            connection.sendall(b"X")

    def leave(self) -> None:
        for connection in self.all:
            connection.close()


def seconds_of(client: httpx2.Client, requests: int) -> list[float]:
    """Make requests one after the other; return what each took."""
    taken = []
    for _ in range(requests):
        started = time.perf_counter()
        answer = client.post("/v1/models/m1:predict", content=BODY, headers={"Content-Type": "application/json"})
        taken.append(time.perf_counter() - started)
        assert answer.status_code == 200
    return sorted(taken)


def answers_of(service: RunningService, status: str) -> float:
    lines = service.get("/metrics").splitlines()
    own = (line for line in lines if line.startswith("fitserve_predict_requests_total{") and f'"{status}"' in line)
    return sum(float(line.rsplit(" ", 1)[1]) for line in own)


def test_others_are_served_while_clients_are_slow_and_leave(service: RunningService) -> None:
    slow = SlowClients(service, 300)
    with httpx2.Client(base_url=service.url, headers=service.headers, timeout=PATIENCE) as client:
        for _ in range(5):
            slow.drip()
            seconds_of(client, 10)
            assert client.get("/v2/health/live").status_code == 200
        assert service.telemetry("fitserve_predict_requests_in_flight") == 0  # half a body takes no place
        slow.leave()
        eventually(lambda: answers_of(service, "499") >= 100)
        seconds_of(client, 10)
    assert answers_of(service, "500") == 0
    log = next(service.toys.home.glob("services.predict-*.log")).read_text()
    assert "Traceback" not in log, log


@pytest.mark.long
def test_2048_half_bodies_of_one_key_leave_everybody_else_served(service: RunningService) -> None:
    slow = SlowClients(service, 2048, kinds=[2])
    with httpx2.Client(base_url=service.url, headers=service.headers, timeout=PATIENCE) as client:
        seconds_of(client, 500)
        assert client.get("/v2/health/ready").status_code == 200
        assert service.telemetry("fitserve_predict_requests_in_flight") == 0
        slow.leave()
        eventually(lambda: answers_of(service, "499") >= 2048)
    assert answers_of(service, "429") == answers_of(service, "500") == 0


@pytest.mark.long
def test_2500_slow_clients_cost_another_one_little(service: RunningService) -> None:
    with httpx2.Client(base_url=service.url, headers=service.headers, timeout=PATIENCE) as client:
        seconds_of(client, 500)
        alone = seconds_of(client, 2000)
        slow = SlowClients(service, 2500)
        health = []
        beside: list[float] = []
        for _ in range(20):
            slow.drip()
            beside += seconds_of(client, 100)
            started = time.perf_counter()
            assert client.get("/v2/health/live").status_code == 200
            health.append(time.perf_counter() - started)
        slow.leave()
    beside.sort()
    assert beside[len(beside) * 99 // 100] <= 2 * alone[len(alone) * 99 // 100] + 0.001
    assert statistics.median(health) < 0.1
