"""Who can use the pages: keyboard, screen reader, narrow screens, another language, another theme."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Server
from tests.dashboard.conftest import DASHBOARD, upload
from tests.dashboard.test_journey import admissions

PAGES = ("/", "/datasets", "/datasets/browser-axe", "/new?dataset=browser-axe&target=admit", "/runs")
MORE = ("/models", "/playground", "/compare", "/system", "/nowhere")


@pytest.fixture(scope="session")
def axe() -> str:
    return (DASHBOARD / "node_modules" / "axe-core" / "axe.min.js").read_text()


def serious(page: Page, axe: str) -> list[str]:
    """What axe finds serious or worse on the page as it is."""
    page.evaluate(axe)
    found: list[dict[str, Any]] = page.evaluate("axe.run().then((result) => result.violations)")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} ({one['nodes'][0]['failureSummary'][:200]})"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, api: httpx2.Client, axe: str, scheme: Any) -> None:
    upload(api, "browser-axe", admissions(60))
    page.emulate_media(color_scheme=scheme)
    for path in PAGES + MORE:
        page.goto(path)
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_timeout(250)
        assert serious(page, axe) == [], path


def test_narrow_screens_scroll_in_one_direction(page: Page, api: httpx2.Client) -> None:
    upload(api, "browser-axe", admissions(60))
    page.set_viewport_size({"width": 390, "height": 800})
    for path in PAGES + MORE:
        page.goto(path)
        page.get_by_role("heading", level=1).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_the_language_and_the_theme_stay(page: Page) -> None:
    page.goto("/datasets")
    page.get_by_label("Language").select_option("zh-Hant")
    expect(page.get_by_role("heading", level=1)).to_have_text("資料集")
    page.get_by_role("button", name="深色").click()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("資料集")
    assert page.evaluate("document.documentElement.lang") == "zh-Hant"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_keyboard_is_enough(page: Page) -> None:
    page.goto("/datasets")
    page.get_by_role("heading", level=1).wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("New run")


def test_without_a_key_the_page_asks_for_one(browser: Browser, server: Server) -> None:
    context = browser.new_context(base_url=server.base_url, locale="en-US")
    page = context.new_page()
    page.goto("/runs")
    page.get_by_label("API key").fill("key_x.wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("API key").fill(server.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    context.close()
