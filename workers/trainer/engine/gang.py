"""Keep the processes of a gang in step: the leader announces each call, the others follow.

Only the leader has the loop, its callbacks and checkpoints. Before each compiled call it announces the epoch, the
blocks of rows and the plan. At the start of each epoch all processes take the leader's variables, so that a resumed
run, a lowered learning rate and rounding on different processors are the same for all. Each process reads the rows
itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from workers.trainer.engine.compiled import RowTensors, StepPlan
from workers.trainer.engine.loop import Block, Feed
from workers.trainer.engine.shared_steps import SharedCompiled
from workers.trainer.interface import Reporter, StopReason, TrainingStopped

SLOW_SECONDS = 10.0  # of training, after which a process can be called slow
SLOW_SHARE = 0.3  # of that time, which every other process spends on waiting for it
NO_BLOCK = -1  # number of the missing block, in a call that only trains or only validates


class _Next(IntEnum):
    call = 1
    take_state = 2
    end = 3


class _Exchange:
    """The exchange between leader and followers: announcements, and the leader's variables."""

    def __init__(self, compiled: SharedCompiled) -> None:
        model, group = compiled.model, compiled.group
        counted = {id(variable) for variable in model.metrics_variables}
        every = [*model.variables, *model.optimizer.variables]
        unique = {id(v): v for v in every if id(v) not in counted}
        self._variables = [getattr(variable, "value", variable) for variable in unique.values()]
        self._group = group
        self._announce = tf.function(group.from_leader, autograph=False)
        self._share = tf.function(self._take_all, autograph=False)

    def announcement(self, words: Sequence[int] = (0,) * 10) -> list[int]:
        """Exchange an announcement: return the leader's numbers, in every process."""
        with self._group.failing_together():
            return [int(word) for word in self._announce(tf.constant(words, tf.int64)).numpy()]

    def share_state(self) -> None:
        """Copy the leader's variables to every process."""
        with self._group.failing_together():
            self._share()

    def _take_all(self) -> None:
        for dtype in (tf.float32, tf.int64):  # broadcasts support few dtypes
            mine = [variable for variable in self._variables if variable.dtype.is_floating == dtype.is_floating]
            if not mine:
                continue
            whole = self._group.from_leader(tf.concat([tf.reshape(tf.cast(v, dtype), [-1]) for v in mine], 0))
            parts = tf.split(whole, [variable.shape.num_elements() for variable in mine])
            for variable, part in zip(mine, parts, strict=True):
                variable.assign(tf.reshape(tf.cast(part, variable.dtype), variable.shape))


class GangLeader(keras.callbacks.Callback):
    """The leader's side: a callback of its loop, which announces the loop's calls, and names a process that is slow."""

    def __init__(self, compiled: SharedCompiled, report: Reporter) -> None:
        super().__init__()
        self._compiled, self._exchange, self._report = compiled, _Exchange(compiled), report
        self._reported = False

    def announce(self, epoch: int, block: int, validation_block: int, plan: StepPlan) -> None:
        """Announce the next call. Raises GangBroken."""
        self._exchange.announcement([_Next.call, epoch, block, validation_block, *map(int, dataclasses.astuple(plan))])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Raises GangBroken."""
        self._exchange.announcement([_Next.take_state] + [0] * 9)
        self._exchange.share_state()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report, once, that the others wait for one process: the one that itself waits least."""
        compiled = self._compiled
        if self._reported or compiled.seconds <= SLOW_SECONDS:
            return
        slowest = int(compiled.waits.argmin())
        lost = float(np.delete(compiled.waits, slowest).min() - compiled.waits[slowest]) / compiled.seconds
        if lost >= SLOW_SHARE:
            self._reported = True
            address = compiled.group.addresses[slowest]
            message = f"The worker at {address} is slower than the others, which wait for it {lost:.0%} of the time."
            self._report.event("warn", message, {"address": address, "waiting": round(lost, 3)})

    def end(self) -> None:
        """Dismiss the followers. Raises GangBroken."""
        self._exchange.announcement([_Next.end] + [0] * 9)
        self._compiled.group.close()
        self._compiled.go_alone()


class LeadersReporter:
    """The leader's Reporter, which also hands the run back, with a checkpoint, when another process must leave."""

    def __init__(self, report: Reporter, compiled: SharedCompiled) -> None:
        self._report, self._compiled = report, compiled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._report, name)

    def stop(self) -> StopReason:
        return self._report.stop() or ("release" if self._compiled.someone_leaves() else "")


def follow(compiled: SharedCompiled, feed: Feed, validation: Feed | None, report: Reporter) -> None:
    """Make the calls that the leader announces, until it ends. Raises TrainingStopped, GangBroken."""
    exchange = _Exchange(compiled)
    train = _Blocks(feed)
    held_out = _Blocks(validation) if validation is not None else None
    while True:
        word, epoch, block, validation_block, *steps = exchange.announcement()
        if word == _Next.end:
            compiled.group.close()
            break
        if word == _Next.take_state:
            exchange.share_state()
            compiled.model.reset_metrics()
            continue
        first, last, close, validation_first, validation_last, close_validation = steps
        plan = StepPlan(first, last, bool(close), validation_first, validation_last, bool(close_validation))
        rows, order = train.at(epoch, block)
        tested, _ = (held_out or train).at(0, validation_block)
        compiled(rows, order, tested, plan)
        report.progress()
        if report.stop() == "cancel":
            raise TrainingStopped("cancel")
        compiled.leaving.assign(float(bool(report.stop())))
    if reason := report.stop():
        raise TrainingStopped(reason)


class _Blocks:
    """A feed's blocks by epoch and number, read in order."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._blocks: Iterator[Block] = iter(())
        self._epoch, self._number = -1, NO_BLOCK
        self._current: tuple[RowTensors, Any] | None = None

    def at(self, epoch: int, number: int) -> tuple[RowTensors, Any]:
        """Return the rows and their order; for a missing block, a few rows and an empty order."""
        if number == NO_BLOCK:
            return self._feed.sample(), tf.zeros(0, tf.int32)
        if epoch != self._epoch or number < self._number:
            self._blocks, self._epoch, self._number = iter(self._feed.blocks(epoch)), epoch, NO_BLOCK
        while self._number < number:
            block = next(self._blocks)
            self._current, self._number = (block.rows, tf.constant(np.asarray(block.order))), self._number + 1
        assert self._current is not None
        return self._current
