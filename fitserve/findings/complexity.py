"""The model complexity graph: training and validation loss over the epochs, its turning point, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fitserve.findings.finding import diagnose, evaluate
from fitserve.findings.record import RunRecord
from fitserve.strictjson import finite_json

MAX_POINTS = 1000
# Rules that show a network that has not learned enough.
_UNDERFITTING = {
    "underfitting",
    "stuck_at_baseline",
    "vanishing_gradients",
    "learning_rate_too_low",
    "learning_rate_too_high",
    "target_scale",
    "stopped_too_early",
}
_SENTENCES = {
    "overfitting": "The network has memorised its training rows.",
    "underfitting": "The network has not learned what there is to learn.",
    "just right": "The validation loss of the kept epoch is close to its minimum.",
    "unknown": "Overfitting cannot be detected: no rows were held out.",
}


def complexity(record: RunRecord) -> dict[str, Any] | None:
    """Return the losses without the regularizers' penalty, the turning point, the kept epoch and the verdict.

    None before the first epoch. At most `MAX_POINTS` points; the kept epoch and the turning point are among them.
    """
    trial, final = record.trial, record.kept_epoch_index
    if trial is None or final is None:
        return None
    turning = trial.turning_point
    verdict = _verdict(record, bool(trial.validation))
    points = _thinned(len(trial.epochs), {index for index in (final, turning) if index is not None})
    return {
        "trial": trial.number,
        "loss": record.loss or "loss",
        "baseline": record.baseline,
        "epochs": [trial.epochs[i] for i in points],
        "train": finite_json([trial.train[i] for i in points], digits=6),
        "validation": finite_json([trial.validation[i] for i in points], digits=6) if trial.validation else None,
        "best_epoch": trial.epochs[trial.best] if trial.best is not None else None,
        "turned_epoch": trial.epochs[turning] if turning is not None else None,
        "kept_epoch": trial.epochs[final],
        "verdict": verdict,
        "sentence": _SENTENCES[verdict],
    }


def _verdict(record: RunRecord, held_out: bool) -> str:
    if any(finding.rule == "overfitting" for finding in diagnose(record)):
        return "overfitting"
    # Underfitting is a verdict even where it is the symptom of another finding, such as dead units.
    if any(rule.name in _UNDERFITTING for rule, _ in evaluate(record)):
        return "underfitting"
    return "just right" if held_out else "unknown"


def _thinned(count: int, always: set[int]) -> Sequence[int]:
    if count <= MAX_POINTS:
        return range(count)
    step = count / MAX_POINTS
    return sorted({int(i * step) for i in range(MAX_POINTS)} | {count - 1} | always)
