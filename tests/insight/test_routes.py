"""The insight routes against a running system: train, read, plot, explain, apply a finding."""

from __future__ import annotations

import httpx2
import numpy as np
import pytest

from tests.insight.conftest import ended

pytestmark = pytest.mark.xdist_group("server")


def test_a_run_is_compared_with_simpler_models(api: httpx2.Client, run: str) -> None:
    evaluation = api.get(f"/runs/{run}/evaluation").raise_for_status().json()
    assert evaluation["part"] == "test"
    figures = evaluation["test"]["label"]
    assert {"accuracy", "roc_auc", "brier", "best_threshold", "confusion", "by_label", "intervals"} <= set(figures)
    assert {"baseline", "linear"} <= set(figures["references"])
    assert figures["against"]["baseline"]["verdict"] in ("better", "no different", "worse")


def test_findings_come_with_evidence_and_a_patch_that_trains(api: httpx2.Client, run: str) -> None:
    items = api.get(f"/runs/{run}/findings").raise_for_status().json()["items"]
    overfitting = next(item for item in items if item["rule"] == "overfitting")
    assert overfitting["epochs"]
    assert overfitting["patch"][0]["path"] == "/training/early_stopping"
    answer = api.post(f"/runs/{run}/findings/{overfitting['n']}/apply", params={"seeds": 3})
    assert answer.status_code == 202, answer.text
    child, repeated = answer.json(), answer.json()["repeated"]
    assert child["parent_id"] == run
    assert answer.headers["location"].endswith(child["id"])
    assert ended(api, child["id"])["state"] == "succeeded"
    assert ended(api, repeated["id"])["state"] == "succeeded"
    assert "overfitting" not in [f["rule"] for f in api.get(f"/runs/{child['id']}/findings").json()["items"]]
    lineage = api.get(f"/runs/{child['id']}/lineage").raise_for_status().json()
    group = next(group for group in lineage["groups"] if group["group"] == lineage["group"])
    assert group["parent"] is not None
    assert group["seeds"] == 3
    assert group["verdict"] in ("better", "within noise")
    assert [change["path"] for change in group["changes"]] == ["/training/early_stopping"]


def test_the_complexity_graph_marks_the_turning_point_and_the_kept_epoch(api: httpx2.Client, run: str) -> None:
    graph = api.get(f"/runs/{run}/complexity").raise_for_status().json()
    assert graph["verdict"] == "overfitting"
    assert graph["turned_epoch"] < graph["kept_epoch"] == 60
    assert len(graph["train"]) == len(graph["validation"]) == 60


def test_importance_ranks_the_columns_that_matter_first(api: httpx2.Client, run: str) -> None:
    items = api.get(f"/runs/{run}/importance").raise_for_status().json()["items"]
    assert {items[0]["column"], items[1]["column"]} == {"a", "b"}
    assert items[0]["low"] <= items[0]["importance"] <= items[0]["high"]


def test_hardest_rows_are_listed_by_row_number(api: httpx2.Client, run: str) -> None:
    hardest = api.get(f"/runs/{run}/hardest").raise_for_status().json()
    assert hardest["rows"] == 240
    assert all(1 <= item["row"] <= 240 for item in hardest["items"])


def test_layers_are_recorded_with_histograms_of_the_kept_network(api: httpx2.Client, run: str) -> None:
    series = api.get(f"/runs/{run}/layers").raise_for_status().json()
    assert [row["epoch"] for row in series["items"]][:5] == [1, 2, 3, 4, 5]
    names = [layer["name"] for layer in series["items"][0]["layers"]]
    assert names == ["dense", "dense_1", "label"]
    assert sum(series["final"]["layers"][0]["histogram"]["counts"]) > 0


def test_surfaces_of_any_kept_epoch_and_of_its_units(api: httpx2.Client, run: str) -> None:
    last = api.get(f"/runs/{run}/surface", params={"points": 20, "units": True}).raise_for_status().json()
    assert {last["x"]["column"], last["y"]["column"]} == {"a", "b"}
    assert np.shape(last["values"]) == (20, 20)
    assert {(u["layer"]) for u in last["units"]} == {"dense", "dense_1"}
    assert len(last["units"]) == 72
    first = api.get(f"/runs/{run}/surface", params={"points": 20, "epoch": last["epochs"][0], "x": "a", "y": "city"})
    body = first.raise_for_status().json()
    assert body["y"]["values"] == ["oslo", "rome"]
    assert np.shape(body["values"]) == (2, 20)
    refused = api.get(f"/runs/{run}/surface", params={"x": "a", "y": "aa"})
    assert refused.status_code == 404
    assert api.get(f"/runs/{run}/surface", params={"epoch": 59}).status_code == 404


def test_contributions_sum_to_the_change_in_output(api: httpx2.Client, run: str) -> None:
    row = {"a": 1.2, "b": -0.4, "c": 0.1, "city": "rome"}
    explanation = api.post(f"/runs/{run}/explain", json={"row": row}).raise_for_status().json()
    assert set(explanation["contributions"]) == set(row)
    assert explanation["completeness_error"] < 1e-3
    total = sum(explanation["contributions"].values())
    assert total == pytest.approx(explanation["output"] - explanation["reference_output"], abs=1e-3)
    wrong = api.post(f"/runs/{run}/explain", json={"row": {**row, "a": "much"}})
    assert wrong.status_code == 422
    assert "'a'" in wrong.json()["detail"]


def test_each_epoch_has_learning_rate_duration_and_row_rate(api: httpx2.Client, run: str) -> None:
    items = api.get(f"/runs/{run}/epochs").raise_for_status().json()["items"]
    assert len(items) == 60
    for item in items:
        assert {"loss", "val_loss", "accuracy", "val_accuracy"} <= set(item["logs"])
        assert item["logs"]["learning_rate"] == pytest.approx(0.01)
        assert item["seconds"] > 0
        assert item["rows_per_second"] == pytest.approx(144 / item["seconds"], rel=1e-3)


def test_restarts_have_the_same_insight_as_a_single_trial(api: httpx2.Client, restarted: str) -> None:
    kept = api.get(f"/runs/{restarted}").raise_for_status().json()["result"]["best_trial"]
    for trial in range(3):
        series = api.get(f"/runs/{restarted}/layers", params={"trial": trial}).raise_for_status().json()
        assert [row["epoch"] for row in series["items"]][:4] == [1, 2, 3, 4]
        assert all(layer["gradients"] > 0 and layer["ratio"] > 0 for layer in series["items"][0]["layers"])
        assert (series["final"] is not None) == (trial == kept)
    surface = api.get(f"/runs/{restarted}/surface", params={"points": 5}).raise_for_status().json()
    assert len(surface["epochs"]) >= 10  # for the page's epoch slider
    assert surface["label"] is None
    first = api.get(f"/runs/{restarted}/surface", params={"points": 5, "epoch": surface["epochs"][0]})
    assert first.raise_for_status().json()["values"] != surface["values"]


def test_a_regression_is_evaluated_in_its_own_units(api: httpx2.Client, restarted: str) -> None:
    figures = api.get(f"/runs/{restarted}/evaluation").raise_for_status().json()["test"]["amount"]
    assert figures["rmse"] < figures["references"]["linear"]["rmse"] < figures["references"]["baseline"]["rmse"]
    assert 0.5 < figures["r2"] <= 1
    assert figures["intervals"]["r2"][0] < figures["r2"] < figures["intervals"]["r2"][1]
    assert min(figures["predicted_actual"]["actual"]) > 20
    assert len(figures["residuals"]) == 10


def test_every_rule_is_documented(api: httpx2.Client) -> None:
    rules = api.get("/findings/rules").raise_for_status().json()
    assert len(rules) >= 15
    assert all(rule["threshold"] and rule["source"] and rule["answer"] for rule in rules)


def test_unknown_runs_findings_and_targets_are_404(api: httpx2.Client, run: str) -> None:
    assert api.get("/runs/run_nothing/findings").status_code == 404
    assert api.post(f"/runs/{run}/findings/99/apply").status_code == 404
    assert api.get(f"/runs/{run}/importance", params={"target": "labels"}).status_code == 404


def test_a_run_that_begins_with_weights_descends_from_their_run(api: httpx2.Client, run: str) -> None:
    of_run = api.get(f"/runs/{run}").raise_for_status().json()
    spec = {"dataset": of_run["spec"]["dataset"], "target": "label", "initial_weights": run, "training": {"epochs": 1}}
    child = api.post("/runs", json=spec).raise_for_status().json()["id"]
    ended(api, child)
    for one in (run, child):
        groups = api.get(f"/runs/{one}/lineage").raise_for_status().json()["groups"]
        by_run = {member: group for group in groups for member in group["runs"]}
        assert by_run[child]["parent"] == by_run[run]["group"]
