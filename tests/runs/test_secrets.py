"""Secrets stay out of every output: logs, errors, metrics, the audit log, the doctor, and failing processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.conftest import PROJECT, free_ports
from tests.faults.cluster import Cluster
from tests.ports import free_port
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.xdist_group("faults")  # one process that forks members for all

TABLE = "a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40))


def with_password(url: str, password: str) -> str:
    """The URL with a password, which a test server that trusts everyone accepts."""
    scheme, _, rest = url.partition("://")
    user, at, place = rest.partition("@")
    return f"{scheme}://{user.partition(':')[0] if at else 'postgres'}:{password}@{place if at else rest}"


def test_no_output_holds_a_secret(postgres_url: str, tmp_path: Path) -> None:
    password, broker = f"db-{secrets.token_hex(12)}", f"redis-{secrets.token_hex(12)}"
    root_secret = secrets.token_urlsafe(32)
    port, metrics = str(free_port()), str(free_port())
    environment = {
        "FITSERVE_ROOT_KEY": f"key_root1.{root_secret}",
        "FITSERVE_AUTH": "true",
        "FITSERVE_LOG_LEVEL": "DEBUG",
    }
    outputs: list[str] = []
    with Cluster(tmp_path / "home", database_url=with_password(postgres_url, password), environment=environment) as up:
        up.start("api", FITSERVE_PORT=port)
        up.start("worker", FITSERVE_WORKER_METRICS_PORT=metrics)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            wait_for_answer(client)

            def ask(
                method: str, path: str, token: str | None = f"key_root1.{root_secret}", **more: object
            ) -> httpx2.Response:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                answer = client.request(method, path, headers=headers, **more)  # type: ignore[arg-type]
                outputs.append(f"{path} {answer.headers} {answer.text}")
                return answer

            made = ask("POST", "/api/v1/keys", json={"name": "svc", "scopes": ["read"]})
            outputs.pop()  # the one answer that shows a token
            own = made.json()["token"].partition(".")[2]
            wrong = secrets.token_urlsafe(32)
            ask("GET", "/api/v1/keys")
            ask("GET", "/api/v1/runs", f"key_root1.{wrong}")
            ask("POST", "/api/v1/keys", made.json()["token"], json={"name": "no"})
            ask("POST", "/api/v1/session", None, json={"token": f"key_root1.{wrong}"})
            ask("POST", "/api/v1/session", None, json={"token": {"a": own}})
            ask("POST", "/api/v1/session", None, json={"token": made.json()["token"]}).headers.pop("set-cookie")
            outputs.pop()  # and the one that sets the cookie
            ask("GET", f"/api/v1/runs/{own}"[:12], made.json()["token"])
            ask("PUT", "/api/v1/datasets/table", content=TABLE.encode())
            ask("POST", "/api/v1/runs", json={"dataset": "table"})
            run = up.submit(fails="error", at=1)
            up.wait_over(run)
            ask("GET", f"/api/v1/runs/{run}")
            ask("GET", f"/api/v1/runs/{run}/events")
            ask("GET", "/api/v1/audit")
            ask("GET", "/api/v1/system")
            ask("GET", "/metrics", None)
            ask("GET", "/readyz", None)
            outputs.append(httpx2.get(f"http://127.0.0.1:{metrics}/metrics", timeout=PATIENCE).text)
        variables = {**os.environ, **up.variables}
        outputs.append(run_once("workers.doctor", variables))
        away = {"FITSERVE_DATABASE_URL": f"postgresql+psycopg://u:{password}@127.0.0.1:1/x"}
        away["FITSERVE_REDIS_URL"] = f"redis://u:{broker}@127.0.0.1:1/0"
        for module in ("workers.doctor", "services.control", "services.migrate", "services.predict"):
            outputs.append(run_once(module, {**variables, **away, "FITSERVE_PORT": str(free_ports(1)[0])}))
        outputs.append(up.tail(10_000_000))
    text = "\n".join(outputs)
    assert "key_root1" in text, "ids are shown, so secrets would be found as well"
    assert "svc" in text
    for secret in (root_secret, own, wrong, password, broker):
        assert secret not in text, text[max(0, text.index(secret) - 300) : text.index(secret) + 50]


def run_once(module: str, variables: dict[str, str]) -> str:
    """The output of a process that cannot start, or that only checks."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module], cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=15
        )
    except subprocess.TimeoutExpired as expired:
        return str(expired.stdout) + str(expired.stderr)
    return done.stdout + done.stderr


def wait_for_answer(client: httpx2.Client) -> None:
    def is_ready() -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return client.get("/readyz").status_code == 200
        return False

    wait_until(is_ready, "the service is ready", pause=0.1)
