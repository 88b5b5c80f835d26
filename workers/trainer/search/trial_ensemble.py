"""Several trials of a search as one network: their outputs averaged, whatever their architectures.

The best k, or those that greedy selection takes (Caruana et al. 2004): starting from the best, add
the trial with which the average does best on validation rows, with replacement, until none improves it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import tensorflow as tf

from fitserve.artifacts import onnx_session
from fitserve.spec.graph import free_name
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.shaping import Average
from fitserve.spec.network import LayerEntry
from fitserve.spec.spec import Spec
from workers.trainer.engine.compiled import RowTensors
from workers.trainer.engine.network import build_network, outputs_of, serving_network, spec_name
from workers.trainer.export.export import graph_of
from workers.trainer.insight.ensemble import EnsembleOutputs
from workers.trainer.interface import Reporter
from workers.trainer.ready_run import ReadyRun
from workers.trainer.trials.trial import Weights

POOL = 20  # best trials from which greedy selection chooses
ROUNDS = 25
_CHUNK = 8_192  # rows predicted at once
_TIMED = 400  # predictions of one row

Outputs = Mapping[str, np.ndarray]
Measure = Callable[[Outputs], float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trial that has a network."""

    number: int
    spec: Spec
    weights: Weights


def compatible_candidates(candidates: Sequence[Candidate], best: Candidate) -> list[Candidate]:
    """Return the candidates that take the same inputs and answer the same targets as the best one."""

    def ends(spec: Spec) -> Any:
        body = spec.to_json()
        inputs = [entry for entry in body["network"] if "Input" in entry]
        return body["features"], body["target"], body["training"]["loss"], inputs

    wanted = ends(best.spec)
    return [one for one in candidates if ends(one.spec) == wanted]


def network_of(candidate: Candidate) -> keras.Model:
    """Return a trial's network with its weights."""
    model = build_network(candidate.spec)
    model.set_weights(candidate.weights)
    return model


def predict(model: keras.Model, rows: RowTensors) -> dict[str, np.ndarray]:
    """Return a network's outputs for all rows, as its loss takes them."""
    pieces = []
    for start in range(0, rows.count, _CHUNK):
        part = tf.nest.map_structure(lambda tensor, at=start: tensor[at : at + _CHUNK], rows.x)
        outputs = model(part, training=False)
        pieces.append({name: outputs[name].numpy() for name in outputs_of(model)})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def choose(
    candidates: Sequence[Candidate], wanted: Any, rows: RowTensors, measure: Measure
) -> tuple[list[tuple[Candidate, int]], dict[str, Any]]:
    """Return the trials to average, each with how often it counts, and what that gives on validation rows.

    Args:
        candidates: the best trials, the best first.
        wanted: `greedy`, or how many of the best.
        measure: less is better.
    """
    best = candidates[0]
    usable = compatible_candidates(candidates, best)
    outputs = {one.number: predict(network_of(one), rows) for one in usable}
    taken = (
        select_greedily(outputs, best.number, measure)
        if wanted == "greedy"
        else Counter({one.number: 1 for one in usable[: int(wanted or 1)]})
    )
    total = sum(taken.values())
    chosen = [(one, taken[one.number]) for one in usable if taken[one.number]]
    shares = [times / total for _, times in chosen]
    stacked = {name: np.stack([outputs[one.number][name] for one, _ in chosen]) for name in outputs[best.number]}
    mean = {name: np.average(own, axis=0, weights=shares).astype(np.float32) for name, own in stacked.items()}
    return chosen, {
        "method": wanted,
        "trials": [{"trial": one.number, "share": times / total} for one, times in chosen],
        "left_out": len(candidates) - len(usable),
        "best_trial": measure(outputs[best.number]),
        "together": measure(mean),
    }


def choose_by_metric(
    candidates: Sequence[Candidate], wanted: Any, ready: ReadyRun, metric: str, sign: float
) -> tuple[list[tuple[Candidate, int]], dict[str, Any]]:
    """Choose by a metric, or the loss where outputs have no such metric; `sign` is -1 where larger is better."""
    rows, model = ready.rows["validation"], ready.setup.compiled.model
    outputs = EnsembleOutputs(ready.spec, model, [candidates[0].weights])

    def measure(predicted: Outputs) -> float:
        figures = outputs.metrics(predicted, rows)
        value = figures.get(metric)
        return sign * float(figures["loss"] if value is None else value)

    chosen, report = choose(candidates, wanted, rows, measure)
    values = {name: sign * report[name] for name in ("together", "best_trial")}
    return chosen, {**report, "metric": metric, **values}


def average(
    candidates: Sequence[Candidate],
    wanted: Any,
    ready: ReadyRun,
    metric: str,
    sign: float,
    make_ready: Callable[[Spec], ReadyRun],
) -> tuple[ReadyRun, dict[str, Any]]:
    """Return a run with the average of several trials as its network, and those trials; `ready` if none helps."""
    chosen, report = choose_by_metric(candidates, wanted, ready, metric, sign)
    if len(chosen) == 1:
        return ready, report
    spec, names = side_by_side(chosen, ready.spec)
    combined = make_ready(spec)
    assign(combined.setup.compiled.model, chosen, names)
    return replace(combined, spec=ready.spec, setup=replace(combined.setup, recorder=None)), report


def select_greedily(outputs: Mapping[int, Outputs], first: int, measure: Measure) -> Counter[int]:
    """Return how often each trial is taken; outputs are better where `measure` is less."""
    taken = Counter([first])
    best = measure(outputs[first])
    total = {name: values.astype(np.float64) for name, values in outputs[first].items()}
    for size in range(2, ROUNDS + 1):
        tried = {
            number: measure({name: ((total[name] + own[name]) / size).astype(np.float32) for name in total})
            for number, own in outputs.items()
        }
        number = min(tried, key=lambda one: (tried[one], one))
        if not tried[number] < best:
            break
        best = tried[number]
        taken[number] += 1
        total = {name: total[name] + outputs[number][name] for name in total}
    return taken


def side_by_side(chosen: Sequence[tuple[Candidate, int]], best: Spec) -> tuple[Spec, list[dict[str, str]]]:
    """Return the spec of one network that averages the chosen trials, and each one's names of its layers.

    A trial that was taken twice counts twice. Penalties are of training, and left out.
    """
    entries = [entry for entry in best.network if isinstance(entry.layer, Input)]
    shared = {str(entry.name): str(entry.name) for entry in entries}
    ends: dict[str, list[str]] = {}
    names: list[dict[str, str]] = []
    outputs = {str(entry.output): str(entry.name) for entry in best.network if entry.output}
    taken = {str(entry.name) for entry in best.network}
    for candidate, times in chosen:
        hidden = [entry for entry in candidate.spec.network if not isinstance(entry.layer, Input)]
        own = {str(entry.name): free_name(f"{entry.name}_trial{candidate.number + 1}", taken) for entry in hidden}
        taken |= set(own.values())
        names.append(own)
        for entry in hidden:
            inputs = tuple({**shared, **own}[name] for name in entry.inputs or ())
            entries.append(LayerEntry(layer=_plain(entry.layer), name=own[str(entry.name)], inputs=inputs))
            if entry.output:
                ends.setdefault(str(entry.output), []).extend([own[str(entry.name)]] * times)
    for target, sources in ends.items():
        entries.append(LayerEntry(layer=Average(), name=outputs[target], inputs=tuple(sources), output=target))
    return best.model_copy(update={"network": tuple(entries), "ensemble": None, "folds": None}), names


def _plain(layer: Any) -> Any:
    fields = [name for name in type(layer).model_fields if name.endswith("_regularizer")]
    return layer.model_copy(update=dict.fromkeys(fields)) if fields else layer


def assign(combined: keras.Model, chosen: Sequence[tuple[Candidate, int]], names: Sequence[Mapping[str, str]]) -> None:
    """Give the combined network the weights of the trials."""
    layers = {spec_name(layer): layer for layer in combined.layers}
    for (candidate, _), own in zip(chosen, names, strict=True):
        for layer in network_of(candidate).layers:
            if (name := own.get(spec_name(layer))) is not None:
                layers[name].set_weights(layer.get_weights())


def seconds_of_a_row(ready: ReadyRun, served: Path, report: Reporter) -> tuple[float, float]:
    """Return the seconds that predicting a row takes: by the network as it is now, and by the served graph."""
    network = serving_network(ready.setup.compiled.model, ready.spec)
    alone = graph_of(network, ready.prepared.encoding.targets, report, None, {}).SerializeToString()
    row = {name: values[:1] for name, values in ready.encoded["train"].x.items()}
    return seconds_each(onnx_session(alone), row), seconds_each(onnx_session(served), row)


def seconds_each(session: onnxruntime.InferenceSession, row: Mapping[str, np.ndarray]) -> float:
    """Return the seconds that one row takes, the least of several tries."""
    feeds = {one.name: np.asarray(row[one.name]) for one in session.get_inputs()}
    tries = []
    for _ in range(4):
        began_at = time.perf_counter()
        for _ in range(_TIMED // 4):
            session.run(None, feeds)
        tries.append((time.perf_counter() - began_at) / (_TIMED // 4))
    return min(tries)
