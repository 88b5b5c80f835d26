"""Searches compared with plain Optuna and Keras's `fit`: the same tables, rows, encodings and space, in one process.

`make bench-search`, or `python -m benchmarks.search --seconds 30` for a shorter one. Both sides look for the lowest
validation loss with TPE, over units, dropout, learning rate and seed. `search_speedup` is the geometric mean over the
tables of the seconds that Optuna had over the seconds in which ours reaches the loss that Optuna reached in them; 1 at
most where it is not reached. A line for each table says it for parts of these seconds too. `--processor` counts the
process's processor time instead, of all threads: on a machine that does other work beside it. `stacked64` is the time
of a search of 64 trials that differ in rate, decay and dropout, over that of one trial by itself, both from table to
exported network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import optuna
import pyarrow as pa
import pyarrow.csv

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.spec import parse
from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.interface import StopReason, TrainingStopped
from workers.trainer.ready_run import make_ready
from workers.trainer.train import train

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
EPOCHS = 40
PATIENCE = 20  # epochs of early stopping; the best epoch counts on both sides
SEEDS = list(range(16))  # searched too: with one, the first weights of either side decide which loss it can reach
UNITS = [8, 16, 32, 64]
RATES = (0.0003, 0.1)
DROPOUT = 0.5
MOST = 1_000  # trials of ours
PARTS = (0.125, 0.25, 0.5, 1.0)  # parts of the seconds for which the ratio is printed too
Clock = Callable[[], float]
Ended = list[tuple[float, float]]
"""When each trial ended, and its loss."""


@dataclass(frozen=True)
class Case:
    """A table, and how it is read."""

    name: str
    target: str
    columns: tuple[str, ...]
    separator: str = ","

    def table(self) -> pa.Table:
        parse_options = pa.csv.ParseOptions(delimiter=self.separator)
        convert = pa.csv.ConvertOptions(strings_can_be_null=True)
        table = pa.csv.read_csv(DATA / f"{self.name}.csv", parse_options=parse_options, convert_options=convert)
        table = table.select([*self.columns, self.target]).drop_null()
        return pa.table({name: _plain(table.column(name), name == self.target) for name in table.column_names})

    def body(self, network: list[Any], rate: Any, **more: Any) -> dict[str, Any]:
        optimizer = {"Adam": {"learning_rate": rate, **more.pop("adam", {})}}
        stopping = {"patience": PATIENCE, "restore_best_weights": True}
        training = {"epochs": EPOCHS, "batch_size": 32, "optimizer": optimizer, "early_stopping": stopping}
        training["seed"] = more.pop("seed", 0)
        return {"target": self.target, "network": network, "training": training, **more}


def _plain(column: pa.ChunkedArray, is_target: bool) -> pa.ChunkedArray:
    if pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
        return column.cast(pa.string())
    return column.cast(pa.float64())


CASES = (
    Case("titanic", "Survived", ("Pclass", "Sex", "Age", "Fare", "SibSp")),
    Case("winequality_red", "quality", ("alcohol", "volatile acidity", "sulphates", "pH", "density"), ";"),
    Case("insurance", "charges", ("age", "sex", "bmi", "children", "smoker", "region")),
)


@dataclass
class Timed(RecordingReporter):
    """A Reporter that notes when each trial ended, and its value, and stops the search after so many seconds."""

    clock: Clock = time.perf_counter
    seconds: float = math.inf
    ended: Ended = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began_at = self.clock()

    def search_trial(self, row: dict[str, Any]) -> None:
        if row["state"] == "succeeded" and row.get("value") is not None:
            self.ended.append((self.clock() - self.began_at, float(row["value"])))

    def stop(self) -> StopReason:
        return "cancel" if self.clock() - self.began_at > self.seconds else ""


def ours(case: Case, table: pa.Table, seconds: float, folder: Path, clock: Clock) -> Ended:
    """Search for so many seconds. Returns when each trial ended, and its loss."""
    network = [
        {"Dense": {"units": {"search": UNITS}, "activation": "relu"}},
        {"Dropout": {"search": {"low": 0.0, "high": DROPOUT}}},
    ]
    rate = {"search": {"low": RATES[0], "high": RATES[1], "log": True}}
    body = case.body(network, rate, seed={"search": SEEDS}, split={"seed": 0}, search={"trials": MOST, "parallel": 32})
    request = request_of(table, body, folder)
    reporter = Timed(clock=clock, seconds=seconds)
    with contextlib.suppress(TrainingStopped):
        train(request, reporter)
    return reporter.ended


def theirs(case: Case, table: pa.Table, seconds: float, folder: Path, clock: Clock) -> Ended:
    """Search the same space with Optuna and `fit`, on the same encoded rows."""
    request = request_of(table, case.body([{"Dense": 8}], 0.001, split={"seed": 0}), folder)
    spec, facts = parse(request.spec), DatasetFacts.model_validate(request.facts)
    ready = make_ready(request, spec, facts, RecordingReporter())
    parts = [ready.encoded[part] for part in ("train", "validation")]
    (x, y), (held_x, held_y) = ((np.asarray(part.x["features"]), part.y[case.target]) for part in parts)
    output = spec.network[-1].layer
    loss = type(spec.training.loss[case.target]).__name__
    began_at = clock()
    ended: Ended = []

    def objective(trial: optuna.Trial) -> float:
        keras.utils.set_random_seed(trial.suggest_categorical("seed", SEEDS))
        model = keras.Sequential(
            [
                keras.Input((x.shape[1],)),
                keras.layers.Dense(trial.suggest_categorical("units", UNITS), activation="relu"),
                keras.layers.Dropout(trial.suggest_float("rate", 0.0, DROPOUT)),
                keras.layers.Dense(output.units, activation=str(output.activation)),  # type: ignore[attr-defined]
            ]
        )
        rate = trial.suggest_float("learning_rate", *RATES, log=True)
        model.compile(optimizer=keras.optimizers.Adam(rate), loss=getattr(keras.losses, loss)())
        held_out, stop = (held_x, held_y), keras.callbacks.EarlyStopping(patience=PATIENCE)
        logs = model.fit(x, y, validation_data=held_out, epochs=EPOCHS, batch_size=32, callbacks=[stop], verbose=0)
        value = float(min(logs.history["val_loss"]))
        ended.append((clock() - began_at, value))
        keras.backend.clear_session()
        return value if math.isfinite(value) else 1e30

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    while clock() - began_at < seconds:
        study.optimize(objective, n_trials=1)
    return ended


def ratio_after(plain: Ended, searched: Ended, seconds: float) -> float | None:
    """Return `seconds` of Optuna over our seconds to its best loss by then; None if it had no trial yet.

    Where ours never reached it: their seconds over all of ours, 1 at most.
    """
    best = min((value for after, value in plain if after <= seconds), default=None)
    if best is None:
        return None
    ours = next((after for after, value in searched if value <= best), None)
    return seconds / ours if ours is not None else min(1.0, seconds / searched[-1][0])


def speedup(case: Case, seconds: float, folder: Path, clock: Clock) -> tuple[float, str]:
    """Return Optuna's seconds over ours to the same loss, and lines that say so."""
    table = case.table()
    searched = ours(case, table, seconds, folder / "ours", clock)
    plain = theirs(case, table, seconds, folder / "theirs", clock)
    plain = [(min(after, seconds), value) for after, value in plain]  # the last one may end later
    ratios = {part * seconds: ratio_after(plain, searched, part * seconds) for part in PARTS}
    said = ", ".join(f"{ratio:.1f} at {after:g} s" for after, ratio in ratios.items() if ratio is not None)
    best, ours_best = (min(value for _, value in ended) for ended in (plain, searched))
    return ratios[seconds] or 1.0, (
        f"{case.name:16} Optuna {len(plain):5} trials, {best:.5g}; ours {len(searched)}, {ours_best:.5g}; ratio {said}"
    )


def stacked(repeats: int, folder: Path, clock: Clock) -> float:
    """Return the time of 64 stacked trials relative to one trial's."""
    case = CASES[0]
    table = case.table()
    one = case.body([{"Dense": {"units": 32, "activation": "relu"}}, {"Dropout": 0.2}], 0.01)
    network = [{"Dense": {"units": 32, "activation": "relu"}}, {"Dropout": {"search": {"low": 0.0, "high": DROPOUT}}}]
    rate = {"search": {"low": RATES[0], "high": RATES[1], "log": True}}
    decay = {"weight_decay": {"search": {"low": 1e-6, "high": 1e-2, "log": True}}}
    many = case.body(network, rate, adam=decay, search={"trials": 64, "sampler": "random"})
    seconds: dict[str, list[float]] = {"one": [], "many": []}
    for repeat in range(repeats + 1):  # the first warms up
        for name, body in (("one", one), ("many", many)):
            request = request_of(table, body, folder / f"{name}{repeat}")
            began_at = clock()
            train(request, RecordingReporter())
            seconds[name].append(clock() - began_at)
    medians = {name: statistics.median(own[1:]) for name, own in seconds.items()}
    print(f"one trial {medians['one']:.2f} s, 64 stacked {medians['many']:.2f} s")
    return medians["many"] / medians["one"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of each search, on each side")
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--repeats", type=int, default=3, help="of the stacked search")
    parser.add_argument("--processor", action="store_true", help="count processor time")
    args = parser.parse_args()
    clock = time.process_time if args.processor else time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        factor = stacked(args.repeats, folder, clock)
        ratios = []
        for case in CASES:
            if case.name in args.cases:
                ratio, line = speedup(case, args.seconds, folder / case.name, clock)
                ratios.append(ratio)
                print(line, flush=True)
    mean = math.exp(statistics.mean(math.log(ratio) for ratio in ratios)) if ratios else None
    print(json.dumps({"search_speedup": mean and round(mean, 2), "stacked64": round(factor, 2)}))


if __name__ == "__main__":
    main()
