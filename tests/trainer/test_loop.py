"""The loop gives `Model.fit`'s results: the same losses, the same callbacks at the same moments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from keras import layers as L
from keras import optimizers as O

from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.data import preparation
from workers.trainer.data.feeds import (
    EncodedRows,
    Resident,
    Streamed,
    in_file_order,
    partial_epochs,
    read_picked,
    shuffled,
)
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.loop import Loop, Pace
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("float32")[:, None]
VX, VY = X[:21] + 0.1, Y[:21]


def _model(optimizer: Any, dropout: float = 0.3, **dense: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [L.Dense(8, "relu", **dense), L.BatchNormalization(), L.Dropout(dropout), L.Dense(1, "sigmoid")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer, keras.losses.BinaryCrossentropy(), metrics=["accuracy"], jit_compile=False)
    return model


def _train_ours(
    model: keras.Model, epochs: int = 3, callbacks: Any = (), batch: int = 16, **more: Any
) -> dict[str, Any]:
    rows, held_out = (
        RowTensors.of(X, Y, more.pop("weight", None)),
        RowTensors.of(VX, VY, more.pop("validation_weight", None)),
    )
    compiled = Compiled(model, rows, held_out, batch, batch, **more)
    return dict(Loop(compiled, Resident(rows), Resident(held_out), epochs, list(callbacks)).run().history)


def _train_fit(
    model: keras.Model, epochs: int = 3, callbacks: Any = (), batch: int = 16, **more: Any
) -> dict[str, Any]:
    model.run_eagerly = epochs <= 3  # the same numbers: a few steps take less time than a trace
    validation = (VX, VY) if "validation_weight" not in more else (VX, VY, more.pop("validation_weight"))
    arguments = {"validation_data": validation, "verbose": 0, "shuffle": False, "callbacks": list(callbacks)}
    return dict(model.fit(X, Y, batch_size=batch, epochs=epochs, **arguments, **more).history)


def _assert_same_history(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, atol=1e-7, err_msg=name)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: O.SGD(0.1),
    "momentum": lambda: O.SGD(0.1, momentum=0.9),
    "nesterov": lambda: O.SGD(O.schedules.ExponentialDecay(0.1, 5, 0.9), momentum=0.9, nesterov=True, clipnorm=0.5),
    "adam": lambda: O.Adam(0.01),
    "amsgrad": lambda: O.Adam(0.01, amsgrad=True),
    "adamw": lambda: O.AdamW(0.01, use_ema=True, ema_overwrite_frequency=4, global_clipnorm=1.0),
    "rmsprop": lambda: O.RMSprop(0.01),
    "rmsprop-momentum": lambda: O.RMSprop(0.01, momentum=0.9, clipvalue=0.5),
    "rmsprop-centered": lambda: O.RMSprop(0.01, centered=True),
    "adagrad": lambda: O.Adagrad(0.1),
    "adadelta": lambda: O.Adadelta(1.0),
    "adamax": lambda: O.Adamax(0.01),
    "nadam": lambda: O.Nadam(0.01, gradient_accumulation_steps=2),
    "ftrl": lambda: O.Ftrl(0.1),
    "lion": lambda: O.Lion(0.001),
}


# Those whose step has a part of its own; the others in the long form.
SHORT = ("adam", "nesterov", "rmsprop-centered", "adamw", "nadam", "ftrl")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.long) for name in OPTIMIZERS]
)
def test_each_optimizer_trains_as_in_fit(name: str) -> None:
    make = OPTIMIZERS[name]
    _assert_same_history(_train_ours(_model(make())), _train_fit(_model(make())))


@pytest.mark.parametrize("regularizer", ["L1L2", "OrthogonalRegularizer"])
def test_each_regularizer_counts_as_in_fit(regularizer: str) -> None:
    def dense() -> dict[str, Any]:
        made = getattr(keras.regularizers, regularizer)()
        return {
            "kernel_regularizer": made,
            "kernel_constraint": keras.constraints.MaxNorm(1.0),
            "activity_regularizer": "l2",
        }

    _assert_same_history(_train_ours(_model("adam", **dense())), _train_fit(_model("adam", **dense())))


def test_sample_weights_count_as_in_fit() -> None:
    weight, held_out = np.linspace(0, 2, 50).astype("float32"), np.linspace(1, 3, 21).astype("float32")
    ours = _train_ours(_model("adam"), weight=weight, validation_weight=held_out)
    _assert_same_history(ours, _train_fit(_model("adam"), sample_weight=weight, validation_weight=held_out))


def test_several_outputs_train_as_in_fit() -> None:
    def model() -> keras.Model:
        keras.utils.set_random_seed(1)
        x = keras.Input((4,), name="features")
        hidden = L.Dense(8, "tanh")(x)
        outputs = {"side": L.Dense(3, "softmax", name="side")(hidden), "sum": L.Dense(1, name="sum")(hidden)}
        model = keras.Model({"features": x}, outputs)
        losses = {"side": keras.losses.SparseCategoricalCrossentropy(), "sum": keras.losses.MeanSquaredError()}
        metrics = {"side": ["accuracy"], "sum": ["mae"]}
        model.compile("adam", losses, loss_weights={"side": 0.5, "sum": 2.0}, metrics=metrics, jit_compile=False)
        return model

    x, y = {"features": X}, {"side": (X[:, 0] > 0).astype("int32"), "sum": X.sum(axis=1, keepdims=True)}
    rows = RowTensors.of(x, y)
    ours = Loop(Compiled(model(), rows, rows, 10, 10), Resident(rows), Resident(rows), 2).run().history
    theirs = model().fit(x, y, batch_size=10, epochs=2, validation_data=(x, y), verbose=0, shuffle=False).history
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)


def test_a_callback_that_asks_for_batches_gets_each_of_them() -> None:
    class Batches(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen.append((batch, float(logs["loss"])))

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen.append(("test", batch, float(logs["loss"])))

    ours, theirs = Batches(), Batches()
    _assert_same_history(_train_ours(_model("adam"), 2, [ours]), _train_fit(_model("adam"), 2, [theirs]))
    assert [s[:-1] for s in ours.seen] == [s[:-1] for s in theirs.seen]
    np.testing.assert_allclose([s[-1] for s in ours.seen], [s[-1] for s in theirs.seen], rtol=1e-5)


@pytest.mark.parametrize("patience", [0, 2])
def test_early_stopping_restores_the_epoch_that_fit_restores(patience: int) -> None:
    kept, losses = [], []
    for run in (_train_ours, _train_fit):
        stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience, restore_best_weights=True)
        model = _model(O.SGD(2.0), dropout=0.0)
        history = run(model, 12, [stopping])
        kept.append((len(history["loss"]), stopping.best_epoch, stopping.stopped_epoch))
        losses.append(float(model.evaluate(VX, VY, verbose=0)[0]))
        assert losses[-1] == pytest.approx(min(history["val_loss"]), rel=1e-4)
    assert kept[0] == kept[1]


def test_plateaus_schedules_and_averages_work_at_fits_moments() -> None:
    def callbacks() -> list[Any]:
        return [
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=0.05),
            keras.callbacks.SwapEMAWeights(),
        ]

    make = lambda: O.Adam(0.05, use_ema=True, ema_momentum=0.9)  # noqa: E731
    _assert_same_history(_train_ours(_model(make()), 6, callbacks()), _train_fit(_model(make()), 6, callbacks()))
    rate = lambda: [keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.5)]  # noqa: E731
    _assert_same_history(_train_ours(_model(O.Adam(0.05)), 4, rate()), _train_fit(_model(O.Adam(0.05)), 4, rate()))


def test_a_long_epoch_is_split_into_calls() -> None:
    calls: list[tuple[int, int]] = []
    rows = RowTensors.of(X, Y)
    compiled = Compiled(_model("adam"), rows, rows, 4, 4)
    pace = Pace(seconds=0.0, steps=2)
    loop = Loop(compiled, Resident(rows), Resident(rows), 2, between_calls=lambda e, s: calls.append((e, s)), pace=pace)
    history = loop.run().history
    whole = Loop(Compiled(_model("adam"), rows, rows, 4, 4), Resident(rows), Resident(rows), 2).run().history
    assert len(calls) > 10
    np.testing.assert_allclose(history["loss"], whole["loss"], rtol=1e-6)
    np.testing.assert_allclose(history["val_loss"], whole["val_loss"], rtol=1e-6)


class NoLoops(keras.Sequential):
    """A network whose step cannot be part of a larger function."""

    def train_step(self, data: Any) -> Any:
        if "while" in tf.compat.v1.get_default_graph().name:
            raise NotImplementedError("not within a loop")
        return super().train_step(data)


def test_what_cannot_be_compiled_as_a_whole_runs_step_by_step() -> None:
    reasons: list[str] = []
    keras.utils.set_random_seed(1)
    model = NoLoops([keras.Input((4,)), *_model("adam").layers])
    model.compile("adam", keras.losses.BinaryCrossentropy(), metrics=["accuracy"], jit_compile=False)
    _assert_same_history(_train_ours(model, on_fallback=reasons.append), _train_ours(_model("adam")))
    assert "step by step" in reasons[0]
    assert "not within a loop" in reasons[0]


def test_a_model_that_is_only_evaluated_has_no_training_step_traced() -> None:
    keras.utils.set_random_seed(1)
    model = NoLoops([keras.Input((4,)), *_model("adam").layers])
    model.compile("adam", keras.losses.BinaryCrossentropy(), metrics=["accuracy"], jit_compile=False)
    rows, held_out = RowTensors.of(X, Y), RowTensors.of(VX, VY)
    reasons: list[str] = []
    compiled = Compiled(model, rows, held_out, 16, 16, on_fallback=reasons.append)
    loop = Loop(compiled, Resident(rows), Resident(held_out), 2)
    before = loop.evaluate(Resident(held_out))
    assert before == pytest.approx(model.evaluate(VX, VY, batch_size=16, verbose=0, return_dict=True))
    assert reasons == []
    _assert_same_history(dict(loop.run().history), _train_ours(_model("adam"), epochs=2))
    assert "not within a loop" in reasons[0]


class CountedMetric(keras.metrics.MeanSquaredError):
    """Counts how often its result is traced."""

    results = 0

    def result(self) -> Any:
        self.results += 1
        return super().result()


def test_results_of_metrics_are_traced_once_for_training_and_validation() -> None:
    model, metric = _model("adam"), CountedMetric()
    model.compile("adam", keras.losses.BinaryCrossentropy(), metrics=[metric], jit_compile=False)
    history = _train_ours(model, epochs=2)
    assert metric.results == 1
    assert {"mean_squared_error", "val_mean_squared_error"} <= set(history)


def test_the_short_area_under_the_curve_is_keras_own() -> None:
    truth, predicted = RNG.integers(0, 2, (300, 1)), RNG.random((300, 1), np.float32) ** 3
    predicted[:20] = np.linspace(0, 1, 20)[:, None]  # among them both ends, and values outside and on thresholds
    predicted[20:24] = [[-0.5], [1.5], [np.nan], [100 / 199]]
    model = keras.Sequential([keras.Input((1,)), L.Dense(1)])
    model.compile("sgd", "mse", metrics=[keras.metrics.AUC(), keras.metrics.AUC(curve="PR")], jit_compile=False)
    rows = RowTensors.of(predicted, truth.astype(np.float32))
    Compiled(model, rows, rows, 16, 16)
    short, other = model._compile_metrics.metrics
    whole = keras.metrics.AUC()
    for part in (slice(0, 30), slice(30, 300)):
        for metric in (short, whole):
            metric.update_state(truth[part], predicted[part])
    assert (type(short), other.update_state.__func__) == (keras.metrics.AUC, keras.metrics.AUC.update_state)
    assert short.update_state.__name__ == "update"
    for own, kerass in zip(short.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(own.numpy(), kerass.numpy())
    assert float(short.result()) == pytest.approx(float(whole.result()), abs=1e-7)
    short.reset_state()
    assert float(short.result()) == 0.0


def test_xla_compiles_single_steps() -> None:
    reasons: list[str] = []
    Compiled(
        _model("adam"), RowTensors.of(X, Y), RowTensors.of(VX, VY), 16, 16, jit=True, on_fallback=reasons.append
    ).trace()
    assert "XLA" in reasons[0]


def test_a_partial_epoch_continues_where_the_last_one_ended() -> None:
    order = partial_epochs(shuffled(3), 8)
    taken = np.concatenate([order(10, epoch) for epoch in range(5)])
    assert sorted(taken[:10]) == sorted(taken[10:20]) == list(range(10))
    assert list(taken[10:20]) == list(shuffled(3)(10, 1))
    assert list(taken[10:20]) != list(in_file_order(10, 1))


# --- streaming ------------------------------------------------------------------------------------


def _file(tmp_path: Path, rows: int = 5_000) -> Path:
    table = pa.table({"id": np.arange(rows), "x": np.linspace(0, 1, rows)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=700)
    return tmp_path / "rows.parquet"


def _stream(path: Path, picked: np.ndarray, **more: Any) -> Streamed:
    def encode(table: pa.Table) -> EncodedRows:
        ids = table["id"].to_numpy().astype(np.int32)
        return EncodedRows({"x": ids[:, None].astype(np.float32)}, {"y": ids}, None)

    return Streamed(path, ["id", "x"], picked, encode, lambda part: RowTensors.of(part.x, part.y), 32, **more)


def _spooled(path: Path, picked: np.ndarray, folder: Path, **more: Any) -> Streamed:
    return _stream(path, picked, spool=_stream(path, picked).spooled(folder, lambda: None), **more)


def _ids(stream: Streamed, epoch: int) -> list[int]:
    blocks = list(stream.blocks(epoch))
    assert [block.last for block in blocks] == [False] * (len(blocks) - 1) + [True]
    assert all(len(block.order) % 32 == 0 for block in blocks[:-1])
    return [int(i) for block in blocks for i in block.rows.y["y"].numpy()[block.order]]


@pytest.mark.parametrize("how", ["spool", "parquet"])
def test_a_stream_gives_every_row_once_an_epoch_shuffled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("workers.trainer.data.feeds.BLOCK_BYTES", 4_000)
    monkeypatch.setattr("workers.trainer.data.feeds.PIECE", 100)
    picked = np.arange(0, 5_000, 3)
    make = _stream if how == "parquet" else partial(_spooled, folder=tmp_path / "spool")
    stream = make(_file(tmp_path), picked, seed=1)
    first, second = _ids(stream, 0), _ids(stream, 1)
    assert sorted(first) == sorted(second) == picked.tolist()
    assert first != second
    assert first == _ids(stream, 0)
    assert np.mean(np.abs(np.diff(first))) > 500  # well mixed, far beyond a row group
    assert _ids(make(_file(tmp_path), picked), 0) == picked.tolist()
    assert len(_ids(make(_file(tmp_path), picked, seed=1, take=200), 0)) == 200


def test_some_rows_of_a_file(tmp_path: Path) -> None:
    picked = np.array([0, 17, 699, 700, 4_999])
    assert read_picked(_file(tmp_path), ["id"], picked)["id"].to_pylist() == picked.tolist()


def test_a_dataset_larger_than_memory_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "side": np.where(x.sum(axis=1) > 0, "yes", "no")})
    spec = {"target": "side", "training": {"epochs": 4, "batch_size": 32}, "split": {"test": 0.1}}
    resident = train(request_of(table, spec, tmp_path / "resident"), RecordingReporter())
    monkeypatch.setattr(preparation, "memory_budget", lambda: 100)
    monkeypatch.setattr(preparation, "SAMPLE_ROWS", {"train": 300, "validation": 50, "test": 50})
    reporter = RecordingReporter()
    streamed = train(request_of(table, spec, tmp_path / "streamed"), reporter)
    assert any("streamed" in message for _, message, _ in reporter.events)
    assert streamed.result["rows"] == resident.result["rows"]
    assert streamed.manifest["receipt"]["split"] == resident.manifest["receipt"]["split"]
    assert streamed.result["metrics"]["test"]["accuracy"] > 0.85
    assert streamed.manifest["parity"]["max_rel"] <= 1e-5


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.RMSprop])
def test_an_embedding_trains_as_in_fit(optimizer: Any) -> None:
    """Keras's moments follow the rows of a batch alone, so that a kernel over all rows gives other weights."""
    x = np.random.default_rng(0).integers(0, 30, (64, 1)).astype(np.int32)
    y = (x % 3 == 0).astype(np.float32)

    def model() -> keras.Model:
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Embedding(30, 4), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")]
        network = keras.Sequential([keras.Input((1,), dtype="int32"), *layers])
        network.compile(optimizer(0.05), keras.losses.BinaryCrossentropy(), jit_compile=False)
        return network

    theirs = model().fit(x, y, batch_size=16, epochs=5, shuffle=False, verbose=0).history["loss"]
    rows = RowTensors.of(x, y)
    ours = Loop(Compiled(model(), rows, rows, 16, 16), Resident(rows), None, 5).run().history["loss"]
    np.testing.assert_allclose(ours, theirs, rtol=3e-5)
