"""Threads, devices and the warm-up of a trainer process.

Defaults, as measured on two cores: no XLA (its compilation takes seconds, and small networks were
slower with it); TensorFlow's own threads, with small networks' operations run one after the other
(`workers.trainer.engine.executors`); 32-bit floats.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from fitserve.process_start import cores
from fitserve.spec.training import Training
from workers.trainer.interface import Reporter

_threads = 0  # as set; 0: one for each core


@contextlib.contextmanager
def placed(training: Training, report: Reporter) -> Iterator[None]:
    """Context in which the spec's device computes; report if this worker does not have it."""
    there = gpus()
    if training.device == "gpu" and not there:
        report.event("warn", "This worker has no GPU: training runs on the CPU.")
    if training.threads and training.threads != threads():
        report.event(
            "warn",
            f"This trainer has {threads()} threads, set when it started (FITSERVE_TRAINER_THREADS);"
            f" the spec's {training.threads} cannot be set any more.",
        )
    with tf.device("/CPU:0") if there and training.device == "cpu" else contextlib.nullcontext():
        yield


def gpus() -> list[str]:
    """Return the names of the GPUs that this trainer may use."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def threads() -> int:
    """Return the number of threads that a network's steps run on."""
    return _threads or cores()


def is_divided_among_threads() -> bool:
    """Return whether a large network's steps are divided among threads: there are several, and no GPU computes."""
    return threads() > 1 and not gpus()


def set_threads(count: int) -> None:
    """Set the threads that a network's steps run on; 0: one for each core.

    Half of them compute one operation, because two operations run at a time (`workers.trainer.engine.halves`). Call it
    before TensorFlow computes anything; afterwards a non-zero `count` raises RuntimeError. At least two operations run
    at a time: a compiled loop occupies one, and would otherwise wait for its own steps forever.
    """
    global _threads
    of_operation = -(-(count or cores()) // 2)
    if count:
        tf.config.threading.set_intra_op_parallelism_threads(of_operation)
    _threads = count
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(of_operation)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(max(2, count or cores()))


def warm_up(thread_count: int) -> None:
    """Warm up before a run arrives: set the threads and trace one training step, which takes seconds the first time."""
    set_threads(thread_count)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(rows: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(rows, training=True) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    step(tf.constant(np.zeros((4, 2), np.float32)))
    release_graphs()


def release_graphs() -> None:
    """Release unreferenced graphs, so that a warm process does not grow."""
    with _keep_kernels():
        keras.backend.clear_session(free_memory=False)
    gc.collect()


@contextlib.contextmanager
def _keep_kernels() -> Iterator[None]:
    """Have Keras clear its session without clearing TensorFlow's cache of kernels.

    The cache holds the optimised graphs of functions still in use; a function's entry is dropped with the function
    anyway.
    """
    try:
        from tensorflow.python.eager.context import context
    except ImportError:  # a private name; the graphs are then optimised again
        yield
        return
    own = context()
    own.clear_kernel_cache = lambda: None
    try:
        yield
    finally:
        del own.clear_kernel_cache


set_threads(0)  # at import, because networks are trained outside trainer processes too
