"""Where a run computes: which device, how many threads.

Defaults, as measured on two cores: no XLA (its compilation takes seconds, and small networks were
slower with it); TensorFlow's own threads, with small networks' operations run one after the other
(`workers.trainer.engine.compiled.executor`); 32-bit floats.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import tensorflow as tf

from fitserve.spec.training import Training
from workers.trainer.job import Reporter


@contextlib.contextmanager
def placed(training: Training, report: Reporter) -> Iterator[None]:
    """Compute on the device that the spec asks for, as far as this worker has it; say where it has not."""
    gpus = tf.config.list_logical_devices("GPU")
    if training.device == "gpu" and not gpus:
        report.event("warn", "This worker has no GPU: training runs on the CPU.")
    if training.threads and training.threads != threads():
        report.event(
            "warn",
            f"This trainer has {threads()} threads, set when it started (FITSERVE_TRAINER_THREADS);"
            f" the spec's {training.threads} cannot be set any more.",
        )
    with tf.device("/CPU:0") if gpus and training.device == "cpu" else contextlib.nullcontext():
        yield


def threads() -> int:
    """How many threads compute one operation."""
    return int(tf.config.threading.get_intra_op_parallelism_threads() or cores())


def set_threads(count: int) -> None:
    """How many threads compute one operation, and how many operations run at a time; 0: one for each core.

    It takes effect where TensorFlow has not computed yet; a `count` raises RuntimeError where it has. Of the latter
    there are two at least: a compiled loop holds one, and with no other for its steps it would wait for itself for
    ever.
    """
    if count:
        tf.config.threading.set_intra_op_parallelism_threads(count)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(max(2, count or cores()))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


set_threads(0)  # wherever networks are trained, in a trainer process or not
