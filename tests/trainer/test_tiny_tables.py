"""A few rows, labels that occur once, constant columns, batches of one row: trained, with finite predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitserve.artifacts import onnx_session
from fitserve.encoder import Encoder
from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.export.export import serve
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
NORMALISED: list[Any] = [{"Dense": 4}, "BatchNormalization", {"Activation": "relu"}]


def table(rows: int, label: Any = lambda at: "ab"[at % 2]) -> pa.Table:
    return pa.table(
        {
            "x": [(at * 7 % 11) / 7 for at in range(rows)],
            "constant": [5.0] * rows,
            "y": [label(at) for at in range(rows)],
        }
    )


def once(at: int) -> str:
    """One row of a label, all others of another."""
    return "rare" if at == 3 else "usual"


CASES: dict[str, tuple[pa.Table, dict[str, Any]]] = {
    "two rows": (table(2), {"network": NORMALISED, "training": {"epochs": 2}}),
    "three rows, nothing said": (table(3), {"training": {"epochs": 2}}),
    "a last batch of one row": (
        table(17),
        {"network": NORMALISED, "training": {"epochs": 2, "batch_size": 16}, "split": {"validation": 0, "test": 0}},
    ),
    "batches of one row": (table(9), {"network": NORMALISED, "training": {"epochs": 2, "batch_size": 1}}),
    "a label that occurs once, balanced": (
        table(12, once),
        {"network": NORMALISED, "training": {"epochs": 2, "class_weight": "balanced"}},
    ),
    "a label that occurs once, in folds": (
        table(12, once),
        {
            "network": NORMALISED,
            "training": {"epochs": 2},
            "ensemble": {"members": 3, "validation": "folds"},
        },
    ),
    "each label once": (table(3, lambda at: "abc"[at]), {"network": NORMALISED, "training": {"epochs": 2}}),
    "a constant target": (table(9, lambda _: 7.5), {"network": NORMALISED, "training": {"epochs": 2}}),
    "only a constant feature": (table(9).drop_columns("x"), {"network": NORMALISED, "training": {"epochs": 2}}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tiny_table_is_trained_and_served(name: str, tmp_path: Path) -> None:
    data, spec = CASES[name]
    result = train(request_of(data, {"target": "y", **spec}, tmp_path), RecordingReporter())
    encoder = Encoder.from_json(result.manifest["encoder"])
    predicted = serve(onnx_session(result.files["onnx"]), encoder, pq.read_table(tmp_path / "table.parquet"))["y"]
    assert len(predicted) == data.num_rows
    assert np.isfinite(predicted).all()
