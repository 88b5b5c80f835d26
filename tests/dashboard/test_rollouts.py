"""A rollout on a model's page: started, watched, paused, rolled back, promoted and undone."""

from __future__ import annotations

import httpx2
from playwright.sync_api import Page, expect

from fitserve import db
from fitserve.rollouts import evidence
from fitserve.rollouts.guards import ArmCounts, StepCounts
from tests.conftest import Server
from tests.dashboard.conftest import check_accessibility, submit, upload, wait_until_ended
from tests.waiting import wait_until

MODEL = "browser-rolling"


def _rows_of_curve(api: httpx2.Client, rollout: str) -> list[float]:
    (step,) = api.get(rollout).json()["steps"]
    return [point["rows"] for point in step["curves"].get("errors", [])]


def test_a_rollout_from_start_to_undo(page: Page, api: httpx2.Client, server: Server) -> None:
    ref = upload(api, MODEL, "a,b,kind\n" + "".join(f"{n},{n % 7},{'x' if n % 7 > 3 else 'y'}\n" for n in range(80)))
    spec = {"dataset": ref, "target": "kind", "network": [{"Dense": 2}], "model": MODEL}
    for seed in (1, 2):
        run = submit(api, {**spec, "training": {"epochs": 1, "seed": seed}})
        assert wait_until_ended(api, run) == "succeeded"
    api.put(f"/models/{MODEL}/labels/champion", json={"version": 1}).raise_for_status()
    page.goto(f"/models/{MODEL}?tab=rollout")
    expect(page.get_by_text("No rollout yet.")).to_be_visible()
    expect(page.get_by_text("It answers 1% → 10% → 50% → 100% of the requests")).to_be_visible()
    difference = page.get_by_role("table", name="On the held-out rows of each version")
    expect(difference.get_by_role("columnheader")).to_have_text(["Metric", "v1", "v2", "Difference"])
    expect(difference.get_by_role("cell", name="accuracy")).to_be_visible()
    page.get_by_label("Shadow first", exact=True).check()
    page.get_by_role("button", name="Start").click()
    card = page.locator("section.card", has=page.get_by_role("heading", name="Version 2 against version 1"))
    expect(card.get_by_text("Running", exact=True)).to_be_visible()
    expect(card.get_by_text("step 1 of 5")).to_be_visible()
    card.get_by_role("button", name="Pause").click()
    expect(card.get_by_text("Paused", exact=True)).to_be_visible()
    (found,) = api.get(f"/models/{MODEL}/rollouts").json()["items"]
    engine = db.make_engine(f"sqlite:///{server.home}/fitserve.db")
    for number in range(1, 4):
        counts = StepCounts(ArmCounts(500 * number), ArmCounts(500 * number, number), 500 * number, 3.0 * number)
        evidence.write_counts(engine, "test", {(found["id"], 0): counts})
        rows = 1000 * number
        detail = f"/models/{MODEL}/rollouts/{found['id']}"
        wait_until(lambda: rows in _rows_of_curve(api, detail), "a point of the curve")  # noqa: B023 (called at once)
    engine.dispose()
    expect(page.get_by_role("img", name="More errors over the requests, with its bounds and its limit")).to_be_visible()
    expect(page.get_by_role("cell", name="0.20%").first).to_be_visible()
    check_accessibility(page)
    card.get_by_role("button", name="Abort").click()
    expect(card.get_by_text("Aborted by hand.")).to_be_visible()
    page.get_by_role("button", name="A/B").click()
    page.get_by_role("slider", name="Share: 50%").fill("30")
    page.get_by_role("button", name="Start").click()
    expect(card.get_by_text("30%", exact=True)).to_be_visible()
    card.get_by_role("button", name="Promote now").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Promote now").click()
    expect(card.get_by_text("Promoted by hand.")).to_be_visible()
    assert api.get(f"/models/{MODEL}").json()["serving"] == 2
    card.get_by_role("button", name="Undo").click()
    wait_until(lambda: api.get(f"/models/{MODEL}").json()["serving"] == 1, "the champion's way back")
    expect(page.get_by_role("heading", name="Earlier rollouts")).to_be_visible()
    page.get_by_role("tab", name="Versions").click()
    asked = page.get_by_role("alertdialog")
    page.get_by_role("button", name="Roll back to v2").click()
    expect(asked).to_contain_text("live traffic moves from version 1")
    asked.get_by_role("button", name="Keep as is").click()
    page.get_by_label("Labels of version 2", exact=True).select_option("champion")
    expect(asked).to_contain_text("live traffic moves from version 1")
    expect(asked.get_by_role("table", name="On the held-out rows of each version")).to_be_visible()
    asked.get_by_role("link", name="Give it a share of the requests first").click()
    expect(page.get_by_role("heading", name="Roll out a version")).to_be_visible()
