"""From a resolved spec to Keras's objects: network, optimizer, losses, metrics, callbacks.

Every class is looked up by the name that the spec's allow-list has, in the one Keras module of its family: a spec
cannot reach anything else. Arguments are those of the spec, which a test holds equal to Keras's signatures.
"""

from __future__ import annotations

from typing import Any

import keras

from fitserve.spec.callbacks import EarlyStopping, ReduceLROnPlateau
from fitserve.spec.component import Component
from fitserve.spec.initializers import Initializer
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.layer import Layer
from fitserve.spec.losses import Loss, Quantile
from fitserve.spec.metrics import Metric
from fitserve.spec.network import Node
from fitserve.spec.optimizers import Optimizer, Schedule
from fitserve.spec.outputs import finishing
from fitserve.spec.regularizers import Constraint, Regularizer
from fitserve.spec.spec import Spec
from workers.trainer.engine.learning_rate_warmup import WarmedUp
from workers.trainer.engine.losses import QuantileLoss
from workers.trainer.engine.signature import inputs_of, outputs_of

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
MIXED = "mixed_bfloat16"  # no loss scaling needed, and it runs on CPUs and on GPUs


def keras_class(component: Component) -> Any:
    """Keras's class that a component of the spec stands for."""
    if isinstance(component, Quantile):
        return QuantileLoss
    module = next(module for base, module in MODULES if isinstance(component, base))
    return getattr(module, type(component).__name__)


def build(component: Component, **more: Any) -> Any:
    """One component of the spec as Keras's object, with all that it holds."""
    arguments = {name: _argument(getattr(component, name)) for name in type(component).model_fields}
    return keras_class(component)(**arguments, **more)


def _argument(value: Any) -> Any:
    return build(value) if isinstance(value, Component) else value


def build_network(spec: Spec) -> keras.Model:
    """The network of a resolved spec, weights drawn from Keras's global seed.

    It is called with a dict by input name, (batch, width) each, float32 or int32, and answers with a dict by
    target name, float32 (batch, units).
    """
    policy = MIXED if spec.training.mixed_precision else "float32"
    tensors: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    for node in spec.network:
        name = str(node.name)
        if isinstance(node.layer, Input):
            inputs[name] = tensors[name] = keras.Input(
                shape=tuple(node.layer.shape), dtype=node.layer.dtype, name=name.replace("/", "_")
            )
            continue
        layer = build(node.layer, name=name, dtype="float32" if node.output else policy)
        tensors[name] = layer(_read(node, tensors))
        if isinstance(node.output, str):
            outputs[node.output] = tensors[name]
    return keras.Model(inputs=inputs, outputs={target.name: outputs[target.name] for target in spec.target})


def finished(network: keras.Model, spec: Spec) -> keras.Model:
    """The network with outputs as they are served: logits and scores become probabilities. Weights are shared."""
    answers = dict(outputs_of(network))
    layers = {node.output: node.layer for node in spec.network if node.output}
    ends = {t.name: finishing(t, spec.training.loss[t.name], layers[t.name]) for t in spec.target}
    if not any(ends.values()):
        return network
    for name, end in ends.items():
        if end == "halved":
            answers[name] = keras.layers.Rescaling(0.5, 0.5, dtype="float32")(answers[name])
        elif end is not None:
            answers[name] = keras.layers.Activation(end, dtype="float32")(answers[name])
    return keras.Model(inputs_of(network), answers)


def _read(node: Node, tensors: dict[str, Any]) -> Any:
    sources = [tensors[name] for name in node.inputs or ()]
    return sources if type(node.layer).merges else sources[0]


def build_optimizer(spec: Spec, steps_per_epoch: int = 1) -> keras.optimizers.Optimizer:
    """The optimizer, its schedule and warm-up. `steps_per_epoch` turns a warm-up of epochs into steps."""
    optimizer, warmup = spec.training.optimizer, spec.training.warmup
    if warmup is None:
        return build(optimizer)
    rate = _argument(optimizer.learning_rate)
    steps = warmup.steps or (warmup.epochs or 1) * steps_per_epoch
    arguments = {name: _argument(getattr(optimizer, name)) for name in type(optimizer).model_fields}
    return keras_class(optimizer)(**{**arguments, "learning_rate": WarmedUp(rate, steps, warmup.start)})


def build_losses(spec: Spec) -> dict[str, keras.losses.Loss]:
    """A loss for each target; `spec.training.loss_weights` weighs them."""
    return {name: build(loss) for name, loss in spec.training.loss.items()}


def build_metrics(spec: Spec) -> dict[str, list[keras.metrics.Metric]]:
    """The metrics of each target, new and empty."""
    return {name: [build(metric) for metric in metrics] for name, metrics in spec.training.metrics.items()}


def build_callbacks(spec: Spec) -> list[keras.callbacks.Callback]:
    """Early stopping and the plateau's reduction, where the spec has them."""
    training = spec.training
    found = []
    if training.early_stopping is not None:
        found.append(_callback(training.early_stopping, keras.callbacks.EarlyStopping))
    if training.reduce_lr_on_plateau is not None:
        found.append(_callback(training.reduce_lr_on_plateau, keras.callbacks.ReduceLROnPlateau))
    return found


def _callback(said: EarlyStopping | ReduceLROnPlateau, cls: Any) -> keras.callbacks.Callback:
    return cls(**{name: getattr(said, name) for name in type(said).model_fields})
