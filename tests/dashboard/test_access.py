"""Accessibility: keyboard, screen reader, narrow screens, languages, themes, sign-in."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.conftest import Server
from tests.dashboard.conftest import DASHBOARD

NOWHERE, NOT_FOUND = "/nowhere", "Page not found"
PAGES = (
    *("/", "/datasets", "/datasets/browser-small", "/datasets/browser-small?tab=rows", "/runs", "/models", "/system"),
    *("/automations", "/automations?tab=webhooks", "/lessons", "/lessons?tab=glossary"),
    *("/datasets/browser-small?tab=relations&target=kind", "/datasets/browser-small?tab=history"),
    *("/new?dataset=browser-small&target=kind", NOWHERE),
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


def serious_violations(page: Page, options: str, where: str = "html") -> list[str]:
    """Return the violations that axe rates serious or critical."""
    violations: list[dict[str, Any]] = page.evaluate(
        f"axe.run('{where}', {{resultTypes: ['violations'], {options}}}).then((result) => result.violations)"
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
    load(page, axe)
    for path in pages(trained):
        page.set_viewport_size({"width": 390, "height": 800})
        show(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.set_viewport_size(wide)
        assert serious_violations(page, "") == [], path
        # Of axe's rules, only those on colours can differ between light and dark.
        page.emulate_media(color_scheme="dark")
        assert serious_violations(page, "runOnly: ['color-contrast']") == [], f"{path}, dark"
        page.emulate_media(color_scheme="light")


# What opens over a page, by the page that it is on and the name of the button; `{run}` is a finished run.
OPENED = (
    *(("/runs", "Columns"), ("/runs", "Views"), ("/runs", "Edit name, tags and notes"), ("/runs", "Go to")),
    *(("/runs/{run}", "Fork"), ("/models/browser-small", "Predict a table"), ("/models/browser-small", "Share")),
    *(("/models/browser-small", "Unload"), ("/automations", "New automation"), ("/system?tab=keys", "New key")),
    *(("/automations?tab=webhooks", "New webhook"), ("/datasets/browser-small", "a")),
)


def test_what_opens_over_a_page_fits_it_and_axe_finds_nothing_serious(page: Page, trained: list[str], axe: str) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    dialog, shown = "[role=dialog], [role=alertdialog]", ""
    load(page, axe)
    for path, name in OPENED:
        if path != shown:
            show(page, path.format(run=trained[0]))
            shown = path
        page.get_by_role("button", name=re.compile(f"^{name}")).first.click()
        opened = page.locator(dialog).last
        expect(opened).to_be_visible()
        box = opened.bounding_box()
        assert box is not None
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 390, name
        assert serious_violations(page, "", dialog) == [], name
        page.emulate_media(color_scheme="dark")
        assert serious_violations(page, "runOnly: ['color-contrast']", dialog) == [], f"{name}, dark"
        page.emulate_media(color_scheme="light")
        page.keyboard.press("Escape")
        expect(opened).to_have_count(0)


def load(page: Page, axe: str) -> None:
    """Load the application and axe beside it."""
    page.goto(NOWHERE)
    page.evaluate(axe)


def show(page: Page, path: str) -> None:
    """Show a page of the application that is loaded, a quarter of the work of loading it anew for each.

    All others are reached from the one that says that there is none, so that no heading is that of the page before.
    """
    heading = page.get_by_role("heading", level=1)
    for to in (NOWHERE, path):
        page.evaluate("(to) => { history.pushState(null, '', to); dispatchEvent(new PopStateEvent('popstate')) }", to)
        if to == NOWHERE:
            expect(heading).to_have_text(NOT_FOUND)
        else:
            expect(heading).not_to_have_text(NOT_FOUND)
    if "playground" in path:
        page.get_by_role("button", name="Play", exact=True).click()
        expect(page.get_by_test_id("surface")).to_contain_text("weights")
        page.get_by_text("All weights and biases as numbers").click()
    expect(page.locator("main .spinner")).to_have_count(0)


def test_language_and_theme_survive_a_reload(page: Page) -> None:
    page.goto("/datasets")
    page.get_by_label("Language", exact=True).select_option("zh-Hant")
    expect(page.get_by_role("heading", level=1)).to_have_text("資料集")
    page.get_by_role("button", name="深色").click()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("資料集")
    root = page.locator("html")
    expect(root).to_have_attribute("lang", "zh-Hant")
    expect(root).to_have_attribute("data-theme", "dark")


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.goto("/datasets")
    page.get_by_role("heading", level=1).wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("New run")


def test_signing_in_and_out(browser: Browser, server: Server) -> None:
    context = browser.new_context(base_url=server.base_url, locale="en-US")
    page = context.new_page()
    page.goto("/runs")
    page.get_by_label("API key", exact=True).fill("key_x.wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("API key", exact=True).fill(server.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key", exact=True)).to_be_visible()
    context.close()


def test_a_revoked_key_ends_the_session(browser: Browser, server: Server, api: httpx2.Client) -> None:
    key = api.post("/keys", json={"name": "ends", "scopes": ["read"]}).json()
    context = browser.new_context(base_url=server.base_url, locale="en-US")
    page = context.new_page()
    page.goto(f"/#key={key['token']}")
    page.get_by_role("link", name="Runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    api.delete(f"/keys/{key['id']}").raise_for_status()
    page.evaluate("""document.querySelector('a[href="/models"]')?.click()""")  # gone if a list was read meanwhile
    expect(page.get_by_text("Your session ended: the key expired or was revoked.")).to_be_visible()
    left = page.url
    page.get_by_label("API key", exact=True).fill(server.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Models" if left.endswith("/models") else "Runs")
    expect(page).to_have_url(left)  # the page that was open
    context.close()


def test_the_owner_says_what_others_may_do_with_a_model_and_a_dataset(
    page: Page, trained: list[str], api: httpx2.Client
) -> None:
    page.goto("/models/browser-small")
    page.get_by_role("button", name="Share", exact=True).click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_label("Other people may", exact=True).select_option("inspect")
    expect(sheet).to_contain_text("quantiles and categories of the training rows")
    sheet.get_by_text("Count the ground truth that others send").click()
    sheet.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Shared: see how it was trained")).to_be_visible()
    model = api.get("/models/browser-small").json()
    assert (model["sharing"], model["open_feedback"]) == ("inspect", True)
    page.get_by_role("button", name="Shared:").click()
    sheet.get_by_label("Other people may", exact=True).select_option("not use it")
    sheet.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Share", exact=True)).to_be_visible()
    assert api.get("/models/browser-small").json()["shared"] is False
    page.goto("/datasets/browser-small")
    page.get_by_role("button", name="Share", exact=True).click()
    page.get_by_role("alertdialog").get_by_role("button", name="Share", exact=True).click()
    page.get_by_role("button", name="Stop sharing").click()
    assert api.get("/datasets/browser-small").json()["shared"] is True
    page.get_by_role("alertdialog").get_by_role("button", name="Stop sharing").click()
    expect(page.get_by_role("button", name="Share", exact=True)).to_be_visible()
    assert api.get("/datasets/browser-small").json()["shared"] is False


def test_nothing_to_press_is_lost_on_a_narrow_screen(page: Page, trained: list[str]) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/new?dataset=browser-small&target=kind")
    shown = [page.get_by_role("link", name=name, exact=True) for name in ("Datasets", "Playground", "System")]
    shown += [page.get_by_role("button", name="Sign out"), page.get_by_role("button", name="Remove layer 1")]
    for control in shown:
        expect(control).to_be_visible()
        box = control.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    page.goto("/runs")
    assert box_of(page.get_by_label("Metric shown", exact=True))["right"] <= 390  # beside the name
    for filtered in ("State", "Tags"):
        assert box_of(page.get_by_role("combobox", name=filtered))["width"] > 100
    page.goto(f"/runs/{trained[0]}")
    page.locator("summary", has_text="Download").click()
    sheet = page.locator(".downloads .sheet")
    expect(sheet.get_by_role("link", name="model.keras")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.set_viewport_size({"width": 1024, "height": 800})
    page.goto("/datasets/browser-small")
    kind = page.get_by_role("combobox").first.bounding_box()
    assert kind is not None
    assert kind["width"] > 100
    page.goto("/playground")
    expect(page.get_by_role("heading", name="Output", exact=True)).to_be_visible()
    boxes = [page.get_by_role("heading", name=name, exact=True).bounding_box() for name in ("Data", "Output")]
    assert len({box and round(box["y"]) for box in boxes}) == 1  # side by side


def test_tall_and_many_things_keep_their_place(page: Page, trained: list[str]) -> None:
    labels = [f"class {digit}" for digit in range(10)]

    def of_ten_classes(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        counts = [[1234 if row == column else 56 for column in range(10)] for row in range(10)]
        body[body["part"]]["kind"] |= {"labels": labels, "confusion": counts}
        route.fulfill(response=answer, json=body)

    page.route(f"**/api/v1/runs/{trained[0]}/evaluation*", of_ten_classes)
    page.goto(f"/runs/{trained[0]}?tab=evaluation")
    last = page.locator(".confusion tbody tr").last.locator("td").last
    expect(page.locator(".confusion thead th").last).to_have_text("class 9")
    for width in (1400, 1024, 390):
        page.set_viewport_size({"width": width, "height": 800})
        last.scroll_into_view_if_needed()
        scroller = box_of(page.locator(".table-wrap", has=page.locator(".confusion")).last)
        assert box_of(last)["right"] <= min(width, scroller["right"]) + 1, width  # seen, or scrolled to
    page.goto(f"/runs/{trained[0]}?tab=events")
    page.get_by_role("tab", name="Events").focus()
    page.keyboard.press("Tab")
    panel = page.get_by_role("tabpanel")
    expect(panel).to_be_focused()
    assert panel.evaluate("(own) => getComputedStyle(own).outlineStyle") == "none"  # a line above it, no frame
    whole = page.locator(".tabs")  # the focus is within it
    assert whole.evaluate("(own) => getComputedStyle(own).outlineStyle") == "none"

    # Refusals that are taller than the screen, at the same time
    refusal = {"type": "about:blank", "title": "Refused", "status": 409, "detail": "It goes on and on. " * 200}
    page.route(re.compile(r"/api/v1/runs(\?|$)"), lambda route: refuse(route, refusal))
    page.goto("/new?dataset=browser-small&target=kind")
    start = page.get_by_role("button", name="Start training")
    toasts = page.locator(".toast")
    for count in (1, 2, 3):
        start.click()  # which those before do not cover
        expect(toasts).to_have_count(count)
    assert box_of(page.locator(".toasts"))["height"] <= 400
    page.locator(".nav").get_by_text("Runs", exact=True).click()
    page.get_by_role("button", name="Edit name, tags and notes").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Save").click(trial=True)


def refuse(route: Route, problem: dict[str, Any]) -> None:
    if route.request.method == "POST" and "validate_only" not in route.request.url:
        route.fulfill(status=problem["status"], json=problem, content_type="application/problem+json")
    else:
        route.continue_()


def box_of(element: Locator) -> dict[str, float]:
    box = element.bounding_box()
    assert box is not None
    return {"width": box["width"], "height": box["height"], "right": box["x"] + box["width"]}
