"""Every command, against the real server: output for people and for programs, and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fitserve.client import Client
from tests.cli.conftest import SPEC, Fitserve
from tests.cli.terminal import Terminal
from tests.client.breaking_proxy import breaking_proxy
from tests.client.conftest import ROWS, circle
from tests.conftest import Server
from tests.waiting import PATIENCE

FitserveJson = Callable[..., Any]


@pytest.fixture(scope="session")
def run_id(server: Server, uploaded: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that succeeded and registered `cli-circle`."""
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(SPEC)
    with Client(server.base_url, server.token) as client:
        return client.runs.create(path).wait(PATIENCE).id


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return str(path)


def test_a_decision_is_moved_and_taken_back(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str) -> None:
    moved = fitserve_json("models", "decision", "cli-circle", "1", "--recall-at-least", "0.8")
    assert moved["decisions"][0]["figures"]["validation"]["recall"] >= 0.8
    shown = fitserve("models", "decision", "cli-circle", "1", "--cost", "false_positive=1,false_negative=4").output
    assert "false_negative" in shown
    assert fitserve_json("models", "decision", "cli-circle", "1", "--reset")["decisions"] == []
    assert "likeliest" in fitserve("models", "decision", "cli-circle", "1").output


def test_slices_and_fairness(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str) -> None:
    found = fitserve_json("runs", "slices", run_id)
    column = found["columns"][0]["column"]
    shown = fitserve("runs", "slices", run_id, "--column", column).output
    assert f"{column} <" in shown or f"{column} =" in shown
    assert ("too few" in fitserve("runs", "slices", run_id).output) == (found["rows"] < found["fewest_searched"])
    assert "by side" not in fitserve("runs", "fairness", run_id).output


def test_drift(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str) -> None:
    report = fitserve_json("models", "drift", "cli-circle")
    assert fitserve("models", "drift", "cli-circle").output.startswith(f"version {report['version']}: ")


# Datasets


def test_datasets(fitserve: Fitserve, fitserve_json: FitserveJson, tmp_path: Path) -> None:
    path = tmp_path / "Points.csv"
    circle(50).to_csv(path, index=False)
    shown = fitserve("datasets", "upload", str(path)).output
    assert "points@1" in shown
    assert "categorical" in shown
    assert "fitserve spec init --dataset points" in shown
    assert fitserve_json("datasets", "upload", str(path), "--name", "p2", "--kind", "colour=ignored")["name"] == "p2"
    kinds = {column["name"]: column["kind"] for column in fitserve_json("datasets", "show", "p2")["columns"]}
    assert kinds["colour"] == "ignored"
    for _ in range(2):  # the same batch, sent twice
        assert fitserve_json("datasets", "append", "points", str(path), "--batch", "first")["version"] == 2
    for batch in ("a", "b", "b"):
        waiting = fitserve_json(
            "datasets", "append", "points", "-", "--stage", "--batch", batch, input=path.read_text()
        )
    assert (waiting["batches"], waiting["rows"]) == (2, 100)
    assert "points@3" in fitserve("datasets", "append", "points", "--commit").output
    assert "Nothing waits" in fitserve("datasets", "append", "points", "--commit").output
    assert "nothing to append" in fitserve("datasets", "append", "points", code=3).stderr
    assert "points" in fitserve("datasets", "list").output
    assert "strength" in fitserve("datasets", "show", "points", "--target", "side").output
    assert len(fitserve_json("datasets", "rows", "points", "--limit", "3")) == 3
    assert "colour" in fitserve("datasets", "rows", "points").output
    assert "spiral" in fitserve("datasets", "sample").output
    assert fitserve_json("datasets", "sample", "xor", "--name", "my-xor", "--rows", "40")["rows"] == 40


def test_a_bad_table_is_refused_with_row_and_column(fitserve: Fitserve, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n1,2\n3\n")
    result = fitserve("datasets", "upload", str(path), code=3)
    assert "row 2" in result.stderr
    problem = json.loads(fitserve("datasets", "upload", str(path), "--json", code=3).stderr)
    assert problem["errors"][0]["row"] == 2
    assert "no file" in fitserve("datasets", "upload", "nowhere.csv", code=3).stderr
    assert "zip=categorical" in fitserve("datasets", "upload", str(path), "--kind", "zip", code=3).stderr
    assert fitserve("datasets", "show", "no-such-dataset", code=4)
    assert json.loads(fitserve("datasets", "import", "--connections", "--json").output) == []
    query = ("--connection", "none", "--query", "SELECT 1")
    assert "no connection" in fitserve("datasets", "import", "imported", *query, code=3).stderr
    assert "was not imported" in fitserve("datasets", "refresh", "points", code=3).stderr


# Specs


def test_specs(fitserve: Fitserve, fitserve_json: FitserveJson, uploaded: str, tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    fitserve("spec", "init", "--dataset", "cli-circle", "--output", str(path))
    text = path.read_text()
    assert "target: side" in text
    assert "- colour   # categorical" in text
    shown = fitserve("spec", "check", str(path)).output
    assert "Dense" in shown
    assert "parameters" in shown
    checked = fitserve_json("spec", "check", str(path), "--set", "training.epochs=3")
    assert (checked["valid"], checked["resolved"]["training"]["epochs"]) == (True, 3)
    assert "never overwritten" in fitserve("spec", "init", "--help").output
    assert fitserve("spec", "init", "--output", str(path), code=3)
    assert json.loads(fitserve("spec", "schema").stdout)["properties"]["training"]
    assert fitserve("spec", "check", str(path), "--offline")
    wrong = fitserve("spec", "check", str(path), "--set", "target=sied", code=3)
    assert "side" in wrong.stderr


# Runs


def test_train_and_runs(fitserve: Fitserve, fitserve_json: FitserveJson, spec: str, run_id: str) -> None:
    shown = fitserve("train", spec, "--watch", "--set", "training.epochs=4", "--set", "model=cli-other").output
    assert "epoch" in shown
    assert "succeeded" in shown
    assert "fitserve models predict cli-other" in shown
    lines = [json.loads(line) for line in fitserve("runs", "watch", run_id, "--json").stdout.splitlines()]
    assert sum(line.get("type") == "metrics" for line in lines) == 20
    assert lines[-1]["run"]["state"] == "succeeded"

    listed = fitserve_json("runs", "list", "--model", "cli-circle")
    assert [run["id"] for run in listed] == [run_id]
    assert "accuracy" in fitserve("runs", "list").output
    assert "accuracy" in fitserve("runs", "show", run_id).output
    assert fitserve_json("runs", "show", run_id)["resolved"]["training"]["epochs"] == 20
    other = fitserve_json("runs", "list", "--model", "cli-other")[0]["id"]
    compared = fitserve_json("runs", "compare", run_id, other)
    assert compared["differences"]["/training/epochs"] == [20, 4]
    assert "/training/epochs" in fitserve("runs", "compare", run_id, other).output
    assert fitserve("runs", "compare", run_id, code=3)
    assert fitserve("runs", "show", "run_nobody", code=4)


def test_a_watched_run_survives_lost_connections(fitserve: Fitserve, server: Server, spec: str, uploaded: str) -> None:
    with breaking_proxy(server.base_url, down=[6_000, 9_000]) as url:
        shown = fitserve(
            "--url", url, "train", spec, "--watch", "--set", "training.epochs=150", "--set", "model=cli-lost"
        )
    assert "epoch 150/150" in shown.output
    assert shown.stderr.count("Trying again; the run continues.") >= 1
    assert "succeeded" in shown.output


def test_cancel_and_retry(fitserve: Fitserve, fitserve_json: FitserveJson, spec: str, run_id: str) -> None:
    slow = fitserve_json("train", spec, "--set", "training.epochs=500000", "--idempotency-key", "slow-1")
    assert (
        fitserve_json("train", spec, "--set", "training.epochs=500000", "--idempotency-key", "slow-1")["id"]
        == slow["id"]
    )
    assert fitserve("runs", "cancel", slow["id"])
    assert fitserve("runs", "watch", slow["id"], code=8)
    again = fitserve_json("runs", "retry", slow["id"])
    assert again["parent_id"] == slow["id"]
    fitserve("runs", "cancel", again["id"])
    assert fitserve("runs", "retry", run_id, code=3)  # it succeeded


# Models


def test_models(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,y,colour\n0.1,-0.2,red\n4.8,4.7,blue\n")
    answers = fitserve_json("models", "predict", "cli-circle", str(path))
    assert answers["predictions"] == fitserve_json("models", "predict", "cli-circle", json.dumps(ROWS))["predictions"]
    assert answers["version"] == 1
    assert answers["predictions"][0]["in"] > 0.5
    assert "in" in fitserve("models", "predict", "cli-circle", "-", input=path.read_text()).output
    raw = fitserve_json("models", "predict", "cli-circle", str(path), "--raw")["predictions"]
    assert raw[0][0] == pytest.approx(answers["predictions"][0]["out"], abs=1e-5)
    assert fitserve("models", "predict", "no-such-model", str(path), code=4)
    ended = fitserve_json("models", "batch", "cli-circle", "cli-circle", "--columns", "side, x")
    assert (ended["state"], len(ended["result"]["parts"])) == ("succeeded", 1)
    shown = fitserve("datasets", "rows", ended["result"]["dataset"]).output
    assert "predicted_side" in shown
    assert "colour" not in shown
    unknown = fitserve("models", "batch", "cli-circle", "cli-circle", "--to", "nowhere/scores", code=3)
    assert "nowhere/scores" in unknown.stderr
    assert "no column" in fitserve("models", "batch", "cli-circle", "cli-circle", "--columns", "no", code=3).stderr
    assert "cli-circle" in fitserve("models", "list").output
    assert run_id in fitserve("models", "show", "cli-circle").output
    assert "champion is version 1" in fitserve("models", "promote", "cli-circle", "1").output
    assert fitserve("models", "rollback", "cli-circle", code=3)  # it never named another version
    saved = fitserve_json("models", "download", "cli-circle", "--kind", "onnx", "--output", str(tmp_path))
    assert Path(saved["path"]).stat().st_size == saved["bytes"] > 0
    card = tmp_path / "card.html"
    fitserve("models", "card", "cli-circle", "--version", "1", "--output", str(card))
    assert card.read_text().startswith("<!doctype html>")
    assert fitserve("models", "export", "cli-circle", "--version", "9", "--format", "onnx-raw", code=4)


def test_a_rollout_by_hand(server: Server, fitserve: Fitserve, fitserve_json: FitserveJson, uploaded: str) -> None:
    with Client(server.base_url, server.token) as client:
        for seed in (1, 2):
            spec = {"dataset": uploaded, "target": "side", "network": [{"Dense": 2}]}
            client.runs.create(spec, training={"epochs": 1, "seed": seed}, model="cli-rolling").wait(PATIENCE)
    fitserve("models", "promote", "cli-rolling", "1")
    assert "has no rollout" in fitserve("models", "rollout", "show", "cli-rolling", code=3).output
    assert (
        "A guard has a limit"
        in fitserve("models", "rollout", "start", "cli-rolling", "--to", "2", "--guard", "errors", code=3).output
    )
    made = fitserve_json(
        *("models", "rollout", "start", "cli-rolling", "--to", "2", "--steps", "10,100", "--hold", "60"),
        *("--guard", "errors=0.02", "--guard", "p99-ratio=off", "--shadow"),
    )
    assert (made["shares"], made["guards"]["errors"], "p99_ratio" in made["guards"]) == ([0, 0.1, 1], 0.02, False)
    assert "paused" in fitserve("models", "rollout", "pause", "cli-rolling").output
    assert "running, as a shadow" in fitserve("models", "rollout", "resume", "cli-rolling").output
    assert "Aborted by hand" in fitserve("models", "rollout", "abort", "cli-rolling").output
    assert "answering 0.5" in fitserve("models", "rollout", "ab", "cli-rolling", "--to", "2").output
    assert "Comparison" in fitserve("models", "rollout", "show", "cli-rolling").output
    assert "Promoted by hand" in fitserve("models", "rollout", "promote", "cli-rolling").output
    assert [one["state"] for one in fitserve_json("models", "rollout", "list", "cli-rolling")] == [
        "succeeded",
        "aborted",
    ]
    assert fitserve("models", "rollout", "abort", "cli-rolling", code=3)


def test_findings(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str) -> None:
    findings = fitserve_json("runs", "findings", run_id)
    shown = fitserve("runs", "findings", run_id).output
    assert all(item["title"] in shown for item in findings)
    assert fitserve("runs", "findings", run_id, "--apply", "99", code=4)


def test_sharing(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str) -> None:
    assert fitserve_json("datasets", "share", "cli-circle")["shared"]
    assert fitserve_json("runs", "share", run_id)["shared"]
    assert fitserve_json("models", "share", "cli-circle")["shared"]
    assert "private" in fitserve("datasets", "share", "cli-circle", "--private").output
    assert not fitserve_json("runs", "share", run_id, "--private")["shared"]
    assert not fitserve_json("models", "share", "cli-circle", "--private")["shared"]
    assert fitserve("models", "share", "no-such-model", code=4)


# Keys


def test_keys(fitserve: Fitserve, fitserve_json: FitserveJson) -> None:
    key = fitserve_json("keys", "create", "cli-key", "--scope", "predict", "--model", "cli-circle", "--expires", "90d")
    assert key["token"].startswith(key["id"])
    assert key["models"] == ["cli-circle"]
    assert "cli-key" in fitserve("keys", "list").output
    assert "revoked" in fitserve("keys", "revoke", key["id"]).output
    assert fitserve("keys", "create", "BAD NAME", code=3)
    assert fitserve("keys", "create", "k", "--expires", "soon", code=3)
    assert fitserve("keys", "revoke", "key_nobody", code=4)


def test_webhooks_and_events(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str) -> None:
    made = fitserve_json("webhooks", "create", "https://8.8.8.8/hook", "--event", "run.failed")
    id = made["id"]
    assert made["secret"].startswith("whsec_")
    assert id in fitserve("webhooks", "list").output
    assert fitserve_json("webhooks", "change", id, "--event", "*", "--description", "all")["events"] == ["*"]
    sent = fitserve_json("webhooks", "test", id)
    assert sent["id"] in [one["id"] for one in fitserve_json("webhooks", "log", id)]
    fitserve("webhooks", "change", id, "--disable")
    assert "disabled" in fitserve("webhooks", "redeliver", id, sent["id"], code=3).stderr
    assert fitserve("webhooks", "delete", id).output
    assert "public Internet" in fitserve("webhooks", "create", "https://10.0.0.1/", code=3).stderr
    assert run_id in str(fitserve_json("webhooks", "events", "--type", "run.succeeded", "--limit", "100"))


def test_weights_are_uploaded_and_begin_a_run(
    fitserve: Fitserve, fitserve_json: FitserveJson, spec: str, tmp_path: Path
) -> None:
    path = tmp_path / "body.safetensors"
    save_file({"other/0": np.ones((3, 2), np.float32)}, path)
    id = fitserve_json("weights", "upload", str(path))["id"]
    assert id in fitserve("weights", "list").output
    assert fitserve_json("weights", "show", id)["tensors"] == {"other/0": [3, 2]}
    refused = fitserve("train", spec, "--initial-weights", id, code=3).stderr
    assert "reinitialize" in refused
    assert "Only given weights" in fitserve("train", spec, "--freeze", "dense", code=3).stderr
    assert fitserve("weights", "delete", id).output
    assert fitserve("weights", "show", id, code=4)
    path.write_bytes(b"no weights")
    assert "safetensors" in fitserve("weights", "upload", str(path), code=3).stderr


def test_a_fork_of_an_epoch_that_was_not_trained_is_refused(fitserve: Fitserve, run_id: str) -> None:
    assert "1 to" in fitserve("runs", "fork", run_id, "--epoch", "999", "--learning-rate", "0.1", code=3).stderr


def test_automations(fitserve: Fitserve, fitserve_json: FitserveJson, run_id: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("on: {schedule: '0 3 1 1 *'}\ndo: {champion: cli-circle}\ngate: {}\nthen: promote\n")
    assert fitserve_json("automations", "create", "cli-yearly", str(path), "--paused")["enabled"] is False
    assert "cli-yearly" in fitserve("automations", "list").output
    assert fitserve_json("automations", "rehearse", "--policy", str(path))["ticks"] == []
    assert fitserve_json("automations", "resume", "cli-yearly")["enabled"]
    assert not fitserve_json("automations", "pause", "cli-yearly")["enabled"]
    assert fitserve_json("automations", "show", "cli-yearly")["history"] == []
    assert fitserve("automations", "delete", "cli-yearly").output
    path.write_text("[]")
    assert "mapping" in fitserve("automations", "create", "bad", str(path), code=3).stderr


def test_exit_codes_for_no_key_and_no_server(fitserve: Fitserve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITSERVE_API_KEY", "key_nobody.secret")
    assert "FITSERVE_API_KEY" in fitserve("runs", "list", code=5).stderr
    assert "fitserve up" in fitserve("--url", "http://127.0.0.1:9", "runs", "list", code=6).stderr
    assert fitserve("runs", "lst", code=2)


# The server


def as_a_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fitserve.cli", *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE)


def test_migrate_keys_and_doctor_work_without_a_server(tmp_path: Path) -> None:
    settings = {"FITSERVE_HOME": str(tmp_path / "home"), "FITSERVE_PORT": "9", "FITSERVE_URL": ""}
    created = as_a_process("keys", "create", "ops", "--scope", "admin", "--json", **settings)
    assert json.loads(created.stdout)["scopes"] == ["admin"], created.stderr
    assert as_a_process("keys", "create", "BAD NAME", **settings).returncode == 3
    assert "newest schema" in as_a_process("migrate", **settings).stdout
    checked = as_a_process("doctor", "--json", **settings)
    assert {"database", "blobs"} <= {finding["check"] for finding in json.loads(checked.stdout)}, checked.stderr


def test_the_demo_reaches_its_scores(fitserve_json: FitserveJson) -> None:
    result = fitserve_json("demo")
    reached = {item["figure"]: item["test"] for item in result["tables"]}
    assert reached["accuracy"] >= 0.95
    assert reached["r2"] >= 0.40
    assert all(len(item["predictions"]) == 3 for item in result["tables"])
    assert any("fitserve_runs_created_total" in name for name in result["telemetry"])
    assert any("fitserve_predict_rows_total" in name for name in result["telemetry"])


# On a terminal


def test_ctrl_c_leaves_the_run_running_and_prints_how_to_come_back(
    server: Server, uploaded: str, spec: str, fitserve_json: FitserveJson
) -> None:
    environment = {"FITSERVE_URL": server.base_url, "FITSERVE_API_KEY": server.token}
    terminal = Terminal("train", spec, "--watch", "--set", "training.epochs=200000", environment=environment)
    terminal.until("epochs/s")
    run_id = re.findall(r"run_[0-9a-z]{26}", terminal.text)[0]
    try:
        assert "val_loss" in terminal.text
        terminal.press_ctrl_c()
        terminal.until(f"fitserve runs cancel {run_id}")
        assert f"Come back to it:  fitserve runs watch {run_id}" in terminal.plain
        assert terminal.end() == 130
        assert fitserve_json("runs", "show", run_id)["state"] == "running"
    finally:
        fitserve_json("runs", "cancel", run_id)
