"""Training on this machine's GPU: our loop, with and without mixed precision, against the CPU and Keras's `fit`.

`make bench-gpu`. Ends with a sentence, and without a figure, where TensorFlow finds no GPU. Where there are several,
`all` is all of them together. Each ratio is the other side's seconds over ours on the GPU, medians of alternating
repeats, on traced networks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import nullcontext
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from benchmarks.plain_fit import CASES, Case
from workers.trainer.data.feeds import Resident, shuffled
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.device import gpus
from workers.trainer.engine.loop import Loop
from workers.trainer.engine.mirrored_steps import MirroredCompiled

NO_GPU = "TensorFlow finds no GPU on this machine: there is nothing to measure."
_DENSE = keras.layers.Dense
LARGE = Case(100_000, 200, 10, lambda: [_DENSE(2048, "relu"), _DENSE(2048, "relu"), _DENSE(10, "softmax")], 2_048, 3)


def seconds(case: Case, data: Any, side: str) -> float:
    """Train a case on one side, its functions traced before; return the seconds."""
    x, y, _, _ = data
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16" if side == "mixed" else "float32")
    try:
        with tf.device("/CPU:0") if side == "cpu" else nullcontext():
            model = case.model()
            if side == "fit":
                model.fit(x[: case.batch], y[: case.batch], batch_size=case.batch, verbose=0)
                began_at = time.perf_counter()
                model.fit(x, y, batch_size=case.batch, epochs=case.epochs, verbose=0)
                return time.perf_counter() - began_at
            rows = RowTensors.of(x, y)
            arguments = (model, rows, rows, case.batch, case.batch)
            compiled = MirroredCompiled(gpus(), case.model, *arguments) if side == "all" else Compiled(*arguments)
            Loop(compiled, Resident(rows, shuffled(0)), None, 1).run()
            began_at = time.perf_counter()
            Loop(compiled, Resident(rows, shuffled(0)), None, case.epochs).run()
            return time.perf_counter() - began_at
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if not tf.config.list_physical_devices("GPU"):
        print(NO_GPU)
        return
    figures: dict[str, float] = {}
    sides = ("gpu", "mixed", "cpu", "fit", *(("all",) if len(gpus()) > 1 else ()))
    print(f"{'case':>8} " + " ".join(f"{side:>8}" for side in sides) + "  (seconds)")
    for name, case in {"T2": CASES["T2"], "T4": CASES["T4"], "large": LARGE}.items():
        data = case.data()
        rounds = [{side: seconds(case, data, side) for side in sides} for _ in range(args.repeats)]
        medians = {side: statistics.median(one[side] for one in rounds) for side in sides}
        print(f"{name:>8} " + " ".join(f"{medians[side]:>8.2f}" for side in sides))
        for side in sides[1:]:
            figures[f"{name}_{side}"] = round(statistics.median(one[side] / one["gpu"] for one in rounds), 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
