"""Analyse the trained network: evaluation, importance, hardest rows, within a time budget.

The result is a file of the artifact, `insight` (JSON). Another one, `networks` (a zip of ONNX graphs), holds the
network after several epochs with the outputs of its hidden layers; surfaces are drawn from it on request.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.raw_column import RawColumn
from fitserve.strictjson import finite_json
from fitserve.target_encoder import FittedTarget
from workers.trainer.data.feeds import EncodedRows
from workers.trainer.data.preparation import PARTS, PreparedData
from workers.trainer.engine.network import functional_of, inputs_of
from workers.trainer.insight import epoch_graphs, evaluation, hardest_rows, references, slice_columns, slices
from workers.trainer.insight.column_importance import permutation_importance, single_column_scores
from workers.trainer.insight.recording import TrialRecorder
from workers.trainer.insight.references import Reference

log = logging.getLogger(__name__)

FORMAT = 1
SHARE_OF_TRAINING = 0.15
MIN_SECONDS, MAX_SECONDS = 0.4, 120.0
MAX_PREDICTIONS = 20
SLICE_SECONDS = 0.5  # at least, for each prediction
LEAK_SECONDS = 1.0  # at least, for each prediction: an undetected leak costs more than a second
TRAIN_ROWS = 20_000  # rows of the training part to predict

_NO_ROWS = {"hardest": [], "mislabelled": [], "mislabelled_rows": 0, "rows": 0, "method": "left out"}

Array = NDArray[Any]
Outputs = dict[str, Array]
RawColumns = Callable[[Array], Iterable[tuple[ColumnFacts, pa.ChunkedArray]]]  # by rows of the prepared table


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """The subject of an analysis: a run's final network and its data."""

    prepared: PreparedData
    encoded: Mapping[str, EncodedRows]  # by part
    serve: Callable[[Mapping[str, Array]], Outputs]  # runs the serving graph on network inputs
    model: keras.Model
    recorder: TrialRecorder | None
    kept_epoch: int
    seconds: float  # duration of the training
    seed: int
    outputs: Mapping[str, Outputs] = field(default_factory=dict)  # by part, where they are not what is served
    snapshots: Mapping[int, list[Array]] | None = None  # `model`'s weights by epoch; None: the recorder's
    calibration: Mapping[str, Any] = field(default_factory=dict)  # by prediction: figures and curves before and after
    raw_columns: RawColumns | None = None  # for slices

    @property
    def folds(self) -> bool:
        """Whether the validation part is the training part too, each row predicted by a network held back from it."""
        return bool(self.prepared.folds)


@dataclass(frozen=True, slots=True)
class PredictedOutput:
    """One prediction of the network: a target, or one column of a multi-label target (a binary prediction)."""

    name: str
    target: FittedTarget
    labels: tuple[str, ...]  # empty for a regression
    unit: int = 0  # for a multi-label target, the column of the serving graph's output

    @classmethod
    def all_of(cls, targets: Sequence[FittedTarget]) -> list[PredictedOutput]:
        predictions = []
        for target in targets:
            if target.task == "multilabel":
                predictions += [cls(column, target, ("0", "1"), unit) for unit, column in enumerate(target.columns)]
            else:
                labels = tuple(target.labels or ()) if target.task != "regression" else ()
                predictions.append(cls(target.name, target, labels))
        return predictions

    @property
    def task(self) -> str:
        """binary, multiclass or regression."""
        return "regression" if not self.labels else "binary" if len(self.labels) == 2 else "multiclass"

    def truth(self, encoded: Mapping[str, Array]) -> Array:
        """Return the label indices of encoded targets, or their numbers in the target's own units, (rows,)."""
        values = encoded[self.target.name]
        if not self.labels:
            return self.target.inverse(values.astype(np.float64)).reshape(len(values), -1)[:, 0]
        if self.target.encoding == "one_hot":
            return values.argmax(-1)
        return values.reshape(len(values), -1)[:, self.unit].astype(np.int64)

    def predicted(self, outputs: Mapping[str, Array]) -> Array:
        """Extract from the serving graph's outputs: probabilities (rows, labels), or numbers (rows,); float64."""
        values = np.asarray(outputs[self.target.name], np.float64)
        values = values.reshape(len(values), -1)
        if not self.labels:
            return values[:, values.shape[1] // 2]  # the middle quantile
        if self.target.encoding == "binary" and (values.shape[1] == 1 or self.target.task == "multilabel"):
            positive = _probability(values[:, self.unit])
            return np.stack([1 - positive, positive], axis=1)
        return _probabilities(values)

    def losses(self, truth: Array, predicted: Array) -> NDArray[np.float64]:
        """Return each row's log loss or squared error, (rows,)."""
        if not self.labels:
            return np.square(predicted - truth)
        return -np.log(np.clip(predicted[np.arange(len(truth)), truth], 1e-7, 1.0))


def _probability(values: Array) -> Array:
    """Return one output as a probability: a score from -1 to 1 (hinge losses) rescaled, a logit by a sigmoid."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=1.0))
    if low >= 0.0 and high <= 1.0:
        return values
    if low >= -1.0 and high <= 1.0:
        return (values + 1.0) / 2.0
    return 1.0 / (1.0 + np.exp(-np.clip(values, -500, 500)))


def _probabilities(values: Array) -> Array:
    """Return the probabilities in an output for each label: as they are, or logits by a softmax."""
    if values.min(initial=0.0) >= 0.0 and np.allclose(values.sum(1), 1.0, atol=1e-3):
        return values
    exponentials = np.exp(values - values.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@dataclass(slots=True)
class _Part:
    """Rows of one part, with the network's outputs for them."""

    rows: Array  # numbers in the dataset, from 0
    x: Mapping[str, Array]
    y: Mapping[str, Array]
    outputs: Outputs = field(default_factory=dict)


def analyse(trained: TrainedNetwork, folder: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write the analysis. Returns its files by kind, and a summary for the run's result.

    The summary is `{target: {part: {figure: value}}}`.
    """
    began_at = time.perf_counter()
    prepared, recorder = trained.prepared, trained.recorder
    encoder, targets = prepared.encoding.encoder, prepared.encoding.targets.targets
    budget = min(MAX_SECONDS, max(MIN_SECONDS, SHARE_OF_TRAINING * trained.seconds))
    parts = {name: part for name in PARTS if (part := _part(trained, name)) is not None}
    insight: dict[str, Any] = {
        "format": FORMAT,
        "kept_epoch": trained.kept_epoch,
        "reference": encoder.typical_row(prepared.table.take(prepared.parts.train)),
        "targets": {},
    }
    if recorder is not None:
        insight["final"] = recorder.final(trained.kept_epoch)
    places = references.simple_places(encoder)
    designs = {name: references.design(encoder.inputs, part.x, places) for name, part in parts.items()}
    predictions = PredictedOutput.all_of(targets)[:MAX_PREDICTIONS]
    sliced = _SlicedRows(trained, parts)
    for prediction in predictions:
        analysis = _Analysis(trained, prediction, parts, designs, sliced, budget / len(predictions))
        insight["targets"][prediction.name] = analysis.report()
    files = {"insight": folder / "insight.json"}
    snapshots = trained.snapshots
    if snapshots is None:
        snapshots = recorder.best_snapshots if recorder else {}
    networks = epoch_graphs.write(trained.model, targets, snapshots, trained.kept_epoch, folder / "networks.zip")
    if networks is not None:
        files["networks"] = folder / "networks.zip"
        insight["networks"] = networks
    insight["seconds"] = {
        "study": round(time.perf_counter() - began_at, 4),
        "looks": round(recorder.seconds, 4) if recorder else 0.0,
    }
    files["insight"].write_text(json.dumps(finite_json(insight, 8), allow_nan=False))
    return files, {name: _summary(entry["evaluation"]) for name, entry in insight["targets"].items()}


def _part(trained: TrainedNetwork, name: str) -> _Part | None:
    rows, encoded = getattr(trained.prepared.parts, name), trained.encoded[name]
    if not len(rows):
        return None
    if name == "train" and len(rows) > TRAIN_ROWS:
        sampled = evaluation.sample_rows(len(rows), TRAIN_ROWS, trained.seed)
        rows, encoded = rows[sampled], encoded[sampled]
    outputs = trained.outputs.get(name)
    return _Part(rows, encoded.x, encoded.y, trained.serve(encoded.x) if outputs is None else dict(outputs))


class _SlicedRows:
    """The held-out rows of both parts, or a sample of them, with their columns divided once for all predictions."""

    def __init__(self, trained: TrainedNetwork, parts: Mapping[str, _Part]) -> None:
        self._trained, self._parts = trained, {name: parts[name] for name in PARTS if name != "train" and name in parts}
        width = len(trained.prepared.encoding.encoder.names)
        self.rows = slices.sampled_rows(sum(len(part.rows) for part in self._parts.values()), width, trained.seed)

    @cached_property
    def columns(self) -> list[slice_columns.SlicedColumn]:
        if self._trained.raw_columns is None or not self._parts:
            return []
        rows = np.concatenate([part.rows for part in self._parts.values()])[self.rows]
        least = slices.least_rows(len(rows))
        sliced = (slice_columns.sliced(*one, least) for one in self._trained.raw_columns(rows))
        return [one for one in sliced if one is not None]

    def of(self, by_part: Mapping[str, Array]) -> Array:
        """Combine data given by part for these rows."""
        return np.concatenate([by_part[name] for name in self._parts])[self.rows]

    def __len__(self) -> int:
        return len(self.rows)


class _Analysis:
    """The analysis of one prediction."""

    def __init__(
        self,
        trained: TrainedNetwork,
        prediction: PredictedOutput,
        parts: Mapping[str, _Part],
        designs: Mapping[str, Any],
        sliced: _SlicedRows,
        seconds: float,
    ) -> None:
        self.trained, self.prediction, self.parts, self.seed = trained, prediction, parts, trained.seed
        self.designs, self.sliced, self.seconds = designs, sliced, seconds
        self.left_out: list[dict[str, str]] = []  # diagnoses that failed, and why
        self.truth = {name: prediction.truth(part.y) for name, part in parts.items()}
        self.predicted = {name: prediction.predicted(part.outputs) for name, part in parts.items()}
        self.held_out = next(name for name in ("test", "validation", "train") if name in parts)

    def report(self) -> dict[str, Any]:
        prediction, held_out = self.prediction, self.held_out
        losses = {name: prediction.losses(self.truth[name], self.predicted[name]) for name in self.parts}
        simpler = self._attempt("references", self._references, {})
        # The simpler models were fitted on the rows of all folds: no figure of theirs is out of fold.
        compared = {name: y for name, y in self.truth.items() if name != "validation" or not self.trained.folds}
        their_losses = {
            who: {name: prediction.losses(y, reference.predict(self.designs[name])) for name, y in compared.items()}
            for who, reference in simpler.items()
        }
        fit = {
            who: {name: float(values.mean()) for name, values in by_part.items()}
            for who, by_part in {"network": losses, **their_losses}.items()
        }
        importances, omitted = self._attempt(
            "importance", self._importances, ([], len(self.trained.prepared.encoding.encoder.names))
        )
        return {
            "task": prediction.task,
            "labels": list(prediction.labels) or None,
            "evaluation": self._attempt("evaluation", self._evaluations, {}),
            "evaluated_on": held_out,
            "calibration": self.trained.calibration.get(prediction.name),
            "references": {who: {"rows": one.rows, "seconds": round(one.seconds, 4)} for who, one in simpler.items()},
            "reference_figures": self._attempt(
                "reference figures", lambda: {who: self._reference_figures(one) for who, one in simpler.items()}, {}
            ),
            "fit": fit,
            "against": {
                who: evaluation.compare(losses[held_out], by_part[held_out], self.seed)
                for who, by_part in their_losses.items()
                if held_out in by_part
            },
            "importance": importances,
            "importance_left_out": omitted,
            "alone": self._attempt("single columns", self._alone, []),
            "hardest": self._attempt("hardest rows", self._hardest, dict(_NO_ROWS)),
            "slices": self._attempt("slices", self._slices, None),
            "left_out": self.left_out,
        }

    def _attempt(self, what: str, compute: Callable[[], Any], instead: Any) -> Any:
        """Compute a diagnosis; if it fails, warn and return `instead`: a failed diagnosis must not end a run."""
        try:
            return compute()
        except Exception as error:
            log.warning("a diagnosis is left out", extra={"what": what}, exc_info=error)
            self.left_out.append({"what": what, "why": f"{type(error).__name__}: {error}"[:200]})
            return instead

    def _alone(self) -> Any:
        return single_column_scores(
            self.trained.prepared.encoding.encoder.raw_columns,
            self.parts["train"].x,
            self.truth["train"],
            len(self.prediction.labels),
            seconds=max(LEAK_SECONDS, 0.2 * self.seconds),
            seed=self.seed,
        )

    def _references(self) -> dict[str, Reference]:
        if "train" not in self.truth:
            return {}
        labels, seconds = len(self.prediction.labels), 0.5 * self.seconds
        return references.fit_all(self.designs["train"], self.truth["train"], labels, seconds, self.seed)

    def _reference_figures(self, reference: Reference) -> dict[str, Any]:
        """Return a simpler model's figures on the same rows, without curves; nothing for rows that it was fitted on."""
        if self.held_out == "validation" and self.trained.folds:
            return {}
        truth, predicted = self.truth[self.held_out], reference.predict(self.designs[self.held_out])
        if self.prediction.labels:
            return evaluation.classification(truth, predicted, self.prediction.labels, brief=True)
        return evaluation.regression(truth, predicted, brief=True)

    def _importances(self) -> tuple[list[dict[str, Any]], int]:
        """Return the columns' importances, and the number of columns skipped for lack of time."""
        columns, part = self.trained.prepared.encoding.encoder.raw_columns, self.parts[self.held_out]
        weights = _first_weights(self.trained.model, columns)
        promise = {c.name: _spread(c, self.parts["train"].x) * weights.get(c.name, 1.0) for c in columns}

        def row_losses(inputs: Mapping[str, Array], rows: Array) -> NDArray[np.float64]:
            predicted = self.prediction.predicted(self.trained.serve(inputs))
            return self.prediction.losses(self.truth[self.held_out][rows], predicted)

        ordered = sorted(columns, key=lambda column: -promise[column.name])
        entries = permutation_importance(ordered, part.x, row_losses, seconds=0.3 * self.seconds, seed=self.seed)
        with_weights = [{**entry, "weight": weights.get(entry["column"])} for entry in entries]
        return with_weights, len(columns) - len(entries)

    def _evaluations(self) -> dict[str, dict[str, Any]]:
        """Return the figures of the held-out parts."""
        threshold = None
        if self.prediction.task == "binary":
            chosen_on = "validation" if "validation" in self.truth else "train"
            threshold = evaluation.best_threshold(self.truth[chosen_on], self.predicted[chosen_on][:, 1])
        labels, seed = self.prediction.labels, self.seed
        return {
            name: evaluation.classification(truth, self.predicted[name], labels, threshold=threshold, seed=seed)
            if labels
            else evaluation.regression(truth, self.predicted[name], seed=seed)
            for name, truth in self.truth.items()
            if name != "train"
        }

    def _hardest(self) -> dict[str, Any]:
        names = [name for name in self.parts if name != "train" or not self.trained.folds]  # each row once
        rows = np.concatenate([self.parts[name].rows + 1 for name in names])
        parts = np.concatenate([np.full(len(self.parts[name].rows), name) for name in names])
        truth, predicted = (np.concatenate([of[name] for name in names]) for of in (self.truth, self.predicted))
        if self.prediction.labels:
            return hardest_rows.hardest_labels(rows, parts, truth, predicted, self.prediction.labels)
        return hardest_rows.hardest_numbers(rows, parts, truth, predicted)

    def _slices(self) -> dict[str, Any] | None:
        """Return figures by category and range, and the worst slices; None where no rows are held out."""
        if not len(self.sliced):
            return None
        truth, predicted = self.sliced.of(self.truth), self.sliced.of(self.predicted)
        if self.prediction.labels:
            two = len(self.prediction.labels) == 2
            chosen = (predicted[:, 1] >= 0.5).astype(int) if two else predicted.argmax(1)
            metric, losses = "log_loss", self.prediction.losses(truth, predicted)
            more = {"accuracy": (chosen == truth).astype(np.float64)}
        else:
            metric, losses = "mae", np.abs(predicted - truth)
            more = {"mean_error": predicted - truth}
        figures = slices.RowFigures(metric, np.asarray(losses, np.float64), more, truth)
        seconds = max(SLICE_SECONDS, 0.3 * self.seconds)
        return slices.report(self.sliced.columns, figures, seconds=seconds, seed=self.seed)


def _first_weights(model: keras.Model, columns: Sequence[RawColumn]) -> dict[str, float]:
    """Return by column the root mean square of the first Dense layers' weights for it, in encoded units."""
    kernels: dict[str, Array] = {}
    inputs = {id(tensor): name for name, tensor in inputs_of(model).items()}
    for layer in functional_of(model).layers:
        if isinstance(layer, keras.layers.Dense) and len(layer._inbound_nodes) == 1:
            source = layer._inbound_nodes[0].input_tensors[0]
            if (name := inputs.get(id(source))) is not None:
                kernel = np.asarray(layer.kernel)
                known = kernels.get(name)
                kernels[name] = kernel if known is None else np.hstack([known, kernel])
    weights = {}
    for column in columns:
        own = [(one, kernels[one.input]) for one in column.parts if one.input in kernels]
        rows = [kernel[one.part] for one, kernel in own if kernel.shape[0] >= one.offset + one.width]
        if rows:
            weights[column.name] = float(np.sqrt(np.concatenate([np.square(part).ravel() for part in rows]).mean()))
    return weights


def _spread(column: RawColumn, encoded: Mapping[str, Array]) -> float:
    """Return the spread of a column's encoded values on up to 1,000 rows."""
    parts = [encoded[one.input][:1000, one.part].astype(np.float64) for one in column.parts]
    return float(np.sqrt(sum(part.var(axis=0).sum() for part in parts)))


def _summary(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the single numbers of every part."""
    return {
        part: {key: value for key, value in one.items() if isinstance(value, (int, float))}
        for part, one in figures.items()
    }
