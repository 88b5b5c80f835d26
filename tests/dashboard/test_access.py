"""Accessibility: keyboard, screen reader, narrow screens, languages, themes, sign-in."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Server
from tests.dashboard.conftest import DASHBOARD

PAGES = (
    *("/", "/datasets", "/datasets/browser-small", "/datasets/browser-small?tab=rows", "/runs", "/models", "/system"),
    *("/datasets/browser-small?tab=relations&target=kind", "/new?dataset=browser-small&target=kind", "/nowhere"),
    *("/models/browser-small?as=python", "/models/browser-small?tab=versions", "/models/browser-small?tab=live"),
)
TABS = ("curves", "layers", "findings", "evaluation", "surface", "events", "spec")


def pages(trained: list[str]) -> list[str]:
    """Every page, and every tab of a run."""
    runs = [f"/runs/{trained[0]}?tab={tab}" for tab in TABS]
    return [*PAGES, *runs, f"/compare?runs={','.join(trained)}", "/playground?epochs=10&test=1"]


@pytest.fixture(scope="session")
def axe() -> str:
    return (DASHBOARD / "node_modules" / "axe-core" / "axe.min.js").read_text()


def serious_violations(page: Page, options: str) -> list[str]:
    """Return the violations that axe rates serious or critical."""
    violations: list[dict[str, Any]] = page.evaluate(
        f"axe.run(document, {{resultTypes: ['violations'], {options}}}).then((result) => result.violations)"
    )
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} ({one['nodes'][0]['failureSummary'][:200]})"
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]


def test_every_page_fits_a_narrow_screen_and_axe_finds_nothing_serious(
    page: Page, trained: list[str], axe: str
) -> None:
    wide = page.viewport_size
    assert wide is not None
    for path in pages(trained):
        page.set_viewport_size({"width": 390, "height": 800})
        show(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.set_viewport_size(wide)
        page.evaluate(axe)
        assert serious_violations(page, "") == [], path
        # Of axe's rules, only those on colours can differ between light and dark.
        page.emulate_media(color_scheme="dark")
        assert serious_violations(page, "runOnly: ['color-contrast']") == [], f"{path}, dark"
        page.emulate_media(color_scheme="light")


def show(page: Page, path: str) -> None:
    page.goto(path)
    page.get_by_role("heading", level=1).wait_for()
    if "playground" in path:
        page.get_by_role("button", name="Play", exact=True).click()
        expect(page.get_by_test_id("surface")).to_contain_text("weights")
        page.get_by_text("All weights and biases as numbers").click()
    expect(page.locator("main .spinner")).to_have_count(0)


def test_language_and_theme_survive_a_reload(page: Page) -> None:
    page.goto("/datasets")
    page.get_by_label("Language").select_option("zh-Hant")
    expect(page.get_by_role("heading", level=1)).to_have_text("資料集")
    page.get_by_role("button", name="深色").click()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("資料集")
    assert page.evaluate("document.documentElement.lang") == "zh-Hant"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.goto("/datasets")
    page.get_by_role("heading", level=1).wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("New run")


def test_signing_in_and_out(browser: Browser, server: Server) -> None:
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


def test_a_revoked_key_ends_the_session(browser: Browser, server: Server, api: httpx2.Client) -> None:
    key = api.post("/keys", json={"name": "ends", "scopes": ["read"]}).json()
    context = browser.new_context(base_url=server.base_url, locale="en-US")
    page = context.new_page()
    page.goto(f"/#key={key['token']}")
    page.get_by_role("link", name="Runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    api.delete(f"/keys/{key['id']}").raise_for_status()
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_text("Your session ended: the key expired or was revoked.")).to_be_visible()
    context.close()
