"""What the pages show when something is wrong or about to be: an outage, a lost worker, a model that is taken down."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from playwright.sync_api import Locator, Page, Route, expect

from fitserve import db
from fitserve.tables import Alarm
from tests.conftest import Server
from tests.dashboard.conftest import check_accessibility, submit, upload, wait_until_ended
from tests.waiting import PATIENCE, wait_until


def test_an_outage_is_said_and_ends_by_itself(page: Page, trained: list[str]) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Recent runs")).to_be_visible()
    page.route("**/api/**", lambda route: route.abort("connectionrefused"))
    page.get_by_role("link", name="Runs", exact=True).first.click()
    expect(page.get_by_text("The server does not answer.")).to_be_visible()
    expect(page.get_by_text("No runs yet")).to_have_count(0)
    pages = {
        "Datasets": "No tables yet",
        "New run": "No tables yet",
        "Models": "No models yet",
        "System": "All is well.",
    }
    for name, empty in pages.items():
        page.get_by_role("link", name=name, exact=True).first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        expect(page.get_by_text(empty)).to_have_count(0)
    expect(page.get_by_role("button", name="Try now")).to_be_visible()
    page.get_by_role("link", name="Runs", exact=True).first.click()
    page.unroute("**/api/**")
    expect(page.get_by_text("The server does not answer.")).to_have_count(0)
    page.get_by_role("searchbox", name="Search runs").fill(trained[0])  # only the rows in sight are drawn
    expect(page.get_by_role("link", name=re.compile(trained[0][-8:])).first).to_be_visible()


def test_a_page_left_open_over_an_upgrade_loads_the_new_files(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("link", name="System", exact=True).first).to_be_visible()
    page.route(re.compile("/assets/System-"), lambda route: route.fulfill(status=404), times=1)  # of the old release
    page.get_by_role("link", name="System", exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("System")


def test_taking_a_model_down_is_asked_first(page: Page, trained: list[str]) -> None:
    page.goto("/models/browser-small")
    page.get_by_role("button", name="Unload").click()
    dialog = page.get_by_role("alertdialog")
    expect(dialog).to_contain_text("answered with 404")
    dialog.get_by_role("button", name="Keep as is").click()
    expect(page.get_by_role("button", name="Unload")).to_be_visible()
    expect(page).to_have_title("browser-small · fitserve")


def test_models_beyond_the_first_page_are_found(page: Page, trained: list[str]) -> None:
    def in_two_pages(route: Route) -> None:
        answer = route.fetch(url=route.request.url.replace("cursor=later", ""))
        body = answer.json()
        if "cursor=later" not in route.request.url:
            body = {"items": [{**body["items"][0], "name": "another"}], "next_cursor": "later"}
        route.fulfill(response=answer, json=body)

    page.route(re.compile(r"/api/v1/models\?"), in_two_pages)
    page.goto("/models")
    small = page.get_by_role("link").filter(has_text="browser-small")
    expect(page.get_by_role("link").filter(has_text="another")).to_be_visible()
    expect(small).to_have_count(0)
    page.get_by_role("button", name="Show more").click()
    expect(small).to_contain_text("1 version, v1 live")
    page.goto("/models?q=small")  # a search reads on by itself
    expect(small).to_be_visible()


def test_a_filter_by_state_keeps_the_model(page: Page, trained: list[str]) -> None:
    page.goto("/runs?model=browser-small")
    page.get_by_role("combobox", name="State").select_option("succeeded")
    expect(page).to_have_url(re.compile(r"model=browser-small.*state=succeeded"))


def test_a_worker_that_stopped_answering_is_no_idle_one(page: Page) -> None:
    def with_a_lost_worker(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for worker in body["workers"]:
            worker |= {"alive": False, "run_id": None}
        body["runs"]["queued"] = 320
        figures = {"detail": "In the server's words.", "subject": "", "severity": "critical"}
        body["conditions"] = [
            {**figures, "name": "no_worker", "figures": {"queued": 320}},
            {**figures, "name": "a_later_rule", "figures": {}},
        ]
        body["status"] = "critical"
        route.fulfill(response=answer, json=body)

    page.route("**/api/v1/system", with_a_lost_worker)
    page.goto("/system")
    banner = page.get_by_role("status").filter(has_text="Something is broken.")
    expect(banner).to_contain_text("No worker is alive, and 320 runs wait.")
    expect(banner).to_contain_text("In the server's words.")
    expect(banner.get_by_role("link", name="Look")).to_have_attribute("href", "/runs?state=queued")
    expect(page.get_by_text("not answering").first).to_be_visible()
    expect(page.get_by_text("idle", exact=True)).to_have_count(0)


def test_a_run_under_way_names_its_phase_and_the_time_left(page: Page, trained: list[str]) -> None:
    phase = {"phase": "training", "state": "running"}
    training: dict[str, Any] = {}
    times: dict[str, str] = {}

    def under_way(route: Route) -> None:
        answer = route.fetch()
        progress = {"trial": 1, "trials": 2, "epoch": 3, "epochs": 6, "share": 0.75, "logs": {}}
        finish = datetime.now(UTC) + timedelta(minutes=30, seconds=20)
        progress |= {"estimated_finish": finish.isoformat(), **times}
        body = answer.json()
        body["resolved"]["training"] |= training
        route.fulfill(response=answer, json={**body, "progress": progress, "finished_at": None, **phase})

    page.route(f"**/api/v1/runs/{trained[0]}", under_way)
    page.goto(f"/runs/{trained[0]}")
    line = page.get_by_role("progressbar", name="Progress").locator("xpath=..")
    expect(line).to_contain_text(
        re.compile(r"training · epoch 3 of 6 · restart 2 of 2 · about (30|29) min( \d+ s)? left")
    )
    expect(page.get_by_role("progressbar", name="Progress")).to_have_attribute("aria-valuenow", "75")
    for name, text in (("preparing", "preparing the data"), ("exporting", "exporting"), ("evaluating", "evaluating")):
        phase["phase"] = name
        expect(line).to_contain_text(text)  # asked again by itself
    expect(line).not_to_contain_text("left")
    phase["phase"], training["early_stopping"] = "training", {"patience": 5}
    expect(line).to_contain_text("at most about")  # it may end before its last epoch
    earliest = datetime.now(UTC) + timedelta(minutes=2, seconds=40)
    times["earliest_finish"] = earliest.isoformat()
    expect(line).to_contain_text(re.compile(r"between 2 min \d+ s \(if nothing improves any more\) and (30|29) min"))
    phase.update(phase="taken_back", state="queued")
    expect(page.get_by_text("Its worker was lost; it goes on after epoch 0.")).to_be_visible()
    waiting = page.locator(".page-head .badge", has_text="queued")
    assert waiting.evaluate("(own) => parseFloat(getComputedStyle(own).paddingLeft)") > 4  # a plain badge, not bare


def test_the_wall_says_what_was_and_who_did_it(
    page: Page, api: httpx2.Client, server: Server, trained: list[str]
) -> None:
    with httpx2.Client(base_url=server.predict_url, headers=server.headers, timeout=PATIENCE) as predict:
        path = "/v1/models/browser-small"
        wait_until(lambda: predict.get(path).status_code == 200, "the model is loaded")
        row = {"a": 1, "b": 3, "c": "x"}
        assert predict.post(f"{path}:predict", json={"instances": [row] * 3}).status_code == 200
        assert predict.post(f"{path}:predict", json={"instances": [{**row, "a": "dog"}]}).status_code == 400
    assert api.delete("/keys/key_of_nobody").status_code == 404
    engine = db.make_engine(f"sqlite:///{server.home}/fitserve.db")
    with db.transaction(engine) as session:
        at = db.now(session) - timedelta(hours=1)
        facts = {"severity": "warning", "detail": "", "figures": {"seconds": 400, "queued": 3}, "since": at}
        session.add(Alarm(id="alarm_0", name="queue_old", subject="", seen_at=at, ended_at=at, **facts))
    engine.dispose()
    page.goto("/system")
    shown = ("Queue", "Predictions", "Errors", "Latency of predictions", "Models loaded", "Processor", "Memory")
    for title in shown:
        expect(page.get_by_role("img", name=re.compile(f"^{title}, ")).first).to_be_visible()
    processes = page.locator("section.card", has=page.get_by_role("heading", name="Processes"))
    for kind in ("API", "Worker", "Prediction service", "Reaper"):
        expect(processes.get_by_role("cell", name=kind, exact=True).first).to_be_visible()
    check_accessibility(page)
    page.get_by_role("button", name="Last day").click()
    expect(page.get_by_text("in 10 min").first).to_be_visible()
    page.get_by_role("tab", name="Alarms").click()
    expect(page.get_by_role("cell", name="The oldest queued run has waited for 6 min 40 s (3 queued)")).to_be_visible()
    page.get_by_role("tab", name="Audit log").click()
    page.get_by_label("Search", exact=True).fill("KEY_OF_NOBODY")
    page.get_by_label("Result", exact=True).select_option("refused")
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("cell", name="DELETE /api/v1/keys/key_of_nobody")).to_be_visible()
    check_accessibility(page)
    page.get_by_label("Action", exact=True).select_option("PUT")
    expect(page.get_by_text("No entry matches.")).to_be_visible()
    page.get_by_role("tab", name="Storage").click()
    expect(page.get_by_role("row", name=re.compile("^admin "))).to_contain_text(re.compile("[KMG]B"))
    page.goto("/models")
    card = page.get_by_role("link").filter(has_text="browser-small")
    expect(card).to_contain_text("Last fault")
    card.click()
    page.get_by_role("tab", name="Monitoring").click()
    expect(page.get_by_text("Bad input")).to_be_visible()
    expect(page.locator(".stat").filter(has_text="Refused")).to_contain_text(re.compile("[1-9]"))
    expect(page.get_by_role("img", name=re.compile("^Requests, per second"))).to_be_visible()
    check_accessibility(page)


def test_a_regression_has_large_residuals_and_their_rows(page: Page, api: httpx2.Client) -> None:
    said = ["late on a rainy day", "early in the morning", "by the old river road", "with two more to come"]
    rows = "".join(
        f"order {x} came {said[x % 4]},{x},{x % 7},2024-{x % 12 + 1:02}-{x % 28 + 1:02},"
        f"{3 * x + (500 if x == 40 else 0)},row {x} is {said[x % 3]}\n"
        for x in range(1, 121)
    )
    ref = upload(api, "browser-residuals", f"note,a,b,day,price,remark\n{rows}")
    target = {"column": "price", "task": "regression", "standardize": True}
    spec = {"dataset": ref, "target": target, "network": [{"Dense": 4}], "model": "browser-residuals"}
    run = submit(api, {**spec, "training": {"epochs": 5}})
    wait_until_ended(api, run)
    own = api.get(f"/runs/{run}").json()["result"]["evaluation"]
    page.goto(f"/runs/{run}")  # every figure in the target's units, though a standardized target was learned
    mae = own["validation"]["price"]["mae"]
    stat = page.locator(".stat", has=page.get_by_text("mean_absolute_error (validation)", exact=True))
    wait_for_figure(stat.locator(".value"), mae, 0.01 * mae)
    page.goto(f"/compare?runs={run}&metric=val_mean_absolute_error")
    compared = page.locator("tbody tr", has=page.get_by_role("link", name=re.compile(run[-8:]))).locator("td.num").first
    wait_for_figure(compared, mae, 0.01 * mae)
    page.goto("/models")
    card = page.get_by_role("link").filter(has_text="browser-residuals")
    expect(card.locator(".stat", has_text="mae")).to_be_visible()
    page.goto("/models/browser-residuals")
    row = [page.get_by_label(name, exact=True).first for name in ("a", "day")]
    expect(row[0]).to_have_value(re.compile(r"^\d+$"))  # a typical row has numbers that rows have
    answer = page.get_by_test_id("answer").locator(".answer")
    before = answer.inner_text()
    page.get_by_role("slider", name="day").fill("1735000000")  # seconds: what the slider writes, the server reads
    expect(row[1]).to_have_value(re.compile("^20"))
    row[0].fill("119")
    expect(answer).not_to_have_text(before)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.goto(f"/runs/{run}?tab=evaluation")
    largest = page.locator("section", has=page.get_by_role("heading", name="Largest residuals")).last
    expect(page.get_by_text("Probably mislabelled")).to_have_count(0)
    largest.get_by_role("button", name="Row 40", exact=True).click()
    expect(largest.locator("dl")).to_contain_text("620")
    page.get_by_role("tab", name="Surface").click()  # over columns that can be drawn, though the first is text
    expect(page.get_by_label("x", exact=True).locator("option")).to_have_text(["a", "b", "day"])
    expect(page.get_by_role("img", name="Decision surface").first).to_be_visible()
    page.goto(f"/datasets/{ref}?tab=relations")
    expect(page.get_by_label("Target", exact=True)).to_have_value("price")
    expect(page.get_by_role("list", name="Relation to the target").get_by_role("listitem")).to_have_count(5)
    page.get_by_label("Language", exact=True).select_option("zh-Hant")
    page.goto(f"/runs/{run}?tab=evaluation")
    parts = page.locator("td", has_text=re.compile("^(訓練|驗證|測試)$"))
    expect(parts.first).to_be_visible()
    expect(page.locator("td", has_text=re.compile("^(train|validation|test)$"))).to_have_count(0)


def test_what_the_table_lacks_is_said_before_the_start_in_both_languages(page: Page, api: httpx2.Client) -> None:
    ref = upload(
        api, "browser-blanks", "a,b,kind\n" + "".join(f"{x},{x % 7},{'yn '[x % 3].strip()}\n" for x in range(90))
    )
    page.goto(f"/new?dataset={ref}&target=kind")
    verdict = page.get_by_test_id("verdict")
    expect(verdict).to_contain_text("The target 'kind' has no value in 30 of 90 rows")
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()
    page.get_by_label("Language", exact=True).select_option("zh-Hant")
    expect(verdict).to_contain_text("目標 'kind' 在 90 列中有 30 列沒有值")
    expect(verdict).to_contain_text("或補上這些值後重新上傳資料表")


def wait_for_figure(shown: Locator, expected: float, tolerance: float) -> None:
    """Wait until a page shows a figure. Until its data have come, it shows a dash or nothing."""

    def as_expected() -> bool:
        text = shown.inner_text().replace(",", "")
        return re.match(r"[-\d.e]+$", text) is not None and abs(float(text) - expected) <= tolerance

    wait_until(as_expected, lambda: f"{expected}, not {shown.inner_text()}")


def test_an_ended_run_shows_the_figures_of_the_kept_weights(page: Page, api: httpx2.Client, trained: list[str]) -> None:
    rows = "".join(f"{x},{(x * 37) % 101},{'ab'[(x * 31) % 97 > 48]}\n" for x in range(160))
    ref = upload(api, "browser-kept", f"a,b,kind\n{rows}")
    stopping = {"patience": 5, "restore_best_weights": True}
    spec = {"dataset": ref, "target": "kind", "network": [{"Dense": {"units": 64, "activation": "relu"}}]}
    run = submit(api, {**spec, "training": {"epochs": 60, "early_stopping": stopping}})
    wait_until_ended(api, run)
    (trial,) = api.get(f"/runs/{run}").json()["result"]["trials"]
    assert trial["best_epoch"] < trial["epochs"]
    kept = api.get(f"/runs/{run}/epochs").json()["items"][trial["best_epoch"] - 1]["logs"]["val_loss"]
    page.goto(f"/runs/{run}")
    expect(page.locator(".stat", has_text="Epoch")).to_contain_text(f"kept of {trial['epochs']}")
    stat = page.locator(".stat", has_text="loss (validation)")
    wait_for_figure(stat.locator(".value"), kept, 1e-3 * abs(kept) + 1e-3)
    page.goto(f"/compare?runs={run},{trained[0]}&metric=val_loss")
    figures = page.locator("section", has=page.get_by_role("heading", name=re.compile("^Results"))).locator("tbody tr")
    expect(figures).to_have_count(2)
    for row, one in zip(figures.all(), (run, trained[0]), strict=True):
        reached = api.get(f"/runs/{one}").json()["result"]["metrics"]["validation"]["loss"]
        wait_for_figure(row.locator("td.num").first, reached, 1e-3 * abs(reached) + 1e-3)


def test_what_the_playground_makes_stays_out_of_the_lists(page: Page, api: httpx2.Client) -> None:
    made = api.post("/datasets/samples", json={"sample": "circle", "name": "playground-circle"}).json()
    ref = f"{made['name']}@{made['version']}"
    run = submit(api, {"dataset": ref, "target": "label", "network": [{"Dense": 2}], "training": {"epochs": 1}})
    page.goto("/datasets")
    expect(page.get_by_role("heading", name="Datasets", level=1)).to_be_visible()
    expect(page.get_by_role("link", name=ref)).to_have_count(0)
    page.get_by_text("The playground's too").click()
    expect(page.get_by_role("link", name="playground-circle").first).to_be_visible()
    listed = {one["id"] for one in api.get("/runs", params={"playground": "false"}).json()["items"]}
    assert run not in listed
    assert run in {one["id"] for one in api.get("/runs").json()["items"]}
    assert wait_until_ended(api, run) == "succeeded"
