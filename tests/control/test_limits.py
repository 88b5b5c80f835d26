"""Rate limits and quotas by key: shared by all processes through Redis, and reported in headers."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save
from sqlalchemy import update

from fitserve import api_keys, db
from fitserve.runs import lease
from fitserve.settings import Limits, Settings
from fitserve.tables import Run, Upload
from fitserve.wire.admin import Quotas
from services.control.app import create_app
from services.control.datasets import resumable
from services.control.runs import events
from services.http import Caller
from tests.waiting import wait_until

TABLE = "a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40))
SPEC = {"dataset": "table", "target": "y", "network": [{"Dense": 2}]}


def clients(stack: ExitStack, database_url: str, redis_url: str, home: Path, count: int, **more: Any) -> list[Any]:
    """Open `count` apps over one database and one Redis, as if they were processes."""
    settings = Settings(home=home, database_url=database_url, redis_url=redis_url, **more)
    return [stack.enter_context(TestClient(create_app(settings))) for _ in range(count)]


def create_key(
    client: TestClient, scopes: list[str], quotas: Quotas | None = None, owner: str = "ada"
) -> dict[str, str]:
    with db.transaction(client.app.state.context.engine) as session:
        name = f"k{len(api_keys.listing(session))}"
        _, token = api_keys.create(session, owner=owner, name=name, scopes=scopes, quotas=quotas)
    return {"Authorization": f"Bearer {token}"}


def test_two_processes_share_one_limit(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        both = clients(stack, sqlite_url, redis_url, tmp_path, 2, rate_requests_per_minute=6)
        ada, bob = create_key(both[0], ["read"]), create_key(both[0], ["read"], owner="bob")
        answers = [both[number % 2].get("/api/v1/session", headers=ada) for number in range(8)]
        codes = [answer.status_code for answer in answers]
        # A window may have ended in between; then a second one has begun, and only one.
        assert codes[:6] == [200] * 6
        assert codes[6:] == [429, 429] or codes.count(429) == 0
        if 429 in codes:
            refused = answers[codes.index(429)]
            assert refused.headers["ratelimit-policy"] == '"requests";q=6;w=60'
            assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["type"] == "urn:fitserve:problem:too-many"
        remaining = [int(answer.headers["ratelimit"].split("r=")[1].split(";")[0]) for answer in answers[:6]]
        assert remaining == [5, 4, 3, 2, 1, 0] or codes.count(429) == 0
        assert both[1].get("/api/v1/session", headers=bob).status_code == 200


def test_without_redis_each_process_counts_for_itself(sqlite_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        away = "redis://127.0.0.1:1/0"
        both = clients(stack, sqlite_url, away, tmp_path, 2, rate_requests_per_minute=3)
        ada = create_key(both[0], ["read"])
        assert [both[0].get("/api/v1/session", headers=ada).status_code for _ in range(4)].count(200) >= 3
        assert both[1].get("/api/v1/session", headers=ada).status_code == 200


def test_a_keys_own_quotas_override_the_settings(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        (client,) = clients(stack, sqlite_url, redis_url, tmp_path, 1)
        admin = create_key(client, ["admin"])
        body = {"name": "small", "scopes": ["upload"], "quotas": {"uploads_per_hour": 2, "requests_per_minute": 5}}
        made = client.post("/api/v1/keys", json=body, headers=admin)
        assert made.json()["quotas"]["uploads_per_hour"] == 2
        small = {"Authorization": f"Bearer {made.json()['token']}"}
        uploads = [client.put(f"/api/v1/datasets/t{n}", content=f"{TABLE}{n},1\n", headers=small) for n in range(3)]
        assert [answer.status_code for answer in uploads] in ([201, 201, 429], [201, 201, 201])
        assert uploads[0].headers["ratelimit-policy"] == '"uploads";q=2;w=3600'
        unknown = client.post("/api/v1/keys", json={**body, "quotas": {"gpus": 3}}, headers=admin)
        assert unknown.status_code == 422


@pytest.fixture
def runs(database_url: str, redis_url: str, tmp_path: Path) -> Any:
    with ExitStack() as stack:
        limits = Limits(queued_runs=5)
        (client,) = clients(stack, database_url, redis_url, tmp_path, 1, limits=limits)
        upload = client.put("/api/v1/datasets/table", content=TABLE, headers=create_key(client, ["upload"]))
        assert upload.status_code == 201, upload.text
        yield client


def test_queued_runs_are_limited_by_key_and_by_owner(runs: TestClient) -> None:
    narrow, wide = create_key(runs, ["train"], Quotas(queued_runs=2)), create_key(runs, ["train"])
    codes = [runs.post("/api/v1/runs", json=SPEC, headers=narrow).status_code for _ in range(3)]
    assert codes == [202, 202, 429]
    codes = [runs.post("/api/v1/runs", json=SPEC, headers=wide).status_code for _ in range(4)]
    assert codes == [202, 202, 202, 429]  # five of the owner's in all
    refused = runs.post("/api/v1/runs", json=SPEC, headers=wide)
    assert refused.json()["expected"] == "fewer than 5 queued runs"
    assert int(refused.headers["retry-after"]) > 0


def test_running_runs_are_limited_by_key(runs: TestClient) -> None:
    narrow, wide = create_key(runs, ["train"], Quotas(running_runs=1)), create_key(runs, ["train"])
    engine = runs.app.state.context.engine

    def claim() -> str | None:
        found = lease.claim(engine, "w", lease_seconds=60, running_limit=1000)
        return None if found is None else found.lease.run_id

    mine = [runs.post("/api/v1/runs", json=SPEC, headers=narrow).json()["id"] for _ in range(2)]
    other = runs.post("/api/v1/runs", json=SPEC, headers=wide).json()["id"]
    assert claim() == mine[0]
    assert claim() == other  # the key's second run waits, another key's does not
    assert claim() is None


def test_training_time_is_limited_by_key(runs: TestClient) -> None:
    narrow, wide = create_key(runs, ["train"], Quotas(training_seconds_per_day=100)), create_key(runs, ["train"])
    engine = runs.app.state.context.engine

    def trained(headers: dict[str, str], hours_ago: float, seconds: float) -> int:
        answer = runs.post("/api/v1/runs", json=SPEC, headers=headers)
        if answer.status_code == 202:
            with db.transaction(engine) as session:
                run = session.get_one(Run, answer.json()["id"])
                end = db.now(session) - timedelta(hours=hours_ago)
                run.state, run.started_at, run.finished_at = "succeeded", end - timedelta(seconds=seconds), end
        return answer.status_code

    assert trained(narrow, 25, 1000) == 202  # yesterday's do not count
    assert trained(narrow, 23, 60) == 202
    assert trained(narrow, 1, 60) == 202
    refused = runs.post("/api/v1/runs", json=SPEC, headers=narrow)
    assert refused.status_code == 429
    assert refused.json()["received"] == pytest.approx(120, abs=1)
    assert 3000 < int(refused.headers["retry-after"]) <= 3600  # until the first of them is a day old
    assert trained(wide, 1, 1) == 202


def test_uploaded_weights_are_bounded_and_kept_once(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    limits = Limits(weights_bytes=2000, stored_weights_bytes=2500)
    with ExitStack() as stack:
        (client,) = clients(stack, sqlite_url, redis_url, tmp_path, 1, limits=limits)
        ada, bob = (create_key(client, ["read", "upload", "train"], owner=owner) for owner in ("ada", "bob"))

        def send(data: bytes, key: dict[str, str] = ada) -> Any:
            return client.post("/api/v1/weights", content=data, headers=key)

        def weights(size: int, value: float = 1.0) -> bytes:
            return save({"dense/0": np.full((1, size), value, np.float32)})

        first = send(weights(400))
        assert (first.status_code, first.json()["tensors"]) == (201, {"dense/0": [1, 400]})
        again = send(weights(400))
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        assert send(weights(600)).status_code == 413
        full = send(weights(400, 2.0))
        assert (full.status_code, full.json()["fix"]) == (409, "Delete some: runs that began with them keep theirs.")
        assert send(weights(400), bob).json()["id"] != first.json()["id"]  # what others have is their own
        refused = send(weights(4, np.nan)).json()
        assert (refused["status"], refused["detail"]) == (422, "dense/0 is nan at [0, 0].")
        assert send(b"PK\x03\x04" + bytes(40)).status_code == 400
        assert not list(tmp_path.glob("**/dataset-*"))  # nothing is left of what was refused
        path = f"/api/v1/weights/{first.json()['id']}"
        assert client.get(path, headers=bob).status_code == client.delete(path, headers=bob).status_code == 404
        assert client.put("/api/v1/datasets/table", content=TABLE, headers=bob).status_code == 201
        begins = {**SPEC, "initial_weights": first.json()["id"]}
        stolen = client.post("/api/v1/runs", json=begins, headers=bob)
        assert (stolen.status_code, stolen.json()["received"]) == (404, first.json()["id"])
        (stored,) = client.get("/api/v1/system/storage", headers=ada).json()
        assert stored["bytes"] == stored["weights_bytes"] == len(weights(400))
        assert client.delete(path, headers=ada).status_code == 204
        assert send(weights(400, 2.0)).status_code == 201


def test_unfinished_uploads_are_bounded_by_owner_and_expire(
    sqlite_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "EXPIRY_SECONDS", 0.05)
    limits = Limits(unfinished_uploads=2, unfinished_upload_bytes=1000)
    with ExitStack() as stack:
        (client,) = clients(stack, sqlite_url, redis_url, tmp_path, 1, limits=limits)
        ada, bob = (create_key(client, ["read", "upload"], owner=owner) for owner in ("ada", "bob"))

        def begin(length: int, key: dict[str, str] = ada) -> Any:
            return client.post("/api/v1/uploads", headers={**key, "Upload-Length": str(length)})

        assert client.options("/api/v1/uploads").headers["tus-max-size"] == "1000"
        assert begin(1001).status_code == 413
        first = begin(600).headers["location"]
        bytes_full = begin(401)
        assert (bytes_full.status_code, bytes_full.json()["received"]) == (429, 1001)
        assert bytes_full.json()["expected"] == "at most 1000 bytes together"
        assert first in bytes_full.json()["fix"]
        assert 86_000 < int(bytes_full.headers["retry-after"]) <= 86_400
        sent = {**ada, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        second = begin(len(TABLE)).headers["location"]
        count_full = begin(0).json()
        assert (count_full["status"], count_full["expected"]) == (429, "fewer than 2 unfinished uploads")
        assert begin(1000, bob).status_code == 201  # another owner's are its own
        assert client.patch(second, headers=sent, content=TABLE).status_code == 204
        third = begin(300).headers["location"]  # a finished upload does not count
        assert client.delete(third, headers=ada).status_code == 204
        assert begin(400).status_code == 201

        with db.transaction(client.app.state.context.engine) as session:
            session.execute(update(Upload).where(Upload.owner == "ada").values(expires_at=Upload.created_at))
        # Nobody begins another: the server itself deletes rows and bytes.
        wait_until(lambda: client.get(first, headers=ada).status_code == 404, "the deletion of what has expired")
        assert len(list((tmp_path / "scratch" / "uploads").iterdir())) == 1  # bob's
        assert begin(1000).status_code == 201


def test_one_key_does_not_take_all_event_streams(
    sqlite_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        (client,) = clients(stack, sqlite_url, redis_url, tmp_path, 1)
        ada = create_key(client, ["upload", "train", "read"])
        client.put("/api/v1/datasets/table", content=TABLE, headers={**ada, "Content-Type": "text/csv"})
        run = client.post("/api/v1/runs", json=SPEC, headers=ada).json()["id"]
        key = ada["Authorization"].split()[1].split(".")[0]
        monkeypatch.setattr(events, "_open_streams", Counter({key: events.MAX_STREAMS_OF_KEY}))
        refused = client.get(f"/api/v1/runs/{run}/events", headers={**ada, "Accept": events.STREAM})
        assert (refused.status_code, refused.json()["detail"]) == (429, "This key has 250 event streams open.")
        assert client.get(f"/api/v1/runs/{run}/events", headers=ada).status_code == 200
        # Many requests at once pass that check before the first stream begins.
        caller = Caller(key, "ada", frozenset({"read"}), None)
        request: Any = None

        async def frames() -> list[str]:
            return [frame async for frame in events._stream(request, client.app.state.context, run, caller, 0)]

        assert asyncio.run(frames()) == ["retry: 10000\n\n"]
        assert events._open_streams == {key: events.MAX_STREAMS_OF_KEY}
