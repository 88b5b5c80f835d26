"""Foreign bytes in the broker's queue are counted and dropped; the worker goes on."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from fitserve.queue import QUEUE, WAKE, Publisher
from tests.faults.cluster import Cluster, Member, wait_for
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("faults")


def message(body: Any = None, headers: Any = None, content_type: Any = "application/json", **others: Any) -> bytes:
    """A message as Celery writes it, except for what is stated."""
    body = [["run_1"], {}, {}] if body is None else body
    text = body if isinstance(body, str) else base64.b64encode(json.dumps(body).encode()).decode()
    properties = {
        "correlation_id": "1",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "tag",
        **others.pop("properties", {}),
    }
    headers = {"task": WAKE, "id": "1", "lang": "py", "argsrepr": "()"} if headers is None else headers
    whole = {"body": text, "content-type": content_type, "content-encoding": "utf-8", "headers": headers}
    return json.dumps({**whole, "properties": properties, **others}).encode()


def wake_headers(**more: Any) -> dict[str, Any]:
    return {"task": WAKE, "id": "1", "lang": "py", **more}


POISON = [
    b"",
    b"\xff\xfe",
    b"not json",
    b"[]",
    b"7",
    b"null",
    b"{}",
    b'{"properties": 7}',
    b'{"properties": {"delivery_tag": ["unhashable"]}}',
    b"[" * 100_000,
    b"1" * 10_000,
    message(headers=[]),
    message(headers="text"),
    message(headers={}),
    message(headers={"task": ["unhashable"], "id": "1"}),
    message(headers={"task": "other.task", "id": "1"}),
    message(headers={"task": "celery.backend_cleanup"}),
    message(headers={"task": "celery.chord_unlock", "id": "1"}),
    message(headers={"task": WAKE}),
    message(headers=wake_headers(id={"a": 1})),
    message(headers=wake_headers(eta="never")),
    message(headers=wake_headers(eta="9999-01-01T00:00:00+00:00")),
    message(headers=wake_headers(expires=[])),
    message(headers=wake_headers(timelimit="x")),
    message(headers=wake_headers(retries="x")),
    message("not base64!"),
    message(base64.b64encode(b"\xff\xfe not json").decode()),
    message(7),
    message([[], {}, {}]),
    message([["a", "b"], {}, {}]),
    message([[["list"]], {}, {}]),
    message([["a"], {"x": 1}, {}]),
    message([["a"], {}, {"chain": [{"task": WAKE, "args": ["a"], "kwargs": {}, "options": {}}]}]),
    message([["a"], {}, 7]),
    message(content_type="application/x-python-serialize"),
    message(content_type="text/plain"),
    message(content_type=["application/json"]),
]
ODD = [  # dropped, or taken for the wake-up that they may be
    message(**{"content-encoding": "no-such"}),
    message(properties={"body_encoding": "rot13"}),
    message(properties={"delivery_info": None}),
    message(headers=wake_headers(compression="no-such")),
]
FOREIGN_KEYS: dict[str, Callable[[Any, str], Any]] = {  # keys of the queue that another program has taken
    QUEUE: lambda broker, key: broker.set(key, "text"),
    "unacked": lambda broker, key: broker.sadd(key, "member"),
    "unacked_index": lambda broker, key: broker.lpush(key, "item"),
}


def dropped(worker: Member) -> float:
    url = f"http://127.0.0.1:{worker.environment['FITSERVE_WORKER_METRICS_PORT']}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    values = [line.split()[-1] for line in lines if line.startswith("fitserve_queue_messages_dropped_total")]
    return float(values[0])


def is_listening(worker: Member) -> bool:
    port = worker.environment["FITSERVE_WORKER_METRICS_PORT"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_every_poison_message_is_counted_and_dropped(tmp_path: Path) -> None:
    with Cluster(tmp_path / "home") as cluster:
        worker = cluster.start("worker")
        wait_for(lambda: is_listening(worker), 60, "the worker is ready")
        assert cluster.redis is not None
        broker = redis.Redis(unix_socket_path=str(cluster.redis.socket))
        publisher = Publisher(cluster.settings)
        for number, poison in enumerate(POISON, 1):
            broker.lpush(QUEUE, poison)
            wait_for(
                lambda n=number: not worker.alive or dropped(worker) >= n, 20, f"{poison[:200]!r}\n{cluster.tail()}"
            )
            assert worker.alive, f"{poison[:200]!r} ended the worker:\n{cluster.tail()}"
        assert dropped(worker) == len(POISON)
        for count, (key, foreign) in enumerate(FOREIGN_KEYS.items(), len(POISON) + 1):
            broker.delete(key)
            foreign(broker, key)
            publisher.publish("run_1")  # it may be lost: it is a hint
            wait_for(lambda n=count: dropped(worker) >= n, 30, f"{key} is set aside\n{cluster.tail()}")
            assert broker.exists(f"{key}.foreign")
        for odd in ODD:
            broker.lpush(QUEUE, odd)
        run_id = cluster.submit()
        assert publisher.publish(run_id)
        cluster.wait_over(run_id)
        wait_for(lambda: not broker.llen(QUEUE), 10, "the queue is empty")
        wait_for(lambda: not broker.hlen("unacked"), 10, "every message is acknowledged")
        assert worker.alive
        publisher.close()
