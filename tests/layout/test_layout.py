"""Two of each service on separate machines: the journey passes, and continues after one of each pair is lost."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from fitserve.ids import new_id
from tests.conftest import _run_sql, _with_database
from tests.journey.test_journey import SPEC, circle
from tests.layout.layout import LEASES, Layout, Member, until
from tests.live_files import files_under
from tests.needs import need
from tests.tls.certificate import make_certificate
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("layout")

POINTS = [{"x": 0.1, "y": -0.2, "colour": "red"}, {"x": 4.8, "y": 4.7, "colour": "blue"}]
SHORT = {**SPEC, "training": {**SPEC["training"], "epochs": 25}}  # type: ignore[dict-item]
LONG = {**SHORT, "training": {"epochs": 400, "batch_size": 16, "seed": 1}, "model": "long"}


@pytest.fixture(scope="module")
def layout(postgres: str, s3_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    need("nginx")
    name = new_id("t")
    _run_sql(postgres, f"CREATE DATABASE {name}")
    layout = Layout(
        tmp_path_factory.mktemp("layout"),
        {
            **s3_environment,
            **LEASES,
            "FITSERVE_DATABASE_URL": _with_database(postgres, name),
            "FITSERVE_BLOB_URL": f"s3://{name.replace('_', '-')}/blobs",
        },
    )
    try:
        layout.make_secrets()
        layout.start_redis()
        for role in ("api", "predict", "worker", "reaper"):
            for number in (1, 2):
                layout.add(f"{role}-{number}")
        layout.base = layout.start_nginx()
        layout.run_job("services.migrate")
        for member in layout.members.values():
            member.start()
        layout.wait_ready()
        yield layout
    finally:
        layout.close()
        _run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def upload(http: httpx2.Client) -> None:
    answer = http.put("/api/v1/datasets/circle", content=circle(), headers={"Content-Type": "text/csv"})
    assert answer.status_code == 201, answer.text


def submit(http: httpx2.Client, spec: dict[str, Any]) -> str:
    answer = http.post("/api/v1/runs", json=spec, headers={"Idempotency-Key": new_id("k")})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def finish(http: httpx2.Client, run_id: str, seconds: float = 90) -> Any:
    """Wait for the run to succeed and return it; no response on the way may be an error."""

    def over() -> Any:
        run = http.get(f"/api/v1/runs/{run_id}").raise_for_status().json()
        return run if run["state"] in ("succeeded", "failed", "cancelled") else None

    run = until(over, seconds, f"{run_id} over")
    assert run["state"] == "succeeded", run
    return run


def predict_points(http: httpx2.Client, version: int) -> list[dict[str, float]]:
    """Return predictions of that version, which replicas find by polling."""

    def respond() -> httpx2.Response | None:
        answer = http.post(f"/v1/models/circle/versions/{version}:classify", json={"examples": POINTS})
        assert answer.status_code in (200, 404), answer.text
        return answer if answer.status_code == 200 else None

    return [dict(row) for row in until(respond, 20, f"version {version}").json()["results"]]


def training_worker(layout: Layout, run_id: str) -> Member:
    """Return the worker that trains this run, once it has a checkpoint."""
    url = layout.variables["FITSERVE_DATABASE_URL"].replace("postgresql+psycopg", "postgresql", 1)
    query = "SELECT worker FROM runs WHERE id = %s AND state = 'running' AND checkpoint IS NOT NULL"

    def find() -> Member | None:
        with psycopg.connect(url) as connection:
            row = connection.execute(query, (run_id,)).fetchone()
        return next(
            (m for m in layout.members_of("worker") if row and m.process and f"-{m.process.pid}-" in row[0]), None
        )

    return until(find, 60, f"a worker with {run_id}")


def test_a_resumable_upload_continues_at_any_api(layout: Layout) -> None:
    table = circle(3).encode()
    headers = {"Authorization": f"Bearer {layout.token}", "Tus-Resumable": "1.0.0"}
    patch = {"Content-Type": "application/offset+octet-stream"}
    with contextlib.ExitStack() as stack:
        apis = [
            stack.enter_context(
                httpx2.Client(base_url=f"http://127.0.0.1:{member.port}", headers=headers, timeout=PATIENCE)
            )
            for member in layout.members_of("api")
            if not member.has_ended()
        ]
        assert len(apis) == 2
        created = apis[0].post("/api/v1/uploads", headers={"Upload-Length": str(len(table))})
        address = created.headers["Location"]
        offset = 0
        for piece in range(5):
            end = len(table) if piece == 4 else offset + len(table) // 5
            api = apis[piece % 2]
            assert api.head(address).headers["Upload-Offset"] == str(offset)
            sent = api.patch(address, content=table[offset:end], headers={**patch, "Upload-Offset": str(offset)})
            assert sent.status_code == 204, sent.text
            offset = end
        dataset = apis[1].get(sent.headers["Content-Location"]).raise_for_status().json()
        assert dataset["rows"] == 300


def test_the_journey_and_the_loss_of_one_of_each_pair(layout: Layout) -> None:
    with layout.client() as http:
        upload(http)
        finish(http, submit(http, SHORT))
        before = predict_points(http, 1)
        assert before[0]["in"] > 0.5 > before[1]["in"]
        assert [member.process.poll() for member in layout.members.values() if member.process] == [None] * 8

        run_id = submit(http, LONG)
        lost = [
            training_worker(layout, run_id),
            *(layout.members[f"{role}-1"] for role in ("api", "predict", "reaper")),
        ]
        for member in lost:
            member.kill()
        for _ in range(20):
            assert predict_points(http, 1) == before
            assert http.get("/api/v1/runs").status_code == 200
        run = finish(http, run_id)
        assert run["attempt"] >= 2
        assert 1 <= run["spent_attempts"] < run["attempt"]
        assert run["model"] == "long"

        upload_again = http.get("/api/v1/datasets/circle").raise_for_status().json()
        assert upload_again["rows"] == 300
        finish(http, submit(http, SHORT))
        predict_points(http, 2)
        assert predict_points(http, 1) == before


def test_the_proxy_hides_internal_endpoints(layout: Layout) -> None:
    with layout.client() as http:
        for path in ("/metrics", "/livez", "/readyz"):
            assert http.get(path).status_code == 404, path
        assert http.get("/healthz").text == "ok\n"
        assert "nginx/" not in http.get("/healthz").headers["server"]


def test_https(layout: Layout, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    base = layout.start_nginx("https", (certificate, key))
    with httpx2.Client(
        base_url=base, verify=ssl.create_default_context(cafile=str(certificate)), timeout=PATIENCE
    ) as http:
        answer = http.post("/api/v1/session", json={"token": layout.token}, headers={"Origin": base})
        assert answer.status_code == 200, answer.text
        assert "secure" in answer.headers["Set-Cookie"].lower()
        assert "max-age" in answer.headers["Strict-Transport-Security"]
        assert [name.lower() for name in answer.headers].count("server") == 1
    plain = httpx2.get(f"{base.replace('https', 'http')}/docs?a=1", timeout=PATIENCE)
    assert (plain.status_code, plain.headers["Location"]) == (308, f"{base}/docs?a=1")


def test_no_state_is_left_on_a_members_disk(layout: Layout) -> None:
    """A machine's disk may be lost with it."""
    for member in layout.members.values():
        files = [path for path in files_under(member.home) if "scratch" not in path.parts]
        assert files == [], member.name
