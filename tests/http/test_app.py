"""The shell of every web process, tested with a tiny app."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fitserve import readiness
from fitserve.api_keys import Identity
from fitserve.errors import BadInput, Problem, TooMany
from fitserve.settings import Settings
from services.http import Caller, Router, make_app, require
from services.http.auth import COOKIE, missing_key, refuse_unprotected_address


class Body(BaseModel):
    value: int


def identify(token: str | None) -> Identity:
    if token is None:
        raise missing_key()
    if token not in ("id.good", "session_1.good"):
        raise missing_key()
    return Identity("id", "ada", frozenset({"read"}), None)


def broken() -> None:
    raise ConnectionError("secret-host:5432")


@pytest.fixture
def client() -> TestClient:
    app: FastAPI = make_app(Settings(), title="tiny", identify=identify, readiness={"database": broken})
    router = Router()

    @router.post("/things/{name}")
    def create_thing(name: str, body: Body, caller: Annotated[Caller, Depends(require("read"))]) -> dict[str, Any]:
        return {"name": name, "value": body.value, "owner": caller.owner}

    @router.get("/train", dependencies=[Depends(require("train"))])
    def train() -> None: ...

    @router.get("/bad")
    def bad() -> None:
        raise BadInput("Row 3 is bad.", problems=[Problem("no number", row=3, column="gre", received="x\ud800")])

    @router.get("/busy")
    def busy() -> None:
        raise TooMany("Slow down.", retry_after=0.2)

    @router.post("/raw")
    async def raw(request: Request, caller: Annotated[Caller, Depends(require("read"))]) -> int:
        return len(await request.body())

    @router.get("/crash")
    def crash() -> None:
        raise RuntimeError("SELECT password FROM /etc/passwd")

    app.include_router(router)
    return TestClient(app, raise_server_exceptions=False, headers={"Authorization": "Bearer id.good"})


def test_the_caller_reaches_the_handler(client: TestClient) -> None:
    answer = client.post("/things/a", json={"value": 1})
    assert answer.json() == {"name": "a", "value": 1, "owner": "ada"}


def test_a_client_that_goes_away_while_it_sends_is_no_error_of_ours(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    received = iter(
        [{"type": "http.request", "body": b'{"value', "more_body": True}, {"type": "http.disconnect"}],
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/raw",
        "raw_path": b"/raw",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer id.good"), (b"content-length", b"20")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic id.good"}],
)
def test_a_key_is_required(client: TestClient, headers: dict[str, str]) -> None:
    client.headers.pop("Authorization")
    answer = client.post("/things/a?key=id.good&api_key=id.good", json={"value": 1}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_missing_scope_is_403(client: TestClient) -> None:
    assert client.get("/train").status_code == 403


def test_a_cookie_changes_things_only_from_its_own_origin(client: TestClient) -> None:
    client.headers.pop("Authorization")
    client.cookies.set(COOKIE, "session_1.good")
    for origin in ("http://evil.example", "null", "http://[", "http://a]b", "//"):
        forged = client.post("/things/a", json={"value": 1}, headers={"Origin": origin})
        assert forged.status_code == 403, origin
    assert client.post("/things/a", json={"value": 1}).status_code == 403
    own = client.post("/things/a", json={"value": 1}, headers={"Origin": "http://testserver"})
    assert own.status_code == 200


def test_problems_point_at_the_invalid_value(client: TestClient) -> None:
    answer = client.post("/things/a", json={"value": "x"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/value"
    bad = client.get("/bad").json()
    assert bad["errors"] == [{"detail": "no number", "row": 3, "column": "gre", "received": "x\\ud800"}]
    assert bad["request_id"]


def test_retry_after_is_whole_seconds(client: TestClient) -> None:
    answer = client.get("/busy")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_internal_errors_leak_no_internals(client: TestClient) -> None:
    answer = client.get("/crash")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "SELECT" not in answer.text
    assert "passwd" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("body", ['{"value": 1, "value": 2}', '{"value": NaN}', "[" * 100_000, "{", "\x00"])
def test_json_is_parsed_strictly(client: TestClient, body: str) -> None:
    answer = client.post("/things/a", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:fitserve:problem:malformed"


def test_a_body_above_the_limit_is_413(client: TestClient) -> None:
    def endless() -> Any:
        for _ in range(30):
            yield b" " * 1_000_000

    answer = client.post("/things/a", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_unknown_paths_and_methods_are_problems_and_create_no_series(client: TestClient) -> None:
    before = client.get("/metrics").text.count("fitserve_http_requests_total{")
    client.get("/nothing/0")
    once = client.get("/metrics").text.count("fitserve_http_requests_total{")
    for index in range(200):
        answer = client.get(f"/nothing/{index}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert client.get("/metrics").text.count("fitserve_http_requests_total{") == once <= before + 2
    assert client.put("/bad").status_code == 405


def test_readiness_names_what_is_unavailable_but_not_its_address(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "ConnectionError"}
    assert client.get("/livez").json() == {"status": "alive"}


def test_readiness_is_answered_while_a_dependency_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One check at a time: a dependency that hangs does not collect threads."""
    begun, released = [], threading.Event()

    def hang() -> None:
        begun.append(1)
        released.wait()

    monkeypatch.setattr(readiness, "READINESS_SECONDS", 0.05)
    check = readiness.BoundedCheck("database", hang)
    assert [check.outcome() for _ in range(3)] == ["no answer within 0.05 s"] * 3
    assert len(begun) == 1
    released.set()
    monkeypatch.setattr(readiness, "READINESS_SECONDS", 30)
    assert check.outcome() == "ok"


def test_valid_request_ids_are_kept(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    forged = client.get("/livez", headers={"X-Request-ID": 'x"} {"level": "ERROR"'}).headers["x-request-id"]
    assert forged.startswith("req_")


@pytest.mark.parametrize(
    ("host", "auth", "has_keys", "refused"),
    [
        ("127.0.0.1", False, False, False),
        ("::1", True, False, False),
        ("0.0.0.0", True, True, False),
        ("0.0.0.0", True, False, True),
        ("0.0.0.0", False, True, True),
        ("192.0.2.1", False, True, True),
    ],
)
def test_no_unprotected_address(host: str, auth: bool, has_keys: bool, refused: bool) -> None:
    settings = Settings(host=host, auth=auth)
    if refused:
        with pytest.raises(SystemExit):
            refuse_unprotected_address(settings, has_keys)
    else:
        refuse_unprotected_address(settings, has_keys)
