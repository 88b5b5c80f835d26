"""The playground's trainer in TypeScript gives the losses of a run, for each activation, penalty and loss."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.dashboard.conftest import DASHBOARD, node, submit, wait_until_ended

pytestmark = pytest.mark.xdist_group("dashboard")
EPOCHS = 100
Case = tuple[str, str, float, str, int, float]
# Activation, penalty and its strength, sample (circle: cross-entropy; plane: squared error), batch size, learning rate
CASES: list[Case] = [
    ("tanh", "none", 0.0, "circle", 10, 0.03),
    ("sigmoid", "L1", 0.001, "circle", 250, 0.1),
    ("linear", "none", 0.0, "plane", 600, 0.01),
    ("relu", "L2", 0.003, "plane", 600, 0.01),
]
# Each activation with each penalty and each loss
EVERY_CASE: list[Case] = [
    (activation, kind, 0.0 if kind == "none" else 0.003, sample, 25 if sample == "circle" else 60, 0.02)
    for activation in ("tanh", "relu", "sigmoid", "linear")
    for kind in ("none", "L1", "L2")
    for sample in ("circle", "plane")
]
FEATURES = ["x1", "x2", "sin_x1"]
LAYERS = [4, 2]

RUN = """
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";
const { build } = await import(pathToFileURL(process.argv[2] + "/node_modules/vite/dist/node/index.js"));
await build({ configFile: false, logLevel: "error", root: process.argv[2],
  build: { outDir: process.argv[3], lib: { entry: "src/spec/trainer.ts", formats: ["es"], fileName: "trainer" } } });
const { Trainer } = await import(pathToFileURL(process.argv[3] + "/trainer.js"));
const answers = JSON.parse(readFileSync(process.argv[4], "utf8")).map((one) => {
  const trainer = new Trainer(one.form, one.train, one.test, 0, one.start, false);
  return Array.from({ length: one.epochs }, () => trainer.pass(one.rate, one.batch, one.penalty));
});
console.log(JSON.stringify(answers));
"""


def starting_weights(sizes: list[int]) -> list[float]:
    """Return weights and biases that are neither alike nor random, layer by layer."""
    count = sum((before + 1) * size for before, size in itertools.pairwise(sizes))
    return [round(((at * 7919) % 101) / 80 - 0.6, 4) for at in range(count)]


def network(sizes: list[int], start: list[float], activation: str, output: str, penalty: dict[str, Any]) -> list[Any]:
    """Return the same network for a spec."""
    layers, at = [], 0
    for index, (before, size) in enumerate(itertools.pairwise(sizes)):
        kernel = [start[at + row * size : at + (row + 1) * size] for row in range(before)]
        at += before * size
        begins = {
            "kernel_initializer": {"Constant": {"value": kernel}},
            "bias_initializer": {"Constant": {"value": start[at : at + size]}},
        }
        at += size
        last = index == len(sizes) - 2
        dense = {"units": size, "activation": output if last else activation, **begins, **({} if last else penalty)}
        layers.append({"Dense": dense, **({"output": True} if last else {})})
    return layers


def test_its_losses_are_those_of_a_run(api: httpx2.Client, tmp_path: Path) -> None:
    compare(api, tmp_path, CASES)


@pytest.mark.long
def test_its_losses_are_those_of_a_run_for_each_activation_penalty_and_loss(api: httpx2.Client, tmp_path: Path) -> None:
    compare(api, tmp_path, EVERY_CASE)


def compare(api: httpx2.Client, tmp_path: Path, cases: list[Case]) -> None:
    """Train each case as a run and in Node; every epoch's losses must be alike."""
    sizes = [len(FEATURES), *LAYERS, 1]
    start = starting_weights(sizes)
    runs, jobs = [], []
    for activation, kind, strength, sample, batch, rate in cases:
        made = api.post(
            "/datasets/samples", json={"sample": sample, "derived": True, "name": f"playground-{sample}-ts"}
        )
        ref = "{name}@{version}".format(**made.raise_for_status().json())
        output = "linear" if sample == "plane" else "sigmoid"
        penalty = {} if kind == "none" else {"kernel_regularizer": {kind: strength}}
        sgd = {"SGD": {"learning_rate": rate}}
        spec = {
            "dataset": ref,
            "target": "label",
            "features": [{"column": name, "encoding": "pass_through"} for name in FEATURES],
            "split": {"time": {"by": "draw", "validation": 0.5, "test": 0}},
            "network": network(sizes, start, activation, output, penalty),
            "training": {"optimizer": sgd, "batch_size": batch, "epochs": EPOCHS, "shuffle": False},
        }
        runs.append(submit(api, spec))
        train, test = halves(api, ref, sample)
        form = {"features": FEATURES, "layers": LAYERS, "activation": activation, "output": output}
        settings = {"rate": rate, "batch": batch, "penalty": {"kind": kind, "strength": strength}, "epochs": EPOCHS}
        jobs.append({"form": form, "start": start, "train": train, "test": test, **settings})
    script = tmp_path / "run.mjs"
    script.write_text(RUN)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [node(), str(script), str(DASHBOARD), str(tmp_path / "built"), str(tmp_path / "jobs.json")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    browsers = json.loads(answer.stdout)
    for case, run, ours in zip(cases, runs, browsers, strict=True):
        assert wait_until_ended(api, run) == "succeeded"
        logs = [row["logs"] for row in api.get(f"/runs/{run}/epochs").json()["items"]]
        difference = max(
            max(abs(log["loss"] - own["train"]), abs(log["val_loss"] - own["test"]))
            for log, own in zip(logs, ours, strict=True)
        )
        print(f"\n{case}: {difference:.1e}; loss {logs[0]['loss']:.4f} to {logs[-1]['loss']:.4f}", end="")
        assert logs[-1]["loss"] < logs[0]["loss"]
        assert difference < 1e-5, case


def halves(api: httpx2.Client, ref: str, sample: str) -> tuple[list[Any], list[Any]]:
    """Return the rows that train and those that test, as the run splits them: those with the smallest draws train."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = api.get(f"/datasets/{ref}/rows", params={"limit": 1000, **({"cursor": cursor} if cursor else {})}).json()
        rows += [dict(zip(page["columns"], row, strict=True)) for row in page["rows"]]
        if not (cursor := page["next_cursor"]):
            break
    middle = sorted(row["draw"] for row in rows)[len(rows) // 2]

    def part(keep: bool) -> list[Any]:
        targets = [row["label"] if sample == "plane" else float(row["label"] > 0) for row in rows]
        pairs = zip(rows, targets, strict=True)
        return [
            {"x": row["x1"], "y": row["x2"], "target": target}
            for row, target in pairs
            if (row["draw"] < middle) == keep
        ]

    return part(True), part(False)
