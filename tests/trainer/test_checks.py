"""Checks with known answers: a quadratic's divergence, a sound network, and networks with one fault each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow


def _table(noise: float = 0.1, rows: int = 120) -> pa.Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=rows)
    return pa.table({"x": x, "z": rng.normal(size=rows), "y": 2 * x + noise * rng.normal(size=rows)})


def _sanity(table: pa.Table, folder: Path, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"target": "y", "network": [{"Dense": {"units": 16, "activation": "relu"}}], **more}
    body["training"] = {"optimizer": {"Adam": {"learning_rate": 0.01}}, **body.get("training", {})}
    found = train(request_of(table, {**body, "check": "sanity"}, folder), RecordingReporter())
    assert found.files == {}
    return {one["check"]: one for one in found.result["sanity"]}


def test_the_range_test_finds_where_a_quadratic_diverges(tmp_path: Path) -> None:
    # The loss' second derivative is 2 in both weights, as the input has variance 1: it diverges from a rate of 1 on.
    body = {
        "target": "y",
        "features": ["x"],
        "network": [{"Dense": {"units": 1, "activation": "linear"}, "output": "y"}],
        "training": {"optimizer": {"SGD": {"learning_rate": 0.01}}, "batch_size": "full"},
        "check": {"range_test": {"low": 1e-4, "high": 100}},
    }
    found = train(request_of(_table(), body, tmp_path), RecordingReporter()).result["range_test"]
    assert found["diverges_at"] == pytest.approx(1.0, rel=0.1)
    assert 0.01 < found["suggested"] <= found["diverges_at"] / 10 * 1.01
    rates = [point["learning_rate"] for point in found["curve"]]
    assert rates == sorted(rates)
    assert 10 < len(rates) <= 100


def test_a_sound_network_passes(tmp_path: Path) -> None:
    found = _sanity(_table(), tmp_path)
    assert {name: one["passed"] for name, one in found.items()} == {
        "first_loss": True,
        "overfits_one_batch": True,
        "shuffled_labels": True,
        "uses_its_inputs": True,
    }, found


def test_faults_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = pa.table({"x": rng.normal(size=120), "y": 1000 + rng.normal(size=120)})
    dead = [{"Dense": {"units": 4, "activation": "relu", "kernel_initializer": "Zeros"}}]
    found = _sanity(noise, tmp_path, target={"name": "y", "standardize": False}, network=dead)
    assert {name: one["passed"] for name, one in found.items()} == {
        "first_loss": False,
        "overfits_one_batch": False,
        "shuffled_labels": True,
        "uses_its_inputs": False,
    }, found
    assert "standardize" in found["first_loss"]["fix"]
