"""A fast fake trainer, which the fault harness and the supervisor's tests run instead of TensorFlow.

The process and its channel are real; only `train` is fake. Its weights are one number that each epoch changes
deterministically, so that a resumed run can be compared exactly with an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tests.faults import fake_gang
from workers.trainer.interface import Reporter, TrainingFailed, TrainingRequest, TrainingResult, TrainingStopped

# As TensorFlow writes them: what every start says, and why the process ends.
LAST_WORDS = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795960915.782994   20604 port.cc:153] oneDNN custom operations are on. You may see different results.
W0000 00:00:1795960916.100000   20604 cpu_utils.cc:12] This processor is slow.
F0000 00:00:1795960917.200000   20604 tensor.cc:85] Check failed: the tensor is 100% wrong
"""


def step(weights: float, seed: int, epoch: int) -> float:
    """The next epoch's weights, which depend on all epochs before."""
    digest = hashlib.sha256(f"{weights!r} {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def final_weights(seed: int, epochs: int) -> float:
    """The weights that an undisturbed run ends with."""
    weights = 0.0
    for epoch in range(1, epochs + 1):
        weights = step(weights, seed, epoch)
    return weights


def final_trials(seed: int, epochs: int, trials: int) -> list[float]:
    """The weights that the trials of an undisturbed run end with."""
    return [final_weights(seed + trial, epochs) for trial in range(trials)]


def train(request: TrainingRequest, report: Reporter) -> TrainingResult:
    fake: dict[str, Any] = request.spec.get("fake", {"epochs": 3, "seed": 1})
    if request.gang is not None and request.gang.rank:
        fake_gang.follow(request.gang, report)
        return TrainingResult({}, {})
    state = _resume(request)
    report.event(
        "info", "Training", {"resumed_after": state["epoch"], "attempt": request.attempt, "trial": request.trial}
    )
    if request.trial is not None:
        return _divided_result(request, _train_trial(request, report, state, request.trial))
    if "search" in fake:
        return _search(request, report, fake["search"], state)
    if "trials" not in fake:
        return _result(request, _train_trial(request, report, state, 0), {})
    ended: dict[str, float] = state["ended"]
    if state["epoch"]:
        ended[str(state["trial"])] = _train_trial(request, report, state, state["trial"])
    while todo := [trial for trial in range(fake["trials"]) if str(trial) not in ended]:
        assignment = report.next_trial(todo)
        for trial, path in assignment.finished.items():
            ended[str(trial)] = json.loads(path.read_text())["weights"]
        if assignment.trial is not None:
            begun = assignment.checkpoint and json.loads(assignment.checkpoint.read_text())
            state |= begun or {"weights": 0.0, "epoch": 0}
            state["ended"] = ended
            ended[str(assignment.trial)] = _train_trial(request, report, state, assignment.trial)
        elif not assignment.finished:
            if reason := report.stop():
                raise TrainingStopped(reason)
            time.sleep(0.05)
    every = [ended[str(trial)] for trial in range(fake["trials"])]
    return _result(request, min(every), {"trials": every})


def _search(request: TrainingRequest, report: Reporter, trials: int, state: dict[str, Any]) -> TrainingResult:
    """Train the trials of a search one after the other; the rows say which have ended, as for the real trainer."""
    rows = {row["trial"]: row for row in request.trials}
    values: list[float] = []
    for trial in range(trials):
        row = rows.get(trial) or {"trial": trial, "state": "running", "point": {"/seed": trial}, "values": {}}
        if row["state"] == "running":
            report.search_trial(dict(row))
            if not (state["epoch"] and state["trial"] == trial):
                state |= {"weights": 0.0, "epoch": 0}
            value = _train_trial(request, report, state, trial)
            row = {**row, "state": "succeeded", "value": value, "epochs": request.spec["fake"]["epochs"]}
            report.search_trial(dict(row))
        values.append(row["value"])
    return _result(request, min(values), {"trials": values})


def _train_trial(request: TrainingRequest, report: Reporter, state: dict[str, Any], trial: int) -> float:
    """Train one trial, from `state` on."""
    fake: dict[str, Any] = request.spec.get("fake", {"epochs": 3, "seed": 1})
    state["trial"] = trial
    gang = None if request.gang is None else fake_gang.Leader(request.gang, fake.get("meet", fake_gang.MEET_SECONDS))
    for epoch in range(state["epoch"] + 1, fake["epochs"] + 1):
        _misbehave(fake, epoch, request)
        _wait(fake.get("seconds", 0.0), report)
        leaves = gang is not None and gang.epoch()
        if (reason := report.stop() or ("release" if leaves else "")) == "release":
            _checkpoint(request, report, state)
        if reason:
            if gang is not None:
                gang.end()
            raise TrainingStopped(reason)
        state["weights"], state["epoch"] = step(state["weights"], fake["seed"] + trial, epoch), epoch
        report.epoch(trial, epoch, {"loss": state["weights"]}, fake.get("seconds", 0.0))
        if epoch % fake.get("checkpoint_every", 5) == 0:
            _checkpoint(request, report, state)
    state["epoch"] = 0
    if gang is not None:
        gang.end()
    return float(state["weights"])


def _divided_result(request: TrainingRequest, weights: float) -> TrainingResult:
    path = request.folder / "trial"
    path.write_text(json.dumps({"run": request.run_id, "trial": request.trial, "weights": weights}))
    return TrainingResult({"trial": path}, {}, {"trials": [{"index": request.trial, "score": weights}]})


def _resume(request: TrainingRequest) -> dict[str, Any]:
    if request.checkpoint is None:
        return {"weights": 0.0, "epoch": 0, "trial": 0, "ended": {}}
    state: dict[str, Any] = json.loads(request.checkpoint.read_text())
    return state


def _wait(seconds: float, report: Reporter) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not report.stop():
        time.sleep(min(0.05, left))


def _checkpoint(request: TrainingRequest, report: Reporter, state: dict[str, Any]) -> None:
    # A name of its own, as the real trainer gives: the one before may still be read.
    path = request.folder / f"checkpoint-{time.monotonic_ns()}"
    with path.open("w") as file:
        # With the run's id no two runs share a blob, which the harness relies on.
        json.dump({**state, "run": request.run_id}, file)
        file.flush()
        os.fsync(file.fileno())
    report.checkpoint(path, state["epoch"])


def _misbehave(fake: dict[str, Any], epoch: int, request: TrainingRequest) -> None:
    if epoch != fake.get("at", 2) or (fake.get("apart") and request.trial is None):
        return
    how = fake.get("fails")
    if how == "diverged":
        raise TrainingFailed("diverged", f"The loss became NaN in epoch {epoch}", {"epoch": epoch, "layer": "dense"})
    if how == "raise":
        raise ValueError("unexpected")
    if how == "hang":
        time.sleep(3600)
    if how == "exit":
        os.write(2, LAST_WORDS)
        os._exit(3)
    if how == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1) * 4_000_000))


def _result(request: TrainingRequest, weights: float, more: dict[str, Any]) -> TrainingResult:
    files: dict[str, Path] = {}
    for kind in ("keras", "onnx"):
        path = request.folder / f"model.{kind}"
        body = f"{kind} {request.run_id} {weights!r}\n".encode()
        path.write_bytes(body * (1 + request.spec.get("fake", {}).get("bytes", 2000) // len(body)))
        files[kind] = path
    metrics = {"loss": weights}
    return TrainingResult(
        files, {"task": "regression", "metrics": metrics, "spec": request.spec}, {"weights": weights, **more}
    )
