"""Cache of networks with their traced functions, in a warm trainer, for later runs of the same shape.

Tracing takes longer than many epochs of a small network. Everything that a traced function holds as a constant is part
of the network's `signature`: a run takes a cached network only if its signature is the same. Everything held in
variables is set again: weights, states of random generators and optimizer, learning rate. Rows are arguments. So a
run's results are bit for bit those of a fresh trainer.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitserve.settings import MB
from fitserve.spec.spec import Spec
from workers.trainer.engine.compiled import Compiled, RowTensors
from workers.trainer.engine.device import release_graphs
from workers.trainer.engine.initial_values import InitialValues, State, state_of
from workers.trainer.engine.replica_settings import ReplicaSettings
from workers.trainer.engine.stacked_network import StackedNetwork

MAX_NETWORKS = 6
MAX_STACKS = 3  # stacks kept per network
MAX_BYTES = 48 * MB  # most bytes of variables of all cached networks; their graphs take about as much again
# Training options that never reach a traced function, or reach it as an argument or a variable.
_FREE = (
    "seed",
    "epochs",
    "steps_per_epoch",
    "shuffle",
    "validation_split",
    "early_stopping",
    "reduce_lr_on_plateau",
    "class_weight",
    "sample_weight",
    "keep_epochs",
    "workers",
)


def signature(spec: Spec, rows: Sequence[RowTensors], batch_size: int, steps: int, compact: Any = None) -> str:
    """Return, as text, what the traced functions of a resolved spec's network hold as constants.

    Args:
        rows: of each part that they are called with; their structure, dtypes and widths count.
        steps: of an epoch; they count where a warm-up is given in epochs.
        compact: the form of the rows; its text says all that is traced of it.
    """
    body = spec.to_json()
    training = {name: value for name, value in body["training"].items() if name not in _FREE}
    ((_, optimizer),) = training["optimizer"].items()
    if isinstance(optimizer["learning_rate"], float):
        del optimizer["learning_rate"]
    shapes = [[f"{t.dtype.name}{tuple(t.shape[1:])}" for t in tf.nest.flatten(part.as_tuple())] for part in rows]
    structures = [str(tf.nest.map_structure(lambda _: 0, part.as_tuple())) for part in rows]
    ends = {name: body.get(name) for name in ("network", "target", "ensemble")}
    ends["frozen"] = (body.get("initial_weights") or {}).get("freeze")
    devices = [device.name for device in tf.config.list_logical_devices()]
    own = [training, ends, shapes, structures, batch_size, steps if training["warmup"] else None, devices, str(compact)]
    return json.dumps(own, sort_keys=True, default=str)


@dataclass(slots=True)
class KeptNetwork:
    """A cached compiled network, with the objects that one run leaves for the next."""

    compiled: Compiled
    values: InitialValues
    # By the constants that a stack is traced with.
    stacks: OrderedDict[Any, StackedNetwork] = field(default_factory=OrderedDict)
    probes: dict[Any, Any] = field(default_factory=dict)  # traced for the recording of layers
    _optimizer: State = field(default_factory=list)
    _nodes: list[tuple[Any, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = self.compiled.model
        self._optimizer = [variable.value.numpy() for variable in model.optimizer.variables]
        self._nodes = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]

    @property
    def size(self) -> int:
        """Bytes of its variables."""
        model = self.compiled.model
        of_stacks = (variable for stack in self.stacks.values() for variable in stack.variables)
        of_splits = (variable for split in self.compiled.splits for variable in split.variables)
        own = [*model.variables, *of_stacks, *of_splits]
        return sum(int(np.prod(v.shape)) * 4 for v in own)

    def restart(self, seed: int, learning_rate: float | None) -> None:
        """Reset the network to its state when built from `seed`."""
        model = self.compiled.model
        for layer, inbound, outbound in self._nodes:  # the last run's export may have added some
            del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]
        for variable, value in zip(model.optimizer.variables, self._optimizer, strict=True):
            variable.assign(value)
        if learning_rate is not None:
            model.optimizer.learning_rate.assign(learning_rate)
        for variable, value in zip(state_of(model), self.values.of(seed), strict=True):
            variable.assign(value)
        model.reset_metrics()

    def stack(
        self, members: Sequence[keras.Model | State], rows: RowTensors, settings: ReplicaSettings | None
    ) -> StackedNetwork:
        """Return replicas of the network with the members' values, each with its own settings where they are given."""
        model, size = self.compiled.model, self.compiled.batch_size
        structure = settings.structure if settings is not None else ""
        if structure is None:
            return StackedNetwork(model, members, rows, size, settings)
        key = (len(members), structure)
        stack = self.stacks.pop(key, None)
        if stack is None or stack.replicas != len(members):  # it was shrunk
            stack = StackedNetwork(model, members, rows, size, settings)
        else:
            stack.restart(members, settings)
        self.stacks[key] = stack
        while len(self.stacks) > MAX_STACKS:
            self.stacks.popitem(last=False)
        return stack


class KeptNetworks:
    """A trainer process's cache of its most recently used networks. A network that is lent out is not lent again."""

    def __init__(self, networks: int = MAX_NETWORKS, size: int = MAX_BYTES) -> None:
        self._most, self._size = networks, size
        self._free: OrderedDict[str, KeptNetwork] = OrderedDict()
        self._lent: list[tuple[str, KeptNetwork]] = []

    def __len__(self) -> int:
        return len(self._free)

    def take(self, key: str, make: Callable[[], KeptNetwork]) -> tuple[KeptNetwork, bool]:
        """Borrow the network with this signature, and tell whether it was cached; otherwise `make` builds one."""
        free = self._free.pop(key, None)
        network = make() if free is None else free
        self._lent.append((key, network))
        return network, free is not None

    def take_back(self) -> None:
        """Take back all lent networks, and drop the least recently used ones beyond the limits."""
        for key, network in self._lent:
            self._free[key] = network
            self._free.move_to_end(key)
        self._lent = []
        while self._free and (len(self._free) > self._most or self._bytes() > self._size):
            self._free.popitem(last=False)

    def make_ready(self) -> None:
        """Verify the networks' initial values now, so that no later run waits for it."""
        for network in self._free.values():
            network.values.verify()

    def clear(self) -> None:
        """Drop all networks."""
        self._free.clear()
        self._lent = []

    def _bytes(self) -> int:
        return sum(network.size for network in self._free.values())


KEPT = KeptNetworks()


def tidy_up() -> None:
    """Clean up after a run: take its networks back, ready for the next one, and release everything else."""
    KEPT.take_back()
    KEPT.make_ready()
    release_graphs()
