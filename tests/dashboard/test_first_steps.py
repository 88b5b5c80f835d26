"""A first visit: the link of `fitserve up` signs in once, and the first page offers ways to start."""

from __future__ import annotations

import re

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from fitserve import api_keys, browser_sessions, db
from tests.conftest import Server
from tests.dashboard.conftest import upload

LISTS = re.compile(r"/api/v1/(datasets|runs)\?")
SCOPES = ["read", "upload", "train", "predict"]


@pytest.fixture
def token(server: Server, api: httpx2.Client) -> str:
    """A one-time token of a newcomer, who sees nothing of the other tests' tables and runs."""
    made = api.post("/keys", json={"name": "first-steps", "owner": "newcomer", "scopes": SCOPES})
    made.raise_for_status()
    engine = db.make_engine(f"sqlite:///{server.home / 'fitserve.db'}")
    try:
        with db.transaction(engine) as session:
            return browser_sessions.issue_one_time_token(session, api_keys.split_token(made.json()["token"])[0])
    finally:
        engine.dispose()


def show_nothing(route: Route) -> None:
    """Answer a list with none; a spec that is checked goes to the server."""
    if route.request.method == "GET":
        route.fulfill(json={"items": [], "next_cursor": None})
    else:
        route.continue_()


def test_the_link_signs_in_once_and_the_first_page_offers_four_beginnings(
    browser: Browser, server: Server, token: str, api: httpx2.Client
) -> None:
    context = browser.new_context(base_url=server.base_url, locale="en-US", viewport={"width": 390, "height": 800})
    page = context.new_page()
    # Other tests share tables with every owner.
    page.route(LISTS, show_nothing)
    page.goto(f"/#key={token}")
    steps = page.get_by_role("region", name="Where do you want to start?")
    expect(steps).to_be_visible()
    expect(page).to_have_url(f"{server.base_url}/")  # the token is gone from the address
    for name in ("Your own table", "A toy table", "The course", "The playground"):
        expect(steps.get_by_text(name, exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto(f"/?again#key={token}")  # used, but this browser is still signed in
    expect(steps).to_be_visible()

    page.get_by_label("Language", exact=True).select_option("zh-Hant")
    expect(page.get_by_role("region", name="想從哪裡開始？")).to_contain_text("範例課程")
    page.get_by_label("語言", exact=True).select_option("en")

    steps.get_by_role("button", name="The course").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("New run")
    expect(page.get_by_text("ready", exact=True)).to_be_visible()
    page.unroute(LISTS)
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Watch a neural network learn")
    expect(steps).to_have_count(0)  # there is a table now
    context.close()

    other = browser.new_context(base_url=server.base_url, locale="en-US")
    page = other.new_page()
    page.goto(f"/#key={token}")
    expect(page.get_by_text("This link has been used already, or has expired.")).to_be_visible()
    other.close()
    api.delete("/datasets/circle@1").raise_for_status()  # other tests use the name


def test_a_wide_table_draws_a_part_of_its_columns(page: Page, api: httpx2.Client) -> None:
    names = [f"c{at}" for at in range(250)]
    rows = "".join(",".join(str(at * row % 7) for at in range(250)) + "\n" for row in range(5))
    ref = upload(api, "browser-wide", ",".join(names) + "\n" + rows)
    profiled: list[str] = []

    def note(route: Route) -> None:
        profiled.append(route.request.url.partition("?")[2])
        route.continue_()

    page.route("**/profile?*", note)
    page.goto(f"/datasets/{ref}")
    expect(page.get_by_text("columns 1 to 100 of 250")).to_be_visible()
    expect(page.get_by_role("img", name="Distribution of c99", exact=True)).to_be_visible()
    assert profiled == ["limit=100&offset=0"]
    expect(page.locator("tbody tr")).to_have_count(100)
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_role("searchbox", name="Search columns").fill("c24")
    expect(page.locator("tbody tr")).to_have_count(11)
    expect(page.get_by_role("img", name="Distribution of c249", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Rows").click()
    expect(page.locator("thead th")).to_have_count(101)
    page.get_by_role("searchbox", name="Search columns").fill("c249")
    expect(page.locator("tbody tr").nth(3).locator("td").last).to_have_text(str(249 * 3 % 7))
