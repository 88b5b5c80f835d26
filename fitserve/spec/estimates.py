"""The cost of a run, by integer arithmetic on its resolved network: nothing is allocated.

A multiply-add is one multiplication with one addition. The backward pass takes twice as many as the forward pass: one
for the gradient of the weights, one for the gradient of the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitserve.errors import Problem
from fitserve.settings import Limits
from fitserve.spec.assessment import Estimates, SummaryRow
from fitserve.spec.ensemble import Ensemble, members_of
from fitserve.spec.graph import GraphNode, NetworkGraph
from fitserve.spec.layers.core import Embedding, Input
from fitserve.spec.layers.recurrent import Bidirectional, Recurrent
from fitserve.spec.training import Training

FLOAT_BYTES = 4
# Measured on two cores with AVX-512; a busy or older machine is slower.
STARTUP_SECONDS = 3.0  # a trainer's overhead once TensorFlow is loaded: build, trace, export, parity gate
STEP_SECONDS = 60e-6  # an empty step of the compiled loop
LAYER_SECONDS = 18e-6  # added by each layer, whatever its size
SEQUENCE_SECONDS = 60e-6  # added by each step of a recurrent layer's sequence, forward and backward
EPOCH_SECONDS = 1.2e-3  # fixed cost of an epoch: the call, the validation
MULTIPLY_ADDS_PER_SECOND = 2.0e10
EMBEDDED_SECONDS = 3.4e-9  # per step and embedding weight: the optimizer updates all of them
# Each further member of a stacked ensemble adds this share of a step: one larger product replaces several small ones.
MEMBER_SHARE = 0.26
STACKED_SPEEDUP = 1.6
MEMBER_STARTUP_SECONDS = 0.3
# Layers that the trainer can stack over members; the trainer itself decides whether to.
STACKED = {
    *("Input", "Dense", "Activation", "LeakyReLU", "ReLU", "ELU", "Identity", "Rescaling", "Concatenate"),
    *("Dropout", "GaussianDropout", "GaussianNoise", "BatchNormalization", "LayerNormalization"),
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Embedding", "Flatten"),
}


def summarize(graph: NetworkGraph) -> list[SummaryRow]:
    """Return the summary table, in the order of the network."""
    return [_summary_row(graph, node) for node in graph.nodes.values()]


def _summary_row(graph: NetworkGraph, node: GraphNode) -> SummaryRow:
    shapes = graph.input_shapes(node)
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


def estimate(
    graph: NetworkGraph,
    rows: Sequence[SummaryRow],
    training: Training,
    training_rows: int,
    members: int = 1,
    pace: float = 1.0,
) -> Estimates:
    """Return all figures of a run. Members of an ensemble train side by side, restarts one after the other."""
    batch = training_rows if training.batch_size == "full" else min(training.batch_size, max(training_rows, 1))
    steps = training.steps_per_epoch or max(1, -(-training_rows // max(batch, 1)))
    all_steps = steps * training.epochs * training.restarts
    parameters, trainable = (sum(row.parameters for row in rows), sum(row.trainable for row in rows))
    parameters, trainable = parameters * members, trainable * members
    forward = sum(row.multiply_adds for row in rows)
    embedded = sum(row.trainable for row in rows if isinstance(graph.nodes[row.name].layer, Embedding))
    multiply_adds = 3 * forward * batch * all_steps * members
    startup = STARTUP_SECONDS + MEMBER_STARTUP_SECONDS * (members - 1)
    activation_bytes = members * batch * _saved_activations(graph) * FLOAT_BYTES
    return Estimates(
        parameters=parameters,
        trainable_parameters=trainable,
        layers=len(rows),
        training_rows=training_rows,
        steps_per_epoch=steps,
        multiply_adds_per_row=forward,
        multiply_adds=multiply_adds,
        activation_bytes=activation_bytes,
        training_bytes=_training_bytes(parameters, trainable, training) + activation_bytes,
        artifact_bytes=parameters * FLOAT_BYTES,
        seconds=_rounded(pace * (startup + _seconds(graph, training, multiply_adds, all_steps, members, embedded))),
        startup_seconds=_rounded(pace * startup),
        epochs=training.epochs * training.restarts,
        pace=_rounded(pace),
    )


def _saved_activations(graph: NetworkGraph) -> int:
    """Return how many numbers per row a step keeps for the backward pass, counting each array once."""
    owner: dict[str, str] = {}  # by layer: the layer that owns the memory of its output
    names: set[str] = set()
    more = 0
    for node in graph.nodes.values():
        in_place = node.layer.shares_memory and node.inputs
        owner[node.name] = owner[node.inputs[0]] if in_place else node.name
        if node.inputs:
            saved = node.layer.saved_activations(graph.input_shapes(node), node.shape)
            names |= {owner[name] for name in node.inputs} if saved.inputs else set()
            names |= {owner[node.name]} if saved.output else set()
            more += saved.more
        if node.target:
            names.add(owner[node.name])
    return more + sum(math.prod(graph.nodes[name].shape) for name in names)


def _training_bytes(parameters: int, trainable: int, training: Training) -> int:
    optimizers = [training.optimizer, *(switch.optimizer for switch in training.switches)]
    arrays = max(one.state_arrays + one.optional_arrays() for one in optimizers)
    return FLOAT_BYTES * (parameters * (1 + len(training.keep_epochs)) + trainable * (1 + arrays))


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _seconds(
    graph: NetworkGraph, training: Training, multiply_adds: int, steps: int, members: int, embedded: int
) -> float:
    """Return the seconds of training alone. `embedded` is the size of a member's embeddings."""
    layers = sequence = 0
    for node in graph.nodes.values():
        layers += not isinstance(node.layer, (Input, Embedding))
        if isinstance(node.layer, (Recurrent, Bidirectional)):
            sequence += graph.input_shapes(node)[0][0] * (2 if isinstance(node.layer, Bidirectional) else 1)
    step = STEP_SECONDS + LAYER_SECONDS * layers + SEQUENCE_SECONDS * sequence
    epochs = training.epochs * training.restarts
    step += EMBEDDED_SECONDS * embedded
    if members > 1 and all(type(node.layer).__name__ in STACKED for node in graph.nodes.values()):
        step *= 1 + MEMBER_SHARE * (members - 1)
        return EPOCH_SECONDS * epochs + step * steps + multiply_adds / (STACKED_SPEEDUP * MULTIPLY_ADDS_PER_SECOND)
    return members * (EPOCH_SECONDS * epochs + step * steps) + multiply_adds / MULTIPLY_ADDS_PER_SECOND


def over_limits(estimates: Estimates, training: Training, ensemble: Ensemble | None, limits: Limits) -> list[Problem]:
    """Return a problem for each limit that the run exceeds."""
    activations, work = estimates.activation_bytes, estimates.multiply_adds
    return [
        *over_limit("layers", estimates.layers, limits.layers, "/network", "layers"),
        *over_limit("parameters", estimates.parameters, limits.parameters, "/network", "parameters"),
        *over_limit(
            "activation_bytes", activations, limits.activation_bytes, "/training/batch_size", "bytes of a batch"
        ),
        *over_limit("epochs", training.epochs, limits.epochs, "/training/epochs", "epochs"),
        *over_limit("trials", training.restarts, limits.trials, "/training/restarts", "restarts"),
        *over_limit("trials", members_of(ensemble), limits.trials, "/ensemble/members", "members"),
        *over_limit("multiply_adds", work, limits.multiply_adds, "/training/epochs", "multiply-adds of the run"),
    ]


def over_limit(name: str, value: int, limit: int, pointer: str, unit: str) -> list[Problem]:
    """Return a problem if a value is above a limit, else nothing."""
    if value <= limit:
        return []
    return [
        Problem(
            f"{value} {unit}: the limit {name} is {limit}.",
            pointer,
            received=value if value < 2**63 else str(value),
            expected=f"at most {limit}",
            fix=f"Use less, or raise FITSERVE_LIMIT_{name.upper()}.",
        )
    ]
