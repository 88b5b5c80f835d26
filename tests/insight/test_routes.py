"""The insight routes over a whole running system: train, read, draw, explain, apply a finding."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.conftest import Server

pytestmark = pytest.mark.xdist_group("server")


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=90) as client:
        yield client


def _csv(rows: int = 240) -> bytes:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    label = np.where(x[:, 0] + x[:, 1] + rng.normal(0, 0.8, rows) > 0, "yes", "no")
    city = rng.choice(["rome", "oslo"], rows)
    sink = io.StringIO("a,b,c,city,label\n")
    sink.seek(0, 2)
    for values, place, answer in zip(x, city, label, strict=True):
        sink.write(",".join(f"{v:.4f}" for v in values) + f",{place},{answer}\n")
    return sink.getvalue().encode()


def _trained(api: httpx2.Client, spec: dict[str, Any]) -> dict[str, Any]:
    return _ended(api, api.post("/runs", json=spec).raise_for_status().json()["id"])


def _ended(api: httpx2.Client, run: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found: dict[str, Any] = api.get(f"/runs/{run}").raise_for_status().json()
        if found["state"] in ("succeeded", "failed", "cancelled"):
            return found
        time.sleep(0.2)
    raise AssertionError("the run did not end")


@pytest.fixture(scope="module")
def run(api: httpx2.Client) -> str:
    """A run that overfits: 60 epochs of a wide network on few rows."""
    upload = api.post(
        "/datasets", params={"name": "insight-routes"}, content=_csv(), headers={"Content-Type": "text/csv"}
    )
    assert upload.status_code in (200, 201), upload.text
    spec = {
        "dataset": "insight-routes",
        "target": "label",
        "split": {"validation": 0.2, "test": 0.2},
        "network": [{"Dense": {"units": 64, "activation": "relu"}}, {"Dense": {"units": 8, "activation": "tanh"}}],
        "training": {"optimizer": {"Adam": {"learning_rate": 0.01}}, "epochs": 60},
    }
    done = _trained(api, spec)
    assert done["state"] == "succeeded", done["error"]
    return str(done["id"])


def test_a_run_is_evaluated_beside_simpler_models(api: httpx2.Client, run: str) -> None:
    found = api.get(f"/runs/{run}/evaluation").raise_for_status().json()
    assert found["part"] == "test"
    figures = found["test"]["label"]
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
    assert _ended(api, child["id"])["state"] == "succeeded"
    assert _ended(api, repeated["id"])["state"] == "succeeded"
    assert "overfitting" not in [f["rule"] for f in api.get(f"/runs/{child['id']}/findings").json()["items"]]
    lineage = api.get(f"/runs/{child['id']}/lineage").raise_for_status().json()
    group = next(group for group in lineage["groups"] if group["group"] == lineage["group"])
    assert group["parent"] is not None
    assert group["seeds"] == 3
    assert group["verdict"] in ("better", "within noise")
    assert [change["path"] for change in group["changes"]] == ["/training/early_stopping"]


def test_the_complexity_graph_names_the_turn_and_the_kept_epoch(api: httpx2.Client, run: str) -> None:
    drawn = api.get(f"/runs/{run}/complexity").raise_for_status().json()
    assert drawn["verdict"] == "overfitting"
    assert drawn["turned_epoch"] < drawn["kept_epoch"] == 60
    assert len(drawn["train"]) == len(drawn["validation"]) == 60


def test_importance_names_the_columns_that_matter(api: httpx2.Client, run: str) -> None:
    items = api.get(f"/runs/{run}/importance").raise_for_status().json()["items"]
    assert {items[0]["column"], items[1]["column"]} == {"a", "b"}
    assert items[0]["low"] <= items[0]["importance"] <= items[0]["high"]


def test_hardest_rows_are_named_by_number(api: httpx2.Client, run: str) -> None:
    found = api.get(f"/runs/{run}/hardest").raise_for_status().json()
    assert found["rows"] == 240
    assert all(1 <= item["row"] <= 240 for item in found["items"])


def test_layers_are_recorded_with_histograms_of_the_kept_network(api: httpx2.Client, run: str) -> None:
    found = api.get(f"/runs/{run}/layers").raise_for_status().json()
    assert [row["epoch"] for row in found["items"]][:5] == [1, 2, 3, 4, 5]
    names = [layer["name"] for layer in found["items"][0]["layers"]]
    assert names == ["dense", "dense_1", "label"]
    assert sum(found["final"]["layers"][0]["histogram"]["counts"]) > 0


def test_a_surface_of_any_epoch_and_its_units(api: httpx2.Client, run: str) -> None:
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


def test_one_prediction_is_explained_to_the_last_digit(api: httpx2.Client, run: str) -> None:
    row = {"a": 1.2, "b": -0.4, "c": 0.1, "city": "rome"}
    told = api.post(f"/runs/{run}/explain", json={"row": row}).raise_for_status().json()
    assert set(told["contributions"]) == set(row)
    assert told["completeness_error"] < 1e-3
    total = sum(told["contributions"].values())
    assert total == pytest.approx(told["output"] - told["reference_output"], abs=1e-3)
    wrong = api.post(f"/runs/{run}/explain", json={"row": {**row, "a": "much"}})
    assert wrong.status_code == 422
    assert "'a'" in wrong.json()["detail"]


@pytest.mark.parametrize("kind", ["complexity", "roc", "confusion", "importance", "surface", "layers"])
def test_plots_are_drawn_as_png_and_svg(api: httpx2.Client, run: str, kind: str) -> None:
    png = api.get(f"/runs/{run}/plots/{kind}.png")
    assert png.status_code == 200, png.text
    assert png.content.startswith(b"\x89PNG")
    if kind in ("complexity", "surface"):
        svg = api.get(f"/runs/{run}/plots/{kind}.svg")
        assert svg.headers["content-type"].startswith("image/svg+xml")
        assert b"<svg" in svg.content
        again = api.get(f"/runs/{run}/plots/{kind}.svg", headers={"If-None-Match": svg.headers["etag"]})
        assert again.status_code == 304
    assert api.get(f"/runs/{run}/plots/residuals.png").status_code == 404


def test_every_rule_is_documented(api: httpx2.Client) -> None:
    rules = api.get("/findings/rules").raise_for_status().json()
    assert len(rules) >= 15
    assert all(rule["threshold"] and rule["source"] and rule["answer"] for rule in rules)


def test_what_is_not_there_is_said(api: httpx2.Client, run: str) -> None:
    assert api.get("/runs/run_nothing/findings").status_code == 404
    assert api.post(f"/runs/{run}/findings/99/apply").status_code == 404
    assert api.get(f"/runs/{run}/importance", params={"target": "labels"}).status_code == 404
