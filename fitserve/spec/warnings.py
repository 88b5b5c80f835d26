"""Warnings about a resolved spec: what is valid but unwise, with the change that fixes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.activations import SATURATING
from fitserve.spec.assessment import Advice, Estimates
from fitserve.spec.ensemble import Ensemble, members_of
from fitserve.spec.feature import Feature
from fitserve.spec.graph import GraphNode, NetworkGraph
from fitserve.spec.layers.core import Dense, Embedding
from fitserve.spec.layers.normalization import BatchNormalization
from fitserve.spec.layers.recurrent import Recurrent
from fitserve.spec.layers.regularization import AlphaDropout
from fitserve.spec.layers.shaping import Rescaling
from fitserve.spec.output import SMALL, SOFTMAX, activation_of, needs_scaling
from fitserve.spec.spec import SplitSpec
from fitserve.spec.target import Target
from fitserve.spec.training import Training

DEEP = 4  # consecutive saturating layers through which gradients vanish
RARE_ROWS = 5  # rows of a label below which a part may get none
UNSCALED = 10.0  # magnitude from which a feature should be scaled
PARAMETERS_PER_ROW = 100
LARGE_ROWS = 2_000_000_000  # bytes of encoded rows from which a warning is given


def warnings_for(
    graph: NetworkGraph,
    targets: Sequence[Target],
    features: Sequence[Feature],
    split: SplitSpec,
    training: Training,
    ensemble: Ensemble | None,
    estimates: Estimates,
    facts: DatasetFacts,
) -> list[Advice]:
    """Return all warnings about a resolved spec."""
    return [
        *_targets(targets, facts),
        *_rare_labels(targets, split, facts),
        *_vanishing_gradients(graph),
        *_unscaled_inputs(graph, features, facts),
        *_batches(graph, training, estimates),
        *_schedule(training, estimates),
        *_early_stopping(training),
        *_layers(graph, training, ensemble, estimates),
        *_held_out(split, training, ensemble),
        *_large_rows(estimates, facts),
    ]


def _warning(code: str, pointer: str, detail: str, fix: str) -> Advice:
    return Advice(code=code, detail=detail, pointer=pointer, fix=fix)


def _targets(targets: Sequence[Target], facts: DatasetFacts) -> Iterator[Advice]:
    for index, target in enumerate(targets):
        column, pointer = facts.by_name[target.column], "/target" if len(targets) == 1 else f"/target/{index}"
        if target.task != "regression" or column.std is None:
            continue
        shown = f"mean {column.mean or 0.0:.6g}, standard deviation {column.std:.3g}"
        if column.distinct == 1 or column.std == 0:
            detail = f"{target.name!r} is {column.min:g} in every row: there is nothing to learn."
            yield _warning("constant-target", pointer, detail, "Choose another target.")
        elif column.std < SMALL and target.standardize:
            detail = f"{target.name!r} has a tiny scale ({shown}): it is trained in units of its standard deviation."
            yield _warning(
                "target-scale", f"{pointer}/standardize", detail, "Nothing to do; predictions keep its unit."
            )
        elif needs_scaling(column) and not target.standardize:
            detail = f"{target.name!r} ({shown}) is not standardised: training is slow, or never gets near it."
            fix = "standardize: true, with a linear output and MeanSquaredError, MeanAbsoluteError, Huber or LogCosh"
            yield _warning("target-scale", f"{pointer}/standardize", detail, fix)


def _rare_labels(targets: Sequence[Target], split: SplitSpec, facts: DatasetFacts) -> Iterator[Advice]:
    """Warn about labels that are probably absent from some part of the split."""
    parts = 1 + (split.validation > 0 or split.method == "column") + (split.test > 0 or split.method == "column")
    for index, target in enumerate(targets):
        column = facts.by_name[target.column]
        if target.task not in ("binary", "multiclass") or column.labels is None or column.label_counts is None:
            continue
        counts = dict(zip(column.labels, column.label_counts, strict=True))
        stratified = split.method == "stratified" and split.by in (None, target.column)
        rare = {label: count for label, count in counts.items() if count < (parts if stratified else RARE_ROWS)}
        if not rare:
            continue
        shown = ", ".join(f"{label!r} ({count})" for label, count in list(rare.items())[:10])
        where = (
            "validation or test rows, so it is not measured" if stratified else "training rows, so it is not learned"
        )
        detail = f"Labels of {target.name!r} with few rows: {shown}. Such a label may have no {where}."
        fix = "More rows of them, or one label for all rare ones" + ("" if stratified else "; split: stratified")
        yield _warning("rare-labels", "/target" if len(targets) == 1 else f"/target/{index}", detail, fix)


def _large_rows(estimates: Estimates, facts: DatasetFacts) -> Iterator[Advice]:
    if estimates.rows_bytes >= LARGE_ROWS:
        size = f"{estimates.rows_bytes / 1e9:.1f} GB"
        detail = f"{facts.rows} encoded rows take {size}: what exceeds a sixth of a worker's memory is read from disk."
        yield _warning("large-rows", "/features", detail, "Fewer or narrower columns, or index instead of one_hot")


def _has_batch_normalization(graph: NetworkGraph) -> bool:
    return any(isinstance(node.layer, BatchNormalization) for node in graph.nodes.values())


def _vanishing_gradients(graph: NetworkGraph) -> Iterator[Advice]:
    depth: dict[str, int] = {}  # number of consecutive saturating layers that end at each layer
    for node in graph.nodes.values():
        before = max((depth[name] for name in node.inputs), default=0)
        activation = None if isinstance(node.layer, Recurrent) else activation_of(node.layer)
        unbounded = activation not in (None, "linear", *SATURATING)
        resets = unbounded or isinstance(node.layer, BatchNormalization)
        depth[node.name] = 0 if resets else before + (activation in SATURATING and node.target is None)
    deepest = max(depth.values(), default=0)
    if deepest >= DEEP:
        node = graph.nodes[next(name for name, value in depth.items() if value == deepest)]
        detail = f"{activation_of(node.layer)} in {deepest} layers in a row: gradients vanish in the backward pass."
        fix = "activation: relu, or BatchNormalization between them"
        yield _warning("vanishing-gradients", node.pointer, detail, fix)


def _unscaled_inputs(graph: NetworkGraph, features: Sequence[Feature], facts: DatasetFacts) -> Iterator[Advice]:
    rescaling = [node for node in graph.nodes.values() if isinstance(node.layer, (BatchNormalization, Rescaling))]
    scaled = {source for node in rescaling for source in node.inputs}
    for index, feature in enumerate(features):
        column = facts.by_name[feature.column]
        largest = max(abs(column.min or 0.0), abs(column.max or 0.0))
        encoding = getattr(feature.encoding, "type", None)
        if encoding == "pass_through" and largest > UNSCALED and feature.input not in scaled:
            detail = f"{feature.column!r} goes up to {largest:g} and is not scaled: training is slow or diverges."
            yield _warning("unscaled-input", f"/features/{index}", detail, "encoding: standardize")


def _batches(graph: NetworkGraph, training: Training, estimates: Estimates) -> Iterator[Advice]:
    size, rows, pointer = training.batch_size, estimates.training_rows, "/training/batch_size"
    if size != "full" and size > rows:
        detail = f"A batch of {size} is larger than the {rows} training rows."
        yield _warning("batch-larger-than-table", pointer, detail, "batch_size: full")
    single = size == 1 or (size != "full" and size < rows and rows % size == 1)
    if single and _has_batch_normalization(graph):
        last = "" if size == 1 else f" The last of {rows} rows in batches of {size} is alone."
        detail = f"BatchNormalization over a batch of one row makes every number 0.{last}"
        yield _warning("batch-of-one", pointer, detail, "batch_size: 32")
    if not training.shuffle and size != "full":
        detail = "Rows come in the table's order every epoch; if it is sorted, batches are biased."
        yield _warning("not-shuffled", "/training/shuffle", detail, "shuffle: true")


def _schedule(training: Training, estimates: Estimates) -> Iterator[Advice]:
    optimizer, pointer = training.optimizer, "/training/optimizer"
    rate, steps = optimizer.learning_rate, estimates.steps_per_epoch * training.epochs
    if isinstance(rate, float) and rate > optimizer.large_learning_rate:
        detail = f"A learning rate of {rate:g} is large for {type(optimizer).__name__}: the loss will probably diverge."
        yield _warning("large-learning-rate", pointer, detail, "learning_rate: 0.001")
    for index, switch in enumerate(training.switches):
        later = switch.optimizer.learning_rate
        if isinstance(later, float) and later > switch.optimizer.large_learning_rate:
            kind, at = type(switch.optimizer).__name__, f"/training/switches/{index}/optimizer"
            detail = f"A learning rate of {later:g} is large for {kind}: the loss will probably diverge."
            yield _warning("large-learning-rate", at, detail, "learning_rate: 0.001")
    if rate == 0.0:
        yield _warning("no-learning", pointer, "With a learning rate of 0, nothing is learned.", "learning_rate: 0.001")
    decay = getattr(rate, "decay_steps", None)
    if decay is not None and decay > 10 * steps:
        detail = f"The learning rate decays over {decay} steps; the run has {steps}."
        yield _warning("slow-decay", pointer, detail, f"decay_steps: {steps}")


def _early_stopping(training: Training) -> Iterator[Advice]:
    stopping, pointer = training.early_stopping, "/training/early_stopping"
    if stopping is not None and stopping.patience == 0 and training.epochs > 1:
        detail = "Early stopping with patience 0 stops at the first epoch without improvement."
        yield _warning("no-patience", f"{pointer}/patience", detail, "patience: 10")
    if stopping is not None and not stopping.monitor.startswith("val_"):
        detail = f"Early stopping on {stopping.monitor!r} of the training rows does not notice overfitting."
        yield _warning("watching-training", f"{pointer}/monitor", detail, "monitor: val_loss")


def _layers(
    graph: NetworkGraph, training: Training, ensemble: Ensemble | None, estimates: Estimates
) -> Iterator[Advice]:
    parameters = estimates.parameters // members_of(ensemble)
    # Early stopping on held-out rows ends a run before it memorises the training rows.
    guarded = training.early_stopping is not None and training.early_stopping.monitor.startswith("val_")
    if parameters > PARAMETERS_PER_ROW * estimates.training_rows > 0 and not guarded:
        detail = f"{parameters} parameters can memorise {estimates.training_rows} rows."
        fix = "early_stopping on val_loss; or fewer units, Dropout or a regularizer"
        yield _warning("more-parameters-than-rows", "/network", detail, fix)
    activations = {activation_of(node.layer) for node in graph.nodes.values()}
    for node in graph.nodes.values():
        yield from _layer(node, graph, activations)


def _layer(node: GraphNode, graph: NetworkGraph, activations: set[str | None]) -> Iterator[Advice]:
    pointer, name, layer = node.pointer, node.name, node.layer
    reads_integers = any(getattr(graph.nodes[source].layer, "dtype", "") == "int32" for source in node.inputs)
    if reads_integers and not isinstance(layer, Embedding):
        detail = f"{name!r} reads integers that stand for categories or words as if they were quantities."
        yield _warning("integers-as-numbers", pointer, detail, "Put an Embedding before it.")
    if isinstance(layer, Dense) and layer.activation == "softmax" and node.target is None:
        detail = f"softmax in the hidden layer {name!r} lets few units through."
        yield _warning("hidden-softmax", pointer, detail, "activation: relu")
    if activation_of(layer) in SOFTMAX and node.shape[-1:] == (1,):
        detail = f"softmax over one number is always 1: nothing passes through {name!r}."
        yield _warning("constant-layer", pointer, detail, "activation: sigmoid")
    if isinstance(layer, AlphaDropout) and "selu" not in activations:
        yield _warning("alpha-dropout", pointer, "AlphaDropout is for selu.", "Dropout")


def _held_out(split: SplitSpec, training: Training, ensemble: Ensemble | None) -> Iterator[Advice]:
    if ensemble is not None and ensemble.validation == "folds":
        return
    if split.validation == 0 and split.method != "column":
        use = "compare restarts" if training.restarts > 1 else "detect overfitting"
        detail = f"No rows are held out for validation, so there are none to {use}."
        yield _warning("nothing-held-out", "/split/validation", detail, "split: {validation: 0.2}")
