"""Every page and the playground in Firefox; the other tests use Chromium."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.conftest import Server
from tests.dashboard.firefox import Firefox, opened
from tests.needs import need

pytestmark = pytest.mark.xdist_group("dashboard")

# Drawn whole: a heading, nothing that is still being fetched, and no error.
DRAWN = """(() => {
  const main = document.querySelector("main");
  return !!main?.querySelector("h1")?.textContent && !main.querySelector("[role=status] .spinner")
})()"""
TROUBLE = 'document.querySelector("main [role=alert]")?.textContent ?? ""'


def pages(runs: list[str], dataset: str) -> dict[str, tuple[str, ...]]:
    """Return each page's path with its tabs."""
    run_tabs = ("curves", "evaluation", "findings", "layers", "surface", "events", "spec")
    return {
        "/": (),
        "/datasets": (),
        f"/datasets/{dataset}": ("columns", "rows", "relations", "history"),
        f"/new?dataset={dataset}": (),
        "/runs": (),
        f"/runs/{runs[0]}": run_tabs,
        f"/compare?runs={','.join(runs)}": (),
        "/models": (),
        "/models/browser-small": ("try", "versions", "rollout", "live"),
        "/lessons": (),
        "/automations": (),
        "/system": ("now", "alarms", "audit", "storage", "keys"),
        "/nowhere": (),
    }


@pytest.mark.long  # the short form: the same pages in Chromium, page by page, in the other files
def test_every_page_and_the_playground(server: Server, api: httpx2.Client, trained: list[str], tmp_path: Path) -> None:
    version = api.get("/datasets/browser-small").raise_for_status().json()["version"]
    with opened(need("firefox"), tmp_path) as firefox:
        firefox.open(f"{server.base_url}/#key={server.token}")
        firefox.wait_for(DRAWN)
        for path, tabs in pages(trained, f"browser-small@{version}").items():
            for tab in tabs or ("",):
                mark = "&" if "?" in path else "?"
                firefox.open(f"{server.base_url}{path}" + (f"{mark}tab={tab}" if tab else ""))
                firefox.wait_for(DRAWN)
                assert firefox.evaluate(TROUBLE) == "", (path, tab)
                assert not is_wider_than_the_window(firefox), (path, tab)
        play(firefox, f"{server.base_url}/playground?epochs=2000&layers=4-2")
        assert firefox.errors == []


def is_wider_than_the_window(firefox: Firefox) -> bool:
    return bool(firefox.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1"))


def play(firefox: Firefox, address: str) -> None:
    """Have the playground learn, and stop it."""
    firefox.open(address)
    firefox.press("Play")
    epoch = "Number(document.querySelector('[data-testid=epoch]').textContent)"
    firefox.wait_for(f"{epoch} > 20")
    firefox.press("Pause")
    loss = float(firefox.evaluate("document.querySelector('.value.train').textContent"))
    assert 0 < loss < 0.7, "it learns"
