"""Activations kept for the backward pass of a training step, read from TensorFlow's graph of the step."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from fitserve.spec.spec import Spec
from tests.trainer.specs import arrays
from workers.trainer.engine.network import build_losses, build_network

# The same memory under another name or shape.
ALIASES = ("Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient")
# No activations: weights are counted separately, shapes take nothing.
NOT_ACTIVATIONS = ("ReadVariableOp", "Const", "Shape", "VarHandleOp")


def activation_bytes(spec: Spec, batch: int) -> int:
    """Bytes of the forward pass's tensors that operations of the backward pass read, inputs included."""
    network, losses = build_network(spec), build_losses(spec)

    @tf.function(jit_compile=False)
    def step(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = network(inputs, training=True)
            loss = sum(losses[name](targets[name], outputs[name]) for name in losses)
        return tape.gradient(loss, network.trainable_weights and [w.value for w in network.trainable_weights])

    graph = step.get_concrete_function(*arrays(spec, batch)).graph
    sizes: dict[str, int] = {}
    for operation in graph.get_operations():
        for tensor in operation.inputs if operation.name.startswith("gradient_tape/") else ():
            while tensor.op.type in ALIASES and not tensor.op.name.startswith("gradient_tape/"):
                tensor = tensor.op.inputs[0]
            if tensor.op.name.startswith("gradient_tape/") or tensor.op.type in NOT_ACTIVATIONS:
                continue
            size = math.prod(tensor.shape.as_list() if tensor.shape.rank is not None else [0])
            if size >= batch:
                sizes[tensor.name] = size * tensor.dtype.size
    return sum(sizes.values())
