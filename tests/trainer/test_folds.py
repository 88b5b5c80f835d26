"""Folds: figures over them, predictions of held-out rows, and one network on all rows afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.interface import OUT_OF_FOLD
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("folds", [{"count": 3, "then": "refit"}, {"count": 4, "method": "group", "by": "site"}])
def test_figures_are_those_of_the_rows_that_were_held_back(tmp_path: Path, folds: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=100)
    label = np.where(x + 0.2 * rng.normal(size=100) > 0, "in", "out")
    table = pa.table({"x": x, "site": rng.integers(0, 9, size=100), "side": label})
    adam = {"Adam": {"learning_rate": 0.1}}
    training = {"epochs": 6, "optimizer": adam, "early_stopping": {"patience": 2, "restore_best_weights": True}}
    body = {"target": "side", "features": ["x"], "network": [{"Dense": 4}], "training": training, "folds": folds}
    reporter = RecordingReporter()
    trained = train(request_of(table, body, tmp_path), reporter)
    kept = pq.read_table(trained.files[OUT_OF_FOLD]).to_pylist()
    assert sorted(row["row"] for row in kept) == sorted({row["row"] for row in kept})
    assert len(kept) == trained.result["rows"]["train"]
    accuracy = trained.result["folds"]["side"]["accuracy"]
    by_hand = [
        np.mean([row["predicted_side"] == label[row["row"] - 1] for row in kept if row["fold"] == fold])
        for fold in range(1, folds["count"] + 1)
    ]
    assert accuracy["folds"] == pytest.approx(by_hand)
    assert accuracy["mean"] == pytest.approx(np.mean(by_hand))
    assert 0 <= accuracy["low"] <= accuracy["mean"] <= accuracy["high"] <= 1
    assert accuracy["mean"] > 0.8
    if "by" in folds:
        sites = {site: {row["fold"] for row in kept if row["site"] == site} for site in range(9)}
        assert all(len(own) <= 1 for own in sites.values())  # none: in the test part
        assert trained.result["ensemble"]["members"] == 4
        return
    assert trained.result["rows"] == {"train": 90, "validation": 0, "test": 10}
    assert trained.manifest["spec"]["ensemble"] is None
    best = trained.result["trials"][0]["best_epoch"]
    assert [row["epoch"] for row in reporter.epochs if row["trial"] == 1] == list(range(1, best + 1))
