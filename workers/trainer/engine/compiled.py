"""Keras's training and test steps, many of them compiled into one call.

One traced function serves whole epochs, parts of long epochs, validation alone, and a single step, so that a model is
traced once. Batches have a dynamic size: the shorter last batch needs no second trace. A model that is only evaluated,
such as one whose trials were stacked, has its test steps traced alone, which takes half as long.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fitserve.encoder import ALIGNMENT, MANY_BYTES
from workers.trainer.engine import halves
from workers.trainer.engine.compact_rows import Compact
from workers.trainer.engine.executors import Executor
from workers.trainer.engine.loss_kernels import shorten_steps
from workers.trainer.engine.metric_kernels import fuse_metrics
from workers.trainer.engine.network import functional_of
from workers.trainer.engine.optimizer_kernels import fuse
from workers.trainer.engine.split_kernels import SplitKernels, kernels_to_split

Logs = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowTensors:
    """Encoded rows as tensors: what `Model.fit` takes as `x`, `y` and `sample_weight`.

    `x` and `y` are one tensor, or a list or dict of tensors, each with the rows first; `weight` is float32 `(rows,)`,
    or the structure of `y` with one such tensor for each output.
    """

    x: Any
    y: Any
    weight: Any = None

    @classmethod
    def of(cls, x: Any, y: Any, weight: Any = None) -> RowTensors:
        """Make it from NumPy arrays; large ones are shared, and read-only from then on."""
        return cls(x, y, weight).map(_tensor)

    def map(self, function: Callable[[Any], Any]) -> RowTensors:
        """Apply a function to every tensor."""
        parts = (self.x, self.y, self.weight)
        return RowTensors(*(None if part is None else tf.nest.map_structure(function, part) for part in parts))

    @property
    def count(self) -> int:
        return int(tf.nest.flatten(self.y)[0].shape[0])

    def as_tuple(self) -> tuple[Any, ...]:
        return (self.x, self.y) if self.weight is None else (self.x, self.y, self.weight)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one call does: training steps `first` to `last` (exclusive), then validation steps likewise.

    `close` ends the training epoch: its logs are final, and the metrics are reset. `close_validation` likewise.
    """

    first: int = 0
    last: int = 0
    close: bool = False
    validation_first: int = 0
    validation_last: int = 0
    close_validation: bool = False

    def steps(self) -> float:
        """Return its work in training steps; a validation step is about a third of one, having no backward pass."""
        return self.last - self.first + (self.validation_last - self.validation_first) / 3

    def numbers(self) -> NDArray[np.int32]:
        """Return it as the traced function takes it."""
        training = (self.first, self.last, self.close)
        return np.array([*training, self.validation_first, self.validation_last, self.close_validation], np.int32)


@dataclass(frozen=True, slots=True)
class _Traced:
    """A traced function, and which kinds of steps it has."""

    call: Any
    trains: bool
    tests: bool


class Compiled:
    """The training and test steps of a compiled model, traced once for rows like `train` and `validation`."""

    devices = 1  # that train it together

    def __init__(
        self,
        model: keras.Model,
        train: RowTensors,
        validation: RowTensors | None,
        batch_size: int,
        validation_batch_size: int,
        jit: bool = False,
        on_fallback: Callable[[str], None] | None = None,
        compact: Compact | None = None,
    ) -> None:
        """Build the model's state; the first call traces it.

        Args:
            train, validation: give the structure, dtypes and shapes; calls may bring other rows. Without validation
                rows, test steps are traced only when they are needed.
            jit: compile with XLA, which needs fixed shapes and therefore single steps.
            on_fallback: called with the reason where the model is trained step by step, as `fit` trains it: with
                `jit`, or where its epoch cannot be traced as a whole.
            compact: makes batches of the network's inputs, where rows are stored in another form.
        """
        self.model, self.compact = model, compact
        self.on_fallback = on_fallback
        self._jit, self._fallback = jit, ""  # the reason why it trains step by step
        self.batch_size, self.validation_batch_size = batch_size, validation_batch_size
        build(model, train)
        shorten(model)
        self._names: list[tuple[str, tuple[int, ...]]] = []
        # Each is traced once, and called after training and after validation.
        self._figures = tf.function(self._trace_figures, autograph=False)
        self._reset_if = tf.function(self._trace_reset, autograph=False)
        self._specs = (row_specs(train.as_tuple()), row_specs((validation or train).as_tuple()))
        self._validates = validation is not None
        self._traced: _Traced | None = None
        self._others: dict[int, tuple[Any, _Traced | None]] = {}  # optimizers that were used before, with their traces
        self._executor: Callable[[float], AbstractContextManager[Any]] = Executor(model, batch_size)
        self._in_halves = False
        self._split: SplitKernels | None = None
        self.splits: list[SplitKernels] = []  # of all traces, which need their variables

    def switch_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Continue with another optimizer. One of the same class takes over the state, except the learning rate."""
        optimizer.build(self.model.trainable_variables)
        take_over(self.model.optimizer, optimizer)
        self.use_optimizer(optimizer)

    def use_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Train with a built optimizer in its current state. One that was used before is not traced again."""
        before = self.model.optimizer
        if optimizer is before:
            return
        self._others[id(before)] = (before, self._traced)
        self.model.optimizer = optimizer
        fuse(optimizer)
        _, self._traced = self._others.get(id(optimizer), (optimizer, None))

    def trace(self, trains: bool = True, tests: bool = False) -> None:
        """Trace the function with the steps that are needed, unless a trace with them exists."""
        tests = tests or self._validates
        if (before := self._traced) is not None:
            if before.trains >= trains and before.tests >= tests:
                self._report_fallback()
                return
            trains, tests = trains or before.trains, tests or before.tests
        if self._jit:
            self._fall_back("XLA compiles single steps")
            return
        self._divide(trains)
        try:
            call = tf.function(partial(self._trace, trains, tests), autograph=False).get_concrete_function(
                self._specs[0], tf.TensorSpec((None,), tf.int32), self._specs[1], tf.TensorSpec((6,), tf.int32)
            )
            self._traced = _Traced(call, trains, tests)
            if self.compact is not None:
                self.compact.forget()
        except (
            ValueError,
            TypeError,
            NotImplementedError,
            AttributeError,
            tf.errors.OperatorNotAllowedInGraphError,
        ) as error:
            self._fall_back(f"the epoch cannot be compiled as a whole: {str(error).splitlines()[0]}")

    def _divide(self, trains: bool) -> None:
        """Decide how the steps of a trace are divided among threads."""
        weighted = len(self._specs[0]) > 2
        kernels = [] if weighted else kernels_to_split(self.model, self.batch_size)
        # Test steps are divided alike with and without training steps: a resumed run has the same figures to the bit.
        self._in_halves = not kernels and halves.pays(self.model, self.batch_size)
        self._split = SplitKernels(kernels) if trains and kernels else None
        if self._split:
            self.splits.append(self._split)

    def _fall_back(self, reason: str) -> None:
        self._fallback = reason
        self._report_fallback()
        steps = (self._one_step_function(step) for step in (self.model.train_step, self.model.test_step))
        self._traced = _Traced(partial(self._run_stepwise, *steps), trains=True, tests=True)

    def _one_step_function(self, step: Callable[[Any], Any]) -> Any:
        return tf.function(partial(self._one_step, step), reduce_retracing=True, jit_compile=self._jit)

    def _report_fallback(self) -> None:
        """Report why training runs step by step, if it does; only once."""
        if self._fallback and self.on_fallback is not None:
            self.on_fallback(f"Training runs step by step, as in `fit` ({self._fallback}).")
        self.on_fallback = None

    def __call__(self, train: RowTensors, order: Any, validation: RowTensors, plan: StepPlan) -> tuple[Logs, Logs]:
        """Run `plan`. Returns the logs of training and of validation so far.

        `order` is an int32 permutation of the rows of `train`: batch i is `order[i * size:(i + 1) * size]`.
        """
        arguments = (train.as_tuple(), order, validation.as_tuple(), tf.constant(plan.numbers()))
        with self._executor(plan.steps()):
            self.trace(plan.last > plan.first or plan.close, plan.validation_last > plan.validation_first)
            assert self._traced is not None
            values = self._traced.call(*arguments).numpy()
        logs: list[Logs] = []
        for _ in ("training", "validation"):
            row: Logs = {}
            for name, shape in self._names:
                size = math.prod(shape)
                row[name] = float(values[0]) if shape == () else values[:size].reshape(shape)
                values = values[size:]
            logs.append(row)
        return logs[0], logs[1]

    def _trace(self, trains: bool, tests: bool, train: Any, order: Any, validation: Any, plan: Any) -> Any:
        rows = tf.size(order)
        validation_rows = tf.shape(tf.nest.flatten(validation)[0])[0]
        first, last, close, validation_first, validation_last, close_validation = tf.unstack(plan)

        def trained(start: Any, stop: Any) -> Any:
            places = halves.rows_between(order, start, stop)
            if not self._in_halves or self.compact:
                return tf.nest.map_structure(lambda t: tf.gather(t, places), train)
            divided = halves.Halves.of(places)  # so that both threads fetch rows from memory
            return tf.nest.map_structure(lambda t: divided.map(partial(tf.gather, t)).joined(), train)

        def tested(start: Any, stop: Any) -> Any:
            return tf.nest.map_structure(lambda t: halves.rows_between(t, start, stop), validation)

        def train_step(step: Any) -> None:
            start = step * self.batch_size
            self._run_step(self.model.train_step, start, tf.minimum(rows, start + self.batch_size), trained)

        def test_step(step: Any) -> None:
            start, size = step * self.validation_batch_size, self.validation_batch_size
            self._run_step(self.model.test_step, start, tf.minimum(validation_rows, start + size), tested)

        if trains:
            with self._split.training() if self._split else contextlib.nullcontext():
                _repeat(first, last, train_step)
        logs = self._results()
        self._reset_if(close > 0)
        if tests:
            _repeat(validation_first, validation_last, test_step)
        validation_logs = self._results()
        self._reset_if(close_validation > 0)
        return tf.concat([logs, validation_logs], 0)

    def _run_step(self, step: Callable[[Any], Any], start: Any, stop: Any, rows: Callable[[Any, Any], Any]) -> None:
        """Trace a step of Keras's on the batch of the rows from `start` to `stop`."""
        halved = halves.in_halves(self.model) if self._in_halves else contextlib.nullcontext()
        with without_results(self.model), halved:
            step(self.expanded(rows(start, stop)))

    def _one_step(self, step: Callable[[Any], Any], batch: Any) -> Any:
        with without_results(self.model):
            return step(self.expanded(batch))

    def expanded(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        """Convert a batch of rows, `(x, y)` or `(x, y, weight)`, to the network's inputs."""
        return batch if self.compact is None else (self.compact.expand(batch[0]), *batch[1:])

    def _run_stepwise(self, train_step: Any, test_step: Any, train: Any, order: Any, validation: Any, plan: Any) -> Any:
        """Do the compiled function's work step by step from Python."""
        first, last, close, validation_first, validation_last, close_validation = plan.numpy()
        size, validation_size = self.batch_size, self.validation_batch_size
        for step in range(first, last):
            batch = order[step * size : (step + 1) * size]
            train_step(tf.nest.map_structure(partial(tf.gather, indices=batch), train))
        logs = self._results()
        if close:
            self.model.reset_metrics()
        for step in range(validation_first, validation_last):
            rows = slice(step * validation_size, (step + 1) * validation_size)
            test_step(tf.nest.map_structure(lambda t, rows=rows: t[rows], validation))
        validation_logs = self._results()
        if close_validation:
            self.model.reset_metrics()
        return tf.concat([logs, validation_logs], 0)

    def _results(self) -> Any:
        """Return all metrics as one float64 vector."""
        return self._figures()

    def _trace_figures(self) -> Any:
        """Compute `_results`, and remember their names and shapes."""
        results = {name: tf.convert_to_tensor(value) for name, value in self.model.get_metrics_result().items()}
        self._names[:] = [(name, tuple(value.shape)) for name, value in results.items()]
        return tf.concat([tf.reshape(tf.cast(value, tf.float64), [-1]) for value in results.values()], 0)

    def _trace_reset(self, needed: Any) -> Any:
        def reset() -> Any:
            self.model.reset_metrics()
            return tf.constant(0)

        return tf.cond(needed, reset, lambda: tf.constant(0))


def shorten(model: keras.Model) -> None:
    """Give a built model's steps, optimizer and metrics their short forms: fewer operations to trace and to run."""
    fuse(model.optimizer)
    fuse_metrics(model)
    shorten_steps(model)


@contextmanager
def without_results(model: keras.Model) -> Iterator[None]:
    """Have a step update its metrics without computing their results, which nobody reads after a single step."""
    model.get_metrics_result = dict
    try:
        yield
    finally:
        del model.get_metrics_result


def take_over(before: keras.optimizers.Optimizer, optimizer: keras.optimizers.Optimizer) -> None:
    """Copy the state of an optimizer of the same class, except the learning rate, to a built one."""
    if type(before) is not type(optimizer):
        return
    state = dict(_named(before))
    for key, variable in _named(optimizer):
        old = state.get(key)
        if old is not None and old.shape == variable.shape:
            variable.assign(old)


def _named(optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[tuple[str, int], Any]]:
    """Yield an optimizer's variables by name and occurrence number, since stacked weights share names."""
    seen: Counter[str] = Counter()
    for variable in optimizer.variables:
        if variable.name != "learning_rate":
            yield (variable.name, seen[variable.name]), variable
            seen[variable.name] += 1


def build(model: keras.Model, rows: RowTensors) -> None:
    """Create the states of optimizer, losses and metrics, as Keras would do at the first batch.

    Equivalent to `Model._symbolic_build`, without its three symbolic passes through the network.
    """
    if not model.built:
        model(tf.nest.map_structure(lambda t: t[:1], rows.x))
    truth = keras.tree.map_structure(lambda t: keras.KerasTensor((None, *t.shape[1:]), t.dtype.name), rows.y)
    structure = getattr(functional_of(model), "_outputs_struct", None)
    if structure is None:
        model._symbolic_build(data_batch=tf.nest.map_structure(lambda t: t[:1], rows.as_tuple()))
    else:
        predicted = keras.tree.pack_sequence_as(structure, model.outputs)
        if model._compile_loss is not None and not model._compile_loss.built:
            model._compile_loss.build(truth, predicted)
        if model._compile_metrics is not None and not model._compile_metrics.built:
            model._compile_metrics.build(truth, predicted)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _tensor(array: Any) -> Any:
    """Return an array as a tensor, sharing memory if large and aligned: `convert_to_tensor` copies it twice."""
    shared = (
        isinstance(array, np.ndarray)
        and array.nbytes >= MANY_BYTES
        and array.dtype in (np.float32, np.int32)
        and array.flags.c_contiguous
        and array.ctypes.data % ALIGNMENT == 0
        and not tf.config.list_logical_devices("GPU")
    )
    if not shared:
        return tf.convert_to_tensor(array)
    try:
        array.flags.writeable = True  # a shared array has been made read-only before
    except ValueError:
        return tf.convert_to_tensor(array)
    tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    array.flags.writeable = False
    return tensor


def _repeat(first: Any, last: Any, step: Callable[[Any], None]) -> None:
    def body(index: Any) -> Any:
        step(index)
        return index + 1

    tf.while_loop(lambda index: index < last, body, [first], parallel_iterations=1)


def row_specs(parts: Any) -> Any:
    """Return the signature to trace a function with, for tensors like these with any number of rows."""
    return tf.nest.map_structure(lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype), parts)
