"""Which networks can be trained as one: those whose every operation takes a leading replica axis as it is."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from workers.trainer.engine.compiled import work
from workers.trainer.engine.signature import functional_of, outputs_of

L = keras.layers
LARGEST_STEP = 5e7  # multiply-adds of one replica's step: above it, arithmetic dominates and stacking gains nothing
LARGEST_EPOCH = 2e11  # of all replicas: nobody can look up within a stacked epoch
LARGEST_PREDICTIONS = 2e8  # bytes, of one epoch: metrics are computed from them
# Their update of a weight depends on this weight, its gradient and its own history alone.
OPTIMIZERS = tuple(
    getattr(keras.optimizers, name)
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Lion", "Ftrl")
)
# Their value for a row depends on this row alone.
LOSSES = tuple(
    getattr(keras.losses, name)
    for name in (
        "BinaryCrossentropy",
        "BinaryFocalCrossentropy",
        "CategoricalCrossentropy",
        "CategoricalFocalCrossentropy",
        "SparseCategoricalCrossentropy",
        "MeanSquaredError",
        "MeanAbsoluteError",
        "MeanAbsolutePercentageError",
        "MeanSquaredLogarithmicError",
        "Huber",
        "LogCosh",
        "Poisson",
        "KLDivergence",
        "Hinge",
        "SquaredHinge",
        "CategoricalHinge",
    )
)
REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
# These compute along the last axis or element by element, and take a leading axis more as they are.
PLAIN = (L.Activation, L.LeakyReLU, L.ReLU, L.ELU, L.Identity, L.Rescaling)
RANDOM = (L.Dropout, L.GaussianDropout, L.GaussianNoise)
MERGES = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)


def refusal(model: keras.Model, replicas: int, rows: int, batch_size: int) -> str | None:
    """Why `replicas` of this compiled model cannot be trained as one; None where they can."""
    optimizer = model.optimizer
    if type(optimizer) not in OPTIMIZERS:
        return f"the optimizer {type(optimizer).__name__}"
    if optimizer.clipnorm or optimizer.global_clipnorm or optimizer.use_ema or optimizer.gradient_accumulation_steps:
        return "clipping by norm, averaged weights or accumulated gradients"
    losses = [entry.loss for entry in model._compile_loss._flat_losses]
    if any(type(loss) not in LOSSES or loss.reduction != "sum_over_batch_size" for loss in losses):
        return "a loss over the whole batch"
    for node in nodes(model):
        if reason := _refused(node.operation):
            return reason
    step = work(model, batch_size)
    if step > LARGEST_STEP or step * replicas * rows / batch_size > LARGEST_EPOCH:
        return "its size"
    units = sum(int(np.prod(tensor.shape[1:])) for tensor in outputs_of(model).values())
    return "its size" if 4.0 * units * rows * replicas > LARGEST_PREDICTIONS else None


def _refused(layer: Any) -> str | None:
    name = type(layer).__name__
    known = (*PLAIN, *RANDOM, *MERGES, L.Dense, L.BatchNormalization, L.LayerNormalization, L.Concatenate)
    if type(layer) not in known or getattr(layer, "compute_dtype", "float32") != "float32":
        return f"the layer {name}"
    if any(len(tensor.shape) != 2 for tensor in keras.tree.flatten([layer.input, layer.output])):
        return f"the shapes of {name}"
    if layer.activity_regularizer is not None or any(v.constraint is not None for v in layer.trainable_variables):
        return f"a constraint or activity regularizer of {name}"
    if any(v.regularizer is not None and type(v.regularizer) not in REGULARIZERS for v in layer.trainable_variables):
        return f"a regularizer of {name}"
    return None


def nodes(model: keras.Model) -> list[Any]:
    """The network's nodes in an order in which they can be computed, without its inputs."""
    functional = functional_of(model)
    depths = sorted(functional._nodes_by_depth, reverse=True)
    found = [node for depth in depths for node in functional._nodes_by_depth[depth]]
    return [node for node in found if not isinstance(node.operation, L.InputLayer)]
