"""The decision page: a threshold is moved and applied; calibration, intervals, slices and fairness are readable."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Server
from tests.dashboard.conftest import check_accessibility, submit, upload, wait_until_ended
from tests.waiting import PATIENCE

MODEL = "browser-decide"


def _rows(count: int = 900, seed: int = 5) -> Iterator[str]:
    """In the city of Cork, old people do the opposite of what others do."""
    draw = random.Random(seed)
    for _ in range(count):
        age, income, city = (
            draw.randint(18, 80),
            round(draw.gauss(50, 15), 1),
            draw.choice(["ayr", "bern", "cork", "dole"]),
        )
        buys = (income > 50) != (city == "cork" and age >= 55)
        amount = round(0.4 * income + 0.1 * age + draw.gauss(0, 2), 2)
        tier = "high" if income > 60 else "middle" if income + draw.gauss(0, 4) > 45 else "low"
        sex = draw.choice(["f", "m"])
        yield f"{age},{income},{city},{sex},{'yes' if buys else 'no'},{amount},{tier}\n"


@pytest.fixture(scope="session")
def decided(server: Server) -> str:
    """A run that predicts two labels, three labels and a number; registered as a model."""
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=PATIENCE) as client:
        ref = upload(client, MODEL, "age,income,city,sex,buys,amount,tier\n" + "".join(_rows()))
        spec = {
            "dataset": ref,
            "target": ["buys", "amount", "tier"],
            "features": ["income", "age"],
            "protected": ["sex", "city"],
            "split": {"validation": 0.4, "test": 0.3},
            "network": [{"Dense": {"units": 16, "activation": "relu"}}],
            "training": {"epochs": 25, "optimizer": {"Adam": {"learning_rate": 0.02}}},
            "calibrate": "temperature",
            "model": MODEL,
        }
        run = submit(client, spec)
        assert wait_until_ended(client, run) == "succeeded"
    return run


def test_a_threshold_moves_its_counts_along_and_is_used(page: Page, api: httpx2.Client, decided: str) -> None:
    path = f"/models/{MODEL}/versions/1/decision"
    detail = api.get(path).raise_for_status().json()
    output = next(one for one in detail["outputs"] if one["output"] == "buys")
    curve = next(one for one in output["curves"] if one["part"] == "validation")
    page.goto(f"/models/{MODEL}?tab=versions")
    card = page.locator("section.card", has=page.get_by_role("heading", name="Decision: buys"))
    expect(card.get_by_text("In force: the likeliest label.")).to_be_visible()
    slider, figures = card.get_by_role("slider"), card.get_by_test_id("threshold-figures")
    slider.focus()
    page.keyboard.press("Home")
    for step in (0, 1, 2):
        true, false = curve["true_positive"][step], curve["false_positive"][step]
        cells = [curve["negatives"] - false, false, curve["positives"] - true, true]
        expect(figures.locator(".confusion td.num")).to_have_text([str(cell) for cell in cells])
        page.keyboard.press("ArrowRight")
    # The cheapest threshold follows the costs.
    card.get_by_label("Cost of a false negative", exact=True).fill("9")
    card.get_by_role("button", name="Lowest cost").click()
    costs = [
        false + 9 * (curve["positives"] - true)
        for true, false in zip(curve["true_positive"], curve["false_positive"], strict=True)
    ]
    expect(figures.get_by_text(re.compile(r"per row"))).to_be_visible()
    shown = page.get_by_text("Cost", exact=True).first.locator("xpath=..").locator(".value")
    expect(shown).to_have_text(str(min(costs)))
    check_accessibility(page)
    card.get_by_role("button", name="Use this threshold").click()
    expect(card.get_by_text(re.compile("In force: “yes” from"))).to_be_visible()
    (made,) = api.get(path).json()["decisions"]
    at = min(range(len(costs)), key=lambda place: costs[place])
    assert costs[at] == costs[min(range(len(costs)), key=lambda k: abs(curve["threshold"][k] - made["threshold"]))]
    card.get_by_role("button", name="Back to the training's decision").click()
    expect(card.get_by_text("In force: the likeliest label.")).to_be_visible()
    assert api.get(path).json()["decisions"] == []
    expect(page.get_by_text(re.compile("tier has 3 labels"))).to_be_visible()


def test_calibration_slices_and_groups_are_shown_and_sorted(page: Page, api: httpx2.Client, decided: str) -> None:
    evaluation = api.get(f"/runs/{decided}/evaluation").raise_for_status().json()
    slices = api.get(f"/runs/{decided}/slices", params={"target": "buys"}).raise_for_status().json()
    page.goto(f"/runs/{decided}?tab=evaluation")
    expect(page.get_by_text("describe the network before its probabilities were calibrated")).to_be_visible()
    table = page.get_by_test_id("calibration").first
    calibrated = evaluation["test"]["buys"]["calibrated"]
    for name, shown in (
        ("Calibration error (ECE)", "calibration_error"),
        ("Brier score", "brier"),
        ("Log loss", "log_loss"),
    ):
        row = table.get_by_role("row", name=re.compile(re.escape(name)))
        for cell, part in ((0, "before"), (1, "after")):
            text = row.locator("td").nth(cell).inner_text()
            assert float(text.split()[0]) == pytest.approx(calibrated[part][shown], rel=0.02)
            assert "–" in text  # its interval
    worst = page.get_by_test_id("worst-slices")
    expect(worst.locator("tbody tr")).to_have_count(len(slices["worst"]))
    first = worst.locator("tbody tr").first
    expect(first).to_contain_text("city = cork")
    expect(first).to_contain_text("age ≥")
    rows = worst.get_by_role("columnheader", name="Rows")
    rows.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_attribute("aria-sort", "descending")
    page.get_by_label("Column", exact=True).select_option("city")
    expect(page.get_by_test_id("column-slices").get_by_role("row", name=re.compile("city = cork"))).to_contain_text(
        "worse"
    )
    by_sex = page.locator("section.card", has=page.get_by_role("heading", name="Fairness: buys by sex"))
    expect(by_sex.get_by_role("rowheader")).to_have_text(["f", "m"])
    expect(by_sex.get_by_text("Equalized odds difference")).to_be_visible()
    expect(page.get_by_role("heading", name="Fairness: amount by city")).to_be_visible()
    # Coverage and widths by level are those of the run.
    intervals = api.get(f"/runs/{decided}").json()["result"]["intervals"]
    widths = page.locator("section.card", has=page.get_by_role("heading", name="Intervals: amount")).get_by_test_id(
        "widths"
    )
    expect(widths.locator("tbody tr")).to_have_count(len(intervals["amount"]["levels"]))
    at = next(one for one in intervals["amount"]["levels"] if one["level"] == 0.9)
    expect(widths.get_by_role("row", name=re.compile("^90%"))).to_contain_text(f"{100 * at['share']:.1f}%")
    sets = page.locator("section.card", has=page.get_by_role("heading", name="Sets of labels: tier"))
    expect(sets.get_by_test_id("widths").get_by_role("row", name=re.compile("^90%"))).to_contain_text("1: ")
    check_accessibility(page)


def test_an_answer_has_an_interval_and_a_set_at_the_chosen_level(page: Page, decided: str) -> None:
    page.goto(f"/models/{MODEL}")
    answer = page.get_by_test_id("answer")
    expect(answer.locator(".answer")).to_have_count(3)
    expect(page.get_by_test_id("bounds")).to_have_count(0)
    page.get_by_label("Interval or set", exact=True).select_option("0.9")
    expect(page.get_by_test_id("bounds")).to_have_text(
        [re.compile("90% set:"), re.compile(r"90% interval: .+ – "), re.compile("90% set:")]
    )
    expect(page.get_by_label("As an API request", exact=True).last).to_contain_text('"interval":0.9')
    expect(page).to_have_url(re.compile("interval=0.9"))
    check_accessibility(page)
