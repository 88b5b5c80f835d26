"""The pages of a search, an ablation and checks: trials to sort and reuse, and results, in both languages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import DASHBOARD, submit, upload, wait_until_ended

ROWS = "".join(
    f"{x / 40 - 1},{(x * 7 % 41) / 20 - 1},{'in' if (x / 40 - 1) ** 2 < 0.3 else 'out'}\n" for x in range(80)
)


def _axe(page: Page) -> list[str]:
    """Return the rules of axe that the page breaks seriously."""
    page.evaluate((DASHBOARD / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)")
    return [one["id"] for one in found if one["impact"] in ("serious", "critical")]


def _look(page: Page, name: str) -> None:
    if folder := os.environ.get("FITSERVE_TEST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_search_can_be_sorted_looked_into_and_taken(page: Page, api: httpx2.Client) -> None:
    ref = upload(api, "browser-search", f"a,b,side\n{ROWS}")
    rate = {"search": {"low": 0.001, "high": 0.5, "log": True}}
    units = {"search": [2, 6]}
    common = {"dataset": ref, "target": "side", "training": {"epochs": 4}}
    searched = {"network": [{"Dense": {"units": units}}], "search": {"trials": 4, "sampler": "random"}}
    training = {"epochs": 4, "optimizer": {"SGD": {"learning_rate": rate}}}
    plain = {**common, "network": [{"Dense": {"units": 4, "activation": "tanh"}}]}
    specs: list[dict[str, Any]] = [
        {**common, **searched, "training": training},
        {**plain, "check": ["range_test", "sanity"]},
        {**plain, "ablate": {"parts": ["feature:b"], "seeds": 3}},
    ]
    runs = [submit(api, spec) for spec in specs]
    assert [wait_until_ended(api, run) for run in runs] == ["succeeded"] * 3

    page.goto(f"/runs/{runs[0]}?tab=trials")
    table = page.get_by_role("table", name="All trials")
    expect(table.get_by_role("row")).to_have_count(5)
    expect(page.get_by_role("img", name="Trials by what was searched")).to_be_visible()
    expect(page.get_by_role("list", name="Importance of what is searched")).to_contain_text("learning_rate")
    table.get_by_role("button", name="val_loss").click()
    expect(table.get_by_role("columnheader", name="val_loss")).to_have_attribute("aria-sort", "ascending")
    trials = sorted(api.get(f"/runs/{runs[0]}/trials").json()["items"], key=lambda trial: trial["value"])
    first = table.get_by_role("row").nth(1)
    expect(first.get_by_role("button", name=f"Show trial {trials[0]['trial'] + 1}")).to_be_visible()
    table.get_by_role("button", name=f"Show trial {trials[-1]['trial'] + 1}").click()
    expect(page.get_by_role("heading", name=f"Trial {trials[-1]['trial'] + 1}", exact=True)).to_be_visible()
    _look(page, "trials")
    assert _axe(page) == []
    first.get_by_role("button", name=re.compile("^Take as a new run")).click()
    expect(page).to_have_url(re.compile("/new"))
    expect(page.get_by_text(f"units: {trials[0]['values']['units']}").first).to_be_visible()

    page.goto(f"/runs/{runs[1]}?tab=found")
    expect(page.get_by_role("heading", name="Learning-rate range test")).to_be_visible()
    expect(page.get_by_text("passed", exact=True).first).to_be_visible()
    _look(page, "checks")
    assert _axe(page) == []
    page.get_by_role("button", name=re.compile("^New run with")).click()
    expect(page).to_have_url(re.compile("/new"))

    page.evaluate("localStorage.setItem('fitserve.language', 'zh-Hant')")
    page.goto(f"/runs/{runs[2]}?tab=found")
    expect(page.get_by_text("feature:b")).to_be_visible()
    _look(page, "ablation")
    assert _axe(page) == []
