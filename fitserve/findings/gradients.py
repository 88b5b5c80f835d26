"""Rules on what flows through the network: gradients, dead and saturated units."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitserve.findings import spec_edit
from fitserve.findings.finding import Found, Rule
from fitserve.findings.record import Look, Record, median

VANISHED = 1e-3
EXPLODED = 30.0
DEAD = 0.4
SATURATED = 0.4
PRESSED = 0.5
_FRESH_LOOKS = 3


def _rms(layer: object) -> float:
    assert isinstance(layer, dict)
    return float(layer["gradients"]) / math.sqrt(layer["size"])


def _looks(record: Record) -> Sequence[Look]:
    return record.trial.looks if record.trial else ()


def vanishing(record: Record) -> Found | None:
    """The root mean square gradient of the first layer over that of the last, in the first half of the looks."""
    ratios = []
    for look in _looks(record):
        layers = look.weighted
        if len(layers) >= 4 and _rms(layers[-1]) > 0:
            ratios.append((look.epoch, _rms(layers[0]) / _rms(layers[-1]), layers[0]["name"], layers[-1]["name"]))
    early = ratios[: max(_FRESH_LOOKS, len(ratios) // 2)]
    if len(early) < 2 or not median(ratio for _, ratio, _, _ in early) < VANISHED:
        return None
    typical = median(ratio for _, ratio, _, _ in early)
    _, _, first, last = early[0]
    patch = [
        *spec_edit.activations(record.spec, None, spec_edit.SATURATING, "relu", "HeNormal"),
        *spec_edit.scaled_features(record.spec),
    ] or list(spec_edit.fresh_initializers(record.spec, "HeNormal"))
    return Found(
        f"The gradient that reaches the first layer {first!r} is {typical:.1e} of the last layer's: the layers in front"
        " hardly learn. Sigmoid and tanh shrink the gradient at every layer on its way back.",
        tuple(epoch for epoch, ratio, _, _ in early if ratio < VANISHED),
        {"first_over_last": typical, "first": first, "last": last},
        tuple(patch),
    )


def exploding(record: Record) -> Found | None:
    """The norm of the whole gradient, against the scale of the loss."""
    scale = max(1.0, math.sqrt(record.baseline)) if record.loss == "MeanSquaredError" and record.baseline else 1.0
    found = []
    for look in _looks(record):
        norm = math.sqrt(sum(float(layer["gradients"]) ** 2 for layer in look.weighted))
        if norm / scale > EXPLODED:
            found.append((look.epoch, norm))
    known = spec_edit.learning_rate(record.spec)
    far_too_fast = known is not None and known[0] > 10 * spec_edit.sane_rate(record.spec)  # another rule's business
    if not found or far_too_fast or len(_looks(record)[0].weighted) < 2:
        return None
    name, arguments = record.optimizer
    patch = list(spec_edit.fresh_initializers(record.spec, "HeNormal"))
    if all(arguments.get(key) is None for key in ("clipnorm", "clipvalue", "global_clipnorm")):
        patch.append(spec_edit.replace(f"/training/optimizer/{name}/global_clipnorm", 1.0))
    patch += spec_edit.scaled_features(record.spec)
    worst = max(norm for _, norm in found)
    return Found(
        f"The gradient's norm reached {worst:.2g}: single steps throw the weights far away.",
        tuple(epoch for epoch, _ in found),
        {"largest_norm": worst, "scale": scale},
        tuple(patch),
    )


def dead_relus(record: Record) -> Found | None:
    """The share of hidden ReLU units that are 0 on every row of the probe, at the last look."""
    looks = _looks(record)
    if record.trial is None or not looks:
        return None
    if record.trial.penalty > PRESSED * (record.baseline or 1.0):
        return None  # regularizers silence them, which is what those are for
    silent = {p.name for p in spec_edit.places(record.spec) if spec_edit.has_penalty(p, ("L1", "L1L2"))}
    dead = {
        layer["name"]: float(layer["dead"])
        for layer in looks[-1].layers
        if (layer.get("dead") or 0.0) >= DEAD and layer["name"] not in silent
    }
    if not dead:
        return None
    worst = max(dead, key=lambda name: dead[name])
    patch = [
        *spec_edit.activations(record.spec, dead, ("relu", "relu6"), "leaky_relu", "HeNormal"),
        *spec_edit.scaled_features(record.spec),
    ]
    known = spec_edit.learning_rate(record.spec)
    if known is not None and known[0] > 3 * spec_edit.sane_rate(record.spec):
        patch += spec_edit.slower(record.spec)
    since = [
        look.epoch
        for look in looks
        if any(layer["name"] == worst and (layer.get("dead") or 0.0) >= DEAD for layer in look.layers)
    ]
    return Found(
        f"{dead[worst]:.0%} of the ReLU units of {worst!r} are 0 on every row: no gradient reaches them any more.",
        tuple(since),
        {"dead": dead},
        tuple(patch),
    )


def saturated_units(record: Record) -> Found | None:
    """The share of hidden sigmoid and tanh units at the end of their range on nearly every row, at the last look."""
    looks = _looks(record)
    if not looks:
        return None
    stuck = {
        layer["name"]: float(layer["saturated"])
        for layer in looks[-1].layers
        if (layer.get("saturated") or 0.0) >= SATURATED
    }
    if not stuck:
        return None
    worst = max(stuck, key=lambda name: stuck[name])
    patch = [*spec_edit.scaled_features(record.spec), *spec_edit.fresh_initializers(record.spec, "GlorotUniform")]
    known = spec_edit.learning_rate(record.spec)
    if known is not None and known[0] > 3 * spec_edit.sane_rate(record.spec):
        patch += spec_edit.slower(record.spec)
    if not patch:
        patch = list(spec_edit.activations(record.spec, stuck, spec_edit.SATURATING, "relu", "HeNormal"))
    return Found(
        f"{stuck[worst]:.0%} of the units of {worst!r} stand at the end of their range on nearly every row: their slope"
        " is almost 0, so that they no longer learn.",
        tuple(
            look.epoch
            for look in looks
            if any(layer["name"] == worst and (layer.get("saturated") or 0.0) >= SATURATED for layer in look.layers)
        ),
        {"saturated": stuck},
        tuple(patch),
    )


RULES = (
    Rule(
        "vanishing_gradients",
        "Vanishing gradients",
        "critical",
        f"four or more weighted layers, and the first one's root mean square gradient below {VANISHED:g} of the last"
        " one's (median over the first half of the looks)",
        "Hochreiter 1991; Glorot and Bengio, Understanding the difficulty of training deep feedforward neural"
        " networks, AISTATS 2010",
        "ReLU with He initialization in place of sigmoid or tanh",
        vanishing,
        ("stuck_at_baseline", "underfitting", "learning_rate_too_low", "stopped_too_early", "saturated_units"),
    ),
    Rule(
        "exploding_gradients",
        "Exploding gradients",
        "critical",
        f"the norm of the whole gradient above {EXPLODED:g} times the scale of the loss",
        "Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013",
        "clip the gradient's norm at 1, start from He initialization, standardise inputs",
        exploding,
        ("learning_rate_too_high", "stuck_at_baseline", "underfitting"),
    ),
    Rule(
        "dead_relus",
        "Dead ReLU units",
        "warning",
        f"at least {DEAD:.0%} of a hidden layer's ReLU units 0 on every row of the probe, at the last look",
        "Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models, 2013; Karpathy, CS231n"
        ' ("as much as 40% of your network can be dead")',
        "leaky ReLU with He initialization, standardised inputs, a lower learning rate where it is high",
        dead_relus,
        ("stuck_at_baseline", "underfitting"),
    ),
    Rule(
        "saturated_units",
        "Saturated units",
        "warning",
        f"at least {SATURATED:.0%} of a hidden layer's sigmoid or tanh units within 5% of the end of their range on 95%"
        " of the rows, at the last look",
        "LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998; Glorot and Bengio 2010",
        "standardised inputs, Glorot initialization, a lower learning rate; else ReLU",
        saturated_units,
        ("stuck_at_baseline", "underfitting"),
    ),
)
