"""Rows with wide one-hot columns: stored as indices, trained like dense rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from fitserve.dataset_facts import DatasetFacts
from fitserve.encoder import Encoder
from fitserve.encoding.hashing import hash_bin, hash_bins
from fitserve.spec.spec import parse
from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.data import preparation
from workers.trainer.engine.compact_rows import Compact, sum_up
from workers.trainer.engine.kept_networks import KEPT
from workers.trainer.ready_run import make_ready, run_trials
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
ROWS = 400
NAMES = [f"name {number}" for number in RNG.integers(0, 150, ROWS)]
TABLE = pa.table(
    {
        "x": [None if i % 50 == 0 else float(v) for i, v in enumerate(RNG.normal(size=ROWS))],
        "name": [None if i % 40 == 0 else name for i, name in enumerate(NAMES)],
        "town": [f"town {number}" for number in RNG.integers(0, 9, ROWS)],
        "side": ["in" if len(name) % 2 else "out" for name in NAMES],
    }
)
FEATURES = [{"x": "robust"}, {"name": {"hashing": {"bins": 700}}}, {"town": "one_hot"}, {"x": "standardize"}]
NETWORK: list[Any] = [{"Dense": {"units": 8, "activation": "relu"}}, {"Dropout": 0.2}]


def _spec(**training: Any) -> dict[str, Any]:
    own = {"epochs": 3, "batch_size": 32, "seed": 1, **training}
    return {"target": "side", "features": FEATURES, "network": NETWORK, "training": own}


def _encoder(folder: Path) -> Encoder:
    request = request_of(TABLE, _spec(), folder)
    return preparation.fit(TABLE, parse(request.spec), DatasetFacts.model_validate(request.facts)).encoder


def test_rows_are_expanded_to_what_the_encoder_writes(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path)
    compact = Compact(encoder)
    stored = compact.encode(TABLE)
    assert sum(array.nbytes for array in stored.values()) < encoder.encode(TABLE)["features"].nbytes / 50
    expanded = compact.expand({name: tf.constant(array) for name, array in stored.items()})
    assert list(expanded) == ["features"]
    np.testing.assert_array_equal(expanded["features"].numpy(), encoder.encode(TABLE)["features"])


def test_weights_at_the_places_add_up_to_the_dense_product(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path)
    compact = Compact(encoder)
    one = compact.inputs["features"]
    stored = list(compact.encode(TABLE).values())
    kernel = tf.constant(RNG.normal(size=(one.width, 8)).astype(np.float32))
    dense = tf.constant(encoder.encode(TABLE)["features"])
    upstream = tf.constant(RNG.normal(size=(ROWS, 8)).astype(np.float32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(kernel)
        looked_up, product = sum_up(one, *map(tf.constant, stored), kernel), tf.matmul(dense, kernel)
        ends = tf.reduce_sum(looked_up * upstream), tf.reduce_sum(product * upstream)
    np.testing.assert_allclose(looked_up.numpy(), product.numpy(), rtol=1e-6, atol=1e-6)
    gradients = [tape.gradient(end, kernel).numpy() for end in ends]
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


def test_a_run_with_places_is_the_run_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logs(wide: int) -> Any:
        KEPT.clear()
        monkeypatch.setattr("workers.trainer.engine.compact_rows.WIDE_ONE_HOT", wide)
        request, report = request_of(TABLE, _spec(), tmp_path), RecordingReporter()
        ready = make_ready(request, parse(request.spec), DatasetFacts.model_validate(request.facts), report)
        assert (ready.setup.compiled.compact is None) == (wide > 700)
        run_trials(ready.setup, None)
        return [list(epoch["logs"].values()) for epoch in report.epochs]

    np.testing.assert_allclose(logs(512), logs(100_000), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_streamed_with_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample that encodings and figures are of is small enough to be encoded, however wide its rows are."""
    monkeypatch.setattr(preparation, "memory_budget", lambda: 100_000)
    monkeypatch.setattr(preparation, "SAMPLE_BYTES", 150 * 4 * 730)
    report = RecordingReporter()
    result = train(request_of(TABLE, _spec(epochs=8), tmp_path), report)
    assert any("streamed" in message for _, message, _ in report.events)
    assert result.result["rows"]["train"] > 200, "all rows are trained on"
    assert report.epochs[-1]["logs"]["loss"] < report.epochs[0]["logs"]["loss"]
    spool = sum(path.stat().st_size for path in (tmp_path / "spool").rglob("*.rows"))
    assert spool < ROWS * 200, "a row takes its numbers and two places"


def test_labels_are_hashed_together_as_one_by_one() -> None:
    labels = ["", "a", "1234567", "12345678", "é" * 30, "x" * 255, "x" * 256, "x" * 300, "\ud800", *NAMES]
    for bins, salt in ((2, (133, 137)), (4096, (1, 2**63 + 5))):
        assert hash_bins(labels, bins, salt).tolist() == [hash_bin(label, bins, salt) for label in labels]
