"""Rules on the signals that flow through the network: gradients, dead and saturated units."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitserve.findings import spec_edit
from fitserve.findings.finding import Evidence, rule
from fitserve.findings.record import Json, LayerSnapshot, RunRecord, median
from fitserve.spec.activations import SATURATING

VANISHED = 1e-3
EXPLODED = 30.0
DEAD = 0.4
SATURATED = 0.4
PENALTY_SHARE = 0.5  # share of the baseline's loss above which regularizers silence units on purpose
EARLY_SNAPSHOTS = 3


def _rms_gradient(layer: Json) -> float:
    return float(layer["gradients"]) / math.sqrt(layer["size"])


def _snapshots(record: RunRecord) -> Sequence[LayerSnapshot]:
    return record.trial.snapshots if record.trial else ()


@rule(
    "Vanishing gradients",
    "critical",
    threshold=f"there are four or more weighted layers, and the root mean square gradient of the first is below"
    f" {VANISHED:g} times that of the last (median over the first half of the recorded epochs)",
    source="Hochreiter 1991; Glorot and Bengio, Understanding the difficulty of training deep feedforward neural"
    " networks, AISTATS 2010",
    answer="ReLU with He initialization instead of sigmoid or tanh",
    hides=("stuck_at_baseline", "underfitting", "learning_rate_too_low", "stopped_too_early", "saturated_units"),
    means_underfitting=True,
)
def vanishing_gradients(record: RunRecord) -> Evidence | None:
    ratios = []
    for snapshot in _snapshots(record):
        layers = snapshot.weighted
        if len(layers) >= 4 and (last := _rms_gradient(layers[-1])) > 0:
            ratios.append((snapshot.epoch, _rms_gradient(layers[0]) / last, layers))
    early = ratios[: max(EARLY_SNAPSHOTS, len(ratios) // 2)]
    typical = median(ratio for _, ratio, _ in early)
    if len(early) < 2 or not typical < VANISHED:
        return None
    layers = early[0][2]
    first, last_name = layers[0]["name"], layers[-1]["name"]
    patch = [
        *spec_edit.replace_activations(record.spec, None, SATURATING, "relu", "HeNormal"),
        *spec_edit.standardize_features(record.spec),
    ] or list(spec_edit.reset_initializers(record.spec, "HeNormal"))
    return Evidence(
        f"The gradient in the first layer {first!r} is only {typical:.1e} times that in the last layer, so the early"
        " layers hardly learn. Sigmoid and tanh shrink the gradient at every layer of the backward pass.",
        tuple(epoch for epoch, ratio, _ in early if ratio < VANISHED),
        {"first_over_last": typical, "first": first, "last": last_name},
        tuple(patch),
    )


@rule(
    "Exploding gradients",
    "critical",
    threshold=f"the norm of the whole gradient is above {EXPLODED:g} times the scale of the loss",
    source="Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013",
    answer="clip the gradient's norm at 1, He initialization, standardised inputs",
    hides=("learning_rate_too_high", "stuck_at_baseline", "underfitting"),
)
def exploding_gradients(record: RunRecord) -> Evidence | None:
    snapshots = _snapshots(record)
    scale = max(1.0, math.sqrt(record.baseline)) if record.loss == "MeanSquaredError" and record.baseline else 1.0
    norms = [(one.epoch, math.sqrt(sum(float(layer["gradients"]) ** 2 for layer in one.weighted))) for one in snapshots]
    exploded = [(epoch, norm) for epoch, norm in norms if norm / scale > EXPLODED]
    # Another rule covers a far too high learning rate.
    if not exploded or spec_edit.learning_rate_excess(record.spec) > 10 or len(snapshots[0].weighted) < 2:
        return None
    name, arguments = record.optimizer
    patch = list(spec_edit.reset_initializers(record.spec, "HeNormal"))
    if all(arguments.get(key) is None for key in ("clipnorm", "clipvalue", "global_clipnorm")):
        patch.append(spec_edit.set_value(f"/training/optimizer/{name}/global_clipnorm", 1.0))
    patch += spec_edit.standardize_features(record.spec)
    largest = max(norm for _, norm in exploded)
    return Evidence(
        f"The gradient's norm reached {largest:.2g}: single steps throw the weights far off.",
        tuple(epoch for epoch, _ in exploded),
        {"largest_norm": largest, "scale": scale},
        tuple(patch),
    )


@rule(
    "Dead ReLU units",
    "warning",
    threshold=f"at least {DEAD:.0%} of a hidden layer's ReLU units are 0 on every probed row at the last recorded"
    " epoch",
    source="Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models, 2013; Karpathy,"
    ' CS231n ("as much as 40% of your network can be dead")',
    answer="leaky ReLU with He initialization, standardised inputs, a lower learning rate where it is high",
    hides=("stuck_at_baseline", "underfitting"),
)
def dead_relus(record: RunRecord) -> Evidence | None:
    if record.trial is None or record.trial.penalty > PENALTY_SHARE * (record.baseline or 1.0):
        return None
    # An L1 penalty is meant to silence units.
    sparse = {
        layer.name for layer in spec_edit.layers(record.spec) if spec_edit.has_kernel_penalty(layer, ("L1", "L1L2"))
    }
    dead, worst, epochs = _affected(record.trial.snapshots, "dead", DEAD, sparse)
    if not dead:
        return None
    patch = [
        *spec_edit.replace_activations(record.spec, dead, ("relu", "relu6"), "leaky_relu", "HeNormal"),
        *spec_edit.standardize_features(record.spec),
    ]
    if spec_edit.learning_rate_excess(record.spec) > 3:
        patch += spec_edit.lower_learning_rate(record.spec)
    return Evidence(
        f"{dead[worst]:.0%} of the ReLU units of {worst!r} output 0 on every row: no gradient reaches them any more.",
        epochs,
        {"dead": dead},
        tuple(patch),
    )


@rule(
    "Saturated units",
    "warning",
    threshold=f"at least {SATURATED:.0%} of a hidden layer's sigmoid or tanh units are within 5% of the end of their"
    " range on 95% of the rows at the last recorded epoch",
    source="LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998; Glorot and Bengio 2010",
    answer="standardised inputs, Glorot initialization, a lower learning rate; otherwise ReLU",
    hides=("stuck_at_baseline", "underfitting"),
)
def saturated_units(record: RunRecord) -> Evidence | None:
    saturated, worst, epochs = _affected(_snapshots(record), "saturated", SATURATED)
    if not saturated:
        return None
    patch = [
        *spec_edit.standardize_features(record.spec),
        *spec_edit.reset_initializers(record.spec, "GlorotUniform"),
    ]
    if spec_edit.learning_rate_excess(record.spec) > 3:
        patch += spec_edit.lower_learning_rate(record.spec)
    if not patch:
        patch += spec_edit.replace_activations(record.spec, saturated, SATURATING, "relu", "HeNormal")
    return Evidence(
        f"{saturated[worst]:.0%} of the units of {worst!r} are at the end of their range on nearly every row: their"
        " slope is almost 0, so they no longer learn.",
        epochs,
        {"saturated": saturated},
        tuple(patch),
    )


def _affected(
    snapshots: Sequence[LayerSnapshot], figure: str, limit: float, exempt: set[str] | None = None
) -> tuple[dict[str, float], str, tuple[int, ...]]:
    """Return the layers whose `figure` is at least `limit` at the last snapshot, the worst one, and its epochs."""
    affected = {
        layer["name"]: float(layer[figure])
        for layer in (snapshots[-1].layers if snapshots else ())
        if (layer.get(figure) or 0.0) >= limit and layer["name"] not in (exempt or ())
    }
    worst = max(affected, key=lambda name: affected[name], default="")
    epochs = tuple(
        snapshot.epoch
        for snapshot in snapshots
        if any(layer["name"] == worst and (layer.get(figure) or 0.0) >= limit for layer in snapshot.layers)
    )
    return affected, worst, epochs
