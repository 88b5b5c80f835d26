"""Hand-written training in NumPy and its BLAS: a lower bound for the time of the same arithmetic on a machine.

Forward and backward passes of Dense layers with Dropout, cross-entropy, Adam in place, shuffled batches, and the
validation loss after each epoch; no metrics, no callbacks, no divergence check. A leading axis of replicas trains
several networks at once.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np

BETA_1, BETA_2, EPSILON, RATE = 0.9, 0.999, 1e-7, 1e-3


class Network:
    """`replicas` multilayer perceptrons: `widths` from input to output, and the dropout after each layer."""

    def __init__(self, widths: list[int], dropout: list[float], replicas: int) -> None:
        rng = np.random.default_rng(0)
        self.dropout, self.rng, self.steps = dropout, rng, 0
        self.weights: list[np.ndarray] = []
        for before, after in itertools.pairwise(widths):
            limit = np.sqrt(6.0 / (before + after))
            self.weights.append(rng.uniform(-limit, limit, (replicas, before, after)).astype(np.float32))
            self.weights.append(np.zeros((replicas, 1, after), np.float32))
        self.moments = [(np.zeros_like(w), np.zeros_like(w), np.empty_like(w)) for w in self.weights]

    def forward(self, x: np.ndarray, training: bool) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """The input of each layer and the output's logits, and the masks of dropout."""
        values, masks = [x], []
        layers = len(self.weights) // 2
        for layer in range(layers):
            z = np.matmul(values[-1], self.weights[2 * layer])
            z += self.weights[2 * layer + 1]
            rate, mask = self.dropout[layer], None
            if layer < layers - 1:
                np.maximum(z, 0.0, out=z)
                if training and rate:
                    mask = (self.rng.random(z.shape, np.float32) >= rate) * np.float32(1.0 / (1.0 - rate))
                    z *= mask
            values.append(z)
            masks.append(mask)
        return values, masks

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Train on a batch: x (replicas, rows, columns), y one-hot or 0/1 (replicas, rows, units)."""
        values, masks = self.forward(x, training=True)
        upstream = (_probabilities(values[-1]) - y) / np.float32(x.shape[1])
        self.steps += 1
        rate = np.float32(RATE * np.sqrt(1 - BETA_2**self.steps) / (1 - BETA_1**self.steps))
        for layer in range(len(masks) - 1, -1, -1):
            own = np.matmul(values[layer].transpose(0, 2, 1), upstream), upstream.sum(axis=1, keepdims=True)
            if layer:
                upstream = np.matmul(upstream, self.weights[2 * layer].transpose(0, 2, 1))
                upstream *= values[layer] > 0
                if (mask := masks[layer - 1]) is not None:
                    upstream *= mask
            for at, gradient in zip((2 * layer, 2 * layer + 1), own, strict=True):
                self._adam(at, gradient, rate)

    def _adam(self, at: int, gradient: np.ndarray, rate: np.float32) -> None:
        mean, square, scratch = self.moments[at]
        mean *= np.float32(BETA_1)
        np.multiply(gradient, np.float32(1 - BETA_1), out=scratch)
        mean += scratch
        square *= np.float32(BETA_2)
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(1 - BETA_2)
        square += scratch
        np.sqrt(square, out=scratch)
        scratch += np.float32(EPSILON)
        np.divide(mean, scratch, out=scratch)
        scratch *= rate
        self.weights[at] -= scratch


def _probabilities(logits: np.ndarray) -> np.ndarray:
    if logits.shape[-1] == 1:
        return 1.0 / (1.0 + np.exp(-logits))
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def seconds(case: Any, data: Any, replicas: int = 1) -> float:
    """Return the seconds that a case of `benchmarks.training` takes; `replicas` networks train at once."""
    x, y, vx, vy = data
    layers = case.layers()
    dense = [layer for layer in layers if hasattr(layer, "units")]
    dropout = [0.0] * len(dense)
    for before, layer in itertools.pairwise(layers):
        if hasattr(layer, "rate"):
            dropout[dense.index(before)] = float(layer.rate)
    units = [layer.units for layer in dense]
    began_at = time.perf_counter()
    network = Network([x.shape[1], *units], dropout, replicas)
    truth, held_out = (_targets(part, units[-1]) for part in (y, vy))
    rng = np.random.default_rng(1)
    for _ in range(case.epochs):
        order = np.stack([rng.permutation(len(x)) for _ in range(replicas)])
        for start in range(0, len(x), case.batch):
            batch = order[:, start : start + case.batch]
            network.step(x[batch], truth[batch])
        if len(vx):
            values, _ = network.forward(np.broadcast_to(vx, (replicas, *vx.shape)), training=False)
            float(-(held_out * np.log(_probabilities(values[-1]) + 1e-7)).sum(axis=-1).mean())
    return time.perf_counter() - began_at


def _targets(y: np.ndarray, units: int) -> np.ndarray:
    if units == 1:
        return np.asarray(y, np.float32).reshape(len(y), 1)
    return np.eye(units, dtype=np.float32)[np.asarray(y).reshape(-1)]
