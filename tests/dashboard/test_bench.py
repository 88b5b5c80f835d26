"""An engineer's tools: a table's versions and users, columns of a wide one, exports, and which change helped."""

from __future__ import annotations

import io
import re
import zipfile

import httpx2
import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import check_accessibility, submit, upload, wait_until_ended

pytestmark = pytest.mark.xdist_group("dashboard")


def test_versions_of_a_table_are_compared_and_say_who_uses_them(
    page: Page, api: httpx2.Client, trained: list[str]
) -> None:
    upload(api, "browser-versions", "a,old,kind\n" + "".join(f"{x},{x % 3},{'xy'[x % 2]}\n" for x in range(40)))
    upload(api, "browser-versions", "new,a,kind\n" + "".join(f"p{x % 5},{x + 100},{'xy'[x % 2]}\n" for x in range(50)))
    page.goto("/datasets/browser-versions@2?tab=history")
    versions = page.get_by_role("table").first
    expect(versions.locator("tbody tr")).to_have_count(2)
    changes = page.locator("section.card", has=page.get_by_role("heading", name="What this version changes"))
    expect(changes.locator(".stat", has_text="Rows")).to_contain_text("+10")
    for row in ("new new – –", "old no longer there – –", "a range 0 – 39 100 – 149"):
        expect(changes.get_by_role("row", name=row)).to_be_visible()
    expect(page.get_by_text("No run uses this version.")).to_be_visible()
    check_accessibility(page)
    versions.get_by_role("link", name="1", exact=True).click()
    expect(changes.locator(".stat", has_text="Rows")).to_contain_text("-10")  # of the later one
    page.goto("/datasets/browser-small?tab=history")
    uses = page.locator("section.card", has=page.get_by_role("heading", name="Who uses this version"))
    expect(uses.get_by_role("link", name="browser-small").first).to_have_attribute("href", "/models/browser-small")
    expect(uses.get_by_text(f"…{trained[0][-8:]}")).to_be_visible()


def test_columns_of_a_wide_table_are_chosen_by_pattern(page: Page, api: httpx2.Client) -> None:
    names = [f"pixel{at}" for at in range(784)]
    rows = "".join(",".join(str(at * row % 7) for at in range(784)) + f",{'ab'[row % 2]}\n" for row in range(60))
    ref = upload(api, "browser-digits", ",".join(names) + ",digit\n" + rows)
    page.goto(f"/new?dataset={ref}&target=digit")
    page.get_by_text("Features: 784 of 784 columns").click()
    yaml = page.get_by_label("Spec (YAML)", exact=True)
    search = page.get_by_role("searchbox", name="Search columns")
    page.get_by_role("button", name="None", exact=True).click()
    search.fill("pixel7*")
    page.get_by_role("button", name="Add these 95").click()
    expect(page.get_by_text("Features: 95 of 784 columns")).to_be_visible()
    search.fill("pixel70?")
    page.get_by_role("button", name="Remove these 10").click()
    expect(page.get_by_text("Features: 85 of 784 columns")).to_be_visible()
    expect(page.get_by_text("ready", exact=True)).to_be_visible()
    assert len(yaml.input_value().splitlines()) < 100
    search.fill("")
    page.get_by_role("button", name="All", exact=True).click()
    expect(page.get_by_text("Features: 784 of 784 columns")).to_be_visible()
    expect(yaml).not_to_have_value(re.compile("pixel"))


def test_a_version_is_taken_away_as_script_and_notebook(page: Page, api: httpx2.Client) -> None:
    ref = upload(api, "browser-taken", "a,b,kind\n" + "".join(f"{x},{x % 7},{'xy'[x % 2]}\n" for x in range(60)))
    spec = {"dataset": ref, "target": "kind", "network": [{"Dense": 3}], "training": {"epochs": 2}}
    assert wait_until_ended(api, submit(api, {**spec, "model": "browser-taken"})) == "succeeded"
    page.goto("/models/browser-taken?tab=versions")
    card = page.locator("section.card", has=page.get_by_role("heading", name="Take version 1 elsewhere"))
    row = card.get_by_role("row", name=re.compile("^Script and notebook"))
    row.get_by_role("button", name="Make it").click()
    download = row.get_by_role("link", name=re.compile("^Download"))
    expect(download).to_be_visible()
    expect(row).to_contain_text("largest difference")
    check_accessibility(page)
    path = str(download.get_attribute("href")).removeprefix("/api/v1")
    answer = api.get(path).raise_for_status()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as file:
        assert {"train.py", "train.ipynb"} <= {name.rpartition("/")[2] for name in file.namelist()}


def test_a_change_is_judged_by_the_weights_that_were_kept(page: Page, api: httpx2.Client) -> None:
    rows = "".join(f"{x},{(x * 37) % 101},{'ab'[(x * 31) % 97 > 48]}\n" for x in range(160))
    ref = upload(api, "browser-judged", f"a,b,kind\n{rows}")
    spec = {"dataset": ref, "target": "kind", "network": [{"Dense": {"units": 32, "activation": "relu"}}]}
    parent = submit(api, {**spec, "training": {"epochs": 40}})
    assert wait_until_ended(api, parent) == "succeeded"
    stopping = {"patience": 3, "restore_best_weights": True}
    child = submit(
        api, {**spec, "initial_weights": parent, "training": {"epochs": 40, "seed": 1, "early_stopping": stopping}}
    )
    assert wait_until_ended(api, child) == "succeeded"
    result = api.get(f"/runs/{child}").json()["result"]
    assert result["trials"][0]["best_epoch"] < result["trials"][0]["epochs"]
    kept = result["metrics"]["validation"]["loss"]
    last = api.get(f"/runs/{child}/epochs").json()["items"][-1]["logs"]["val_loss"]
    assert abs(kept - last) > 0.002
    page.goto(f"/runs/{child}?tab=findings")
    card = page.locator("section.card", has=page.get_by_role("heading", name="Which changes helped"))
    row = card.locator("tbody tr", has=page.get_by_role("link", name=re.compile(child[-8:])))
    expect(row).to_contain_text("/training/early_stopping")
    assert abs(float(row.locator("td.num").inner_text().split()[0]) - kept) < 0.001
