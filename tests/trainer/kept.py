"""What a training step really keeps for the way back: read off TensorFlow's graph of the step."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from fitserve.spec.spec import Spec
from tests.trainer.specs import arrays
from workers.trainer.engine.network import build_losses, build_network

# The same memory under another name or shape.
ALIASES = ("Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient")
# Not the batch's: weights are counted by themselves, shapes are nothing.
NOT_KEPT = ("ReadVariableOp", "Const", "Shape", "VarHandleOp")


def kept_bytes(spec: Spec, batch: int) -> int:
    """Bytes of all tensors of the way forward that an operation of the way back reads, inputs included."""
    network, losses = build_network(spec), build_losses(spec)

    @tf.function(jit_compile=False)
    def step(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            answers = network(inputs, training=True)
            loss = sum(losses[name](targets[name], answers[name]) for name in losses)
        return tape.gradient(loss, network.trainable_weights and [w.value for w in network.trainable_weights])

    graph = step.get_concrete_function(*arrays(spec, batch)).graph
    found: dict[str, int] = {}
    for operation in graph.get_operations():
        for tensor in operation.inputs if operation.name.startswith("gradient_tape/") else ():
            while tensor.op.type in ALIASES and not tensor.op.name.startswith("gradient_tape/"):
                tensor = tensor.op.inputs[0]
            if tensor.op.name.startswith("gradient_tape/") or tensor.op.type in NOT_KEPT:
                continue
            size = math.prod(tensor.shape.as_list() if tensor.shape.rank is not None else [0])
            if size >= batch:
                found[tensor.name] = size * tensor.dtype.size
    return sum(found.values())
