"""Reasons why networks cannot be trained stacked, as one network with a replica axis: see `stacked_network`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from fitserve.spec import optimizers
from workers.trainer.engine.executors import work
from workers.trainer.engine.network import nodes_of, outputs_of
from workers.trainer.engine.tabular_layers import Periodic

L = keras.layers
MAX_STEP = 5e7  # multiply-adds of one replica's step: above it arithmetic dominates, and stacking gains nothing
MAX_EPOCH = 2e11  # multiply-adds of an epoch of all replicas: a cancel is noticed only between epochs
MAX_PREDICTION_BYTES = 2e8  # predictions of one epoch, held in memory for its metrics
MAX_EMBEDDED = 2_000_000  # numbers in the embeddings of all replicas: every step updates all of them
OPTIMIZERS = tuple(
    getattr(keras.optimizers, name) for name, cls in optimizers.OPTIMIZERS.classes.items() if cls.per_weight
)
# Metrics whose value for a row depends on that row only.
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
# These compute along the last axis or element by element, so a further leading axis makes no difference.
PLAIN = (L.Activation, L.LeakyReLU, L.ReLU, L.ELU, L.Identity, L.Rescaling)
RANDOM = (L.Dropout, L.GaussianDropout, L.GaussianNoise)
MERGES = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)


def stacking_obstacle(model: keras.Model, replicas: int, rows: int, batch_size: int) -> str | None:
    """Return why `replicas` of this compiled model cannot be trained as one network; None if they can."""
    optimizer = model.optimizer
    if type(optimizer) not in OPTIMIZERS:
        return f"the optimizer {type(optimizer).__name__}"
    if any(getattr(optimizer, name) for name in optimizers.BEYOND_A_WEIGHT):
        return "clipping by norm, averaged weights or accumulated gradients"
    losses = [entry.loss for entry in model._compile_loss._flat_losses]
    if any(type(loss) not in LOSSES or loss.reduction != "sum_over_batch_size" for loss in losses):
        return "a loss over the whole batch"
    for node in nodes_of(model):
        if reason := _layer_obstacle(node.operation):
            return reason
    if any(not layer.trainable for layer in model.layers):
        return "a frozen layer"
    step = work(model, batch_size)
    embedded = sum(int(np.prod(v.shape)) for o in model.layers if type(o) is L.Embedding for v in o.trainable_variables)
    units = sum(int(np.prod(tensor.shape[1:])) for tensor in outputs_of(model).values())
    too_large = (
        step > MAX_STEP
        or embedded * replicas > MAX_EMBEDDED
        or step * replicas * rows / batch_size > MAX_EPOCH
        or 4.0 * units * rows * replicas > MAX_PREDICTION_BYTES
    )
    return "its size" if too_large else None


def _layer_obstacle(layer: Any) -> str | None:
    name = type(layer).__name__
    known = (*PLAIN, *RANDOM, *MERGES, L.Dense, Periodic, L.BatchNormalization, L.LayerNormalization, L.Concatenate)
    embeds = type(layer) is L.Embedding and not layer.mask_zero and layer.input.shape[1:] == (1,)
    flattens = type(layer) is L.Flatten and len(layer.input.shape) == 3
    if not (embeds or flattens or type(layer) in known) or getattr(layer, "compute_dtype", "float32") != "float32":
        return f"the layer {name}"
    shapes = [len(tensor.shape) for tensor in keras.tree.flatten([layer.input, layer.output])]
    if any(rank != 2 for rank in shapes) and not (embeds or flattens):
        return f"the shapes of {name}"
    if layer.activity_regularizer is not None or any(v.constraint is not None for v in layer.trainable_variables):
        return f"a constraint or activity regularizer of {name}"
    if any(v.regularizer is not None and type(v.regularizer) not in REGULARIZERS for v in layer.trainable_variables):
        return f"a regularizer of {name}"
    return None
