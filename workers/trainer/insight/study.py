"""The trained network questioned: evaluation, importance, hardest rows, within a budget of time.

The answers are a file of the artifact, `insight` (JSON); copies of the network along the way, with the outputs of its
hidden layers, are another, `networks` (a zip of ONNX graphs), from which surfaces are drawn on request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitserve.datasets.split import Split
from fitserve.encoding import FittedColumn
from fitserve.strictjson import finite_json
from workers.trainer.data.encoded_rows import Encoded, Fitted
from workers.trainer.engine.network import functional_of
from workers.trainer.insight import epoch_graphs, evaluation, hardest, importance, references, single_column
from workers.trainer.insight.references import Reference
from workers.trainer.insight.target_predictions import Question, questions
from workers.trainer.insight.trial_recorder import Watch

FORMAT = 1
SHARE_OF_TRAINING = 0.15
LEAST_SECONDS, MOST_SECONDS = 0.4, 120.0
MOST_QUESTIONS = 20
TRAIN_ROWS = 20_000  # of the training part that are predicted
PARTS = ("train", "validation", "test")

Array = NDArray[Any]
Outputs = dict[str, Array]
Serve = Callable[[Mapping[str, Array]], Outputs]


@dataclass(frozen=True, slots=True)
class Trained:
    """What is questioned: a run at its end. `encoded` and `serve` are of the kept network."""

    fitted: Fitted
    parts: Split
    table: pa.Table
    encoded: Mapping[str, Encoded]
    serve: Serve
    model: keras.Model
    watch: Watch | None
    kept_epoch: int
    seconds: float  # that training took
    seed: int


@dataclass(slots=True)
class _Part:
    """Rows of one part, with what the network says of them."""

    rows: Array  # numbers in the dataset, from 0
    x: dict[str, Array]
    y: dict[str, Array]
    outputs: Outputs = field(default_factory=dict)


def study(trained: Trained, folder: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Files by kind, and a summary for the run's result: `{target: {part: {figure: value}}}`."""
    begun = time.perf_counter()
    budget = min(MOST_SECONDS, max(LEAST_SECONDS, SHARE_OF_TRAINING * trained.seconds))
    parts = {name: part for name in PARTS if (part := _part(trained, name)) is not None}
    asked = questions(trained.fitted.targets.targets)
    encoder = trained.fitted.encoder
    insight: dict[str, Any] = {
        "format": FORMAT,
        "kept_epoch": trained.kept_epoch,
        "reference": encoder.typical_row(trained.table.take(trained.parts.train)),
        "targets": {},
    }
    if trained.watch is not None:
        insight["final"] = trained.watch.final(trained.kept_epoch)
    designs = {name: references.design(encoder.inputs, part.x) for name, part in parts.items()}
    for question in asked[:MOST_QUESTIONS]:
        share = budget / min(len(asked), MOST_QUESTIONS)
        insight["targets"][question.name] = _answer(trained, question, parts, designs, share)
    files = {"insight": folder / "insight.json"}
    copies = trained.watch.kept if trained.watch else {}
    targets = trained.fitted.targets.targets
    kept = epoch_graphs.write(trained.model, targets, copies, trained.kept_epoch, folder / "networks.zip")
    if kept is not None:
        files["networks"] = folder / "networks.zip"
        insight["networks"] = kept
    insight["seconds"] = {
        "study": round(time.perf_counter() - begun, 4),
        "looks": round(trained.watch.seconds, 4) if trained.watch else 0.0,
    }
    files["insight"].write_text(json.dumps(finite_json(insight, 8), allow_nan=False))
    return files, {name: _brief(answer["evaluation"]) for name, answer in insight["targets"].items()}


def _part(trained: Trained, name: str) -> _Part | None:
    rows = getattr(trained.parts, name)
    if not len(rows):
        return None
    x, y = trained.encoded[name].x, trained.encoded[name].y
    if name == "train" and len(rows) > TRAIN_ROWS:
        chosen = np.sort(np.random.default_rng(trained.seed).choice(len(rows), TRAIN_ROWS, replace=False))
        rows, x, y = rows[chosen], {k: v[chosen] for k, v in x.items()}, {k: v[chosen] for k, v in y.items()}
    return _Part(rows, dict(x), dict(y), trained.serve(x))


def _answer(
    trained: Trained, question: Question, parts: Mapping[str, _Part], designs: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    truth = {name: question.truth(part.y) for name, part in parts.items()}
    said = {name: question.predicted(part.outputs) for name, part in parts.items()}
    losses = {name: question.losses(truth[name], said[name]) for name in parts}
    simpler = _references(question, truth, designs, 0.5 * seconds, trained.seed)
    fit = {"network": {name: float(values.mean()) for name, values in losses.items()}}
    theirs = {who: _losses_of(question, model, truth, designs) for who, model in simpler.items()}
    fit |= {who: {name: float(v.mean()) for name, v in by_part.items()} for who, by_part in theirs.items()}
    held = next(name for name in ("test", "validation", "train") if name in parts)
    columns = trained.fitted.encoder.columns
    weighed = _weights(trained)
    heavy = sorted(columns, key=lambda column: -_spread(column, parts["train"].x) * weighed.get(column.name, 1.0))

    def row_losses(inputs: Mapping[str, Array], rows: Array) -> NDArray[np.float64]:
        return question.losses(truth[held][rows], question.predicted(trained.serve(inputs)))

    importances = importance.permutation(heavy, parts[held].x, row_losses, seconds=0.3 * seconds, seed=trained.seed)
    return {
        "task": question.task,
        "labels": list(question.labels) or None,
        "evaluation": _evaluations(question, truth, said, trained.seed),
        "evaluated_on": held,
        "references": {who: {"rows": one.rows, "seconds": round(one.seconds, 4)} for who, one in simpler.items()},
        "reference_figures": _reference_figures(question, simpler, truth, designs, held),
        "fit": fit,
        "against": {
            who: evaluation.compare(losses[held], by_part[held], trained.seed)
            for who, by_part in theirs.items()
            if held in by_part
        },
        "importance": [{**entry, "weight": weighed.get(entry["column"])} for entry in importances],
        "importance_left_out": len(columns) - len(importances),
        "alone": single_column.explained_alone(
            columns, parts["train"].x, truth["train"], len(question.labels), seconds=0.2 * seconds, seed=trained.seed
        ),
        "hardest": _hardest(question, parts, truth, said),
    }


def _references(
    question: Question, truth: Mapping[str, Array], designs: Mapping[str, Any], seconds: float, seed: int
) -> dict[str, Reference]:
    if "train" not in truth:
        return {}
    return references.fit_all(designs["train"], truth["train"], len(question.labels), seconds, seed)


def _losses_of(
    question: Question, model: Reference, truth: Mapping[str, Array], designs: Mapping[str, Any]
) -> dict[str, NDArray[np.float64]]:
    return {name: question.losses(right, model.predict(designs[name])) for name, right in truth.items()}


def _evaluations(
    question: Question, truth: Mapping[str, Array], said: Mapping[str, Array], seed: int
) -> dict[str, dict[str, Any]]:
    threshold = None
    if question.task == "binary":
        chosen_on = "validation" if "validation" in truth else "train"
        threshold = evaluation.best_threshold(truth[chosen_on], said[chosen_on][:, 1])
    return {
        name: evaluation.classification(
            truth[name], said[name], question.labels, threshold=threshold if name != "train" else None, seed=seed
        )
        if question.labels
        else evaluation.regression(truth[name], said[name], seed=seed)
        for name in truth
        if name != "train"
    }


def _reference_figures(
    question: Question,
    simpler: Mapping[str, Reference],
    truth: Mapping[str, Array],
    designs: Mapping[str, Any],
    held: str,
) -> dict[str, Any]:
    """The figures of baseline, linear model and trees on the same rows, curves left out."""
    figures = {}
    for who, model in simpler.items():
        said = model.predict(designs[held])
        if question.labels:
            figures[who] = evaluation.classification(truth[held], said, question.labels, brief=True)
        else:
            figures[who] = evaluation.regression(truth[held], said, brief=True)
    return figures


def _hardest(
    question: Question, parts: Mapping[str, _Part], truth: Mapping[str, Array], said: Mapping[str, Array]
) -> dict[str, Any]:
    rows = np.concatenate([part.rows + 1 for part in parts.values()])
    where = np.concatenate([np.full(len(part.rows), name) for name, part in parts.items()])
    right, spoken = np.concatenate(list(truth.values())), np.concatenate(list(said.values()))
    if question.labels:
        return hardest.hardest_labels(rows, where, right, spoken, question.labels)
    return hardest.hardest_numbers(rows, where, right, spoken)


def _weights(trained: Trained) -> dict[str, float]:
    """By column: the root mean square of the first Dense layers' weights on its parts, in encoded units."""
    kernels: dict[str, Array] = {}
    for layer in functional_of(trained.model).layers:
        if isinstance(layer, keras.layers.Dense) and len(layer._inbound_nodes) == 1:
            source = layer._inbound_nodes[0].input_tensors[0]
            if isinstance(source._keras_history.operation, keras.layers.InputLayer):
                own = np.asarray(layer.kernel)
                known = kernels.get(source.name)
                kernels[source.name] = own if known is None else np.hstack([known, own])
    found = {}
    for column in trained.fitted.encoder.columns:
        kernel = kernels.get(column.input)
        if kernel is not None and kernel.shape[0] >= column.offset + column.width:
            found[column.name] = float(np.sqrt(np.square(kernel[column.part]).mean()))
    return found


def _spread(column: FittedColumn, encoded: Mapping[str, Array]) -> float:
    """How far a column's numbers are spread on (up to 1,000) rows: what it can move."""
    part = encoded[column.input][:1000, column.part]
    return float(np.sqrt(part.astype(np.float64).var(axis=0).sum()))


def _brief(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The plain numbers of every part."""
    return {
        part: {key: value for key, value in one.items() if isinstance(value, (int, float))}
        for part, one in figures.items()
    }
