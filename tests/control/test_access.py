"""Authentication, scopes, keys, sessions, rate limits and the audit log. A new route without a rule fails here."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import Engine, func, select

from fitserve import api_keys, db
from fitserve.errors import Unauthenticated
from fitserve.settings import Settings
from fitserve.tables import Audit
from services.control.admin import audit
from services.control.admin.callers import ensure_root_key
from services.control.app import create_app
from services.http.auth import caller_of

# Routes that need no key, each with its reason
PUBLIC = {
    ("GET", "/metrics"): "scraped from the internal network",
    ("GET", "/livez"): "for the orchestrator",
    ("GET", "/readyz"): "for the orchestrator",
    ("GET", "/docs"): "documentation",
    ("GET", "/docs/start.js"): "documentation",
    ("GET", "/docs/swagger-ui.css"): "documentation",
    ("GET", "/docs/swagger-ui-bundle.js"): "documentation",
    ("GET", "/api/v1/schemas/spec"): "documentation: editors read it",
    ("GET", "/api/v1/limits"): "documentation: limits",
    ("POST", "/api/v1/session"): "exchanges a key for a cookie",
    ("DELETE", "/api/v1/session"): "ends the session of its cookie",
    ("OPTIONS", "/api/v1/uploads"): "tus: capabilities",
    ("GET", "/"): "the dashboard, which then signs in",
}
# Forwarded to the prediction service, which checks the key itself
_PROTOCOL = "/v{number:protocol}"
FORWARDED = {("GET", _PROTOCOL), ("GET", f"{_PROTOCOL}/{{path:path}}"), ("POST", f"{_PROTOCOL}/{{path:path}}")}
# Routes that show every caller their own
ANY_SCOPE = {("GET", "/api/v1/session")}


@pytest.fixture
def app(sqlite_url: str, redis_url: str, tmp_path: Path) -> FastAPI:
    return create_app(Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def routes(app: FastAPI) -> list[tuple[str, str, RouteContext]]:
    """Return every method and path template of the app, with its route."""
    found = [
        (method, str(route.path), route)
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for method in route.methods or ()
    ]
    assert len(found) > 40
    return found


def required_scope(route: RouteContext) -> str | None:
    """Return the scope that a route requires: `any` if every valid key will do, None if it needs no key."""
    calls = []
    pending = [route.dependant]
    while pending:
        dependant = pending.pop()
        calls.append(dependant.call)
        pending += dependant.dependencies
    scopes = [call.required_scope for call in calls if hasattr(call, "required_scope")]
    return scopes[0] if scopes else "any" if caller_of in calls else None


def url(path: str) -> str:
    return path.replace("{", "").replace("}", "").replace(":path", "")


def test_every_route_has_a_rule(app: FastAPI) -> None:
    open_routes = {(method, path) for method, path, route in routes(app) if required_scope(route) is None}
    assert open_routes - set(PUBLIC) - FORWARDED == set()


def test_a_path_of_thousands_of_digits_is_no_protocols(client: TestClient) -> None:
    assert client.get(f"/v{'1' * 5000}/models").status_code == 404


def test_every_route_requires_a_live_key(app: FastAPI, client: TestClient) -> None:
    engine = app.state.context.engine
    with db.transaction(engine) as session:
        old, expired = api_keys.create(session, owner="ada", name="old", scopes=["admin"])
        old.expires_at = db.now(session) - timedelta(seconds=1)
        dead, revoked = api_keys.create(session, owner="ada", name="gone", scopes=["admin"])
        api_keys.revoke(session, dead.id)
    tokens = {"none": None, "expired": expired, "revoked": revoked, "made up": "key_x.secret"}
    for method, path, route in routes(app):
        if required_scope(route) is None:
            continue
        for kind, token in tokens.items():
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = client.request(method, url(path), headers=headers)
            assert answer.status_code == 401, (method, path, kind, answer.text)
            assert method == "HEAD" or answer.headers["content-type"] == "application/problem+json"


def test_a_wrong_scope_is_403(app: FastAPI, client: TestClient) -> None:
    engine = app.state.context.engine
    tokens: dict[str, str] = {}
    for scope in api_keys.Scope:
        with db.transaction(engine) as session:
            _, tokens[scope] = api_keys.create(session, owner="ada", name=scope, scopes=[scope])
    for method, path, route in routes(app):
        scope_of_route = required_scope(route)
        if scope_of_route is None or (method, path) in ANY_SCOPE:
            continue
        for scope, token in tokens.items():
            answer = client.request(method, url(path), headers={"Authorization": f"Bearer {token}"})
            context = (method, path, scope, answer.status_code, answer.text[:200])
            if scope_of_route == "any" or scope in (scope_of_route, "admin"):
                assert answer.status_code not in (401, 403), context
            else:
                assert answer.status_code == 403, context
            assert answer.status_code < 500, context


def test_a_revoked_key_is_refused_within_five_seconds(app: FastAPI, client: TestClient) -> None:
    with db.transaction(app.state.context.engine) as session:
        _, admin = api_keys.create(session, owner="root", name="admin", scopes=["admin"])
        key, token = api_keys.create(session, owner="ada", name="x", scopes=["read"])
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/session", headers=headers).status_code == 200
    gone = client.delete(f"/api/v1/keys/{key.id}", headers={"Authorization": f"Bearer {admin}"})
    assert gone.status_code == 200
    assert client.get("/api/v1/session", headers=headers).status_code == 401


def test_keys_of_others_are_neither_listed_nor_revoked(app: FastAPI, client: TestClient) -> None:
    with db.transaction(app.state.context.engine) as session:
        hers, _ = api_keys.create(session, owner="ada", name="x", scopes=["read"])
        _, token = api_keys.create(session, owner="bob", name="y", scopes=["keys"])
    headers = {"Authorization": f"Bearer {token}"}
    assert [key["owner"] for key in client.get("/api/v1/keys", headers=headers).json()] == ["bob"]
    assert client.delete(f"/api/v1/keys/{hers.id}", headers=headers).status_code == 404


def test_a_new_keys_secret_is_shown_once(app: FastAPI, client: TestClient) -> None:
    with db.transaction(app.state.context.engine) as session:
        _, admin = api_keys.create(session, owner="root", name="admin", scopes=["admin"])
    headers = {"Authorization": f"Bearer {admin}"}
    made = client.post("/api/v1/keys", json={"name": "svc", "owner": "ada", "scopes": ["predict"]}, headers=headers)
    assert made.status_code == 201
    secret = made.json()["token"].split(".")[1]
    assert secret not in client.get("/api/v1/keys", headers=headers).text
    who = client.get("/api/v1/session", headers={"Authorization": f"Bearer {made.json()['token']}"})
    assert who.json()["owner"] == "ada"


def test_signing_in_sets_a_cookie(app: FastAPI, client: TestClient) -> None:
    with db.transaction(app.state.context.engine) as session:
        _, token = api_keys.create(session, owner="ada", name="x", scopes=["read"])
    answer = client.post("/api/v1/session", json={"token": token}, headers={"Origin": "http://testserver"})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/v1/session").json()["owner"] == "ada"
    assert token.split(".")[1].lower() not in cookie, "the cookie is a session, not the key"
    copied = client.cookies["fitserve_session"]
    assert client.delete("/api/v1/session").status_code == 403, "a page of another origin cannot sign out"
    client.delete("/api/v1/session", headers={"Origin": "http://testserver"}).raise_for_status()
    client.cookies.clear()
    for worthless in (copied, token):  # a copy ends with the session, and a key is no cookie
        answer = client.get("/api/v1/session", headers={"Cookie": f"fitserve_session={worthless}"})
        assert answer.status_code == 401


def test_a_session_ends_with_its_key(app: FastAPI, client: TestClient) -> None:
    with db.transaction(app.state.context.engine) as session:
        key, token = api_keys.create(session, owner="ada", name="x", scopes=["read"])
        _, admin = api_keys.create(session, owner="root", name="admin", scopes=["admin"])
    client.post("/api/v1/session", json={"token": token}).raise_for_status()
    assert client.get("/api/v1/session").status_code == 200
    client.delete(f"/api/v1/keys/{key.id}", headers={"Authorization": f"Bearer {admin}"}).raise_for_status()
    assert client.get("/api/v1/session").status_code == 401


def test_a_cached_key_expires_on_time(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cached identity knows when it ends, so that it ends although the database cannot be asked."""
    authenticator = app.state.authenticator
    monkeypatch.setattr(authenticator, "_identities", {})  # in place of a cache of 2 s
    with db.transaction(app.state.context.engine) as session:
        until = db.now(session) + timedelta(hours=1)
        key, token = api_keys.create(session, owner="ada", name="x", scopes=["read"], expires_at=until)
    assert authenticator.identify(token).key_id == key.id
    monkeypatch.setattr(authenticator, "_load", lambda _token: pytest.fail("the database was asked"))
    assert authenticator.identify(token).key_id == key.id

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return until

    monkeypatch.setattr(api_keys, "datetime", Later)
    with pytest.raises(Unauthenticated):
        authenticator.identify(token)


def test_apis_that_start_together_create_one_root_key(engine: Engine, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, root_key=SecretStr("key_root.secret"))
    together = Barrier(8)

    def start() -> None:
        together.wait()
        ensure_root_key(settings, engine)

    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("error")
        for done in [pool.submit(start) for _ in range(8)]:
            done.result()
    with db.reading(engine) as session:
        assert api_keys.identify(session, "key_root.secret").owner == "admin"


def test_answers_of_the_api_are_not_stored(client: TestClient) -> None:
    for path in ("/api/v1/session", "/api/v1/models", "/api/v1/nothing", "/v1/models"):
        assert client.get(path).headers["cache-control"] == "no-store", path


def test_each_key_has_its_own_rate_limit(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url, rate_requests_per_minute=5)
    app = create_app(settings)
    with db.transaction(app.state.context.engine) as session:
        _, first = api_keys.create(session, owner="ada", name="x", scopes=["read"])
        _, second = api_keys.create(session, owner="bob", name="y", scopes=["read"])
    with TestClient(app) as client:
        answers = [client.get("/api/v1/session", headers={"Authorization": f"Bearer {first}"}) for _ in range(7)]
        other = client.get("/api/v1/session", headers={"Authorization": f"Bearer {second}"})
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=5;w=60'
    assert answers[0].headers["ratelimit"].startswith('"requests";r=4;t=')
    assert 429 in {answer.status_code for answer in answers}
    assert int(answers[-1].headers.get("retry-after", "1")) >= 1
    assert other.status_code == 200


def test_a_change_and_its_audit_row_are_committed_together(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends after the change has left its row: what is written afterwards is never needed for it."""
    engine = app.state.context.engine
    with db.transaction(engine) as session:
        _, token = api_keys.create(session, owner="root", name="admin", scopes=["admin"])
    headers = {"Authorization": f"Bearer {token}"}
    monkeypatch.setattr(audit._Entry, "finish", lambda self, engine, status: None)
    made = client.post("/api/v1/keys", json={"owner": "eve", "name": "fenced", "scopes": ["read"]}, headers=headers)
    assert made.status_code == 201
    with db.reading(engine) as session:
        last = session.scalars(select(Audit).order_by(Audit.id.desc()).limit(1)).one()
        assert (last.action, last.status) == ("POST /api/v1/keys", 201)
        count = session.scalar(select(func.count()).select_from(Audit))
    again = client.post("/api/v1/keys", json={"owner": "eve", "name": "fenced", "scopes": ["wrong"]}, headers=headers)
    assert again.status_code == 422  # nothing was changed, and its row is written afterwards
    with db.reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(Audit)) == count


def test_changes_are_audited_but_reads_are_not(app: FastAPI, client: TestClient) -> None:
    with db.transaction(app.state.context.engine) as session:
        _, admin = api_keys.create(session, owner="root", name="admin", scopes=["admin"])
    headers = {"Authorization": f"Bearer {admin}"}
    for name in ("a", "b", "c"):
        client.post("/api/v1/keys", json={"name": name, "scopes": ["read"]}, headers=headers)
    client.get("/api/v1/keys", headers=headers)
    first = client.get("/api/v1/audit?limit=2", headers=headers).json()
    rest = client.get(f"/api/v1/audit?limit=2&cursor={first['next_cursor']}", headers=headers).json()
    entries = first["items"] + rest["items"]
    assert [(entry["action"], entry["owner"], entry["status"]) for entry in entries] == [
        ("POST /api/v1/keys", "root", 201)
    ] * 3
    assert rest["next_cursor"] is None
    for wrong in ("cursor=x", "since=0001-01-01T00:00:00%2B14:00", "search=", "owner=%00", "method=GET", "nothing=1"):
        assert client.get(f"/api/v1/audit?{wrong}", headers=headers).status_code == 422, wrong


def test_the_audit_log_is_searched_part_by_part(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SEARCHED_ROWS", 10)
    with db.transaction(app.state.context.engine) as session:
        _, admin = api_keys.create(session, owner="root", name="admin", scopes=["admin"])
    headers = {"Authorization": f"Bearer {admin}"}
    refused = client.post("/api/v1/keys", json={"name": "100%_Case", "scopes": ["read"]}, headers=headers)
    assert refused.status_code == 422
    for number in range(25):
        client.delete(f"/api/v1/keys/key_{number}", headers=headers)

    def search(**query: str) -> list[dict[str, Any]]:
        found, cursor, pages = [], {}, 0
        while cursor is not None:
            page = client.get("/api/v1/audit", params={**query, **cursor}, headers=headers).json()
            found += page["items"]
            cursor, pages = {"cursor": page["next_cursor"]} if page["next_cursor"] else None, pages + 1
            assert pages < 10
        return found

    assert [entry["status"] for entry in search(method="POST", owner="root")] == [422]
    assert [entry["target"] for entry in search(search="KEY_7")] == ["/api/v1/keys/key_7"]
    assert search(search="%") == []
    assert len(search(outcome="refused")) == 26
    assert search(outcome="done") == search(owner="eve") == []


def test_a_body_is_not_read_before_the_key(app: FastAPI) -> None:
    """Where there is no key, or a wrong one, no route asks for a byte of the body; signing in takes few of them."""

    async def ask(path: str, key: str | None) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            raise AssertionError(f"{path} read its body")

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"testserver"), (b"content-type", b"application/json"), (b"content-length", b"9999999")]
        if key is not None:
            headers.append((b"authorization", f"Bearer {key}".encode()))
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "client": ("1.1.1.1", 1),
            "server": ("testserver", 80),
            "state": {},
            "app": app,
        }
        await app(scope, receive, send)
        return int(sent[0]["status"])

    paths = ("keys", "runs", "datasets", "datasets/samples", "session")
    for path in (*(f"/api/v1/{path}" for path in paths), "/v1/models/m:predict", "/v2/models/m/infer"):
        for key in (None, "key_1.wrong"):
            assert asyncio.run(ask(path, key)) == (413 if path.endswith("session") else 401), path
