"""Our training loop compared with plain `Model.fit`: the same networks and data, in two processes that take turns.

`make bench-training`, or `python -m benchmarks.training --cases T1 T2 --repeats 1` for some cases. Each ratio is
plain `fit`'s seconds over ours, medians of paired repeats; `streaming_ratio` is the stream's seconds over the
in-memory path's, `growth_mb` the resident set's growth over 200 runs in this one process, and `recorder_share` the
share of T2's time taken by recording layer statistics, including its own tracing.

`T1_cold` builds and traces the network each time, as `fit` must; `T1_warm` trains a traced one again.
`restarts16` compares with sixteen times the median of T1's `fit` (`--sixteen` runs all sixteen). `T2_long` and
`T4_long`, only where named, are a minute of `fit`.

`T1_floor` to `T4_floor` and `restarts_floor` are our seconds over those of the same arithmetic written by hand
(`benchmarks.floor`): T1's are those of a traced network, restarts' include building and tracing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import floor
from benchmarks.plain_fit import CASES, LONG, Case, PlainFit
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from tests.trainer.requests import RecordingReporter, facts_of, request_of
from workers.trainer.data import preparation
from workers.trainer.data.feeds import Resident, Streamed, shuffled
from workers.trainer.engine import checkpoint
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.dropout import seed_by_element
from workers.trainer.engine.kept_networks import tidy_up
from workers.trainer.engine.loop import Loop
from workers.trainer.engine.stacked_network import StackedNetwork
from workers.trainer.insight.recording import TrialRecorder
from workers.trainer.ready_run import build_model
from workers.trainer.train import train

TO_REACH = {"T1_cold": 20, "T1_warm": 35, "T2": 3.2, "T3": 4.5, "T4": 2.6, "restarts16": 75}
TO_REACH |= {"T2_long": 4.5, "T4_long": 3.5}


def ours(case: Case, data: Any, warm: bool = False) -> float:
    """Return the seconds of our loop; `warm` trains once before, and again from the initial weights."""
    x, y, vx, vy = data
    model = case.model()
    seed_by_element(model)
    begun = time.perf_counter()
    train, validation = RowTensors.of(x, y), RowTensors.of(vx, vy) if len(vx) else None
    compiled = Compiled(model, train, validation, case.batch, case.batch)

    def run(epochs: int) -> None:
        feed = Resident(train, shuffled(0))
        Loop(compiled, feed, Resident(validation) if validation else None, epochs).run()

    if warm:
        initial = checkpoint.variables(model)
        run(2)
        checkpoint.restore(model, initial)
        begun = time.perf_counter()
    run(case.epochs)
    return time.perf_counter() - begun


def recorder(repeats: int) -> float:
    """Return the share of T2's training time that recording layer statistics adds."""
    case, data = CASES["T2"], CASES["T2"].data()
    shares = []
    for _ in range(repeats):
        model, train = case.model(), RowTensors.of(data[0], data[1])
        begun = time.perf_counter()
        compiled = Compiled(model, train, train, case.batch, case.batch)
        watch = TrialRecorder(model, train, case.epochs, -(-train.count // case.batch))
        watch.begin()
        looking = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, w=watch: w.record(epoch + 1))
        Loop(compiled, Resident(train, shuffled(0)), None, case.epochs, [looking]).run()
        shares.append(watch.seconds / (time.perf_counter() - begun - watch.seconds))
    share = statistics.median(shares)
    print(f"recorder     {100 * share:7.1f} % of T2's time (target: below 5)", flush=True)
    return share


def paired(one: Callable[[], float], other: Callable[[], float], repeats: int) -> tuple[list[float], list[float]]:
    """Time both alternately, so that other load on the machine affects both."""
    first, second = [], []
    for _ in range(repeats):
        first.append(one())
        second.append(other())
    return first, second


def restarts(case: Case, data: Any, count: int = 16) -> float:
    """Return the seconds of `count` restarts as one stacked network, including building and tracing."""
    x, y, vx, vy = data
    model = case.model()
    begun = time.perf_counter()
    train, validation = RowTensors.of(x, y), RowTensors.of(vx, vy)
    members = []
    for seed in range(count):
        keras.utils.set_random_seed(seed)
        members.append(keras.Sequential([keras.Input((case.columns,)), *case.layers()]))
    stack = StackedNetwork(model, members, train, case.batch)
    orders = [shuffled(seed) for seed in range(count)]
    for epoch in range(case.epochs):
        stack.epoch(train, np.stack([order(train.count, epoch) for order in orders]), validation)
    return time.perf_counter() - begun


def streaming(repeats: int) -> float:
    """Return streaming time relative to in-memory time, from the same Parquet file with T4's table and network."""
    case = CASES["T4"]
    x, y, _, _ = case.data()
    columns = {f"c{place}": x[:, place].astype(np.float64) for place in range(case.columns)}
    table = pa.table({**columns, "label": [f"l{label}" for label in y]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        pq.write_table(table, path, row_group_size=65_536)
        spec = _spec_of(table, case)
        fitted = preparation.fit(table.slice(0, 100_000), *spec)

        def run(streamed: bool) -> float:
            begun = time.perf_counter()
            model = build_model(spec[0], 0, case.rows)
            names = preparation.columns_of(spec[0])

            def rows(part: Any) -> RowTensors:
                return preparation.as_tensors(spec[0], part)

            feed: Any
            if streamed:
                stream = partial(
                    Streamed, path, names, np.arange(case.rows), lambda t: fitted.encode(t, True), rows, case.batch
                )
                spool = stream().spooled(Path(folder) / "spool", lambda: None)
                feed = stream(seed=0, spool=spool)
            else:
                feed = Resident(rows(fitted.encode(preparation.read_columns(path, names), True)), shuffled(0))
            compiled = Compiled(model, feed.sample(), feed.sample(), case.batch, case.batch)
            Loop(compiled, feed, None, case.epochs).run()
            return time.perf_counter() - begun

        stream, memory = paired(lambda: run(True), lambda: run(False), repeats)
    ratio = statistics.median(s / m for s, m in zip(stream, memory, strict=True))
    shown = f"{statistics.median(memory):7.2f} s   stream {statistics.median(stream):7.2f} s"
    print(f"streaming    memory {shown}   {ratio:5.2f} (target: at most 1.3)")
    return ratio


def _spec_of(table: pa.Table, case: Case) -> tuple[Any, Any]:
    facts = facts_of(table.slice(0, 5_000)).model_copy(update={"rows": table.num_rows})
    network = [{"Dense": {"units": 128, "activation": "relu"}}, {"Dense": {"units": 64, "activation": "relu"}}]
    body = {"dataset": "data", "target": "label", "network": network, "training": {"batch_size": case.batch}}
    return resolve(parse(body), facts).spec, facts


def growth(runs: int) -> float:
    """Return the growth of the resident set in MB from the tenth run to the last, in one trainer process."""
    table = pa.table({"a": np.linspace(0, 1, 100), "b": np.linspace(1, 0, 100), "c": ["yes", "no"] * 50})
    resident = [0.0]
    for run in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            spec = {"target": "c", "training": {"epochs": 5, "seed": run}}
            train(request_of(table, spec, Path(folder)), RecordingReporter())
        tidy_up()
        if run >= min(9, runs - 1):
            resident.append(psutil.Process().memory_info().rss / 1e6)
    grown = resident[-1] - resident[1]
    print(f"growth       {grown:7.1f} MB from run {min(10, runs)} to run {runs} (target: below 100)")
    return grown


def main() -> None:
    """Print a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[*CASES, "restarts16", "recorder", "streaming", "growth"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sixteen", action="store_true", help="run sixteen fits instead of multiplying T1 by sixteen")
    parser.add_argument("--growth-runs", type=int, default=200)
    options = parser.parse_args()
    found: dict[str, float] = {}
    with PlainFit() as fit:
        for name in options.cases:
            if name in CASES | LONG:
                found |= _case(name, options.repeats, fit)
        if "restarts16" in options.cases:
            found |= _restarts(options.repeats, options.sixteen, fit)
    if "recorder" in options.cases:
        found["recorder_share"] = recorder(options.repeats)
    if "streaming" in options.cases:
        found["streaming_ratio"] = streaming(options.repeats)
    if "growth" in options.cases:
        found["growth_mb"] = growth(options.growth_runs)
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


def _case(name: str, repeats: int, plain: PlainFit) -> dict[str, float]:
    case = (CASES | LONG)[name]
    data = case.data()
    ours(CASES["T1"], CASES["T1"].data())  # TensorFlow's own warm-up
    found = {}
    for kind, warm in (("_cold", False), ("_warm", True)) if name == "T1" else (("", False),):
        fit, loop = paired(lambda: plain.seconds(name), lambda w=warm: ours(case, data, w), repeats)  # type: ignore[misc]
        found[name + kind] = _report(name + kind, fit, loop)
    if name in CASES:
        found[f"{name}_floor"] = _floor(name, loop, [floor.seconds(case, data) for _ in range(repeats)])
    return found


def _floor(name: str, ours: list[float], native: list[float]) -> float:
    ratio = statistics.median(ours) / statistics.median(native)
    print(f"{name + '_floor':12} by hand {statistics.median(native):5.2f} s   {ratio:17.1f} x", flush=True)
    return ratio


def _restarts(repeats: int, sixteen: bool, plain: PlainFit) -> dict[str, float]:
    case, data = CASES["T1"], CASES["T1"].data()
    times = 1 if sixteen else 16

    def fits() -> float:
        return sum(plain.seconds("T1") for _ in range(16 // times)) * times

    restarts(case, data, 2)
    fit, stacked = paired(fits, lambda: restarts(case, data), repeats)
    native = [floor.seconds(case, data, 16) for _ in range(repeats)]
    return {"restarts16": _report("restarts16", fit, stacked), "restarts_floor": _floor("restarts", stacked, native)}


def _report(name: str, fit: list[float], loop: list[float]) -> float:
    ratio = statistics.median(f / o for f, o in zip(fit, loop, strict=True))
    seconds = f"fit {statistics.median(fit):7.2f} s   ours {statistics.median(loop):7.2f} s"
    print(f"{name:12} {seconds}   {ratio:5.1f} x   (target: {TO_REACH[name]})", flush=True)
    return ratio


if __name__ == "__main__":
    main()
