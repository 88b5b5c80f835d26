"""From an upload to a prediction in a real browser."""

from __future__ import annotations

import random
import re
from pathlib import Path

import httpx2
from playwright.sync_api import Page, Route, expect

from tests.conftest import Server
from tests.dashboard.conftest import submit, upload, wait_until_ended
from tests.waiting import PATIENCE, wait_until

HOSTILE = "<img src=x onerror=document.title='owned'>"


def admissions(rows: int = 240, seed: int = 3) -> str:
    """Two numbers, a hostile column name, and a target that follows from them."""
    draw = random.Random(seed)
    lines = [f"gre,{HOSTILE},rank,admit"]
    for _ in range(rows):
        gre, gpa, rank = draw.randint(300, 800), round(draw.uniform(2, 4), 2), draw.randint(1, 4)
        score = gre / 160 + gpa * 1.5 - rank + draw.gauss(0, 0.4)
        lines.append(f"{gre},{gpa},{rank},{'yes' if score > 5.5 else 'no'}")
    return "\n".join(lines) + "\n"


def test_from_upload_to_prediction(page: Page, server: Server, tmp_path: Path) -> None:
    expect(page).not_to_have_url(re.compile("key"))
    assert [cookie["httpOnly"] for cookie in page.context.cookies()] == [True]

    table = tmp_path / "Browser Admissions.csv"
    table.write_text(admissions())
    page.get_by_role("link", name="Datasets").first.click()
    page.locator("input[type=file]").set_input_files(table)
    page.get_by_role("link", name="browser-admissions@1").click()
    expect(page.get_by_role("button", name=HOSTILE)).to_be_visible()
    page.get_by_role("button", name=HOSTILE).click()
    expect(page.get_by_role("dialog").get_by_role("heading", name=HOSTILE)).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Rows").click()
    expect(page.get_by_role("columnheader", name=HOSTILE)).to_be_visible()
    assert "owned" not in page.title()

    page.get_by_role("link", name="Train on this table").click()
    page.get_by_label("Which column should it predict?", exact=True).select_option("admit")
    page.get_by_label("Model name", exact=True).fill("browser-admissions")
    verdict = page.get_by_test_id("verdict")
    expect(verdict.get_by_text("Parameters").first).to_be_visible()
    page.get_by_label("Epochs", exact=True).fill("60")
    expect(page.get_by_label("Spec (YAML)", exact=True)).to_have_value(re.compile("epochs: 60"))
    page.get_by_role("button", name="Start training").click()

    page.wait_for_url("**/runs/run_*")
    expect(page.locator(".page-head")).to_contain_text("succeeded")
    expect(page.locator(".curve-chart").first).to_have_attribute("aria-label", re.compile(r"loss.*validation"))

    page.get_by_role("tab", name="Evaluation").click()
    expect(page.get_by_role("heading", name="Confusion matrix")).to_be_visible()
    page.get_by_role("link", name="Try it").click()
    answer = page.get_by_test_id("answer")
    page.get_by_label("gre", exact=True).first.fill("790")
    page.get_by_label(HOSTILE, exact=True).first.fill("3.9")
    page.get_by_label("rank", exact=True).select_option("1")
    expect(answer.locator(".answer")).to_have_text("yes")
    page.get_by_label("gre", exact=True).first.fill("310")
    page.get_by_label(HOSTILE, exact=True).first.fill("2.1")
    page.get_by_label("rank", exact=True).select_option("4")
    expect(answer.locator(".answer")).to_have_text("no")
    page.get_by_role("button", name="Python").click()
    expect(page.get_by_label("As an API request", exact=True).last).to_contain_text("urllib.request")

    page.get_by_role("tab", name="Versions").click()
    page.get_by_label("Labels of version 1", exact=True).select_option("champion")
    page.get_by_role("alertdialog").get_by_role("button", name="Move label").click()
    expect(page.get_by_text("Version 1 is now champion.")).to_be_visible()
    expect(page).to_have_title(re.compile("^browser-admissions"))

    page.get_by_role("button", name="Predict a table").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Dataset", exact=True).select_option("browser-admissions@1")
    form.get_by_label("Name of the new dataset", exact=True).fill("browser-admissions-predicted")
    form.get_by_label("Columns beside the predictions", exact=True).fill("rank")
    form.get_by_role("button", name="Predict", exact=True).click()
    page.wait_for_url("**/runs/run_*")
    expect(page.locator(".page-head")).to_contain_text("succeeded")


def test_a_bad_table_shows_the_row_that_is_bad(page: Page, tmp_path: Path) -> None:
    table = tmp_path / "ragged.csv"
    table.write_text("a,b\n1,2\n3\n5,6\n")
    page.goto("/datasets")
    page.locator("input[type=file]").set_input_files(table)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Problem")
    expect(alert.locator("tbody td").first).to_have_text("2")
    page.get_by_role("button", name="Skip bad rows").click()
    expect(page.get_by_text("1 bad row skipped").first).to_be_visible()


def test_import_options_change_how_a_table_is_parsed(page: Page, api: httpx2.Client, tmp_path: Path) -> None:
    table = tmp_path / "browser-options.csv"
    table.write_bytes("1|2,5|Zoë\n3|4,5|Zoë\n".encode("latin-1"))
    page.goto("/datasets")
    page.get_by_text("Import options").click()
    page.get_by_label("Delimiter", exact=True).select_option("|")
    page.get_by_label("Encoding", exact=True).select_option("windows-1252")
    page.get_by_label("Decimal separator", exact=True).select_option(",")
    page.get_by_label("First line has column names", exact=True).select_option("no")
    page.locator("input[type=file]").set_input_files(table)
    page.get_by_role("link", name="browser-options@1").wait_for()
    assert api.get("/datasets/browser-options@1/rows").json()["rows"] == [[1, 2.5, "Zoë"], [3, 4.5, "Zoë"]]


def test_a_large_upload_resumes_after_a_broken_connection(page: Page, api: httpx2.Client, tmp_path: Path) -> None:
    table = tmp_path / "browser-large.csv"
    table.write_text("a,b\n" + "1234567,7654321\n" * 600_000)  # three pieces
    sent: list[str] = []

    def break_the_second(route: Route) -> None:
        sent.append(route.request.headers["upload-offset"])
        if len(sent) == 2:
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route(
        "**/api/v1/uploads/*",
        lambda route: route.continue_() if route.request.method != "PATCH" else break_the_second(route),
    )
    page.goto("/datasets")
    page.locator("input[type=file]").set_input_files(table)
    page.get_by_role("link", name="browser-large@1").wait_for()
    assert sent == ["0", "4194304", "4194304", "8388608"]
    assert api.get("/datasets/browser-large@1").json()["rows"] == 600_000


def test_a_reload_restores_the_surface_and_the_row(page: Page, trained: list[str]) -> None:
    page.goto(f"/runs/{trained[0]}?tab=surface")
    page.get_by_label("y", exact=True).select_option("c")
    epochs = page.get_by_role("slider")
    epochs.focus()
    page.keyboard.press("Home")
    expect(page.get_by_text("Epoch 1", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_label("y", exact=True)).to_have_value("c")
    expect(page.get_by_text("Epoch 1", exact=True)).to_be_visible()

    page.goto("/models/browser-small")
    page.get_by_label("a", exact=True).first.fill("11.5")
    page.get_by_role("button", name="Python").click()
    page.wait_for_url("**row=**")
    page.reload()
    expect(page.get_by_label("a", exact=True).first).to_have_value("11.5")
    expect(page.get_by_label("As an API request", exact=True).last).to_contain_text(
        re.compile("urllib.request.*FITSERVE_API_KEY", re.DOTALL)
    )
    # A pending update of the address must not navigate back to the page that was left.
    page.get_by_label("a", exact=True).first.fill("3.5")
    page.locator(".nav").get_by_text("Runs").click()
    page.wait_for_timeout(600)
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")


def test_a_models_requests_show_as_traffic_and_drift(page: Page, trained: list[str], server: Server) -> None:
    page.goto("/models/browser-small?tab=live")
    expect(page.get_by_text("since the start of 1 prediction process")).to_be_visible()
    rows = [{"a": 100, "b": 1, "c": "x"}] * 300
    response = httpx2.post(
        f"{server.predict_url}/v1/models/browser-small:predict",
        headers=server.headers,
        json={"instances": rows},
        timeout=PATIENCE,
    )
    response.raise_for_status()
    expect(page.get_by_text("strong drift")).to_be_visible()
    traffic = page.locator(".card", has_text="At this moment")
    expect(traffic.locator("tbody td").nth(2)).to_have_text(re.compile(r"^3\d\d$"))


def test_forms_and_yaml_stay_in_sync(page: Page, api: httpx2.Client) -> None:
    ref = upload(api, "browser-forms", admissions(60))
    page.goto(f"/new?dataset={ref}&target=admit")
    yaml = page.get_by_label("Spec (YAML)", exact=True)
    page.get_by_role("button", name="Dropout", exact=True).click()
    expect(yaml).to_have_value(re.compile(r"- Dropout: 0\.2"))
    yaml.fill(f"dataset: {ref}\ntarget: admit # mine\nnetwork:\n  - Dense: {{units: 7, activation: tanh}}\n")
    expect(page.locator(".layers")).to_contain_text("7 · tanh")
    page.get_by_label("Optimizer", exact=True).select_option("SGD")
    expect(yaml).to_have_value(re.compile(r"admit # mine[\s\S]*SGD"))
    yaml.fill(f"dataset: {ref}\ntarget: admit\nnetwork:\n  - Dens: 7\n")
    expect(page.get_by_test_id("verdict")).to_contain_text("Did you mean Dense")
    yaml.fill("dataset: [")
    expect(page.get_by_test_id("verdict")).to_contain_text("Line 1")
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()


def test_curves_move_while_it_trains_and_it_can_be_cancelled(page: Page, api: httpx2.Client) -> None:
    ref = upload(api, "browser-long", admissions(400))
    network = [{"Dense": {"units": 64, "activation": "relu"}}]
    run = submit(api, {"dataset": ref, "target": "admit", "network": network, "training": {"epochs": 200_000}})
    page.goto(f"/runs/{run}")
    epoch = page.locator(".stat", has_text="epoch").last.locator(".value")
    expect(epoch).not_to_have_text("0")
    first = int(epoch.inner_text().replace(",", ""))
    wait_until(lambda: int(epoch.inner_text().replace(",", "")) > first + 3, "three more epochs")
    page.get_by_role("button", name="Cancel run").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Keep running").click()
    expect(page.get_by_role("alertdialog")).to_have_count(0)
    page.get_by_role("button", name="Cancel run").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel run").click()
    expect(page.locator(".page-head")).to_contain_text("cancelled")


def test_applying_a_finding_starts_a_new_run(page: Page, api: httpx2.Client) -> None:
    ref = upload(api, "browser-findings", admissions(100))
    training = {"optimizer": {"SGD": {"learning_rate": 10.0}}, "epochs": 12}
    run = submit(api, {"dataset": ref, "target": "admit", "network": [{"Dense": 16}], "training": training})
    wait_until_ended(api, run)
    page.goto(f"/runs/{run}?tab=findings")
    page.get_by_role("button", name="Apply and train again").first.click()
    page.wait_for_url(lambda address: run not in address)
    expect(page.locator(".crumbs")).to_contain_text("from")
    expect(page.locator(".page-head")).to_contain_text("succeeded")
    # What was written stays as it was, but for what the finding changes.
    made = api.get("/runs/{}".format(page.url.rsplit("/", 1)[-1].partition("?")[0])).json()["spec"]
    assert (made["dataset"], made["target"], made["network"]) == (ref, "admit", [{"Dense": {"units": 16}}])
    assert made["training"].keys() <= {"optimizer", "epochs", "seed"}
    # A run that is edited by hand names where it comes from too, and both are compared in one click.
    page.get_by_role("link", name="Edit and run").click()
    page.get_by_label("Epochs", exact=True).fill("3")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile(r"/runs/run_\w+\?from=run_"))
    page.get_by_role("link", name="compare with it").click()
    expect(page.get_by_role("cell", name="/training/epochs")).to_be_visible()


def test_a_new_run_is_fitserves_own_choice_until_a_layer_changes(page: Page, trained: list[str]) -> None:
    page.goto("/new?dataset=browser-small&target=kind")
    yaml = page.get_by_label("Spec (YAML)", exact=True)
    expect(page.get_by_text("the average of 8 of these networks")).to_be_visible()
    expect(page.get_by_label("Epochs", exact=True)).to_have_attribute("placeholder", "200")
    expect(page.get_by_label("Early stopping", exact=True)).to_be_checked()
    assert "network" not in yaml.input_value()
    undo = page.get_by_role("button", name="Undo", exact=True)
    expect(undo).to_be_disabled()
    begun = yaml.input_value()
    page.get_by_role("button", name="Remove layer 4").click()
    expect(page.get_by_text("the average of 8 of these networks")).to_have_count(0)
    expect(yaml).to_have_value(re.compile(r"network:\n  - Dense:"))
    # What the forms and the YAML changed is undone in one order, by the button and by the keyboard.
    shorter = yaml.input_value()
    yaml.fill(f"{shorter}model: other\n")
    page.get_by_role("button", name="Dropout", exact=True).click()
    expect(yaml).to_have_value(re.compile(r"Dropout: 0\.2[\s\S]*model: other"))
    undo.click()
    expect(yaml).to_have_value(f"{shorter}model: other\n")
    yaml.press("Control+z")
    expect(yaml).to_have_value(shorter)
    page.keyboard.press("Control+z")
    expect(yaml).to_have_value(begun)
    expect(undo).to_be_disabled()
    page.get_by_role("button", name="Redo", exact=True).click()
    expect(yaml).to_have_value(shorter)


def test_several_targets_are_started_from_the_page(page: Page, trained: list[str], api: httpx2.Client) -> None:
    page.goto("/new?dataset=browser-small&target=kind")
    page.get_by_text("More targets: 0").click()
    page.locator(".chip", has_text=re.compile("^c")).first.click()
    page.get_by_text("More targets: 1").wait_for()
    page.get_by_label("Epochs", exact=True).fill("2")
    expect(page.get_by_label("Spec (YAML)", exact=True)).to_have_value(re.compile(r"target:\n +- kind\n +- c"))
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile(r"/runs/run_"))
    run = page.url.rsplit("/", 1)[-1].partition("?")[0]
    assert [one["name"] for one in api.get(f"/runs/{run}").json()["resolved"]["target"]] == ["kind", "c"]
    assert wait_until_ended(api, run) == "succeeded"
