"""The activation functions of `keras.activations`, by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from fitserve.excerpts import excerpt
from fitserve.validation import InvalidValue, unknown_name

ACTIVATIONS = (
    "linear",
    "sigmoid",
    "tanh",
    "relu",
    "softmax",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "softplus",
    "softsign",
    "hard_sigmoid",
    "exponential",
    "celu",
    "hard_shrink",
    "hard_silu",
    "hard_tanh",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu6",
    "soft_shrink",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "tanh_shrink",
)
# Keras activations that a spec may not use, each with the reason.
UNUSABLE = {
    "glu": "it halves the last axis, and Keras gives the next layer a kernel that does not fit",
    "threshold": "it needs two arguments, which a name cannot give; use the layer ReLU, which has a threshold",
}
ACTIVATION_ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "identity": "linear"}

# The output range of bounded activations; all others are unbounded.
RANGES = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "sparse_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "sparsemax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu": (0.0, float("inf")),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, float("inf")),
    "sparse_plus": (0.0, float("inf")),
    "squareplus": (0.0, float("inf")),
    "exponential": (0.0, float("inf")),
    "log_sigmoid": (float("-inf"), 0.0),
    "log_softmax": (float("-inf"), 0.0),
}
PROBABILITIES = ("sigmoid", "hard_sigmoid", "sparse_sigmoid", "softmax", "sparsemax")
SATURATING = ("sigmoid", "tanh", "hard_sigmoid", "softsign", "hard_tanh", "sparse_sigmoid")


def _activation_name(value: Any) -> str:
    if value is None:
        return "linear"
    if isinstance(value, dict) and "config" in value and isinstance(value["config"], str):
        value = value["config"]  # how Keras writes a function
    name = value.lower() if isinstance(value, str) else ""
    name = ACTIVATION_ALIASES.get(name, name)
    if name in ACTIVATIONS:
        return name
    if name in UNUSABLE:
        raise InvalidValue(f"The activation {name} cannot be used: {UNUSABLE[name]}.", received=name)
    detail = f"There is no activation {excerpt(value)} in a spec."
    raise InvalidValue(problems=[unknown_name(detail, value, [*ACTIVATIONS, *ACTIVATION_ALIASES], "")])


Activation = Annotated[
    str,
    BeforeValidator(_activation_name),
    WithJsonSchema({"type": ["string", "null"], "enum": [*ACTIVATIONS, *ACTIVATION_ALIASES, None]}),
]
