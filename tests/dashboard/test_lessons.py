"""A learner's path: a lesson whose steps check themselves, then a fork of its run, in both languages."""

from __future__ import annotations

import re

import httpx2
import pytest
from playwright.sync_api import Page, expect

from fitserve.spec.optimizers import OPTIMIZERS
from tests.dashboard.conftest import wait_until_ended

pytestmark = pytest.mark.xdist_group("dashboard")


def test_a_lesson_is_gone_through_and_its_run_is_forked(page: Page, api: httpx2.Client) -> None:
    page.goto("/lessons")
    page.get_by_role("button", name="7. Early stopping").click()
    expect(page.get_by_role("heading", name="7. Early stopping")).to_be_visible()
    page.get_by_role("button", name="Create it").click()
    expect(page.get_by_text("Get the table xor-few").locator("..")).to_contain_text("done")
    assert api.get("/datasets/xor-few").json()["rows"] == 200, "as the lesson's script makes it"
    page.get_by_role("button", name="Train stopped.yaml").click()
    run = page.get_by_role("link", name="lesson 7: stopped")
    expect(run).to_be_visible()
    wait_until_ended(api, (run.get_attribute("href") or "").removeprefix("/runs/"))
    expect(page.get_by_text("Wait until a run has succeeded").locator("..")).to_contain_text("done")
    page.get_by_role("button", name=re.compile("^Yes: ")).first.click()
    expect(page.get_by_text("it holds in the lesson's own runs too")).to_be_visible()

    run.click()
    page.get_by_role("button", name="Fork…").click()
    form = page.get_by_role("dialog", name="Go on from an epoch")
    form.get_by_label("Go on after epoch").fill("100000")
    expect(form.get_by_text(re.compile("A whole number from 1 to"))).to_be_visible()
    expect(form.get_by_role("button", name="Start the fork")).to_be_disabled()
    expect(form.get_by_label("Optimizer").locator("option")).to_have_count(len(OPTIMIZERS.classes))  # of the schema
    form.get_by_label("Go on after epoch").fill("3")
    form.get_by_label("Epochs in all").fill("6")
    form.get_by_role("button", name="Start the fork").click()
    expect(page.get_by_text("Dashed: the run it goes on from")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^loss.*without the fork: validation")).first).to_be_visible()
    fork = page.url.rpartition("/")[2].partition("?")[0]
    wait_until_ended(api, fork)
    assert api.get(f"/runs/{fork}").json()["spec"]["training"]["switches"][0]["after"] == 3

    page.evaluate("localStorage.setItem('fitserve.language', 'zh-Hant')")
    page.goto(f"/runs/{fork}?tab=events")
    expect(page.get_by_text("正在評估神經網路。")).to_be_visible()
    expect(page.get_by_text(re.compile("從第 4 個訓練週期起使用"))).to_be_visible()
