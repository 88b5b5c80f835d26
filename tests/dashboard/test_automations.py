"""The page of automations and webhooks: create, inspect, rehearse, delete."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def test_a_webhook_and_an_automation_are_made_and_looked_into(page: Page, trained: list[str]) -> None:
    page.goto("/automations?tab=webhooks")
    page.get_by_role("button", name="New webhook").first.click()
    form = page.get_by_role("dialog")
    form.get_by_label("Address", exact=True).fill("https://10.0.0.1/hook")
    with page.expect_response(lambda answer: answer.url.endswith("/api/v1/webhooks") and answer.status == 422):
        form.get_by_role("button", name="Create").click()
    expect(form.get_by_text("public Internet").first).to_be_visible()
    form.get_by_label("Address", exact=True).fill("https://8.8.8.8/hook")
    form.get_by_role("button", name="Create").click()
    expect(page.get_by_text("whsec_")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="https://8.8.8.8/hook")
    row.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("dialog").get_by_text("webhook.test")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    row.get_by_role("button", name="Disable").click()
    expect(row.get_by_text("disabled")).to_be_visible()

    page.goto("/automations")
    page.get_by_role("button", name="New automation").first.click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name", exact=True).fill("browser-yearly")
    policy = "on: {schedule: '0 3 1 1 *'}\ndo: {champion: browser-small}\ngate: {}\nthen: promote\n"
    form.get_by_label("Policy (YAML or JSON)", exact=True).fill(policy)
    form.get_by_role("button", name="Rehearse").click()
    expect(form.get_by_text("It would not have been due once.")).to_be_visible()
    form.get_by_role("button", name="Create").click()
    row = page.get_by_role("row").filter(has_text="browser-yearly")
    expect(row.get_by_text("schedule 0 3 1 1 *")).to_be_visible()
    row.get_by_role("button", name="History of browser-yearly").click()
    expect(page.get_by_role("dialog").get_by_text("It has not been due yet.")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    row.get_by_role("button", name="Pause").click()
    expect(row.get_by_text("paused")).to_be_visible()
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No automation yet")).to_be_visible()
