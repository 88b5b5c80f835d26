"""A learner's path: a lesson whose steps check themselves, then a fork of its run, in both languages."""

from __future__ import annotations

import math
import re

import httpx2
import pytest
from playwright.sync_api import Page, expect

from fitserve.spec.optimizers import OPTIMIZERS
from tests.dashboard.conftest import submit, upload, wait_until_ended

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
    parent = (run.get_attribute("href") or "").removeprefix("/runs/")
    wait_until_ended(api, parent)
    expect(page.get_by_text("Wait until a run has succeeded").locator("..")).to_contain_text("done")
    page.get_by_role("button", name=re.compile("^Yes: ")).first.click()
    expect(page.get_by_text("it holds in the lesson's own runs too")).to_be_visible()

    run.click()
    page.get_by_role("button", name="Fork…").click()
    form = page.get_by_role("dialog", name="Go on from an epoch")
    form.get_by_label("Go on after epoch", exact=True).fill("100000")
    expect(form.get_by_text(re.compile("A whole number from 1 to"))).to_be_visible()
    expect(form.get_by_role("button", name="Start the fork")).to_be_disabled()
    expect(form.get_by_label("Optimizer", exact=True).locator("option")).to_have_count(
        len(OPTIMIZERS.classes)
    )  # of the schema
    form.get_by_label("Go on after epoch", exact=True).fill("3")
    form.get_by_label("Epochs in all", exact=True).fill("6")
    form.get_by_role("button", name="Start the fork").click()
    expect(page.get_by_text("Dashed: the run it goes on from")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^loss.*without the fork: validation")).first).to_be_visible()
    page.wait_for_url(lambda address: parent not in address)
    fork = page.url.rpartition("/")[2].partition("?")[0]
    wait_until_ended(api, fork)
    assert api.get(f"/runs/{fork}").json()["spec"]["training"]["switches"][0]["after"] == 3

    page.evaluate("localStorage.setItem('fitserve.language', 'zh-Hant')")
    page.goto(f"/runs/{fork}?tab=events")
    expect(page.get_by_text("正在評估神經網路。")).to_be_visible()
    expect(page.get_by_text(re.compile("從第 4 個訓練週期起使用"))).to_be_visible()


def test_a_row_is_walked_through_a_trained_network(page: Page, api: httpx2.Client) -> None:
    rows = "".join(f"{x / 7 + 0.1},{(x * 37) % 101 / 9},{'abc'[x % 3]},{'uvw'[x % 9 // 3]}\n" for x in range(90))
    ref = upload(api, "browser-walked", f"a,b,c,kind\n{rows}")
    network = [{"Dense": {"units": 3, "activation": "tanh", "kernel_regularizer": {"L2": 0.01}}}, {"Dropout": 0.2}]
    spec = {"dataset": ref, "target": "kind", "network": network, "calibrate": "none", "model": "browser-walked"}
    run = submit(api, {**spec, "training": {"epochs": 3, "optimizer": {"SGD": {"learning_rate": 0.25}}}})
    assert wait_until_ended(api, run) == "succeeded"
    row = dict(zip(("a", "b", "c"), api.get(f"/datasets/{ref}/rows?offset=4&limit=1").json()["rows"][0], strict=False))
    served = api.post(f"/runs/{run}/explain", json={"row": row, "label": "v"}).raise_for_status().json()["output"]
    page.goto(f"/runs/{run}?tab=layers")
    walk = page.locator("section", has=page.get_by_role("heading", name="One row, step by step"))
    walk.get_by_role("textbox", name="Row").fill("5")
    expect(walk).to_contain_text("kind = v")
    for title in ("Forward: Layer 1", "Forward: Output", "The loss", "Backward: Output"):
        walk.get_by_role("button", name="Next").click()
        expect(walk.get_by_role("heading", level=3)).to_contain_text(title)
        if title == "The loss":
            loss = float(walk.locator(".walk-text strong").inner_text())
            assert loss == pytest.approx(-math.log(served), abs=2e-3)  # the network that is served answers the same
    expect(walk.locator(".walk-text")).to_contain_text("∂L/∂z = p − y")
    walk.get_by_role("button", name="Next").click()
    expect(walk.locator(".walk-text")).to_contain_text("from the penalty")
    walk.get_by_role("button", name="Next").click()
    expect(walk.locator(".walk-text")).to_contain_text("by the learning rate 0.25")
    assert api.get(f"/runs/{run}/walk?row=91").status_code == 404
    page.goto("/lessons?tab=glossary")
    expect(page.get_by_role("tabpanel")).to_contain_text("backpropagation")
    page.get_by_role("tab", name="Tutorial").click()
    expect(page.get_by_role("tabpanel").get_by_role("heading").first).to_be_visible()
