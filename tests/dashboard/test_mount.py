"""The pages and forwarded predictions on the API's address."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx2
from fastapi import FastAPI
from fastapi.testclient import TestClient

from services.control.pages import DASHBOARD, mount_dashboard
from tests.conftest import Server
from tests.waiting import PATIENCE

HTML = {"Accept": "text/html"}
FIRST_BYTES = 220_000  # of scripts and styles, packed, before any page shows what it is about


def client_with_pages(folder: Path) -> TestClient:
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text("<h1>pages</h1>")
    app = FastAPI()
    app.add_api_route("/api/v1/limits", lambda: {"rows": 1})
    mount_dashboard(app, folder)
    return TestClient(app)


def test_deep_links_get_the_page_and_routes_stay_routes(tmp_path: Path) -> None:
    client = client_with_pages(tmp_path / "build")
    assert client.get("/runs/run_1?tab=events", headers=HTML).text == "<h1>pages</h1>"
    assert client.get("/api/v1/limits", headers=HTML).json() == {"rows": 1}
    assert client.get("/assets/missing.js").status_code == 404
    assert client.get("/../../etc/passwd").status_code == 404


def test_assets_are_kept_for_good_and_sent_as_the_build_packed_them(tmp_path: Path) -> None:
    assets = tmp_path / "build" / "assets"
    assets.mkdir(parents=True)
    for name, content in {"a-1.js": b"plain", "a-1.js.gz": gzip.compress(b"packed"), "b-1.svg": b"<svg/>"}.items():
        (assets / name).write_bytes(content)
    client = client_with_pages(tmp_path / "build")
    packed = client.get("/assets/a-1.js", headers={"Accept-Encoding": "gzip, deflate, zstd"})
    assert (packed.text, packed.headers["content-encoding"]) == ("packed", "gzip")
    assert packed.headers["content-type"].startswith("text/javascript")
    assert "immutable" in packed.headers["cache-control"]
    plain = client.get("/assets/a-1.js", headers={"Accept-Encoding": "identity"})
    assert (plain.text, plain.headers["vary"]) == ("plain", "Accept-Encoding")
    assert "content-encoding" not in plain.headers
    assert client.get("/assets/b-1.svg").text == "<svg/>"  # never packed
    unchanged = client.get("/assets/a-1.js", headers={"If-None-Match": packed.headers["etag"]})
    assert unchanged.status_code == 304


def test_the_first_page_is_light_and_paints_before_its_scripts() -> None:
    page = (DASHBOARD / "index.html").read_text()
    named = re.findall(r'"(/assets/[^"]+)"', page)
    packed = [path for name in named if (path := DASHBOARD / f"{name[1:]}.gz").exists()]
    assert sum(path.stat().st_size for path in packed) < FIRST_BYTES
    assert re.search(r'<div id="root">.*fitserve.*</div>', page)


def test_without_a_build_the_page_says_how_to_build_it(tmp_path: Path) -> None:
    app = FastAPI()
    mount_dashboard(app, tmp_path / "nothing")
    assert "make dashboard" in TestClient(app).get("/").text


def test_pages_have_a_strict_content_security_policy(server: Server) -> None:
    answer = httpx2.get(f"{server.base_url}/runs", headers=HTML, timeout=PATIENCE)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "<script>" not in answer.text


def test_predictions_are_forwarded_with_the_callers_key(server: Server) -> None:
    here = f"{server.base_url}/v1/models"
    assert httpx2.get(here, timeout=PATIENCE).status_code == 401
    direct = httpx2.get(f"{server.predict_url}/v1/models", headers=server.headers, timeout=PATIENCE)
    forwarded = httpx2.get(here, headers=server.headers, timeout=PATIENCE)
    assert (forwarded.status_code, forwarded.json()) == (200, direct.json())
    missing = httpx2.post(
        f"{here}/nothing:predict", headers=server.headers, json={"instances": [[1]]}, timeout=PATIENCE
    )
    assert missing.status_code == 404
    assert "error" in missing.json()
    assert httpx2.get(f"{server.base_url}/v2/health/live", timeout=PATIENCE).json() == {"live": True}


def test_a_cookie_only_authenticates_its_own_origin(server: Server) -> None:
    with httpx2.Client(base_url=server.base_url, timeout=PATIENCE) as client:
        client.post("/api/v1/session", json={"token": server.token}).raise_for_status()
        assert client.get("/v1/models").status_code == 200
        forged = client.post("/v1/models/m:predict", json={"instances": []}, headers={"Origin": "http://evil.example"})
        assert forged.status_code == 403


def test_predictions_answer_503_without_a_prediction_service(tmp_path: Path, sqlite_url: str) -> None:
    from fitserve.settings import Settings
    from services.control.app import create_app

    settings = Settings(
        home=tmp_path, database_url=sqlite_url, redis_url="redis://127.0.0.1:1/0", predict_url="http://127.0.0.1:9"
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        answer = client.get("/v2/models")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
