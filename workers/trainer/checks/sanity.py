"""The sanity suite: tests that a correctly built and fed network passes on any data.

Karpathy, A Recipe for Training Neural Networks (2019), describes each of these checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fitserve.spec.spec import Spec
from fitserve.strictjson import finite_json
from workers.trainer.checks.quick_network import QuickNetwork, first_rate, take_rows, with_labels_of, without_inputs

_BATCH = 32
_STEPS = 1500  # with one batch
_FITTED = 0.1  # share of the best constant's loss below which a batch is memorised
_LEARNING_STEPS = 400
_SHUFFLES = 5
_ERRORS = 2.8  # standard errors of their mean: 95% of Student's distribution
_MARGIN = 0.95  # share of the loss without inputs below which the network has learnt something
_BEGINNING = (0.5, 2.0)  # range for the ratio of the first loss to the expected one
_FAR = 10.0  # largest ratio of a target's mean square to its variance


@dataclass(frozen=True, slots=True)
class SanityResult:
    """One check: whether it passed, what was measured, and what was expected."""

    check: str
    passed: bool | None  # None: the check could not be run
    observed: float | None
    expected: str
    says: str
    fix: str | None = None


def sanity(network: QuickNetwork, spec: Spec) -> list[dict[str, Any]]:
    """Run every check. Raises TrainingStopped."""
    checks = (_first_loss, _one_batch, _shuffled_labels, _inputs_matter)
    return [asdict(check(network, spec)) for check in checks]


def _first_loss(network: QuickNetwork, spec: Spec) -> SanityResult:
    name = "first_loss"
    wanted = _uninformed_loss(spec, network.train.y)
    if wanted is None:
        return SanityResult(
            name, None, None, "known for cross-entropy, squared and absolute errors", "Not checked for this loss."
        )
    network.begin(first_rate(spec))
    loss = network.loss(network.train)
    expected = f"about {wanted:.3g}, that of a network which knows nothing"
    if (far := _far_from_0(spec, network.train.y)) is not None:
        says = f"The values of {far!r} are far from 0: most of the loss of {loss:.3g} is their mean."
        return SanityResult(name, False, loss, expected, says, "target: {name: ..., standardize: true}")
    low, high = _BEGINNING
    if low * wanted <= loss <= high * wanted:
        return SanityResult(name, True, loss, expected, f"It begins with a loss of {loss:.3g}.")
    says = f"It begins with a loss of {loss:.3g}: the first weights already say something, and wrongly."
    return SanityResult(
        name, False, loss, expected, says, "Use the initializers that Keras chooses, and encoded inputs."
    )


def _one_batch(network: QuickNetwork, spec: Spec) -> SanityResult:
    name, expected = "overfits_one_batch", f"at most {_FITTED:g} of the loss of a constant"
    rows = take_rows(network.train, _distinct(network.train)[:_BATCH])
    constant = _loss_of_constant(network, spec, rows)
    share, rate = math.inf, first_rate(spec)
    for factor in (1.0, 10.0):
        network.begin(rate * factor)
        for losses in (network.run(_STEPS // 5, rows) for _ in range(5)):
            share = min([share, *(loss / constant for loss in losses[-5:] if math.isfinite(loss))])
            if share <= _FITTED or not math.isfinite(losses[-1]):
                break
        if share <= _FITTED:
            if factor == 1.0:
                return SanityResult(name, True, share, expected, f"It memorises {rows.count} rows.")
            says = f"It memorises {rows.count} rows only with ten times the learning rate."
            return SanityResult(name, False, share, expected, says, f"learning_rate: {rate * factor:g}")
    says = f"It cannot memorise {rows.count} rows: {share:.2g} of the loss of a constant is left."
    return SanityResult(name, False, share, expected, says, "More units; an activation such as relu; check the loss.")


def _shuffled_labels(network: QuickNetwork, spec: Spec) -> SanityResult:
    name, expected = "shuffled_labels", f"at least {_MARGIN:g} of the loss of a constant on validation rows"
    if network.validation is None:
        return SanityResult(name, None, None, expected, "No rows are held out.", "split: {validation: 0.2}")
    constant = _loss_of_constant(network, spec, network.validation)
    generator = np.random.default_rng(spec.training.seed)
    shares = []
    for _ in range(_SHUFFLES):
        network.begin(first_rate(spec))
        network.run(_LEARNING_STEPS // 2, with_labels_of(network.train, generator.permutation(network.train.count)))
        shares.append(network.loss(network.validation) / constant)
    share, error = float(np.mean(shares)), float(np.std(shares, ddof=1)) / math.sqrt(_SHUFFLES)
    if not math.isfinite(share) or share + _ERRORS * error >= _MARGIN:  # with few rows, one shuffle may be lucky
        return SanityResult(
            name, True, finite_json(share), expected, "As expected, it learns nothing from shuffled labels."
        )
    says = f"Trained on shuffled labels it still predicts held-out rows: {share:.2g} of the loss of a constant."
    return SanityResult(
        name, False, share, expected, says, "The held-out rows are not independent: split by group or time."
    )


def _inputs_matter(network: QuickNetwork, spec: Spec) -> SanityResult:
    name, expected = "uses_its_inputs", f"below {_MARGIN:g} of the loss without inputs"
    held_out = network.validation or network.train
    network.begin(first_rate(spec))
    seen = _lowest(network, network.train, held_out)
    network.begin(first_rate(spec))
    blind = _lowest(network, without_inputs(network.train), without_inputs(held_out))
    share = seen / blind if blind else math.inf
    if share < _MARGIN:
        return SanityResult(
            name, True, share, expected, f"With its inputs the loss is {share:.2g} of that without them."
        )
    says = f"It predicts no better than from constant inputs: {share:.3g} of that loss."
    return SanityResult(name, False, finite_json(share), expected, says, "Other features, encodings or learning rate.")


def _lowest(network: QuickNetwork, rows: Any, held_out: Any) -> float:
    """Return the lowest loss on held-out rows while training."""
    losses = [network.loss(held_out)]
    for _ in range(8):
        if not math.isfinite(network.run(_LEARNING_STEPS // 8, rows)[-1]):
            break
        losses.append(network.loss(held_out))
    return min(loss for loss in losses if math.isfinite(loss))


# --- what to expect -------------------------------------------------------------------------------------


def _uninformed_loss(spec: Spec, truth: Mapping[str, Any]) -> float | None:
    """Return the loss of equal probabilities for all labels, or of predicting 0; None if the loss has no such value."""
    total = 0.0
    for target, loss in spec.training.loss.items():
        y, kind = truth[target].numpy().astype(np.float64), type(loss).__name__
        if kind == "BinaryCrossentropy":
            own = math.log(2)
        elif kind in ("CategoricalCrossentropy", "SparseCategoricalCrossentropy"):
            labels = _labels(spec, target) or y.shape[-1]
            own = math.log(labels)
        elif kind == "MeanSquaredError":
            own = float(np.mean(y**2))
        elif kind == "MeanAbsoluteError":
            own = float(np.mean(np.abs(y)))
        else:
            return None
        total += own * _weight(spec, target)
    return total


def _labels(spec: Spec, target: str) -> int | None:
    labels = next(one.labels for one in spec.target if one.name == target)
    return len(labels) if labels else None


def _weight(spec: Spec, target: str) -> float:
    return float((spec.training.loss_weights or {}).get(target, 1.0))


def _far_from_0(spec: Spec, truth: Mapping[str, Any]) -> str | None:
    """Return a target whose mean is far from 0 relative to its spread, by name."""
    for target, loss in spec.training.loss.items():
        y = truth[target].numpy().astype(np.float64)
        if type(loss).__name__ == "MeanSquaredError" and np.mean(y**2) > _FAR * max(float(np.var(y)), 1e-12):
            return target
    return None


def _loss_of_constant(network: QuickNetwork, spec: Spec, rows: Any) -> float:
    """Return the loss of the best constant prediction on these rows; for an unknown loss, the one at the beginning."""
    total = 0.0
    for target, loss in spec.training.loss.items():
        y, kind = rows.y[target].numpy().astype(np.float64), type(loss).__name__
        if kind == "BinaryCrossentropy":
            share = np.clip(y.mean(axis=0), 1e-7, 1 - 1e-7)
            own = float(np.mean(-share * np.log(share) - (1 - share) * np.log(1 - share)))
        elif kind in ("CategoricalCrossentropy", "SparseCategoricalCrossentropy"):
            one_hot = y.ndim > 1 and y.shape[-1] > 1
            shares = y.mean(axis=0) if one_hot else np.bincount(y.reshape(-1).astype(int)) / len(y)
            shares = shares[shares > 0]
            own = float(-np.sum(shares * np.log(shares)))
        elif kind == "MeanSquaredError":
            own = float(np.mean(np.var(y, axis=0)))
        elif kind == "MeanAbsoluteError":
            own = float(np.mean(np.abs(y - np.median(y, axis=0))))
        else:
            network.begin(first_rate(spec))
            return max(network.loss(rows), 1e-12)
        total += own * _weight(spec, target)
    return max(total, 1e-12)


def _distinct(rows: Any) -> Any:
    """Return the numbers of rows with distinct inputs, since two labels of equal inputs cannot both be learnt."""
    flat = [tf.reshape(tensor[:4096], (min(rows.count, 4096), -1)).numpy() for tensor in tf.nest.flatten(rows.x)]
    joined = np.concatenate([part.astype(np.float64) for part in flat], axis=1)
    _, first = np.unique(joined, axis=0, return_index=True)
    return np.sort(first)
