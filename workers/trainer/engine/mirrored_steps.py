"""Training and test steps of a network on several GPUs of one process: each GPU takes its share of every batch.

TensorFlow's MirroredStrategy traces a step once for each GPU and sums the gradients over them (by NCCL). Each GPU has a
network and an optimizer of its own, which apply the same sums and so stay equal. The first one is the model that
callbacks, checkpoints and exports know, and has ordinary variables: at the start of each call the others take its
state, and before its figures are read it takes what the others have counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import keras
import tensorflow as tf

from fitserve.spec.layers.normalization import BatchNormalization
from fitserve.spec.spec import Spec
from fitserve.spec.workers import whole_batch_losses
from workers.trainer.engine.compiled import Compiled, RowTensors, build, shorten, without_results
from workers.trainer.engine.shares import Share, normalise_by_batch, summed, training_on, weighted


def why_one_device(spec: Spec, batch_size: int, devices: int, shared: bool = False) -> str | None:
    """Return why several devices cannot train a spec's network together; None if they can.

    `shared`: with other processes.
    """
    training = spec.training
    if shared:
        return "each of several workers has one"
    if training.restarts > 1 or training.stacked is not None or spec.ensemble is not None or spec.folds is not None:
        return "several networks train, or one in a stack"
    if training.switches:
        return "its optimizer changes while it trains"
    if losses := whole_batch_losses(training):
        return f"{losses[0]} is of a whole batch, not a mean over its rows"
    if training.jit_compile is True and any(isinstance(one.layer, BatchNormalization) for one in spec.network):
        return "XLA compiles no sums over GPUs, which batch normalisation needs"
    if batch_size < devices:
        return f"a batch of {batch_size} has no row for each"
    return None


class Mirrors:
    """The replicas, as number `rank` of them sees them while MirroredStrategy traces its step."""

    def __init__(self, size: int, rank: int) -> None:
        self.size, self.rank = size, rank

    def sum(self, tensor: Any) -> Any:
        """Return the sum over all replicas. It is differentiable: the gradients are summed too."""
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensor)

    differentiable_sum = sum

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        """Return the sums of several tensors, which TensorFlow exchanges together."""
        return list(self.sum(list(tensors)))


class _Mirror:
    """The network on one of the devices."""

    def __init__(self, device: str, model: keras.Model, mirrors: Mirrors) -> None:
        self.device, self.model, self.mirrors = device, model, mirrors
        self.gradients: list[Any] = []  # of the step that is being traced
        optimizer = model.optimizer
        self._apply, scale_loss = optimizer.apply, optimizer.scale_loss
        # An optimizer must be called outside of the replica's context, in which it would sum the gradients once more.
        object.__setattr__(optimizer, "apply", self._keep)
        # Keras has divided the loss by the number of replicas, as if all had the same number of rows.
        object.__setattr__(optimizer, "scale_loss", lambda loss: weighted(scale_loss(loss) * mirrors.size))
        normalise_by_batch(model, mirrors)

    def variables(self) -> list[Any]:
        """Return the state of network and optimizer, without the metrics'."""
        counted = {id(variable) for variable in self.model.metrics_variables}
        every = [*self.model.variables, *self.model.optimizer.variables]
        return [_tensor_of(variable) for variable in every if id(variable) not in counted]

    def metrics(self) -> list[Any]:
        """Return the variables that metrics count in."""
        return [_tensor_of(variable) for variable in self.model.metrics_variables]

    def compute(self, step: str, batch: tuple[Any, ...]) -> list[Any]:
        """Make one of Keras's steps, up to the gradients, which are returned; a test step has none."""
        self.gradients = []
        with without_results(self.model):
            getattr(self.model, step)(batch)
        return self.gradients

    def apply(self) -> None:
        """Apply the gradients, which have been summed over all replicas."""
        if self.gradients:
            with tf.device(self.device):
                self._apply(self.gradients, self.model.trainable_variables)
        self.gradients = []

    def _keep(self, gradients: Sequence[Any], variables: Sequence[Any] | None = None) -> None:
        self.gradients = list(gradients)


class MirroredCompiled(Compiled):
    """`Compiled` on several devices of this process, of which the first has the model."""

    def __init__(
        self,
        devices: Sequence[str],
        copy: Callable[[], keras.Model],
        model: keras.Model,
        train: RowTensors,
        *arguments: Any,
        **options: Any,
    ) -> None:
        """`copy` builds and compiles another model like `model`."""
        super().__init__(model, train, *arguments, **options)
        self.devices = len(devices)
        self._strategy = _strategy(tuple(devices))
        self._executor = contextlib.nullcontext  # on one thread, one device would compute after the other
        self._mirrors: list[_Mirror] = []
        for rank, device in enumerate(devices):
            with tf.device(device):
                own = model if rank == 0 else self._built(copy(), train)
                # Some metrics create their variables only when first used.
                own.test_step(self.expanded(train.map(lambda t: t[:1]).as_tuple()))
                own.reset_metrics()
            self._mirrors.append(_Mirror(device, own, Mirrors(len(devices), rank)))

    def _built(self, model: keras.Model, train: RowTensors) -> keras.Model:
        if self.compact is not None:
            self.compact.look_up(model)
        build(model, train)
        shorten(model)
        return model

    def _trace(self, *arguments: Any) -> Any:
        self._take_state()
        return super()._trace(*arguments)

    def _run_stepwise(self, *arguments: Any) -> Any:
        self._take_state()
        return super()._run_stepwise(*arguments)

    def _one_step_function(self, step: Callable[[Any], Any]) -> Any:
        # XLA compiles each replica's part of it, because it cannot compile sums over replicas.
        return tf.function(partial(self._one_step, step), reduce_retracing=True, autograph=False)

    def _one_step(self, step: Callable[[Any], Any], batch: Any) -> None:
        rows = tf.shape(tf.nest.flatten(batch)[0])[0]
        self._run_step(step, 0, rows, lambda start, stop: tf.nest.map_structure(lambda t: t[start:stop], batch))

    def _take_state(self) -> None:
        """Give the other replicas the first one's state, as callbacks and checkpoints have left it."""
        first, *others = self._mirrors
        for other in others:
            for own, copied in zip(first.variables(), other.variables(), strict=True):
                copied.assign(own.read_value())

    def _run_step(self, step: Callable[[Any], Any], start: Any, stop: Any, rows: Callable[[Any, Any], Any]) -> None:
        name, home = step.__name__, self._mirrors[0].device

        def on_replica() -> None:
            rank = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
            mirror = self._mirrors[int(rank)]
            compute: Any = partial(mirror.compute, name)
            share = Share.of(start, stop, mirror.mirrors)
            with tf.device(home):  # where the table is: only the share's rows go to the other device
                own = rows(share.start, share.stop)
            with training_on(share, mirror.metrics()):
                batch = self.expanded(own)
                compute = tf.function(compute, jit_compile=True, autograph=False) if self._jit else compute
                gradients = compute(batch)
            mirror.gradients = summed(gradients, share, self.batch_size, mirror.mirrors) if gradients else []

        self._strategy.run(on_replica)
        for mirror in self._mirrors:
            mirror.apply()

    def _results(self) -> Any:
        for first, *others in zip(*(mirror.metrics() for mirror in self._mirrors), strict=True):
            first.assign_add(tf.add_n([other.read_value() for other in others]))
            for other in others:
                other.assign(tf.zeros_like(other))
        return super()._results()


@cache
def _strategy(devices: tuple[str, ...]) -> Any:
    """Return the strategy of these devices, the same one for every network.

    The sums of two strategies would have the same keys, by which TensorFlow takes them for one.
    """
    return tf.distribute.MirroredStrategy(list(devices))


def _tensor_of(variable: Any) -> Any:
    return getattr(variable, "value", variable)
