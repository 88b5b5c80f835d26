"""Find the epoch, step and layer in which a loss became NaN or infinite."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from workers.trainer.engine import checkpoint
from workers.trainer.engine.compiled import Compiled, Logs, RowTensors, StepPlan
from workers.trainer.engine.loop import Feed
from workers.trainer.engine.network import functional_of, spec_name

MAX_SEARCH_SECONDS = 10.0


class Diverged(Exception):
    """The loss became NaN or infinite. `data` is `{"epoch", "step", "layer", "what"}`, counted from 1."""

    def __init__(self, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.data = data


class DivergenceGuard(keras.callbacks.Callback):
    """Raises Diverged when the training loss is not finite, after finding the layer where it began.

    It snapshots the variables between epochs, in at most 2% of the time.
    """

    def __init__(self, compiled: Compiled, feed: Feed, searches: bool = True) -> None:
        """Without `searches`, only broken weights are found: the steps cannot be repeated by one process alone."""
        super().__init__()
        self._compiled, self._feed, self._searches = compiled, feed, searches
        self._snapshot: dict[str, np.ndarray] = {}
        self._snapshot_epoch, self._due = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Snapshot the variables if a snapshot is due."""
        begun = time.perf_counter()
        if begun < self._due or not self._searches:
            return
        self._snapshot, self._snapshot_epoch = checkpoint.variables(self.model), epoch
        self._due = time.perf_counter() + 50 * (time.perf_counter() - begun)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Raises Diverged."""
        loss = (logs or {}).get("loss", 0.0)
        if np.isfinite(loss):
            return
        origin = (self._search(epoch) if self._searches else None) or {
            "layer": first_broken_layer(self.model),
            "what": "weights",
        }
        where = f"in layer {origin['layer']!r} ({origin['what']})" if origin["layer"] else "in the loss itself"
        step = f", batch {origin['step']}" if "step" in origin else ""
        message = f"The loss became {loss} in epoch {epoch + 1}: first {where}{step}."
        raise Diverged(message, {"epoch": epoch + 1, **origin})

    def _search(self, last: int) -> dict[str, Any] | None:
        """Repeat the training from the snapshot, step by step, until a value is not finite."""
        model, deadline = self.model, time.perf_counter() + MAX_SEARCH_SECONDS
        checkpoint.restore(model, self._snapshot)
        for epoch in range(self._snapshot_epoch, last + 1):
            step = 0
            model.reset_metrics()
            for block in self._feed.blocks(epoch):
                order = tf.constant(block.order)
                for index in range(-(-len(block.order) // self._compiled.batch_size)):
                    if time.perf_counter() > deadline:
                        return None
                    step += 1
                    before = checkpoint.variables(model)
                    logs, _ = self._compiled(block.rows, order, block.rows, StepPlan(index, index + 1))
                    if not np.isfinite(logs["loss"]) or first_broken_layer(model):
                        checkpoint.restore(model, before)
                        size = self._compiled.batch_size
                        batch = block.order[index * size : (index + 1) * size]
                        rows = block.rows.map(partial(tf.gather, indices=batch))
                        rows = RowTensors(*self._compiled.expanded(rows.as_tuple()))
                        return {"step": step, **_first_broken(model, rows)}
        return None


def _first_broken(model: keras.Model, rows: RowTensors) -> dict[str, Any]:
    """Return the first layer with an output (forward pass) or gradient (backward pass) that is not finite."""
    x, y, weight = rows.x, rows.y, rows.weight
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    outputs = keras.Model(functional_of(model)._inputs_struct, [layer.output for layer in layers])(x, training=True)
    for layer, output in zip(layers, outputs if len(layers) > 1 else [outputs], strict=True):
        if not _finite(output):
            return {"layer": spec_name(layer), "what": "output"}
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
            return {"layer": spec_name(layer), "what": "gradient"}
    return {"layer": first_broken_layer(model), "what": "update"}


def first_broken_layer(model: keras.Model, weights: Sequence[np.ndarray] | None = None) -> str | None:
    """Return the first layer with a non-finite weight, in `weights` if given, else in the model."""
    values = dict(zip(map(id, model.weights), weights, strict=True)) if weights is not None else {}
    for layer in model.layers:
        if not all(_finite(values.get(id(weight), weight)) for weight in layer.weights):
            return spec_name(layer)
    return None


def _finite(value: Any) -> bool:
    return bool(np.isfinite(keras.ops.convert_to_numpy(value)).all())
