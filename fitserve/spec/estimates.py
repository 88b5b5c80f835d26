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
from fitserve.spec.layers.core import Dense, Embedding, Input
from fitserve.spec.layers.recurrent import Bidirectional, Recurrent
from fitserve.spec.training import Training

FLOAT_BYTES = 4
# Fitted to runs of the default network on 14 public tables, on two cores with AVX-512. All durations are 45% longer
# than measured there, to suit slower machines too. `benchmarks.estimates` compares them with what runs take; once runs
# have finished, their pace corrects the seconds.
STARTUP_SECONDS = 0.65  # before and after training, once TensorFlow is loaded: build, trace, export, parity gate
ROW_SECONDS = 5.4e-6  # added to it by each training row: read, encode
CHECKED_ROWS = 20_000  # rows that the evaluation looks at, at most
CHECKED_SECONDS = 1.1e-7  # of the evaluation, per looked-at row, input and output: trees and a linear model learn them
MEMBER_STARTUP_SECONDS = 0.11  # of each further member
MEMBER_CHECKED_SECONDS = 4.8e-5  # of each further member, per looked-at row
EPOCH_SECONDS = 1.2e-3  # fixed cost of an epoch: the call, the validation
TRAINED_ROW_SECONDS = 3.0e-7  # per row and epoch: gather, validate, record
LAYER_SECONDS = 21e-6  # of a layer in a step, forward and backward, whatever its size
SEQUENCE_SECONDS = 41e-6  # added by each step of a recurrent layer's sequence, forward and backward
UPDATE_SECONDS = 8.8e-10  # per step and weight: the optimizer updates all of them
PRODUCTS_PER_SECOND = 8.8e10  # multiply-adds of dense layers
MULTIPLY_ADDS_PER_SECOND = 2.9e10  # of others
MEMBER_SHARE = 0.19  # each further member of a stacked ensemble adds this share of LAYER_SECONDS
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
    multiply_adds = 3 * forward * batch * all_steps * members
    startup = _startup_seconds(graph, training_rows, members)
    step = _step_seconds(graph, rows, batch, members)
    epoch = EPOCH_SECONDS + TRAINED_ROW_SECONDS * batch * steps * members
    trained = all_steps * step + training.epochs * training.restarts * epoch
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
        seconds=_rounded(pace * (startup + trained)),
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


def _startup_seconds(graph: NetworkGraph, rows: int, members: int) -> float:
    """Return the seconds before and after training."""
    inputs = sum(math.prod(node.shape) for node in graph.nodes.values() if isinstance(node.layer, Input))
    outputs = sum(math.prod(node.shape) for node in graph.nodes.values() if node.target)
    looked_at = min(rows, CHECKED_ROWS)
    evaluation = looked_at * (CHECKED_SECONDS * inputs * outputs + MEMBER_CHECKED_SECONDS * (members - 1))
    return STARTUP_SECONDS + MEMBER_STARTUP_SECONDS * (members - 1) + ROW_SECONDS * rows + evaluation


def _step_seconds(graph: NetworkGraph, rows: Sequence[SummaryRow], batch: int, members: int) -> float:
    """Return the seconds of a step of all members, which train side by side where their layers can be stacked."""
    arithmetic = overhead = 0.0
    for row in rows:
        node = graph.nodes[row.name]
        rate = PRODUCTS_PER_SECOND if isinstance(node.layer, Dense) else MULTIPLY_ADDS_PER_SECOND
        arithmetic += UPDATE_SECONDS * row.trainable + 3 * batch * row.multiply_adds / rate
        overhead += LAYER_SECONDS * (not isinstance(node.layer, (Input, Embedding)))
        if isinstance(node.layer, (Recurrent, Bidirectional)):
            both = 2 if isinstance(node.layer, Bidirectional) else 1
            overhead += SEQUENCE_SECONDS * graph.input_shapes(node)[0][0] * both
    stacked = all(type(node.layer).__name__ in STACKED for node in graph.nodes.values())
    return members * arithmetic + overhead * (1 + (MEMBER_SHARE if stacked else 1.0) * (members - 1))


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
