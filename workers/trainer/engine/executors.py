"""Whether a network's operations run one after the other or several at a time: whichever is faster, as measured.

A small network spends its time handing operations between threads: on one thread, 200 epochs of 400 rows took 0.37 s
instead of 0.60 s. A larger one gains from computing two gradients at once: two layers of 64 with batches of 1,024 rows
took 0.93 s on several threads instead of 1.30 s. Where the one becomes better than the other depends on the machine,
and on what else it does. The graph is the same either way, and so are the results, to the bit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

MULTITHREADED_STEP = 2e7  # multiply-adds of a step above which several operations at a time are always faster
MEASURED_SECONDS, MEASURED_CALLS = 0.3, 3  # at least, of each way
CLEARLY = 1.5  # a way that is slower by this factor in one call is given up at once


class Executor:
    """Contexts to call a network's traced functions in. It is kept with the network, and so is what it has measured.

    A small network's operations run one after the other at first. After a third of a second, calls run several at a
    time for as long, and from then on the faster way; shorter runs measure nothing. A large network's operations always
    run several at a time.

    No graph is rewritten by TensorFlow's optimizers (Grappler), which take a tenth of a second at the first call:
    dense, convolutional and recurrent networks were as fast without them. On a GPU all is as TensorFlow does it.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._ways = {} if tf.config.list_logical_devices("GPU") else _ways()
        self.several = not self._ways or work(model, batch_size) > MULTITHREADED_STEP
        self._settled = self.several
        self._seconds: dict[bool, list[tuple[float, float]]] = {}  # by way: those of each call, and by step

    @contextmanager
    def __call__(self, steps: float = 0.0) -> Iterator[None]:
        """Context for one call. `steps` is its work in training steps, as `StepPlan.steps`; 0: it is not measured."""
        way = self._ways.get(self.several)
        if way is None:
            yield
            return
        context, options = way
        before, context.function_call_options = context.function_call_options, options
        began = time.perf_counter()
        try:
            yield
        finally:
            context.function_call_options = before
        if steps and not self._settled:
            self._record(time.perf_counter() - began, steps)

    def _record(self, seconds: float, steps: float) -> None:
        if (calls := self._seconds.get(self.several)) is None:  # the first call compiles
            self._seconds[self.several] = []
            return
        calls.append((seconds, seconds / steps))
        other = self._pace(not self.several)
        slower = other is not None and seconds / steps > CLEARLY * other
        if not slower and (len(calls) < MEASURED_CALLS or sum(taken for taken, _ in calls) < MEASURED_SECONDS):
            return
        if other is None:
            self.several = not self.several
            return
        own = self._pace(self.several)
        assert own is not None
        self.several, self._settled = (self.several if own < other else not self.several), True

    def _pace(self, several: bool) -> float | None:
        """Return the median seconds of a step that ran this way; None if it was not measured."""
        calls = self._seconds.get(several)
        return statistics.median(each for _, each in calls) if calls else None


def _ways() -> dict[bool, tuple[Any, Any]]:
    """Return TensorFlow's context and options for a call: of one operation at a time (False), of several (True)."""
    try:
        from tensorflow.python.eager.context import FunctionCallOptions, context
    except ImportError:  # private names; the default options give the same results
        return {}
    config = context().config
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    kinds = {False: "SINGLE_THREADED_EXECUTOR", True: ""}
    return {several: (context(), FunctionCallOptions(kind, config)) for several, kind in kinds.items()}


def work(model: keras.Model, batch_size: int) -> float:
    """Estimate a training step's multiply-adds: three for each weight, row, and position that the weight is used at."""
    total = 0.0
    for layer in model.layers:
        kernels = sum(int(np.prod(v.shape)) for v in layer.trainable_variables if len(v.shape) > 1)
        output: Any = getattr(layer, "output", None)
        positions = [size or 1 for size in output.shape[1:-1]] if hasattr(output, "shape") else []
        if not isinstance(layer, keras.layers.Embedding):
            total += kernels * float(np.prod(positions))
    return 3.0 * total * batch_size
