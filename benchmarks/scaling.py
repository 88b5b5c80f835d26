"""One network on two workers, each with one core, compared with one: the speed-up, and the share of the all-reduce.

`make bench-scaling`. Every process is pinned to a core of its own and computes with one thread; the sides alternate,
medians are taken. `speedup2` is of the largest case, `speedup2_T3` and `speedup2_T4` of those of `bench-training`;
`allreduce_share` is the time of the exchange alone, on loopback, over a step's time on two workers, of the largest.

Two further sides tell what this machine costs: `apart` is two processes that train half batches at once and exchange
nothing, so `possible2` is the speed-up that the machine leaves; `processor2` compares processor time, which neither
waiting nor other load enters. The table that follows is computed from the measured step by the model of
docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from fitserve.spec.workers import step_seconds

# Batches of the network of docs/how-to/several-workers.md
LARGE = {"large": 2_048, "large4096": 4_096, "large8192": 8_192, "large16384": 16_384}
WORKERS = (1, 2, 4, 8, 16, 64)
BANDWIDTHS = {"1 Gbit/s": 125e6, "10 Gbit/s": 1.25e9}


def measure(case: str, rank: int, addresses: list[str], seconds: float, apart: bool) -> dict[str, float]:
    """Train a case for some epochs as one of these processes. Returns the seconds of a step and of an exchange.

    `apart`: on a batch as small as together, but alone.
    """
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]})
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    import tensorflow as tf

    from benchmarks import plain_fit
    from workers.trainer.data.feeds import Resident, shuffled
    from workers.trainer.engine.collectives import Collectives
    from workers.trainer.engine.compiled import Compiled, RowTensors, StepPlan
    from workers.trainer.engine.device import set_threads
    from workers.trainer.engine.shared_steps import SharedCompiled

    set_threads(1)
    group = None
    if len(addresses) > 1 and not apart:
        group = Collectives(addresses, rank)
        group.connect()
    one = plain_fit.CASES.get(case) or _large(LARGE[case])
    batch = one.batch // len(addresses) if apart else one.batch
    x, y, _, _ = one.data()
    rows = RowTensors.of(x, y)
    arguments = (one.model(), rows, rows, batch, batch)
    compiled = Compiled(*arguments) if group is None else SharedCompiled(group, *arguments)
    block = next(iter(Resident(rows, shuffled(0)).blocks(0)))
    order, parameters = tf.constant(block.order), int(compiled.model.count_params())
    compiled(rows, order, rows, StepPlan(0, 2))
    began_at = time.perf_counter()
    compiled(rows, order, rows, StepPlan(0, 4))
    steps = max(4, min(len(block.order) // batch, int(4 * seconds / (time.perf_counter() - began_at))))
    if group is not None:
        steps = int(tf.function(group.from_leader, autograph=False)(tf.constant([steps], tf.int64)).numpy()[0])
    began_at, used = time.perf_counter(), time.process_time()
    compiled(rows, order, rows, StepPlan(0, steps))
    found = {"step": (time.perf_counter() - began_at) / steps, "processor": (time.process_time() - used) / steps}
    found |= {"parameters": parameters, "exchange": 0.0}
    if group is not None:
        found["exchange"] = _exchange(group, parameters, steps)
    return found


def _large(batch: int) -> Any:
    from keras.layers import Dense

    from benchmarks import plain_fit

    def layers() -> list[Any]:
        return [Dense(2048, "relu"), Dense(2048, "relu"), Dense(10, "softmax")]

    return plain_fit.Case(max(20_000, 4 * batch), 200, 10, layers, batch, 1)


def _exchange(group: Any, parameters: int, times: int) -> float:
    import tensorflow as tf

    values = tf.ones([parameters])

    def repeated(count: Any) -> Any:
        def body(index: Any, last: Any) -> Any:
            return index + 1, group.sum(last * 0.5)

        return tf.while_loop(lambda index, _: index < count, body, [0, values], parallel_iterations=1)

    many = tf.function(repeated, autograph=False)
    many(tf.constant(2))
    began_at = time.perf_counter()
    many(tf.constant(times))
    return (time.perf_counter() - began_at) / times


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(case: str, size: int, seconds: float, *options: str) -> dict[str, float]:
    """Measure a case in so many new processes; the slowest counts."""
    addresses = ",".join(f"127.0.0.1:{free_port()}" for _ in range(size))
    command = [
        sys.executable,
        "-m",
        "benchmarks.scaling",
        "--process",
        case,
        "--seconds",
        str(seconds),
        *options,
        addresses,
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in range(size)
    ]
    found = [json.loads(process.communicate(timeout=600)[0].splitlines()[-1]) for process in processes]
    return {name: max(one[name] for one in found) for name in found[0]}


def model_table(alone: float, parameters: int) -> str:
    """Return the expected speed-up over one worker, by the number of workers and the network's bandwidth."""
    lines = [f"{'workers':>10} " + "".join(f"{name:>12}" for name in BANDWIDTHS)]
    for count in WORKERS:
        gains = [alone / step_seconds(alone, parameters, count, bandwidth) for bandwidth in BANDWIDTHS.values()]
        lines.append(f"{count:>10} " + "".join(f"{gain:>12.2f}" for gain in gains))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of training in each process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=["T3", "T4", *LARGE])
    parser.add_argument("place", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process:
        addresses, rank = args.place[0].split(","), int(args.place[1])
        print(json.dumps(measure(args.process, rank, addresses, args.seconds, args.apart)), flush=True)
        return
    figures: dict[str, float] = {}
    print(f"{'case':>8} {'weights':>12} {'ms/step, 1':>11} {'2 apart':>11} {'2 together':>11} {'exchange ms':>12}")
    for case in args.cases:
        rounds = [
            (run(case, 1, args.seconds), run(case, 2, args.seconds, "--apart"), run(case, 2, args.seconds))
            for _ in range(args.repeats)
        ]
        step, apart, both = (statistics.median(side["step"] for side in sides) for sides in zip(*rounds, strict=True))
        exchange = statistics.median(together["exchange"] for *_, together in rounds)
        parameters = int(rounds[0][0]["parameters"])
        times = "".join(f"{1e3 * value:>11.2f} " for value in (step, apart, both, exchange))
        print(f"{case:>8} {parameters:>12,} {times}")
        print(model_table(step, parameters))
        ratios = {
            f"speedup2_{case}": [alone["step"] / together["step"] for alone, _, together in rounds],
            f"possible2_{case}": [alone["step"] / half["step"] for alone, half, _ in rounds],
            f"processor2_{case}": [alone["processor"] / together["processor"] for alone, _, together in rounds],
            f"share_{case}": [exchange / both],
        }
        figures |= {name: round(statistics.median(values), 3) for name, values in ratios.items()}
    last = args.cases[-1]
    named = {"speedup2": figures[f"speedup2_{last}"], "allreduce_share": figures[f"share_{last}"]}
    print(json.dumps({**named, **figures}))


if __name__ == "__main__":
    main()
