"""An ensemble's figures, computed from its members' outputs; with folds, from out-of-fold outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fitserve.spec.output import serving_activation
from fitserve.spec.spec import Spec
from fitserve.target_encoder import FittedTarget
from workers.trainer.engine.compiled import RowTensors
from workers.trainer.engine.network import outputs_of
from workers.trainer.insight import evaluation
from workers.trainer.insight.analysis import PredictedOutput

CHUNK = 8_192  # rows predicted at once
GAIN_ROWS = 20_000  # rows on which the ensemble is compared with its members

Array = NDArray[Any]
Outputs = dict[str, Array]


def serving_ends(spec: Spec) -> dict[str, str | None]:
    """Return the activation that turns each target's outputs into probabilities; None if they are served unchanged."""
    layers = {node.output: node.layer for node in spec.network if node.output}
    return {t.name: serving_activation(t, spec.training.loss[t.name], layers[t.name]) for t in spec.target}


@dataclass(slots=True)
class EnsembleOutputs:
    """The outputs of an ensemble's members. `held_out_by` names the member that each row of the validation part has.

    `model` is a compiled network like each of them; its weights are replaced.
    """

    spec: Spec
    model: keras.Model
    weights: Sequence[Sequence[Array]]
    held_out_by: Array | None = None
    _call: Any = field(default=None, init=False)

    def by_member(self, x: Mapping[str, Any]) -> Outputs:
        """Return every member's raw outputs (the input of its loss), `(members, rows, units)`."""
        members = [self._outputs(member, x) for member in range(len(self.weights))]
        return {name: np.stack([outputs[name] for outputs in members]) for name in members[0]}

    def combined(self, part: str, x: Mapping[str, Any]) -> Outputs:
        """Return the ensemble's outputs for the rows of a part, `(rows, units)`; with folds, the held-back member's."""
        if part != "validation" or self.held_out_by is None:
            return {name: values.mean(axis=0) for name, values in self.by_member(x).items()}
        combined: Outputs = {}
        for member in range(len(self.weights)):
            rows = np.flatnonzero(self.held_out_by == member)
            own = self._outputs(member, {name: tf.gather(values, rows) for name, values in x.items()})
            for name, values in own.items():
                whole = combined.setdefault(name, np.zeros((len(self.held_out_by), *values.shape[1:]), np.float32))
                whole[rows] = values
        return combined

    def served(self, raw: Mapping[str, Array], targets: Sequence[FittedTarget]) -> Outputs:
        """Convert raw outputs to served answers: probabilities, or numbers in the target's own units."""
        ends = serving_ends(self.spec)
        served: Outputs = {}
        for target in targets:
            values, end = raw[target.name], ends[target.name]
            if end == "halved":
                values = values * 0.5 + 0.5
            elif end is not None:
                values = keras.activations.get(end)(tf.convert_to_tensor(values)).numpy()
            served[target.name] = target.answers(values)
        return served

    def metrics(self, raw: Mapping[str, Array], rows: RowTensors) -> dict[str, Any]:
        """Return loss and metrics of such outputs, as Keras's `evaluate` gives them."""
        model = self.model
        predicted = {name: tf.convert_to_tensor(values) for name, values in raw.items()}
        losses, metrics = model._compile_loss, model._compile_metrics
        for tracker in losses.metrics:
            tracker.reset_state()
        loss = float(losses(rows.y, predicted, rows.weight)) + self._penalty()
        logs: dict[str, Any] = {"loss": loss, **{own.name: float(own.result()) for own in losses.metrics}}
        metrics.reset_state()
        metrics.update_state(rows.y, predicted)
        for name, value in metrics.result().items():
            logs[name] = float(value) if len(value.shape) == 0 else value.numpy()
        metrics.reset_state()
        return logs

    def gain(self, x: Mapping[str, Array], y: Mapping[str, Array], targets: Sequence[FittedTarget]) -> dict[str, Any]:
        """Return the ensemble's gain over a single member, by target, on rows that no member was trained on."""
        rows = evaluation.sample_rows(len(next(iter(y.values()))), GAIN_ROWS, self.spec.training.seed)
        x, y = ({name: values[rows] for name, values in part.items()} for part in (x, y))
        members = self.by_member(x)
        together = self.served({name: values.mean(axis=0) for name, values in members.items()}, targets)
        apart = [
            self.served({name: values[member] for name, values in members.items()}, targets)
            for member in range(len(self.weights))
        ]
        gains: dict[str, Any] = {}
        for prediction in PredictedOutput.all_of(targets):
            truth = prediction.truth(y)
            own = prediction.losses(truth, prediction.predicted(together))
            theirs = np.mean([prediction.losses(truth, prediction.predicted(one)) for one in apart], axis=0)
            gains[prediction.name] = {
                "measure": "log_loss" if prediction.labels else "mean_squared_error",
                "ensemble": float(own.mean()),
                "one_member": float(theirs.mean()),
                **evaluation.compare(own, theirs, self.spec.training.seed),
            }
        return {"rows": len(rows), "targets": gains}

    def _outputs(self, member: int, x: Mapping[str, Any]) -> Outputs:
        for variable, value in zip(self.model.weights, self.weights[member], strict=True):
            variable.assign(value)
        if self._call is None:
            call = tf.function(lambda inputs: self.model(inputs, training=False), reduce_retracing=True)
            self._call = call
        rows = len(next(iter(x.values())))
        pieces = []
        for start in range(0, max(rows, 1), CHUNK):
            outputs = self._call(
                {name: tf.convert_to_tensor(values[start : start + CHUNK]) for name, values in x.items()}
            )
            pieces.append({name: outputs[name].numpy() for name in outputs_of(self.model)})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _penalty(self) -> float:
        """Return the regularizers' part of the loss, averaged over the members."""
        if not self.model.losses:
            return 0.0
        total = 0.0
        for weights in self.weights:
            for variable, value in zip(self.model.weights, weights, strict=True):
                variable.assign(value)
            total += sum(float(penalty) for penalty in self.model.losses)
        return total / len(self.weights)
