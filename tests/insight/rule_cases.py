"""For every rule: a network and a table that trigger it, and a twin that must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tests.insight.trained_runs import TrainedRun, blobs, circle, line, table_of, xor

Json = dict[str, Any]
STOP = {"monitor": "val_loss", "patience": 10, "restore_best_weights": True}


def _loss(ran: TrainedRun) -> float:
    """Return the mean loss on validation rows, in the target's own units."""
    return ran.loss()


def _balanced_loss(ran: TrainedRun) -> float:
    """Return the log loss in which rare labels count as much as common ones, which class weights improve."""
    assert ran.insight is not None
    return float(ran.insight["targets"]["y"]["evaluation"]["validation"]["balanced_log_loss"])


@dataclass(frozen=True)
class Case:
    """`table` and `spec` trigger `rule`; `twin` changes as little as possible to be sound."""

    rule: str
    table: Callable[[], pa.Table]
    spec: Json
    twin: Json
    twin_table: Callable[[], pa.Table] | None = None
    measure: Callable[[TrainedRun], float] | None = None  # what the patch lowers, if that needs the kept network
    restarts: int = 1  # trials of a run


def dense(units: int, activation: str = "relu", **more: Any) -> Json:
    return {"Dense": {"units": units, "activation": activation, **more}}


def spec(network: list[Json], epochs: int, optimizer: Json, **more: Any) -> Json:
    training = {"optimizer": optimizer, "epochs": epochs, **more.pop("training", {})}
    return {"target": "y", "network": network, "training": training, **more}


def _five_rows() -> pa.Table:
    """Five rows to train on, four to validate, with labels that hardly depend on the columns."""
    return blobs(9, 8, 1.0)


def _zigzag() -> pa.Table:
    """A number of ten values, each with a mean of its own: a tree's kind of table."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 10, 1500), rng.integers(0, 5, 1500)]).astype(float)
    return table_of(x, (x[:, 0] * 7 % 10) / 3 + 0.2 * x[:, 1] + rng.normal(0, 0.5, 1500))


def _all_negative() -> pa.Table:
    rng = np.random.default_rng(0)
    x = -np.abs(rng.normal(5, 1, (240, 4)))
    return table_of(x, (x[:, 0] + rng.normal(0, 0.3, 240)) > -5)


def _thousands() -> pa.Table:
    rng = np.random.default_rng(0)
    x = rng.normal(2000, 500, (240, 3))
    return table_of(x, x[:, 0] + x[:, 1] + rng.normal(0, 200, 240) > 4000)


def _noise_columns() -> pa.Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 40))
    return table_of(x, (2 * x[:, 0] + 2 * x[:, 1] + rng.normal(0, 0.2, 500)) > 0)


def _all_columns_matter() -> pa.Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 10))
    return table_of(x, (x.sum(1) + rng.normal(0, 1.0, 300)) > 0)


def _rare(threshold: float) -> Callable[[], pa.Table]:
    def table() -> pa.Table:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1200, 4))
        return table_of(x, (x.sum(1) + rng.normal(0, 2, 1200)) > threshold)

    return table


def _leak(leaks: bool) -> Callable[[], pa.Table]:
    """A column filled in after the outcome: for training rows it contains the target, for later ones it does not."""

    def table() -> pa.Table:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(400, 3))
        y = (x[:, 0] + rng.normal(0, 0.7, 400)) > 0
        part = np.array(["train"] * 250 + ["validation"] * 150)
        known = (part == "train") & leaks
        late = np.where(known, y + rng.normal(0, 0.01, 400), rng.normal(0.5, 0.5, 400))
        return pa.table({"x0": x[:, 0], "x1": x[:, 1], "x2": x[:, 2], "late": late, "part": part, "y": y})

    return table


def _reversed(share: float) -> Callable[[], pa.Table]:
    """In rows of `kind` b, a share of all, the labels are the other way round."""

    def table() -> pa.Table:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1500, 2))
        kind = np.where(rng.random(1500) < share, "b", "a")
        y = (x[:, 0] + rng.normal(0, 0.3, 1500) > 0) ^ (kind == "b")
        return pa.table({"x0": x[:, 0], "x1": x[:, 1], "kind": kind.tolist(), "y": y})

    return table


_RAW = [{f"x{i}": "pass_through"} for i in range(4)]
_LOW_START = {"kernel_initializer": {"RandomUniform": {"minval": 0.0, "maxval": 0.1}}}
_WILD = {"kernel_initializer": {"RandomNormal": {"stddev": 1.0}}}
_HEAVY = {"kernel_regularizer": {"L2": 3.0}}

CASES = (
    Case(
        "vanishing_gradients",
        lambda: blobs(600, 4, 3.0),
        spec([dense(16, "sigmoid")] * 8, 15, {"SGD": {"learning_rate": 0.05}}),
        spec([dense(16, "sigmoid")], 15, {"SGD": {"learning_rate": 0.05}}),
    ),
    Case(
        "exploding_gradients",
        blobs,
        spec([dense(32, **_WILD)] * 5, 12, {"SGD": {"learning_rate": 0.005}}),
        spec([dense(32, kernel_initializer="HeNormal")] * 5, 12, {"SGD": {"learning_rate": 0.005}}),
    ),
    Case(
        "dead_relus",
        _all_negative,
        spec([dense(16, **_LOW_START), dense(8)], 15, {"Adam": {"learning_rate": 0.01}}, features=_RAW),
        spec([dense(16), dense(8)], 15, {"Adam": {"learning_rate": 0.01}}),
    ),
    Case(
        "saturated_units",
        _thousands,
        spec([dense(16, "tanh"), dense(8, "tanh")], 20, {"Adam": {"learning_rate": 0.003}}, features=_RAW[:3]),
        spec([dense(16, "tanh"), dense(8, "tanh")], 20, {"Adam": {"learning_rate": 0.003}}),
    ),
    Case(
        "learning_rate_too_high",
        blobs,
        spec([dense(16)], 20, {"SGD": {"learning_rate": 10.0}}),
        spec([dense(16)], 20, {"SGD": {"learning_rate": 0.1}}),
    ),
    Case(
        "learning_rate_too_low",
        blobs,
        spec([dense(16)], 15, {"SGD": {"learning_rate": 1e-5}}),
        spec([dense(16)], 15, {"SGD": {"learning_rate": 0.05}}),
    ),
    Case(
        "stuck_at_baseline",
        blobs,
        spec([dense(16, **_HEAVY), dense(8, **_HEAVY)], 40, {"Adam": {"learning_rate": 0.003}}),
        spec([dense(16, kernel_regularizer={"L2": 0.001})], 40, {"Adam": {"learning_rate": 0.003}}),
    ),
    Case(
        "overfitting",
        _five_rows,
        spec([dense(64), dense(64)], 50, {"Adam": {"learning_rate": 0.01}}, split={"validation": 0.45}),
        spec([dense(8)], 50, {"Adam": {"learning_rate": 0.01}}, training={"early_stopping": STOP}),
        twin_table=blobs,
    ),
    Case(
        "underfitting",
        circle,
        spec([dense(1, "tanh")], 50, {"Adam": {"learning_rate": 0.03}}),
        spec([dense(32)], 50, {"Adam": {"learning_rate": 0.03}}),
        measure=_loss,
    ),
    Case(
        "stopped_too_early",
        circle,
        spec([dense(16)], 6, {"Adam": {"learning_rate": 0.01}}),
        spec([dense(16)], 150, {"Adam": {"learning_rate": 0.02}}, training={"early_stopping": STOP}),
    ),
    Case(
        "validation_easier",
        lambda: blobs(600, 4, 4.0),
        spec([dense(16), {"Dropout": 0.8}, dense(16), {"Dropout": 0.8}], 30, {"Adam": {"learning_rate": 0.01}}),
        spec([dense(16), {"Dropout": 0.1}, dense(16)], 30, {"Adam": {"learning_rate": 0.01}}),
        measure=_loss,
    ),
    Case(
        "restarts_disagree",
        xor,
        spec([dense(2, "tanh")], 60, {"SGD": {"learning_rate": 0.2}}, training={"batch_size": 16}),
        spec([dense(16, "tanh")], 60, {"Adam": {"learning_rate": 0.03}}, training={"restarts": 5, "batch_size": 16}),
        restarts=8,
    ),
    Case(
        "few_columns",
        _noise_columns,
        spec(
            [dense(32)],
            60,
            {"Adam": {"learning_rate": 0.005}},
            split={"validation": 0.6},
            training={"early_stopping": STOP},
        ),
        spec([dense(32)], 60, {"Adam": {"learning_rate": 0.005}}, training={"early_stopping": STOP}),
        twin_table=_all_columns_matter,
        measure=_loss,
    ),
    Case(
        "class_imbalance",
        _rare(4.6),
        spec([dense(16)], 40, {"Adam": {"learning_rate": 0.005}}, training={"early_stopping": STOP}),
        spec([dense(16)], 40, {"Adam": {"learning_rate": 0.005}}, training={"early_stopping": STOP}),
        twin_table=_rare(0.0),
        measure=_balanced_loss,
    ),
    Case(
        "leaking_column",
        _leak(True),
        spec(
            [dense(16)],
            30,
            {"Adam": {"learning_rate": 0.005}},
            features=["x0", "x1", "x2", "late"],
            split={"method": "column", "by": "part"},
            training={"early_stopping": STOP},
        ),
        spec(
            [dense(16)],
            30,
            {"Adam": {"learning_rate": 0.005}},
            features=["x0", "x1", "x2", "late"],
            split={"method": "column", "by": "part"},
            training={"early_stopping": STOP},
        ),
        twin_table=_leak(False),
    ),
    Case(
        "target_scale",
        lambda: line(300, 1000.0, 5000.0),
        spec([dense(16)], 30, {"Adam": {"learning_rate": 0.005}}, target=[{"name": "y", "standardize": False}]),
        spec([dense(16)], 60, {"Adam": {"learning_rate": 0.02}}, target=[{"name": "y", "standardize": False}]),
        twin_table=line,
        measure=_loss,
    ),
    Case(
        "better_reference",
        _zigzag,
        spec([dense(16)], 40, {"Adam": {"learning_rate": 0.01}}),
        spec([dense(16)], 60, {"Adam": {"learning_rate": 0.01}}),
        twin_table=line,
        measure=_loss,
    ),
    Case(
        "weak_slice",
        _reversed(0.15),
        spec([dense(32)], 40, {"Adam": {"learning_rate": 0.01}}, features=["x0", "x1"], split={"validation": 0.4}),
        spec([dense(32)], 40, {"Adam": {"learning_rate": 0.01}}, features=["x0", "x1"], split={"validation": 0.4}),
        twin_table=_reversed(0.0),
        measure=_loss,
    ),
)
