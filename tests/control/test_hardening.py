"""Attacks over HTTP that must be refused: malformed bytes, bombs, forgeries, injections, leaks.

Elsewhere: pickled tasks (tests/faults), script injection (tests/dashboard, in a browser), damaged Parquet and bombs of
every compression (tests/datasets), damaged artifacts (tests/predict), privileges of a trainer (tests/runs).
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from fitserve import db, telemetry
from fitserve.logs import JsonLines
from fitserve.settings import Settings
from services.control.app import create_app
from tests.conftest import free_ports
from tests.predict.toy_registry import ToyRegistry, numeric

MB = 1024 * 1024
TABLE = "a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40))
SPEC = {"dataset": "table", "target": "y", "network": [{"Dense": 2}]}


@pytest.fixture
def toys(sqlite_url: str, tmp_path: Path) -> ToyRegistry:
    return ToyRegistry(tmp_path, url=sqlite_url)


@pytest.fixture
def app(toys: ToyRegistry, redis_url: str) -> FastAPI:
    (silent,) = free_ports(1)  # not the usual one, on which a server of this machine may answer
    return create_app(Settings(home=toys.home, database_url=toys.url, redis_url=redis_url, predict_port=silent))


@pytest.fixture
def client(app: FastAPI, toys: ToyRegistry) -> Iterator[TestClient]:
    """A client of ada, who has every scope but admin."""
    token = toys.create_key(["read", "upload", "train", "predict"])
    with TestClient(app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.put("/api/v1/datasets/table", content=TABLE).status_code == 201
        yield client


def assert_refused(answer: Any, *statuses: int) -> dict[str, Any]:
    """Check that the answer is a problem with one of these statuses, and return it."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    "layer", [{"Lambda": "lambda x: x"}, "Lambda", "keras.models>load_model", {"class_name": "Lambda", "config": {}}]
)
def test_code_in_a_spec_is_refused(client: TestClient, layer: Any) -> None:
    assert_refused(client.post("/api/v1/runs", json={**SPEC, "network": [layer]}), 422)


def test_a_damaged_blob_is_not_served(client: TestClient, toys: ToyRegistry) -> None:
    toys.register("m", numeric(hidden=(2,)))
    assert client.get("/api/v1/models/m/versions/1/files/onnx").status_code == 200
    for path in (toys.home / "blobs").rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.chmod(0o600)
            data = bytearray(path.read_bytes())
            data[50] ^= 1
            path.write_bytes(data)
    answer = client.get("/api/v1/models/m/versions/1/files/onnx")
    assert answer.status_code >= 400
    assert "urn:fitserve:problem" in answer.text


@pytest.mark.parametrize("name", ["..%2f..%2f..%2fetc%2fpasswd", "a%00b", "%2e%2e", "A", "-a", "a" * 64, "a%0d%0ab"])
def test_path_traversal_is_refused(client: TestClient, name: str) -> None:
    assert_refused(client.put(f"/api/v1/datasets/{name}", content=TABLE), 404, 405, 422)
    for path in ("datasets", "runs", "models", "uploads"):
        assert_refused(client.get(f"/api/v1/{path}/{name}"), 404, 405, 422)
    spec = {**SPEC, "model": "../../etc/passwd"}
    assert_refused(client.post("/api/v1/runs", json=spec), 422)


@pytest.mark.parametrize(
    "path",
    [
        *(f"runs?{name}=" for name in ("model", "dataset", "dataset_id", "tag", "q", "cursor")),
        *("datasets?name=", "datasets?cursor=", "models?cursor=", "events?type=", "events?cursor="),
    ],
)
def test_a_condition_with_a_nul_is_refused(client: TestClient, path: str) -> None:
    """SQLite finds nothing; PostgreSQL has no such text, which was an internal error."""
    assert_refused(client.get(f"/api/v1/{path}a%00b"), 422)


def memory_growth_mb(before: int) -> float:
    return (psutil.Process().memory_info().rss - before) / MB


def test_oversized_multipart_is_refused_without_buffering(client: TestClient) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    before = psutil.Process().memory_info().rss
    preamble = (b"x" * MB for _ in range(100))
    assert_refused(client.post("/api/v1/datasets", content=preamble, headers=form), 400, 413)
    headers = b"".join(b"X-%d: y\r\n" % n for n in range(100_000))
    assert_refused(client.post("/api/v1/datasets", content=b"--b\r\n" + headers + b"\r\n", headers=form), 400, 413)
    parts = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 10_000
    assert_refused(client.post("/api/v1/datasets", content=parts, headers=form), 400, 413)
    assert memory_growth_mb(before) < 190, "the test client buffers one request of 100 MB; the server must not"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10**6,
        b'{"name": 1e999}',
        b'{"name": ' + b"1" * 10**5 + b"}",
        b'{"name": "a", "name": "b"}',
        b'{"name": NaN}',
        b'{"name": -Infinity}',
        b'{"name": "\xff"}',
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"",
        b"nul",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_malformed_json_is_refused(client: TestClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/api/v1/runs", "/api/v1/datasets/samples"):
        assert_refused(client.post(path, content=body, headers=headers), 400, 422)
    # Signing in needs no key yet, so its body is read only up to 4 KB.
    statuses = (413,) if len(body) > 4096 else (400, 422)
    assert_refused(client.post("/api/v1/session", content=body, headers=headers), *statuses)
    assert_refused(client.post("/api/v1/datasets/samples", content=b" " * (10 * MB + 1), headers=headers), 413)


def test_a_compression_bomb_is_refused(client: TestClient) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        file.write(b"a,y\n")
        for _ in range(200):
            file.write(b"0,0\n" * (MB // 4))
    before = psutil.Process().memory_info().rss
    assert len(packed.getvalue()) < MB
    assert_refused(client.put("/api/v1/datasets/bomb", content=packed.getvalue()), 413, 422)
    assert memory_growth_mb(before) < 200


def test_csv_limits_and_formula_escaping(client: TestClient) -> None:
    assert_refused(client.put("/api/v1/datasets/wide", content=",".join(f"c{n}" for n in range(10**5)) + "\n"), 413)
    assert_refused(client.put("/api/v1/datasets/long", content="a,b\n1," + "x" * (2 * MB) + "\n"), 413, 422)
    cells = ["=1+2", "+1+2", "-1+2", "@SUM(A1)", "\tx", "plain"]
    table = "name,y\n" + "".join(f'"{cell}",{n}\n' for n, cell in enumerate(cells * 4))
    client.put("/api/v1/datasets/formulas", content=table).raise_for_status()
    text_of_csv = client.get("/api/v1/datasets/formulas/download?format=csv").text
    for cell in cells[:4]:
        assert f"'{cell}" in text_of_csv, cell


@pytest.mark.parametrize(
    ("part", "limit"),
    [
        ({"network": [{"Dense": 10**9}]}, "parameters"),
        ({"network": [{"Dense": 1}] * 10_000}, "layers"),
        ({"training": {"epochs": 10**12}}, "epochs"),
    ],
)
def test_oversized_specs_are_refused(client: TestClient, part: dict[str, Any], limit: str) -> None:
    problem = assert_refused(client.post("/api/v1/runs", json={**SPEC, **part}), 422)
    assert limit in json.dumps(problem)


def test_cross_site_requests_are_refused(app: FastAPI, toys: ToyRegistry) -> None:
    token = toys.create_key(["admin"])
    with TestClient(app) as page:
        page.post("/api/v1/session", json={"token": token}).raise_for_status()
        body = {"name": "x", "scopes": ["admin"]}
        for origin in ("https://evil.example", "null", "http://testserver.evil.example", None):
            headers = {"Origin": origin} if origin else {}
            assert_refused(page.post("/api/v1/keys", json=body, headers=headers), 403)
            assert_refused(page.post("/api/v1/keys", data={"name": "x"}, headers=headers), 403)
        assert page.post("/api/v1/keys", json=body, headers={"Origin": "http://testserver"}).status_code == 201
        preflight_headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        preflight = page.options("/api/v1/keys", headers=preflight_headers)
        assert not any(name.lower().startswith("access-control") for name in preflight.headers)
        read = page.get("/api/v1/keys", headers={"Origin": "https://evil.example"})
        assert not any(name.lower().startswith("access-control") for name in read.headers)


def test_log_lines_cannot_be_forged(client: TestClient) -> None:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonLines("api"))
    logger = logging.getLogger("fitserve.access")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        client.get('/api/v1/datasets/name%0d%0a{"level":"ERROR","message":"forged"}')
        client.get("/api/v1/%1b[31m%e2%80%a8x", headers={"X-Request-ID": 'a"} {"level": "ERROR"'})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = sink.getvalue().split("\n")[:-1]
    assert len(lines) == 2
    assert [json.loads(line)["level"] for line in lines] == ["INFO", "INFO"]
    assert all(character.isprintable() for line in lines for character in line)


def test_unknown_paths_create_no_telemetry_series(app: FastAPI, client: TestClient) -> None:
    def count_series() -> int:
        return telemetry.exposition().count(b"\n")

    async def request(path: str) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "client": ("1.2.3.4", 5),
            "server": ("x", 80),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
            "app": app,
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_message: Any) -> None:
            return None

        await app(scope, receive, send)

    rng = random.Random(0)

    async def request_many(count: int) -> None:
        for _ in range(count):
            await request(f"/{rng.choice(['', 'api/', 'api/v1/', 'metrics/'])}{rng.getrandbits(64):x}")

    logging.getLogger("fitserve.access").setLevel(logging.WARNING)
    asyncio.run(request_many(50))
    before = count_series()
    asyncio.run(request_many(1_000))
    logging.getLogger("fitserve.access").setLevel(logging.NOTSET)
    assert count_series() == before


def test_a_broken_database_leaks_no_internals(app: FastAPI, client: TestClient, toys: ToyRegistry) -> None:
    with db.transaction(toys.engine) as session:
        session.execute(text("DROP TABLE events"))
        session.execute(text("ALTER TABLE runs RENAME TO gone"))
    answer = client.get("/api/v1/runs")
    assert answer.status_code in (500, 503)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    for leak in ("sqlite", "SELECT", "runs.", "no such table", str(toys.home), "Traceback", "sqlalchemy"):
        assert leak not in answer.text, answer.text


def test_a_key_in_the_url_is_ignored(app: FastAPI, toys: ToyRegistry) -> None:
    token = toys.create_key(["admin"])
    with TestClient(app) as anonymous:
        for name in ("key", "api_key", "token", "access_token", "authorization"):
            assert_refused(anonymous.get("/api/v1/session", params={name: token}), 401)
        assert_refused(anonymous.get("/api/v1/session", headers={"X-API-Key": token}), 401)
        assert_refused(anonymous.get("/api/v1/session", headers={"Authorization": f"Basic {token}"}), 401)


SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def test_every_kind_of_answer_has_a_request_id_and_security_headers(client: TestClient, toys: ToyRegistry) -> None:
    toys.register("m", numeric(hidden=(2,)))
    run = client.post("/api/v1/runs", json=SPEC).json()["id"]
    client.post(f"/api/v1/runs/{run}/cancel")
    stream = {"Accept": "text/event-stream"}
    kinds: dict[str, tuple[int, Any]] = {
        "json": (200, client.get("/api/v1/session")),
        "created": (201, client.put("/api/v1/datasets/t2", content=TABLE + "9,9\n")),
        "empty": (204, client.options("/api/v1/uploads")),
        "not modified": (304, client.get("/api/v1/datasets/t2", headers={"If-None-Match": ""})),
        "unreadable": (400, client.post("/api/v1/runs", content=b"{", headers={"Content-Type": "application/json"})),
        "no key": (401, client.get("/api/v1/session", headers={"Authorization": ""})),
        "forbidden": (403, client.get("/api/v1/audit")),
        "not found": (404, client.get("/api/v1/runs/nothing")),
        "unmatched": (404, client.get("/nothing/at/all")),
        "method": (405, client.patch("/api/v1/session")),
        "too large": (413, client.post("/api/v1/datasets/samples", content=b" " * (11 * MB))),
        "media": (415, client.post("/api/v1/runs", content=b"x", headers={"Content-Type": "image/png"})),
        "refused": (422, client.post("/api/v1/runs", json={})),
        "unavailable": (503, client.post("/v1/models/m:predict", json={})),
        "file": (200, client.get("/api/v1/models/m/versions/1/files/onnx")),
        "download": (200, client.get("/api/v1/datasets/table/download")),
        "stream": (200, client.get(f"/api/v1/runs/{run}/events", headers=stream)),
        "metrics": (200, client.get("/metrics")),
        "alive": (200, client.get("/livez")),
        "schema": (200, client.get("/api/v1/schemas/spec")),
        "openapi": (200, client.get("/api/v1/openapi.json")),
        "docs": (200, client.get("/docs")),
        "script": (200, client.get("/docs/swagger-ui-bundle.js")),
        "page": (200, client.get("/")),
    }
    etag = kinds["created"][1].headers["etag"]
    known = client.get("/api/v1/datasets/t2").headers["etag"]
    assert etag
    kinds["not modified"] = (304, client.get("/api/v1/datasets/t2", headers={"If-None-Match": known}))
    for kind, (status, answer) in kinds.items():
        if kind == "page" and answer.status_code == 404:
            continue  # the dashboard is not built here
        assert answer.status_code == status, (kind, answer.status_code, answer.text[:200])
        assert len(answer.headers.get("x-request-id", "")) > 10, kind
        for name, value in SECURITY.items():
            assert answer.headers.get(name) == value, (kind, name)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, kind
        script = next(part for part in policy.split(";") if "script-src" in part)
        assert "unsafe" not in script, kind
