"""A run's artifact: model.keras on raw columns, model.onnx, a manifest; and the parity gate between the two models."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitserve.encoder import Encoder
from tests.trainer.requests import RecordingReporter, request_of
from tests.waiting import PATIENCE
from workers.trainer.export import export as exporting
from workers.trainer.insight import analysis
from workers.trainer.interface import TrainingFailed
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow


def _table(rows: int = 60) -> pa.Table:
    rng = np.random.default_rng(3)
    x = rng.normal(50, 10, rows)
    words = ["Good", "bad,", "ugly!", "the", "film"]
    gap = lambda values, every: [None if i % every == 0 else v for i, v in enumerate(values)]  # noqa: E731
    days = [dt.datetime(2020, 1, 1) + dt.timedelta(hours=37 * i) for i in range(rows)]
    return pa.table(
        {
            "size": gap(x.tolist(), 7),
            "income": (x**4).tolist(),
            "depth/m": rng.integers(-5, 5, rows),
            "stars": gap((rng.integers(1, 9, rows) / 2).tolist(), 9),
            "open": gap((x > 50).tolist(), 11),
            "member": [("yes", "no")[i % 2] for i in range(rows)],
            "city": gap([("Bern", "Genève", "Zürich")[i % 3] for i in range(rows)], 8),
            "zip": [f"{i % 17:03d}" for i in range(rows)],
            "review": gap([" ".join(rng.choice(words, 4)) for _ in range(rows)], 6),
            "title": [" ".join(rng.choice(words, 2)) for _ in range(rows)],
            "notes": [" ".join(rng.choice(words, 5)) for _ in range(rows)],
            "seen": pa.array(gap(days, 10), pa.timestamp("us")),
            "price": (x * 1e4 + 3e5).tolist(),
            "sold": np.where(x + rng.normal(0, 5, rows) > 50, "yes", "no").tolist(),
        }
    )


FEATURES: list[Any] = [
    {"size": ["robust", {"piecewise_linear": {"bins": 5, "indicator": False}}]},
    {"column": "income", "encoding": {"log": {"missing": "median"}}},
    {"column": "depth/m", "encoding": "min_max"},
    {"income": ["quantile", "periodic"]},
    {"depth/m": "one_hot"},
    {"column": "stars", "encoding": "one_hot"},
    "open",
    {"column": "member", "encoding": "boolean"},
    "city",
    {"column": "zip", "encoding": {"hashing": {"bins": 8}}},
    {"column": "review", "encoding": {"tf_idf": {"max_tokens": 6}}},
    {"column": "title", "encoding": {"counts": {"max_tokens": 4}}},
    {"column": "seen", "encoding": {"cyclic": {"parts": ["time_of_day", "weekday", "day_of_month", "time_of_year"]}}},
]
KINDS = {"member": "boolean", "review": "text", "title": "text", "notes": "text", "seen": "datetime"}
SHORT = {"epochs": 3, "batch_size": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pa.Table]:
    """Every encoding of a dense input, two targets."""
    table = _table()
    spec = {
        "target": ["price", "sold"],
        "features": FEATURES,
        "training": SHORT,
        "split": {"validation": 0.2, "test": 0.2},
    }
    return train(request_of(table, spec, tmp_path_factory.mktemp("run"), KINDS), RecordingReporter()), table


def test_keras_and_the_serving_path_agree_on_raw_columns(trained: tuple[Any, pa.Table]) -> None:
    result, table = trained
    encoder = Encoder.from_json(result.manifest["encoder"])
    model = keras.models.load_model(result.files["keras"], safe_mode=True)
    session = exporting.onnx_session(result.files["onnx"])
    served = exporting.serve(session, encoder, table)
    expected = model(
        {n: keras.ops.convert_to_tensor(v) for n, v in exporting.raw_values(encoder, table).items()}, training=False
    )
    for name in ("price", "sold"):
        np.testing.assert_allclose(served[name], expected[name].numpy(), rtol=1e-5, atol=1e-5)
    assert 2e5 < served["price"].mean() < 2e6  # in the target's own units
    assert result.manifest["parity"]["max_rel"] <= 1e-5


def test_the_keras_model_works_without_our_code(trained: tuple[Any, pa.Table], tmp_path: Path) -> None:
    result, table = trained
    encoder = Encoder.from_json(result.manifest["encoder"])
    row = {name: value[:3].tolist() for name, value in exporting.raw_values(encoder, table).items()}
    (tmp_path / "row.json").write_text(json.dumps(row))
    program = (
        "import sys, json, keras, tensorflow as tf\n"
        "model = keras.models.load_model(sys.argv[1], safe_mode=True)\n"
        "row = json.load(open(sys.argv[2]))\n"
        "types = {t.name: t.dtype for t in model.inputs}\n"
        "answers = model({n: tf.constant(v, types[n]) for n, v in row.items()})\n"
        "print(json.dumps({k: v.numpy().tolist() for k, v in answers.items()}))\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('fitserve', 'workers')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(result.files["keras"]), str(tmp_path / "row.json")],
        cwd=tmp_path, capture_output=True, text=True, env={"PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    served = exporting.serve(exporting.onnx_session(result.files["onnx"]), encoder, table.slice(0, 3))
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1])["sold"], served["sold"], rtol=1e-5, atol=1e-6)


def test_the_manifest_says_what_serving_needs(trained: tuple[Any, pa.Table]) -> None:
    manifest = trained[0].manifest
    json.dumps(manifest, allow_nan=False)
    assert [o["name"] for o in manifest["onnx"]["outputs"]] == ["price", "sold"]
    assert manifest["onnx"]["inputs"][0]["name"] == "features"
    assert manifest["outputs"] == [
        {"name": "price", "task": "regression", "labels": None, "units": 1},
        {"name": "sold", "task": "binary", "labels": ["no", "yes"], "units": 1},
    ]
    assert {"column": "depth/m", "name": "depth_m", "dtype": "float64"} in manifest["keras"]["inputs"]
    size = manifest["training_distribution"]["size"]
    assert size["missing"] > 0
    assert abs(sum(size["shares"]) + size["missing"] - 1) < 1e-9
    assert set(manifest["training_distribution"]["city"]["frequencies"]) == {"Bern", "Genève", "Zürich"}
    assert len(manifest["receipt"]["weights"]) == 64


def test_evaluation_is_of_the_test_rows_in_the_targets_own_units(trained: tuple[Any, pa.Table]) -> None:
    result = trained[0].result
    assert set(result["evaluation"]) == {"train", "validation", "test"}
    assert result["evaluation"]["test"]["price"]["rmse"] > 1000
    assert 0 <= result["evaluation"]["test"]["sold"]["accuracy"] <= 1
    assert result["metrics"]["test"]["loss"] > 0


def test_sequences_and_indices_have_inputs_of_their_own(tmp_path: Path) -> None:
    spec = {
        "target": "sold",
        "features": [
            "size",
            {"column": "city", "encoding": "index"},
            {"column": "zip", "encoding": {"hashing": {"bins": 9, "output": "index"}}},
            {"column": "notes", "encoding": {"sequence": {"max_tokens": 5, "length": 4}}},
        ],
        "network": [
            {"Embedding": {"input_dim": 5, "output_dim": 3}, "inputs": "city", "name": "a"},
            {"Flatten": {}, "inputs": "a", "name": "b"},
            {"Embedding": {"input_dim": 9, "output_dim": 2}, "inputs": "zip", "name": "c"},
            {"Flatten": {}, "inputs": "c", "name": "d"},
            {"Embedding": {"input_dim": 5, "output_dim": 4}, "inputs": "notes", "name": "e"},
            {"LSTM": {"units": 3}, "inputs": "e", "name": "f"},
            {"Concatenate": {}, "inputs": ["b", "d", "f", "features"]},
        ],
        "training": SHORT,
    }
    result = train(request_of(_table(), spec, tmp_path, KINDS), RecordingReporter())
    assert result.manifest["parity"]["max_rel"] <= 1e-5
    assert {i["name"]: i["dtype"] for i in result.manifest["onnx"]["inputs"]} == {
        "features": "float32", "city": "int32", "zip": "int32", "notes": "int32",
    }  # fmt: skip


def test_what_is_not_written_here_is_exported_by_keras(tmp_path: Path) -> None:
    spec = {
        "target": "sold",
        "features": ["income", "depth/m"],
        "network": [{"Dense": {"units": 4, "activation": "squareplus"}}],
    }
    reporter = RecordingReporter()
    result = train(request_of(_table(), {**spec, "training": SHORT}, tmp_path), reporter)
    assert any("Keras's exporter" in message for _, message, _ in reporter.events)
    session = onnxruntime.InferenceSession(str(result.files["onnx"]), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["features"]
    assert [o.name for o in session.get_outputs()] == ["sold"]


def test_a_graph_that_differs_from_keras_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = exporting.serving_graph.write

    def wrong(model: Any, outputs: Any) -> Any:
        return written(model, {name: replace(form, scale=form.scale * 1.001) for name, form in outputs.items()})

    monkeypatch.setattr(exporting.serving_graph, "write", wrong)
    with pytest.raises(TrainingFailed) as failed:
        train(
            request_of(
                _table(), {"preset": "plain", "target": "sold", "features": ["income"], "training": SHORT}, tmp_path
            ),
            RecordingReporter(),
        )
    assert failed.value.cause == "parity"
    assert failed.value.data["max_rel"] > 1e-5


def test_a_target_that_is_missing_is_bad_data_with_the_tables_row_numbers(tmp_path: Path) -> None:
    """A run that was submitted before such rows were looked for: its dataset's facts do not count them."""
    table, spec = _table(), {"target": "price", "features": ["income"], "training": SHORT}
    missing = [0, 17, 59]
    values = [None if row in missing else value for row, value in enumerate(table.column("price").to_pylist())]
    request = request_of(table, spec, tmp_path)
    pq.write_table(
        table.set_column(table.column_names.index("price"), "price", pa.array(values, pa.float64())), request.table
    )
    with pytest.raises(TrainingFailed) as failed:
        train(request, RecordingReporter())
    assert failed.value.cause == "bad_data"
    rows = [row + 1 for row, value in enumerate(values) if value is None]
    assert failed.value.data["errors"][0]["received"] == {"count": len(rows), "rows": rows}


def test_rows_without_a_usable_value_are_left_out_and_counted(tmp_path: Path) -> None:
    table = _table()
    size = [float("inf") if row == 5 else None if row in (8, 9) else float(row) for row in range(60)]
    income = [
        float("-inf") if row in (9, 20) else value for row, value in enumerate(table.column("income").to_pylist())
    ]
    table = table.set_column(table.column_names.index("size"), "size", pa.array(size, pa.float64()))
    table = table.set_column(table.column_names.index("income"), "income", pa.array(income, pa.float64()))
    network = [{"Dense": {"units": 4, "activation": "relu"}}]
    spec = {"target": "size", "features": ["income"], "network": network, "training": SHORT}
    spec = {**spec, "rows_without_target": "leave_out"}
    result = train(request_of(table, spec, tmp_path), RecordingReporter()).result
    assert result["left_out"] == {"rows": 4, "columns": {"size": 3, "income": 2}}
    assert sum(result["rows"].values()) == 56


@pytest.mark.parametrize(
    ("center", "spread"),
    [
        (1.7e9, 350.0),
        (0.0, 1e-6),
        *(pytest.param(*pair, marks=pytest.mark.long) for pair in ((2000.0, 6.0), (1013.0, 8.0), (4e14, 9e3))),
    ],
)
def test_an_offset_costs_no_digits(center: float, spread: float, tmp_path: Path) -> None:
    """The network with its offset predicts what the one without it predicts, in Keras and in ONNX."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=80)

    def predictions(offset: float, scale: float, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        table = pa.table({"x": 1.7e9 + 40 * x, "y": offset + scale * np.round(x + 0.2 * rng.normal(size=80), 3)})
        spec = {"target": {"column": "y", "standardize": True}, "features": ["x"], "training": {**SHORT, "epochs": 5}}
        result = train(request_of(table, spec, folder), RecordingReporter())
        assert result.manifest["parity"]["max_rel"] <= 1e-5
        model = keras.models.load_model(result.files["keras"])
        served = exporting.serve(
            onnxruntime.InferenceSession(str(result.files["onnx"])),
            Encoder.from_json(result.manifest["encoder"]),
            table,
        )["y"][:, 0]
        raw = model({"x": keras.ops.convert_to_tensor(table.column("x").to_numpy()[:, None])})["y"].numpy()[:, 0]
        return raw, served

    rng = np.random.default_rng(2)
    plain = predictions(0.0, 1.0, tmp_path / "plain")
    rng = np.random.default_rng(2)
    shifted = predictions(center, spread, tmp_path / "shifted")
    for one, other in zip(plain, shifted, strict=True):
        spacing = np.spacing(abs(center)) / spread  # of float64: digits that the table itself does not have
        assert np.abs((other.astype(np.float64) - center) / spread - one).max() < 1e-4 + 4 * spacing


def test_mixed_precision_serves_in_32_bits(tmp_path: Path) -> None:
    training = {**SHORT, "mixed_precision": True}
    result = train(
        request_of(_table(), {"target": "sold", "features": ["income"], "training": training}, tmp_path),
        RecordingReporter(),
    )
    assert result.manifest["parity"]["max_rel"] <= 1e-5


def test_class_weights_a_weight_column_and_fewer_steps(tmp_path: Path) -> None:
    table = _table().append_column("weight", pa.array(np.linspace(0.5, 1.5, 60)))
    training = {**SHORT, "class_weight": "balanced", "sample_weight": "weight", "steps_per_epoch": 2, "batch_size": 20}
    spec = {"target": "sold", "features": ["income", "size"], "split": {"test": 0.1}}
    result = train(request_of(table, {**spec, "training": training}, tmp_path), RecordingReporter())
    assert result.result["epochs"] == 3
    assert set(result.manifest["metrics"]) == {"train", "validation", "test"}


def test_a_diagnosis_that_fails_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("no rows")

    spec = {"target": "sold", "features": ["income"], "training": SHORT}
    monkeypatch.setattr(analysis, "permutation_importance", fail)
    reporter = RecordingReporter()
    result = train(request_of(_table(), spec, tmp_path / "part"), reporter)
    insight = json.loads(result.files["insight"].read_text())["targets"]["sold"]
    assert insight["importance"] == []
    assert insight["left_out"] == [{"what": "importance", "why": "ZeroDivisionError: no rows"}]
    assert insight["evaluation"]
    assert any("importance" in message for level, message, _ in reporter.events if level == "warn")
    monkeypatch.setattr(analysis.epoch_graphs, "write", fail)
    reporter = RecordingReporter()
    result = train(request_of(_table(), spec, tmp_path / "whole"), reporter)
    assert "insight" not in result.files
    assert any("could not be diagnosed" in message for _, message, _ in reporter.events)


def test_a_part_with_one_label_has_no_area_under_the_curve(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(60.0), "y": ["no"] * 58 + ["yes"] * 2})
    spec = {"target": "y", "features": ["x"], "split": {"time": {"by": "x"}}, "training": {**SHORT, "metrics": ["AUC"]}}
    result = train(request_of(table, spec, tmp_path), RecordingReporter())
    assert "auc" in result.manifest["metrics"]["test"]
    assert "auc" not in result.manifest["metrics"]["validation"]
    assert "auc" not in result.manifest["metrics"]["train"]
