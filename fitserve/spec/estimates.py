"""What a run will take, by integer arithmetic on its resolved network: nothing is allocated.

Sources of the figures: a multiply-add is one multiplication with one addition; training does those of the way
forward, and twice as many on the way back (one for the gradient of the weights, one for that of the inputs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from fitserve.errors import Problem
from fitserve.settings import Limits
from fitserve.spec.layers.core import Embedding, Input
from fitserve.spec.layers.layer import Kept
from fitserve.spec.layers.recurrent import Bidirectional, Recurrent
from fitserve.spec.training import Training
from fitserve.spec.wiring import Wired, Wiring

BYTES = 4  # of a float32
# Arrays of the weights' size that an optimizer keeps; Muon and Adafactor are bounded from above.
SLOTS = {
    "SGD": 0,
    "RMSprop": 1,
    "Adam": 2,
    "AdamW": 2,
    "Nadam": 2,
    "Adamax": 2,
    "Lamb": 2,
    "Adagrad": 1,
    "Adadelta": 2,
    "Ftrl": 2,
    "Lion": 1,
    "Adafactor": 1,
    "Muon": 2,
    "ScheduleFreeAdamW": 2,
}
START_SECONDS = 3.0  # a trainer with TensorFlow loaded: build, trace, export, parity gate
STEP_SECONDS = 60e-6  # an empty step of the compiled loop
LAYER_SECONDS = 18e-6  # each layer adds, whatever its size
SEQUENCE_SECONDS = 60e-6  # each step of a recurrent layer's sequence adds, both ways
MULTIPLY_ADDS_A_SECOND = 2.0e10  # two cores with AVX-512; a busy or older machine has less


class SummaryRow(BaseModel):
    """One row of the table that `model.summary()` prints."""

    model_config = ConfigDict(frozen=True)

    name: str
    layer: str
    output_shape: tuple[int | None, ...] = Field(description="The batch first, as null")
    parameters: int
    trainable: int
    inputs: tuple[str, ...] = Field(description="The layers it is connected to")
    multiply_adds: int = Field(description="Of one row, forward")


class Estimates(BaseModel):
    """What the run will take."""

    model_config = ConfigDict(frozen=True)

    parameters: int
    trainable_parameters: int
    layers: int
    training_rows: int
    steps_per_epoch: int
    multiply_adds_per_row: int = Field(description="Forward")
    multiply_adds: int = Field(description="Of all restarts and epochs, forward and back, if none stops early")
    activation_bytes: int = Field(description="What one batch leaves behind for the way back")
    training_bytes: int = Field(description="Weights, gradients, the optimizer's arrays and one batch")
    artifact_bytes: int = Field(description="The weights alone, in 32 bits")
    seconds: float = Field(description="On two cores, if nothing stops early; a guess")


def summary(wiring: Wiring) -> list[SummaryRow]:
    """The table, in the order of the network."""
    return [_row(wiring, node) for node in wiring.nodes.values()]


def _row(wiring: Wiring, node: Wired) -> SummaryRow:
    shapes = wiring.inputs_of(node)
    weights = node.layer.weights(shapes) if shapes else []
    return SummaryRow(
        name=node.name,
        layer=type(node.layer).__name__,
        output_shape=(None, *node.shape),
        parameters=sum(weight.size for weight in weights),
        trainable=sum(weight.size for weight in weights if weight.trainable),
        inputs=node.inputs,
        multiply_adds=node.layer.multiply_adds(shapes, node.shape) if shapes else 0,
    )


def estimate(wiring: Wiring, rows: Sequence[SummaryRow], training: Training, training_rows: int) -> Estimates:
    """All figures of a run."""
    batch = training_rows if training.batch_size == "full" else min(training.batch_size, max(training_rows, 1))
    steps = training.steps_per_epoch or max(1, -(-training_rows // max(batch, 1)))
    parameters = sum(row.parameters for row in rows)
    trainable = sum(row.trainable for row in rows)
    forward = sum(row.multiply_adds for row in rows)
    total = 3 * forward * batch * steps * training.epochs * training.restarts
    activations = batch * _kept(wiring) * BYTES
    return Estimates(
        parameters=parameters,
        trainable_parameters=trainable,
        layers=len(rows),
        training_rows=training_rows,
        steps_per_epoch=steps,
        multiply_adds_per_row=forward,
        multiply_adds=total,
        activation_bytes=activations,
        training_bytes=_training_bytes(parameters, trainable, training) + activations,
        artifact_bytes=parameters * BYTES,
        seconds=_seconds(wiring, total, steps * training.epochs * training.restarts, training),
    )


def _kept(wiring: Wiring) -> int:
    """Numbers of one row that a step holds for the way back: each array once, whoever reads it."""
    root: dict[str, str] = {}
    held: set[str] = set()
    more = 0
    for node in wiring.nodes.values():
        root[node.name] = root[node.inputs[0]] if node.layer.alias and node.inputs else node.name
        kept = node.layer.kept(wiring.inputs_of(node), node.shape) if node.inputs else Kept()
        held |= {root[name] for name in node.inputs} if kept.inputs else set()
        held |= {root[node.name]} if kept.output or node.target else set()
        more += kept.more
    return more + sum(math.prod(wiring.nodes[name].shape) for name in held)


def _training_bytes(parameters: int, trainable: int, training: Training) -> int:
    optimizer = training.optimizer
    slots = SLOTS[type(optimizer).__name__]
    if getattr(optimizer, "momentum", 0) and slots < 2:
        slots += 1
    slots += bool(getattr(optimizer, "amsgrad", False)) + bool(getattr(optimizer, "centered", False))
    slots += optimizer.use_ema + (optimizer.gradient_accumulation_steps is not None)
    return BYTES * (parameters * (1 + len(training.keep_epochs)) + trainable * (1 + slots))


def _seconds(wiring: Wiring, multiply_adds: int, steps: int, training: Training) -> float:
    layers = sum(not isinstance(node.layer, (Input, Embedding)) for node in wiring.nodes.values())
    sequence = sum(
        wiring.inputs_of(node)[0][0] * (2 if isinstance(node.layer, Bidirectional) else 1)
        for node in wiring.nodes.values()
        if isinstance(node.layer, (Recurrent, Bidirectional))
    )
    step = STEP_SECONDS + LAYER_SECONDS * layers + SEQUENCE_SECONDS * sequence
    return float(f"{START_SECONDS + step * steps + multiply_adds / MULTIPLY_ADDS_A_SECOND:.3g}")


def over_limits(found: Estimates, training: Training, limits: Limits) -> list[Problem]:
    """A problem for each limit that the run is above."""
    bounds = (
        ("layers", found.layers, limits.layers, "/network", "layers"),
        ("parameters", found.parameters, limits.parameters, "/network", "parameters"),
        (
            "activation_bytes",
            found.activation_bytes,
            limits.activation_bytes,
            "/training/batch_size",
            "bytes of a batch",
        ),
        ("epochs", training.epochs, limits.epochs, "/training/epochs", "epochs"),
        ("trials", training.restarts, limits.trials, "/training/restarts", "restarts"),
        ("multiply_adds", found.multiply_adds, limits.multiply_adds, "/training/epochs", "multiply-adds of the run"),
    )
    return [
        Problem(
            f"{value} {what}: the limit {name} is {limit}.",
            pointer,
            received=value if value < 2**63 else str(value),
            expected=f"at most {limit}",
            fix=f"Ask for less, or raise FITSERVE_LIMIT_{name.upper()}.",
        )
        for name, value, limit, pointer, what in bounds
        if value > limit
    ]
