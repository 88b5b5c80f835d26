"""The list of runs: search, order, selection, tags, names, saved views, cancelling and deleting many."""

from __future__ import annotations

import re

import httpx2
import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import submit, upload, wait_until_ended

pytestmark = pytest.mark.xdist_group("dashboard")


def test_runs_are_found_named_ordered_and_deleted(page: Page, api: httpx2.Client) -> None:
    rows = "".join(f"{x},{(x * 37) % 101},{'ab'[x % 7 > 2]}\n" for x in range(60))
    ref = upload(api, "browser-bench", f"a,b,kind\n{rows}")
    spec = {"dataset": ref, "target": "kind", "network": [{"Dense": {"units": 3}}]}
    runs = [submit(api, {**spec, "training": {"epochs": epochs}}) for epochs in (1, 2, 3)]
    for run in runs:
        assert wait_until_ended(api, run) == "succeeded"

    # All three against each other: a line for each, and the setting that differs against the figure
    page.goto(f"/compare?runs={','.join(runs)}&metric=val_loss")
    lines = page.get_by_role("img", name="Settings and result of each run")
    expect(lines.locator("text").filter(has_text="training/epochs")).to_have_count(1)
    points = page.get_by_role("img", name="One setting against the result")
    expect(points.locator("circle")).to_have_count(3)
    page.goto("/runs")
    page.get_by_role("searchbox", name="Search runs").fill("browser-bench")
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page).to_have_url(re.compile("q=browser-bench"))
    newest = page.locator("tbody tr").first
    expect(newest).to_contain_text("training epochs 2 → 3")
    expect(newest).to_contain_text("kind")

    # Name one, and find it by its note
    newest.get_by_role("button", name="Edit name, tags and notes").click()
    dialog = page.get_by_role("dialog", name="About this run")
    dialog.get_by_label("Name", exact=True).fill("the longest")
    dialog.get_by_label("Tags", exact=True).fill("bench, keep,bench")
    dialog.get_by_label("Notes", exact=True).fill("three epochs\nlong enough?")
    dialog.get_by_role("button", name="Save").click()
    expect(newest.get_by_role("link", name="the longest")).to_be_visible()
    about = api.get(f"/runs/{runs[2]}").json()
    assert (about["tags"], about["notes"]) == (["bench", "keep"], "three epochs\nlong enough?")
    page.get_by_role("searchbox").fill("browser-bench enough")
    expect(page.locator("tbody tr")).to_have_count(1)

    # The way back from a run leads to the same list; the columns stay for the next visit
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("checkbox", name="Duration").check()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="the longest").click()
    page.locator(".crumbs").get_by_role("link", name="Runs").click()
    expect(page).to_have_url(re.compile("q=browser-bench"))
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto("/runs")
    expect(page.get_by_role("button", name="Sort by Duration")).to_be_visible()

    # The order is the server's, in the address, and part of a saved view
    page.get_by_role("searchbox").fill("browser-bench")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Sort by Created").click()
    expect(page.locator("tbody tr").last).to_contain_text("the longest")
    page.get_by_role("button", name="Views").click()
    page.get_by_label("Name of the view", exact=True).fill("oldest first")
    page.get_by_role("button", name="Save view").click()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Name of the view", exact=True)).to_have_count(0)
    page.goto("/runs")
    page.get_by_role("button", name="Views").click()
    page.get_by_role("button", name="oldest first", exact=True).click()
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.locator("tbody tr").last).to_contain_text("the longest")

    # Select all that match, then with Shift; tag, and delete all but the tagged one
    boxes = page.locator("tbody").get_by_role("checkbox")
    boxes.nth(0).click()
    page.get_by_role("button", name="Select all 3").click()
    expect(page.get_by_role("toolbar", name="3 runs selected")).to_be_visible()
    page.get_by_role("button", name="Clear selection").click()
    boxes.nth(0).click()
    boxes.nth(1).click(modifiers=["Shift"])
    page.get_by_role("button", name="Add tag…").click()
    page.get_by_role("dialog").get_by_label("Tag", exact=True).fill("old")
    page.get_by_role("button", name="Add tag", exact=True).click()
    expect(page.locator("tbody .tag", has_text="old")).to_have_count(2)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert [api.get(f"/runs/{run}").status_code for run in runs] == [404, 404, 200]


def test_what_cannot_be_changed_says_why(page: Page, trained: list[str]) -> None:
    page.goto("/runs?model=browser-small")
    page.locator("tbody").get_by_role("checkbox").first.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".toasts")).to_contain_text("Version 1 of the model browser-small was trained by it.")
    expect(page.get_by_role("link", name=re.compile(trained[0][-8:]))).to_be_visible()
    page.get_by_role("button", name="Remove the filter browser-small").click()
    expect(page).to_have_url(re.compile(r"/runs$"))
