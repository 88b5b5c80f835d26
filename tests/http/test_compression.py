"""HEAD answers as GET without a body; answers are compressed where a client asks for it and it is worth it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import zstandard
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse
from fastapi.testclient import TestClient

from fitserve.settings import Settings
from services.http import Router, make_app
from services.http.compression import accepted, compressed
from tests.http.test_app import identify


@pytest.fixture(scope="module")
def client() -> TestClient:
    app: FastAPI = make_app(Settings(), title="tiny", identify=identify, readiness={})
    router = Router()

    @router.get("/long")
    def long() -> list[int]:
        return list(range(1000))

    @router.get("/short")
    def short() -> int:
        return 1

    @router.get("/tagged")
    def tagged() -> Response:
        return Response("x" * 5000, media_type="text/plain", headers={"ETag": '"a"'})

    @router.get("/picture")
    def picture() -> Response:
        return Response(b"\x89PNG" * 1000, media_type="image/png")

    @router.get("/parts")
    def parts() -> StreamingResponse:
        return StreamingResponse((b"y" * 1000 for _ in range(9)), media_type="text/csv")

    app.include_router(router)
    return TestClient(app)


def get(client: TestClient, path: str, asked: str) -> Any:
    return client.get(path, headers={"Accept-Encoding": asked})


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        *(("gzip", "gzip"), ("zstd", "zstd"), ("gzip, deflate, br, zstd", "zstd"), ("", None), ("br", None)),
        *(("x-gzip", "gzip"), ("GZIP;Q=0.5", "gzip"), ("gzip;q=1, zstd;q=0.1", "gzip"), ("*", "zstd")),
        *(("gzip;q=0", None), ("identity, gzip;q=0.2", None), ("gzip;q=x", None), ("*;q=0", None), (";;,,", None)),
    ],
)
def test_the_best_liked_encoding_is_chosen(header: str, encoding: str | None) -> None:
    assert accepted(header) == encoding


def test_long_answers_are_compressed(client: TestClient) -> None:
    plain = get(client, "/long", "identity")
    assert "content-encoding" not in plain.headers
    zipped = get(client, "/long", "gzip")
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.headers["vary"].lower() == "accept-encoding"
    assert int(zipped.headers["content-length"]) < len(plain.content)
    assert zipped.json() == plain.json()
    assert get(client, "/long", "zstd").headers["content-encoding"] == "zstd"
    assert get(client, "/tagged", "gzip").headers["etag"] == 'W/"a"'
    for path in ("/short", "/picture", "/parts"):
        answer = get(client, path, "gzip")
        assert "content-encoding" not in answer.headers
        assert answer.content == get(client, path, "identity").content
    body = json.dumps(list(range(1000))).encode()
    assert gzip.decompress(compressed(body, "gzip")) == zstandard.decompress(compressed(body, "zstd")) == body


def test_head_is_get_without_a_body(client: TestClient) -> None:
    for path in ("/long", "/short", "/picture", "/parts", "/livez", "/metrics"):
        whole, head = get(client, path, "identity"), client.head(path, headers={"Accept-Encoding": "identity"})
        assert (head.status_code, head.content) == (200, b"")
        if path != "/metrics":
            assert head.headers.get("content-length") == whole.headers.get("content-length")
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert client.head("/nowhere").status_code == 404
    assert 'route="/long"' in client.get("/metrics").text
