"""Warnings: what is legal and unwise, with the change that answers it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.activations import SATURATING
from fitserve.spec.estimates import Estimates
from fitserve.spec.feature import Feature
from fitserve.spec.layers.core import Dense, Embedding
from fitserve.spec.layers.noise import AlphaDropout
from fitserve.spec.layers.normalization import BatchNormalization
from fitserve.spec.layers.recurrent import Recurrent
from fitserve.spec.layers.shaping import Rescaling
from fitserve.spec.outputs import activation_of
from fitserve.spec.split import SplitSpec
from fitserve.spec.training import Training
from fitserve.spec.wiring import Wiring

DEEP = 4  # saturating layers in a row whose gradients vanish
UNSCALED = 10.0  # a feature whose values reach beyond it and are passed through


class Advice(BaseModel):
    """Something legal and unwise."""

    model_config = ConfigDict(frozen=True)

    code: str
    detail: str
    pointer: str
    fix: str | None = None


def advice(
    wiring: Wiring,
    features: Sequence[Feature],
    split: SplitSpec,
    training: Training,
    estimates: Estimates,
    facts: DatasetFacts,
) -> list[Advice]:
    """Everything that is unwise about a resolved spec."""
    return [
        *_saturating(wiring),
        *_unscaled(wiring, features, facts),
        *_batches(wiring, training, estimates),
        *_schedule(training, estimates),
        *_size(wiring, estimates),
        *_held_out(split, training, estimates),
    ]


def _saturating(wiring: Wiring) -> list[Advice]:
    depth: dict[str, int] = {}
    for node in wiring.nodes.values():
        before = max((depth[name] for name in node.inputs), default=0)
        resets = isinstance(node.layer, BatchNormalization)
        activation = None if isinstance(node.layer, Recurrent) else activation_of(node.layer)
        unbounded = activation not in (None, "linear") and activation not in SATURATING
        depth[node.name] = 0 if resets or unbounded else before + (activation in SATURATING and node.target is None)
    deepest = max(depth.values(), default=0)
    if deepest < DEEP:
        return []
    name = next(name for name, value in depth.items() if value == deepest)
    activation = activation_of(wiring.nodes[name].layer)
    return [
        Advice(
            code="vanishing-gradients",
            detail=f"{activation} in {deepest} layers one after the other: gradients vanish on the way back.",
            pointer=wiring.nodes[name].pointer,
            fix="activation: relu, or BatchNormalization between them",
        )
    ]


def _unscaled(wiring: Wiring, features: Sequence[Feature], facts: DatasetFacts) -> list[Advice]:
    scaled_inputs = {
        source
        for node in wiring.nodes.values()
        if isinstance(node.layer, (BatchNormalization, Rescaling))
        for source in node.inputs
    }
    found = []
    for index, feature in enumerate(features):
        column = facts.by_name[feature.column]
        reach = max(abs(column.min or 0.0), abs(column.max or 0.0))
        passed = feature.encoding is not None and not feature.encoding.rescales
        if passed and reach > UNSCALED and feature.input not in scaled_inputs:
            found.append(
                Advice(
                    code="unscaled-input",
                    detail=f"{feature.column!r} goes up to {reach:g} and is not scaled: training is slow or diverges.",
                    pointer=f"/features/{index}",
                    fix="encoding: standardize",
                )
            )
    return found


def _batches(wiring: Wiring, training: Training, estimates: Estimates) -> list[Advice]:
    found = []
    size = training.batch_size
    if size != "full" and size > estimates.training_rows:
        found.append(
            Advice(
                code="batch-larger-than-table",
                detail=f"A batch of {size} is larger than the {estimates.training_rows} training rows.",
                pointer="/training/batch_size",
                fix="batch_size: full",
            )
        )
    if size == 1 and any(isinstance(node.layer, BatchNormalization) for node in wiring.nodes.values()):
        found.append(
            Advice(
                code="batch-of-one",
                detail="BatchNormalization over a batch of one row makes every number 0.",
                pointer="/training/batch_size",
                fix="batch_size: 32",
            )
        )
    if not training.shuffle and size != "full":
        found.append(
            Advice(
                code="not-shuffled",
                detail="Rows come in the table's order every epoch; if it is sorted, batches are one-sided.",
                pointer="/training/shuffle",
                fix="shuffle: true",
            )
        )
    return found


def _schedule(training: Training, estimates: Estimates) -> list[Advice]:
    found = []
    rate = training.optimizer.learning_rate
    name = type(training.optimizer).__name__
    if isinstance(rate, float) and rate > (1.0 if name in ("SGD", "Adadelta", "Adagrad") else 0.1):
        found.append(
            Advice(
                code="large-learning-rate",
                detail=f"A learning rate of {rate:g} is large for {name}: the loss will probably diverge.",
                pointer="/training/optimizer",
                fix="learning_rate: 0.001",
            )
        )
    if isinstance(rate, float) and rate == 0.0:
        found.append(
            Advice(
                code="no-learning",
                detail="A learning rate of 0 learns nothing.",
                pointer="/training/optimizer",
                fix="learning_rate: 0.001",
            )
        )
    steps = estimates.steps_per_epoch * training.epochs
    decay = getattr(rate, "decay_steps", None)
    if decay is not None and decay > 10 * steps:
        found.append(
            Advice(
                code="slow-decay",
                detail=f"The learning rate decays over {decay} steps; the run has {steps}.",
                pointer="/training/optimizer",
                fix=f"decay_steps: {steps}",
            )
        )
    stopping = training.early_stopping
    if stopping is not None and stopping.patience == 0 and training.epochs > 1:
        found.append(
            Advice(
                code="no-patience",
                detail="Early stopping with patience 0 ends at the first epoch that is no better.",
                pointer="/training/early_stopping/patience",
                fix="patience: 10",
            )
        )
    if stopping is not None and not stopping.monitor.startswith("val_"):
        found.append(
            Advice(
                code="watching-training",
                detail=f"Early stopping on {stopping.monitor!r} of the training rows does not see overfitting.",
                pointer="/training/early_stopping/monitor",
                fix="monitor: val_loss",
            )
        )
    return found


def _size(wiring: Wiring, estimates: Estimates) -> list[Advice]:
    found = []
    if estimates.parameters > 100 * estimates.training_rows > 0:
        found.append(
            Advice(
                code="more-parameters-than-rows",
                detail=f"{estimates.parameters} parameters can learn {estimates.training_rows} rows by heart.",
                pointer="/network",
                fix="Fewer units, Dropout or a regularizer, and early_stopping",
            )
        )
    for node in wiring.nodes.values():
        reads_integers = any(str(getattr(wiring.nodes[name].layer, "dtype", "")) == "int32" for name in node.inputs)
        if reads_integers and not isinstance(node.layer, Embedding):
            found.append(
                Advice(
                    code="integers-as-numbers",
                    detail=f"{node.name!r} reads integers that stand for categories or words as if they were amounts.",
                    pointer=node.pointer,
                    fix="Put an Embedding before it.",
                )
            )
        if isinstance(node.layer, Dense) and node.layer.activation == "softmax" and node.target is None:
            found.append(
                Advice(
                    code="hidden-softmax",
                    detail=f"softmax in the hidden layer {node.name!r} lets few units through.",
                    pointer=node.pointer,
                    fix="activation: relu",
                )
            )
        if activation_of(node.layer) in ("softmax", "sparsemax") and node.shape[-1:] == (1,):
            found.append(
                Advice(
                    code="constant-layer",
                    detail=f"softmax over one number always says 1: nothing passes through {node.name!r}.",
                    pointer=node.pointer,
                    fix="activation: sigmoid",
                )
            )
        if isinstance(node.layer, AlphaDropout) and "selu" not in {
            activation_of(n.layer) for n in wiring.nodes.values()
        }:
            found.append(
                Advice(code="alpha-dropout", detail="AlphaDropout is for selu.", pointer=node.pointer, fix="Dropout")
            )
    return found


def _held_out(split: SplitSpec, training: Training, estimates: Estimates) -> list[Advice]:
    if split.validation > 0 or split.method == "column":
        return []
    why = "restarts are compared" if training.restarts > 1 else "overfitting is seen"
    return [
        Advice(
            code="nothing-held-out",
            detail=f"No rows are held out for validation, by which {why}.",
            pointer="/split/validation",
            fix="split: {validation: 0.2}",
        )
    ]
