"""Decisions of a run: chosen on held-out rows and stored in the manifest, with the rows for choosing others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.artifacts import onnx_session
from fitserve.decisions.abstain import distances
from fitserve.decisions.apply import Decider
from fitserve.decisions.held_out import HeldOutParts
from fitserve.encoder import Encoder
from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.interface import TrainingResult
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow


def _table(rows: int = 240) -> pa.Table:
    random = np.random.default_rng(1)
    x, z = random.normal(0, 1, rows), random.normal(0, 1, rows)
    noisy = x + random.normal(0, 0.7, rows)
    return pa.table(
        {
            "x": x,
            "z": z,
            "fraud": np.where(noisy > 1.0, "yes", "no").tolist(),
            "tier": np.array(["low", "middle", "high"])[np.digitize(noisy, [-0.5, 0.8])].tolist(),
        }
    )


def _train(spec: dict[str, Any], folder: Path) -> tuple[TrainingResult, RecordingReporter]:
    report = RecordingReporter()
    whole = {"dataset": "data", "network": [{"Dense": {"units": 8, "activation": "relu"}}], **spec}
    return train(request_of(_table(), whole, folder), report), report


def test_decisions_of_two_targets_are_chosen_on_held_out_rows(tmp_path: Path) -> None:
    spec = {
        "target": ["fraud", "tier"],
        "features": ["x", "z"],
        "training": {"epochs": 15},
        "decision": [
            {"output": "fraud", "cost": {"false_positive": 1, "false_negative": 6}, "abstain": True},
            {"output": "tier", "maximize": "balanced_accuracy"},
        ],
    }
    result, _ = _train(spec, tmp_path)
    fraud, tier = result.manifest["decisions"]
    held_out = HeldOutParts.read(result.files["held_out"].read_bytes(), result.manifest)
    rows, judged = held_out.get("validation"), held_out.get("test")
    assert rows is not None
    assert judged is not None
    assert len(rows) == fraud["chosen_on"]["rows"] == 48
    share, actual = rows.values["fraud"][:, 0].astype(float), rows.truth["fraud"]

    def cost(threshold: float) -> float:
        return float(((share >= threshold) & (actual == 0)).sum() + 6 * ((share < threshold) & (actual == 1)).sum())

    assert cost(fraud["threshold"]) == min(map(cost, [0, 2, *share.tolist(), *(share + 1e-9).tolist()]))
    assert fraud["threshold"] < 0.5
    places = Decider(tier, ("high", "low", "middle")).places(judged.values["tier"])
    confusion = tier["figures"]["test"]["confusion"]
    assert confusion == [[int(((judged.truth["tier"] == a) & (places == p)).sum()) for p in range(3)] for a in range(3)]
    assert tier["figures"]["validation"]["balanced_accuracy"] >= np.mean(
        [(rows.values["tier"].argmax(1) == rows.truth["tier"])[rows.truth["tier"] == a].mean() for a in range(3)]
    )

    # Distance: rows far outside are farther than the limit, which about a hundredth of the held-out rows exceed.
    session = onnx_session(result.files["distance"])
    encoder = Encoder.from_json(result.manifest["encoder"])
    far, _ = encoder.encode_rows([{"x": 40.0, "z": -40.0}, {"x": 0.1, "z": 0.2}])
    limit = fraud["abstain"]["distance"]
    outside, usual = distances(session, far)
    assert outside > limit > usual
    assert (rows.distance > limit).mean() <= 0.02


def test_a_precision_that_no_threshold_reaches_is_reported(tmp_path: Path) -> None:
    spec = {
        "target": "fraud",
        "features": ["z"],
        "training": {"epochs": 1},
        "ensemble": {"members": 2, "validation": "folds"},
        "decision": {"precision_at_least": 1.0, "label": "yes"},
    }
    result, report = _train(spec, tmp_path)
    assert result.manifest["decisions"] == [] == result.result["decisions"]
    (message,) = [message for level, message, _ in report.events if level == "warn" and "precision" in message]
    assert message.startswith("No threshold has a precision of 1 for 'yes'")
    rows = HeldOutParts.read(result.files["held_out"].read_bytes(), result.manifest).get("validation")
    assert rows is not None
    assert len(rows) == 216  # of folds: every row but the test part
