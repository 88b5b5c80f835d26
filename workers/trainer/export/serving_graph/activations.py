"""Activation functions as operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.trainer.export.serving_graph.graph import Graph, NotWritten


def activation(graph: Graph, function: Any, x: str) -> str:
    """A function of `keras.activations`, or one that a layer names. Raises NotWritten."""
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    if name in ("linear", "identity"):
        return x
    if name in _PLAIN:
        operator, attributes = _PLAIN[name]
        return graph.add(operator, [x], **attributes)
    if name == "silu":
        return graph.add("Mul", [x, graph.add("Sigmoid", [x])])
    if name == "gelu":  # approximate=False, the default of keras.activations
        return _gelu(graph, x)
    if name in ("relu6", "hard_tanh"):
        low, high = (0.0, 6.0) if name == "relu6" else (-1.0, 1.0)
        return graph.add("Clip", [x, graph.constant(low), graph.constant(high)])
    if name == "log_softmax":
        return graph.add("LogSoftmax", [x], axis=-1)
    if name == "hard_silu":
        return graph.add("Mul", [x, graph.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])
    if name == "tanh_shrink":
        return graph.add("Sub", [x, graph.add("Tanh", [x])])
    if name == "log_sigmoid":
        return graph.add("Neg", [graph.add("Softplus", [graph.add("Neg", [x])])])
    raise NotWritten(f"the activation {name}")


# Slopes and constants are the defaults of `keras.activations`.
_PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "elu": ("Elu", {"alpha": 1.0}),
    "celu": ("Celu", {"alpha": 1.0}),
    "selu": ("Selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "exponential": ("Exp", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "mish": ("Mish", {}),
    "hard_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.0}),
    "soft_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.5}),
}


def _gelu(graph: Graph, x: str) -> str:
    erf = graph.add("Erf", [graph.add("Mul", [x, graph.constant(np.sqrt(0.5))])])
    return graph.add("Mul", [graph.add("Mul", [x, graph.constant(0.5)]), graph.add("Add", [erf, graph.constant(1.0)])])
