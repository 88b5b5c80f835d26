"""Ground truth posted on a model's page: for one row that was just predicted, and as a table."""

from __future__ import annotations

import re

import httpx2
import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Server
from tests.dashboard.conftest import check_accessibility
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.xdist_group("dashboard")
MODEL = "browser-small"


def test_outcomes_are_recorded_and_counted(page: Page, api: httpx2.Client, server: Server, trained: list[str]) -> None:
    def counted() -> int:
        live = api.get(f"/models/{MODEL}/drift").raise_for_status().json()["live"]
        return int(live[0]["rows"]) if live else 0

    before = counted()
    page.goto(f"/models/{MODEL}")
    form = page.get_by_test_id("what-happened")
    record = form.get_by_role("button", name="Record it")
    expect(record).to_be_disabled()
    form.get_by_label("The outcome", exact=True).select_option("high")
    record.click()
    expect(form.get_by_text("Recorded. What version 1")).to_be_visible()
    expect(form.get_by_test_id("live-figures")).to_contain_text(f"{before + 1} row")
    check_accessibility(page)
    assert counted() == before + 1
    # Another system's file: semicolons, a mark of the encoding, an outcome that is not known yet, a foreign id.
    body = {"instances": [{"a": 1, "b": 2, "c": "x"}, {"a": 9, "b": 9, "c": "y"}]}
    headers = {**server.headers, "X-Prediction-ID": "order-7"}
    httpx2.post(
        f"{server.base_url}/v1/models/{MODEL}:predict", json=body, headers=headers, timeout=PATIENCE
    ).raise_for_status()
    wait_until(lambda: _is_stored(api), "the stored prediction")
    page.get_by_role("tab", name="Monitoring").click()
    page.get_by_role("button", name="Add a table of outcomes").click()
    dialog = page.get_by_role("dialog")
    lines = ["\ufeffID;row;kind", "order-7;0;low", "order-7;1;high", "order-8;0;", "order-9;0;low"]
    file = {"name": "outcomes.csv", "mimeType": "text/csv", "buffer": "\r\n".join(lines).encode()}
    dialog.get_by_label("CSV file", exact=True).set_input_files(file)  # type: ignore[arg-type]
    expect(dialog.get_by_text("3 outcomes to send.")).to_be_visible()
    dialog.get_by_role("button", name="Send").click()
    sent = dialog.get_by_test_id("truths-sent")
    expect(sent).to_contain_text(re.compile("1 outcome recorded. 1 was there already. 1 id has no .*: order-9"))
    wrong = "id,truth\norder-7,low\norder-7,medium\n"
    file = {"name": "outcomes.csv", "mimeType": "text/csv", "buffer": wrong.encode()}
    dialog.get_by_label("CSV file", exact=True).set_input_files(file)  # type: ignore[arg-type]
    dialog.get_by_role("button", name="Send").click()
    expect(dialog.get_by_role("alert")).to_contain_text(re.compile("row 2.*not a label of the target"))
    check_accessibility(page)
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("live-figures")).to_contain_text(f"{before + 3} rows")


def _is_stored(api: httpx2.Client) -> bool:
    items = [{"id": "order-7", "row": 0, "truth": "low"}]
    return not api.post(f"/models/{MODEL}/feedback", json={"items": items}).raise_for_status().json()["unknown"]
