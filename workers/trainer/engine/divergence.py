"""Where a loss stopped being a number: which epoch, which step, and in which layer first."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from workers.trainer.data.feed import Feed
from workers.trainer.engine import checkpoint
from workers.trainer.engine.compiled import Compiled, Logs, Plan
from workers.trainer.engine.signature import functional_of

LONGEST_SEARCH = 10.0  # seconds


class Diverged(Exception):
    """The loss became NaN or infinite. `data` is `{"epoch", "step", "layer", "what"}`, counted from 1."""

    def __init__(self, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.data = data


class Guard(keras.callbacks.Callback):
    """Stops when the training loss is no finite number, and goes back to find the layer where it began.

    It keeps the variables of a recent epoch: rarely enough to cost two hundredths of the time at most.
    """

    def __init__(self, compiled: Compiled, feed: Feed) -> None:
        super().__init__()
        self._compiled, self._feed = compiled, feed
        self._kept: dict[str, np.ndarray] = {}
        self._kept_epoch, self._due = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep the variables, when it is time."""
        begun = time.perf_counter()
        if begun < self._due:
            return
        self._kept, self._kept_epoch = checkpoint.variables(self.model), epoch
        self._due = time.perf_counter() + 50 * (time.perf_counter() - begun)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Raises Diverged."""
        loss = (logs or {}).get("loss", 0.0)
        if np.isfinite(loss):
            return
        found = self._search(epoch) or {"layer": _first_broken_layer(self.model), "what": "weights"}
        where = f" in layer {found['layer']!r} ({found['what']})" if found["layer"] else ""
        step = f", batch {found['step']}" if "step" in found else ""
        message = f"The loss became {loss} in epoch {epoch + 1}: first{where or ' in the loss itself'}{step}."
        raise Diverged(message, {"epoch": epoch + 1, **found})

    def _search(self, last: int) -> dict[str, Any] | None:
        """Train again from the kept variables, step by step, until something is not finite."""
        model, deadline = self.model, time.perf_counter() + LONGEST_SEARCH
        checkpoint.restore(model, self._kept)
        for epoch in range(self._kept_epoch, last + 1):
            step = 0
            model.reset_metrics()
            for block in self._feed.blocks(epoch):
                order = tf.constant(block.order)
                for at in range(-(-len(block.order) // self._compiled.batch_size)):
                    if time.perf_counter() > deadline:
                        return None
                    step += 1
                    before = checkpoint.variables(model)
                    logs, _ = self._compiled(block.rows, order, block.rows, Plan(at, at + 1))
                    if not np.isfinite(logs["loss"]) or _first_broken_layer(model):
                        checkpoint.restore(model, before)
                        size = self._compiled.batch_size
                        batch = block.order[at * size : (at + 1) * size]
                        rows = tf.nest.map_structure(lambda t, b=batch: tf.gather(t, b), block.rows.as_tuple())
                        return {"step": step, **_first_broken(model, rows)}
        return None


def _first_broken(model: keras.Model, rows: tuple[Any, ...]) -> dict[str, Any]:
    """The first layer, along the forward pass, whose output is not finite; else the first along the way back."""
    x, y, weight = (*rows, None)[:3]
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    outputs = keras.Model(functional_of(model)._inputs_struct, [layer.output for layer in layers])(x, training=True)
    for layer, output in zip(layers, outputs if len(layers) > 1 else [outputs], strict=True):
        if not _finite(output):
            return {"layer": layer.name, "what": "output"}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=weight)
    if not _finite(loss):
        return {"layer": None, "what": "loss"}
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    broken = {
        id(v) for v, g in zip(model.trainable_variables, gradients, strict=True) if g is not None and not _finite(g)
    }
    for layer in reversed(layers):
        if any(id(v) in broken for v in layer.trainable_variables):
            return {"layer": layer.name, "what": "gradient"}
    return {"layer": _first_broken_layer(model), "what": "update"}


def _first_broken_layer(model: keras.Model) -> str | None:
    for layer in model.layers:
        if not all(_finite(weight) for weight in layer.weights):
            return str(layer.name)
    return None


def _finite(value: Any) -> bool:
    values = value.value.numpy() if isinstance(value, keras.Variable) else tf.convert_to_tensor(value).numpy()
    return bool(np.isfinite(values).all())
