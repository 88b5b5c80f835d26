"""Webhooks over HTTP: created, tested, changed, read without their secrets; forbidden addresses refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fitserve import db, events
from fitserve.settings import Settings
from fitserve.tables import Audit
from services.control.app import create_app
from tests.events.receiver import receiving
from tests.predict.toy_registry import ToyRegistry

BODY = {"url": "https://8.8.8.8/hook", "events": ["run.*"]}


@pytest.fixture
def toys(sqlite_url: str, tmp_path: Path) -> ToyRegistry:
    return ToyRegistry(tmp_path, url=sqlite_url)


@pytest.fixture
def client(sqlite_url: str, tmp_path: Path, toys: ToyRegistry) -> Iterator[TestClient]:
    settings = Settings(
        home=tmp_path,
        database_url=sqlite_url,
        redis_url="redis://127.0.0.1:1/0",
        channels={"team": "json://secret.host"},
    )
    headers = {"Authorization": f"Bearer {toys.create_key(['read', 'train'], owner='ann')}"}
    with TestClient(create_app(settings), raise_server_exceptions=False, headers=headers) as client:
        yield client


def test_a_webhook_from_its_creation_to_its_end(client: TestClient, toys: ToyRegistry) -> None:
    made = client.post("/api/v1/webhooks", json=BODY).json()
    assert made["secret"].startswith("whsec_")
    path = f"/api/v1/webhooks/{made['id']}"
    tested = client.post(f"{path}/test").json()
    assert (tested["type"], tested["state"]) == ("webhook.test", "pending")
    again = client.post(f"{path}/deliveries/{tested['id']}/redeliver")
    assert again.status_code == 202
    assert client.post(f"{path}/deliveries/dlv_none/redeliver").status_code == 404
    assert [one["id"] for one in client.get(f"{path}/deliveries").json()["items"]] == [tested["id"]]
    assert client.get(f"{path}/deliveries", params={"state": "failed"}).json()["items"] == []
    changed = client.patch(path, json={"events": ["*"], "enabled": False, "secret": made["secret"]}).json()
    assert (changed["events"], changed["enabled"], changed["disabled_reason"]) == (["*"], False, "by hand")
    assert client.post(f"{path}/test").status_code == 409
    read = [client.get(path).text, client.get("/api/v1/webhooks").text, client.get("/api/v1/events").text, str(changed)]
    assert not any(made["secret"] in text for text in read)
    with db.reading(toys.engine) as session:
        assert any(row.action == "POST /api/v1/webhooks" for row in session.query(Audit))
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"url": "https://169.254.169.254/latest"}, "/url"),
        ({"url": "http://127.0.0.1:8000/api/v1/keys"}, "/url"),
        ({"url": "https://localhost/"}, "/url"),
        ({"url": None, "channel": "unknown"}, "/channel"),
        ({"events": ["run.exploded"]}, "/events/0"),
        ({"events": []}, "/events"),
        ({"secret": "whsec_c2hvcnQ="}, "/secret"),
        ({"all_owners": True}, "/all_owners"),
        ({"url": None}, ""),
        ({"channel": "team"}, ""),
    ],
)
def test_what_is_refused_names_its_place(client: TestClient, change: dict[str, Any], pointer: str) -> None:
    answer = client.post("/api/v1/webhooks", json={**BODY, **change})
    assert answer.status_code in (403, 422), answer.text
    problem = answer.json()
    assert pointer in [problem.get("pointer"), *(one.get("pointer", "") for one in problem.get("errors", []))]


def test_an_address_cannot_be_changed_to_a_forbidden_one(client: TestClient) -> None:
    made = client.post("/api/v1/webhooks", json=BODY).json()
    with receiving() as receiver:
        answer = client.patch(f"/api/v1/webhooks/{made['id']}", json={"url": receiver.url})
        assert answer.status_code == 422
        assert receiver.requests == []


def test_channels_are_known_by_name_only(client: TestClient) -> None:
    assert client.get("/api/v1/webhooks/channels").json() == ["team"]
    made = client.post("/api/v1/webhooks", json={"channel": "team", "events": ["drift.*"]}).json()
    assert (made["channel"], made["url"], made["secret"]) == ("team", None, None)
    assert "secret.host" not in client.get("/api/v1/webhooks").text
    assert client.patch(f"/api/v1/webhooks/{made['id']}", json={"url": BODY["url"]}).status_code == 409


def test_an_owner_sees_their_own_events(client: TestClient, toys: ToyRegistry) -> None:
    with db.transaction(toys.engine) as session:
        for owner in ("ann", "bob"):
            events.record(session, "run.failed", owner=owner, data={"run": f"run_of_{owner}"})
    page = client.get("/api/v1/events", params={"type": "run.failed"}).json()
    assert [one["data"]["run"] for one in page["items"]] == ["run_of_ann"]
    assert client.get("/api/v1/events/types").json().keys() == events.TYPES.keys()
