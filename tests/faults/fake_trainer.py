"""A trainer that trains nothing, fast: what the fault harness and the supervisor's tests run instead of TensorFlow.

A real process speaks for it over the real channel; only `train` is a toy. Its weights are one number that each
epoch changes deterministically, so that a resumed run can be compared with an undisturbed one to the bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from workers.trainer.job import Reporter, TrainingFailed, TrainingJob, TrainingResult, TrainingStopped


def step(weights: float, seed: int, epoch: int) -> float:
    """The next epoch's weights: any function that is sensitive to its past."""
    digest = hashlib.sha256(f"{weights!r} {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def final_weights(seed: int, epochs: int) -> float:
    """What an undisturbed run ends with."""
    weights = 0.0
    for epoch in range(1, epochs + 1):
        weights = step(weights, seed, epoch)
    return weights


def train(job: TrainingJob, report: Reporter) -> TrainingResult:
    fake: dict[str, Any] = job.spec.get("fake", {"epochs": 3, "seed": 1})
    weights, first = _resume(job)
    report.event("info", "Training", {"resumed_after": first, "attempt": job.attempt})
    for epoch in range(first + 1, fake["epochs"] + 1):
        _misbehave(fake, epoch)
        _wait(fake.get("seconds", 0.0), report)
        if (why := report.stop()) == "hand_back":
            _checkpoint(job, report, weights, epoch - 1)
        if why:
            raise TrainingStopped(why)
        weights = step(weights, fake["seed"], epoch)
        report.epoch(0, epoch, {"loss": weights}, fake.get("seconds", 0.0))
        if epoch % fake.get("checkpoint_every", 5) == 0:
            _checkpoint(job, report, weights, epoch)
    return _result(job, weights)


def _resume(job: TrainingJob) -> tuple[float, int]:
    if job.checkpoint is None:
        return 0.0, 0
    kept = json.loads(job.checkpoint.read_text())
    return kept["weights"], kept["epoch"]


def _wait(seconds: float, report: Reporter) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not report.stop():
        time.sleep(min(0.05, left))


def _checkpoint(job: TrainingJob, report: Reporter, weights: float, epoch: int) -> None:
    path = job.folder / f"checkpoint-{epoch}"
    with path.open("w") as file:
        # The run's id makes the bytes its own: the harness counts on no two runs sharing a blob.
        json.dump({"weights": weights, "epoch": epoch, "run": job.run_id}, file)
        file.flush()
        os.fsync(file.fileno())
    report.checkpoint(path, epoch)


def _misbehave(fake: dict[str, Any], epoch: int) -> None:
    if epoch != fake.get("at", 2):
        return
    how = fake.get("fails")
    if how == "diverged":
        raise TrainingFailed("diverged", f"The loss became NaN in epoch {epoch}", {"epoch": epoch, "layer": "dense"})
    if how == "raise":
        raise ValueError("not foreseen")
    if how == "hang":
        time.sleep(3600)
    if how == "exit":
        os._exit(3)
    if how == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1) * 4_000_000))


def _result(job: TrainingJob, weights: float) -> TrainingResult:
    files: dict[str, Path] = {}
    for kind in ("keras", "onnx"):
        path = job.folder / f"model.{kind}"
        body = f"{kind} {job.run_id} {weights!r}\n".encode()
        path.write_bytes(body * (1 + job.spec.get("fake", {}).get("bytes", 2000) // len(body)))
        files[kind] = path
    metrics = {"loss": weights}
    return TrainingResult(files, {"task": "regression", "metrics": metrics, "spec": job.spec}, {"weights": weights})
