"""The playground: it learns in the page, its weights can be edited, and its address holds its whole state."""

from __future__ import annotations

import re

import httpx2
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import upload
from tests.waiting import wait_until

PICTURE = "(canvas) => canvas.toDataURL()"
FRAMES = """() => new Promise((done) => {
  const times = []; let before = performance.now();
  const step = (now) => {
    times.push(now - before); before = now;
    times.length < 90 ? requestAnimationFrame(step) : done(times);
  };
  requestAnimationFrame(step);
})"""


def test_it_learns_at_once_and_draws_every_frame(page: Page) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(f"{request.method} {request.url}"))
    page.goto("/playground?epochs=2000&layers=4-2")
    page.get_by_role("button", name="60/s").click()
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_test_id("epoch")).not_to_have_text("0000")
    frames = sorted(page.evaluate(FRAMES))
    print(f"\nframes while it learns: median {frames[45]:.1f} ms, 90% {frames[81]:.1f} ms")
    # What the pointer rests on is drawn anew as it learns, not as it was when the pointer came.
    unit = page.get_by_role("img", name="Unit 1 of layer 1").first
    unit.hover()
    enlarged = page.get_by_role("img", name="Unit 1 of layer 1").last
    early = enlarged.evaluate(PICTURE)
    wait_until(lambda: enlarged.evaluate(PICTURE) != early, "the unit under the pointer changes")
    # The learning rate, and all that is no part of the network, changes while it plays.
    page.get_by_role("combobox", name="Learning rate").select_option("0.1")
    before = int(page.get_by_test_id("epoch").inner_text())
    wait_until(lambda: int(page.get_by_test_id("epoch").inner_text()) > before + 60, "sixty epochs at the new rate")
    page.get_by_role("button", name="Pause").click()
    assert float(page.locator(".value.valid").inner_text()) < 0.3
    assert not [one for one in requests if "/runs" in one]
    # Once stopped, the address holds all of it; opened again, the same training is repeated.
    page.goto("/playground?epochs=50&layers=3&at=50")
    expect(page.get_by_test_id("surface")).to_have_text("weights of epoch 50")
    loss = page.locator(".value.train").inner_text()
    page.goto("/playground?epochs=50&layers=3")
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_url(re.compile("at=50"))
    assert page.locator(".value.train").inner_text() == loss
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_test_id("epoch")).to_have_text("0000")
    page.get_by_role("button", name="Step one epoch").click()
    expect(page.get_by_test_id("epoch")).to_have_text("0001")


def test_edited_weights_answer_at_once_and_a_row_is_walked(page: Page) -> None:
    page.goto("/playground?epochs=10&layers=&rate=0.1")
    page.get_by_role("button", name="x₁²", exact=True).click()
    page.get_by_role("button", name="x₂²", exact=True).click()
    page.get_by_role("button", name="x₁", exact=True).click()
    expect(page).to_have_url(re.compile("features=x2-x1_squared-x2_squared"))
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_test_id("epoch")).to_have_text("0010")
    page.locator(".wire-target").nth(1).click(force=True)
    page.get_by_role("dialog", name="Weight").get_by_role("textbox").fill("-1.5")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Weights edited")).to_be_visible()
    page.get_by_text("All weights and biases as numbers").click()
    expect(page.get_by_label("Output 1, x₁²", exact=True)).to_have_value("-1.5")
    page.get_by_label("Output 1, Bias", exact=True).fill("2.25")
    page.wait_for_url(re.compile(r"start=[-\d._e]*_-1.5_[-\d._e]*_2.25"))

    # One row: inputs, forward, loss, backward, update; the applied update is the weights' new beginning.
    walk = page.locator("section", has=page.get_by_role("heading", name="One row, step by step"))
    for title in ("Forward: Output", "The loss", "Backward: Output", "The update"):
        walk.get_by_role("button", name="Next").click()
        expect(walk.get_by_role("heading", level=3)).to_contain_text(title)
    bias = walk.locator(".walk-text p").last
    expect(bias).to_contain_text("b = 2.25 − 0.1 ·")
    updated = float(bias.locator("strong").inner_text())
    walk.get_by_role("button", name="Apply this update").click()
    page.wait_for_url(re.compile(rf"start=[-\d._e]*_{updated}"))
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_test_id("epoch")).to_have_text("0010")


def test_two_columns_of_a_table_are_learned(page: Page, api: httpx2.Client) -> None:
    rows = "".join(f"{x / 7 + 0.5},{(x * 37) % 101 / 9},{'high' if x > 70 else 'low'}\n" for x in range(140))
    ref = upload(api, "browser-two-columns", f"a,b,kind\n{rows}")
    page.goto("/playground?epochs=100")
    page.get_by_role("combobox", name="Data").select_option("A table of yours")
    page.get_by_label("Dataset", exact=True).select_option(ref)
    page.get_by_label("Target", exact=True).select_option("kind")
    page.get_by_role("button", name="Learn this").click()
    page.get_by_role("button", name="60/s").click()
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_test_id("epoch")).to_have_text("0100")
    assert float(page.locator(".value.valid").inner_text()) < 0.3
    expect(page.get_by_role("slider", name="Noise")).to_have_count(0)
    page.wait_for_url(re.compile("at=100"))
    page.reload()
    expect(page.get_by_test_id("epoch")).to_have_text("0100")


def test_it_learns_in_the_page_where_its_worker_cannot_be_started(page: Page) -> None:
    page.route(re.compile("learner.worker"), lambda route: route.abort())
    page.goto("/playground?epochs=20&layers=3")
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_test_id("epoch")).to_have_text("0020")
    page.get_by_role("button", name="Step one epoch").click()
    expect(page.get_by_test_id("epoch")).to_have_text("0021")
    # Weights that grow without bound end it, and the page says what to do.
    page.goto("/playground?sample=plane&rate=10&activation=relu&layers=8-8&epochs=200")
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_text("Lower the learning rate")).to_be_visible()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()


def test_controls_can_be_hidden_and_test_data_shown(page: Page) -> None:
    page.goto("/playground?hide=noise-rate-layers")
    rate = page.get_by_role("combobox", name="Learning rate")
    expect(page.get_by_role("slider", name="Batch size")).to_be_visible()
    expect(page.get_by_role("slider", name="Noise")).to_have_count(0)
    expect(page.get_by_role("button", name="Add a layer")).to_have_count(0)
    expect(rate).to_have_count(0)
    page.get_by_text("Hide controls (for teaching)").click()
    page.get_by_role("checkbox", name="Learning rate").uncheck()
    expect(rate).to_be_visible()
    page.get_by_role("checkbox", name="Show test data").first.check()
    page.get_by_role("checkbox", name="Discretize output").first.check()
    expect(page).to_have_url(re.compile(r"test=1&discrete=1&hide=noise-layers"))
    page.reload()
    expect(page.get_by_role("checkbox", name="Show test data").first).to_be_checked()
