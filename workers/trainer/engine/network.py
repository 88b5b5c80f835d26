"""Keras objects from a resolved spec: network, optimizer, losses, metrics, callbacks; and a network's tensors by name.

Every class is looked up by the name in the spec's allow-list, in the one Keras module of its family: a spec cannot
reach anything else. Arguments are those of the spec; a test compares them with Keras's signatures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from fitserve.spec.component import Component
from fitserve.spec.graph import free_name
from fitserve.spec.initializers import Initializer
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.layer import Layer
from fitserve.spec.layers.tabular import OURS
from fitserve.spec.losses import Loss, Quantile
from fitserve.spec.metrics import Metric
from fitserve.spec.optimizers import Optimizer, Schedule
from fitserve.spec.output import serving_activation
from fitserve.spec.regularizers import Constraint, Regularizer
from fitserve.spec.spec import Spec
from workers.trainer.engine.tabular_layers import CLASSES

MODULES: tuple[tuple[type[Component], Any], ...] = (
    (Layer, keras.layers),
    (Initializer, keras.initializers),
    (Regularizer, keras.regularizers),
    (Constraint, keras.constraints),
    (Optimizer, keras.optimizers),
    (Schedule, keras.optimizers.schedules),
    (Loss, keras.losses),
    (Metric, keras.metrics),
)
# Names that TensorFlow allows for a scope, without the slashes of nested scopes.
_TENSORFLOW_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.-]{0,199}")
MAX_KERAS_NAME = 100
MIXED = "mixed_bfloat16"  # needs no loss scaling, and runs on CPUs and on GPUs


# --- a network's tensors by name -----------------------------------------------------------------------


def functional_of(model: keras.Model) -> Any:
    """Return the Functional model inside a Sequential one, or the model itself."""
    return getattr(model, "_functional", None) or model


def inputs_of(model: keras.Model) -> dict[str, Any]:
    """Return input tensors by name: a dict's keys where the model takes a dict, else the tensors' names."""
    structure = functional_of(model)._inputs_struct
    if isinstance(structure, Mapping):
        return dict(structure)
    return {tensor.name: tensor for tensor in keras.tree.flatten(structure)}


def outputs_of(model: keras.Model) -> dict[str, Any]:
    """Return output tensors by name: a dict's keys where the model returns a dict, else the layers' names."""
    functional = functional_of(model)
    if isinstance(functional._outputs_struct, Mapping):
        return dict(functional._outputs_struct)
    return dict(zip(functional.output_names, functional.outputs, strict=True))


def keras_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name for each of a spec's nodes that TensorFlow's scopes and files allow; allowed names stay the same.

    A column may be called anything, and its name reaches the network: `Price (USD)` becomes `Price__USD_`.
    """
    names = list(names)
    renamed = {name: name for name in names if _TENSORFLOW_NAME.fullmatch(name)}
    taken = set(renamed.values())
    for name in names:
        if name not in renamed:
            allowed = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:MAX_KERAS_NAME]
            renamed[name] = free_name(allowed if _TENSORFLOW_NAME.fullmatch(allowed) else f"layer{allowed}", taken)
            taken.add(renamed[name])
    return renamed


def spec_name(layer: Any) -> str:
    """Return the name that a layer of `build_network` has in the spec."""
    return str(getattr(layer, "spec_name", layer.name))


def nodes_of(model: keras.Model) -> list[Any]:
    """Return the network's nodes in an order in which they can be computed, without its inputs."""
    functional = functional_of(model)
    depths = sorted(functional._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in functional._nodes_by_depth[depth]]
    return [node for node in nodes if not isinstance(node.operation, keras.layers.InputLayer)]


# --- classes that Keras does not have ------------------------------------------------------------------


class QuantileLoss(keras.losses.Loss):
    """The pinball loss (Koenker and Bassett 1978), one output for each quantile.

    `mean(max(q * e, (q - 1) * e))` with `e = y - prediction`; y is (batch, 1), predictions (batch, quantiles).
    """

    def __init__(
        self,
        quantiles: Sequence[float],
        reduction: str = "sum_over_batch_size",
        name: str = "quantile",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.quantiles = list(quantiles)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        quantiles = ops.convert_to_tensor(self.quantiles, dtype=y_pred.dtype)
        error = ops.cast(y_true, y_pred.dtype) - y_pred
        return ops.mean(ops.maximum(quantiles * error, (quantiles - 1.0) * error), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quantiles": self.quantiles}


class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate multiplied by a factor that rises linearly from `start` to 1 over `steps`.

    The schedule underneath starts at the first step too, so that its boundaries are the spec's.
    """

    def __init__(self, rate: Any, steps: int, start: float = 0.0) -> None:
        super().__init__()
        self.rate = rate
        self.steps = steps
        self.start = start

    def __call__(self, step: Any) -> Any:
        rate = self.rate(step) if callable(self.rate) else ops.convert_to_tensor(self.rate, "float32")
        share = ops.minimum(1.0, (ops.cast(step, "float32") + 1.0) / self.steps)
        return rate * (self.start + (1.0 - self.start) * share)

    def get_config(self) -> dict[str, Any]:
        rate = keras.saving.serialize_keras_object(self.rate) if callable(self.rate) else self.rate
        return {"rate": rate, "steps": self.steps, "start": self.start}


# --- from the spec -------------------------------------------------------------------------------------


def keras_class(component: Component) -> Any:
    """Return the Keras class that a component of the spec stands for."""
    if isinstance(component, Quantile):
        return QuantileLoss
    if isinstance(component, OURS):
        return CLASSES[type(component).__name__]
    module = next(module for base, module in MODULES if isinstance(component, base))
    return getattr(module, type(component).__name__)


def build(component: Component, **more: Any) -> Any:
    """Build the Keras object of a component, and of the components in it. `more` adds or replaces arguments."""
    arguments = {name: _argument(getattr(component, name)) for name in type(component).model_fields}
    return keras_class(component)(**{**arguments, **more})


def _argument(value: Any) -> Any:
    return build(value) if isinstance(value, Component) else value


def build_network(spec: Spec) -> keras.Model:
    """Build the network of a resolved spec, its weights drawn from Keras's global seed.

    It takes a dict by input name of (batch, width) tensors, float32 or int32, and returns a dict by target name,
    float32 (batch, units).
    """
    policy = MIXED if spec.training.mixed_precision else "float32"
    tensors: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    names = keras_names(str(node.name) for node in spec.network)
    frozen = set(spec.initial_weights.freeze) if spec.initial_weights else set()
    for node in spec.network:
        name = str(node.name)
        if isinstance(node.layer, Input):
            inputs[name] = tensors[name] = keras.Input(
                shape=tuple(node.layer.shape), dtype=node.layer.dtype, name=names[name]
            )
            continue
        layer = build(node.layer, name=names[name], dtype="float32" if node.output else policy)
        if names[name] != name:
            layer.spec_name = name
        sources = [tensors[source] for source in node.inputs or ()]
        tensors[name] = layer(sources if type(node.layer).merges else sources[0])
        if name in frozen:
            # For BatchNormalization this also means that it uses the source's averages and never changes them.
            layer.trainable = False
        if isinstance(node.output, str):
            outputs[node.output] = tensors[name]
    network = keras.Model(inputs=inputs, outputs={target.name: outputs[target.name] for target in spec.target})
    if spec.training.mixed_precision:
        _add_penalties_in_32_bits(network)
    return network


def _add_penalties_in_32_bits(network: keras.Model) -> None:
    """Have a layer's 16-bit penalty on its outputs added to the 32-bit loss, where Keras fails."""
    sum_of = network._aggregate_additional_loss
    object.__setattr__(network, "_aggregate_additional_loss", lambda loss: sum_of(ops.cast(loss, "float32")))


def serving_network(network: keras.Model, spec: Spec) -> keras.Model:
    """Return the network with its served outputs: logits and scores become probabilities. Weights are shared."""
    outputs = dict(outputs_of(network))
    layers = {node.output: node.layer for node in spec.network if node.output}
    ends = {t.name: serving_activation(t, spec.training.loss[t.name], layers[t.name]) for t in spec.target}
    if not any(ends.values()):
        return network
    for name, end in ends.items():
        if end == "halved":
            outputs[name] = keras.layers.Rescaling(0.5, 0.5, dtype="float32")(outputs[name])
        elif end is not None:
            outputs[name] = keras.layers.Activation(end, dtype="float32")(outputs[name])
    return keras.Model(inputs_of(network), outputs)


def build_optimizer(spec: Spec, steps_per_epoch: int = 1) -> keras.optimizers.Optimizer:
    """Build the optimizer with its schedule and warm-up. `steps_per_epoch` converts a warm-up given in epochs."""
    optimizer, warmup = spec.training.optimizer, spec.training.warmup
    if warmup is None:
        return build(optimizer)
    steps = warmup.steps or (warmup.epochs or 1) * steps_per_epoch
    return build(optimizer, learning_rate=LinearWarmup(_argument(optimizer.learning_rate), steps, warmup.start))


def optimizers_after(spec: Spec) -> dict[int, Callable[[], keras.optimizers.Optimizer]]:
    """Return builders of the optimizers that take over after certain epochs (from 1), by epoch."""
    return {switch.after: partial(build, switch.optimizer) for switch in spec.training.switches}


def build_losses(spec: Spec) -> dict[str, keras.losses.Loss]:
    """Build the loss of each target."""
    return {name: build(loss) for name, loss in spec.training.loss.items()}


def build_metrics(spec: Spec) -> dict[str, list[keras.metrics.Metric]]:
    """Build the metrics of each target, with empty state."""
    return {name: [build(metric) for metric in metrics] for name, metrics in spec.training.metrics.items()}


def build_callbacks(spec: Spec) -> list[keras.callbacks.Callback]:
    """Build EarlyStopping and ReduceLROnPlateau if the spec has them."""
    specs = (spec.training.early_stopping, spec.training.reduce_lr_on_plateau)
    return [
        getattr(keras.callbacks, type(one).__name__)(**{name: getattr(one, name) for name in type(one).model_fields})
        for one in specs
        if one is not None
    ]
