"""The frame of every page: the palette and its shortcuts; Home's next step, from an empty server to a model."""

from __future__ import annotations

import json
import re

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect

from tests.dashboard.conftest import wait_until_ended

pytestmark = pytest.mark.xdist_group("dashboard")


def test_the_palette_goes_anywhere_by_keyboard(page: Page, trained: list[str]) -> None:
    heading = page.get_by_role("heading", level=1)
    page.goto("/")
    heading.wait_for()
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(heading).to_have_text("Runs")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search runs")).to_be_focused()
    page.keyboard.type("g m")  # typed into the search, it goes nowhere
    expect(heading).to_have_text("Runs")
    page.keyboard.press("Control+k")
    palette = page.get_by_role("dialog", name="Go to a page, run, table or model")
    palette.get_by_role("combobox").fill("browser-small")
    options = palette.get_by_role("option")
    expect(options.filter(has_text="Model").filter(has_text="browser-small")).to_be_visible()
    expect(options.filter(has_text=trained[0][-8:])).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(heading).to_contain_text("browser-small")
    page.keyboard.press("?")
    palette.get_by_role("combobox").fill("dark")
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(palette).to_have_count(0)


def test_one_click_leads_from_nothing_to_a_trained_model(page: Page, api: httpx2.Client) -> None:
    def nothing(route: Route) -> None:
        if route.request.method == "GET":
            route.fulfill(json={"items": [], "next_cursor": None, "total": 0})
        else:
            route.continue_()

    def briefly(route: Route) -> None:
        spec = route.request.post_data_json
        assert spec.keys() == {"dataset", "target", "model"}  # all else is fitserve's choice
        route.continue_(post_data=json.dumps({**spec, "training": {"epochs": 3}}))

    page.route(re.compile(r"/api/v1/runs$"), briefly)
    page.route(re.compile(r"/api/v1/(datasets|runs)\?"), nothing)
    page.goto("/")
    page.get_by_role("button", name="Train an example now").click()
    page.wait_for_url(re.compile(r"/runs/run_"))
    run = page.url.split("/")[-1]
    page.unroute(re.compile(r"/api/v1/(datasets|runs)\?"))
    page.goto("/")
    following = page.get_by_role("region", name="Next")
    expect(following.get_by_role("link")).to_have_attribute("href", re.compile(f"{run}|/models/titanic"))
    assert wait_until_ended(api, run) == "succeeded"
    # It averages networks, all of which a fork goes on with.
    page.goto(f"/runs/{run}")
    expect(page.get_by_role("button", name="Fork…")).to_be_visible()
    page.goto("/")
    following.get_by_role("link", name="Try it").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("titanic")
