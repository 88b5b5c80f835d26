"""The model complexity graph: training and validation error over epochs, where it turned, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fitserve.findings import fit
from fitserve.findings.diagnosis import diagnose, speaking
from fitserve.findings.record import Record

POINTS = 1000
_UNDER = (
    "underfitting",
    "stuck_at_baseline",
    "vanishing_gradients",
    "learning_rate_too_low",
    "learning_rate_too_high",
    "target_scale",
    "stopped_too_early",
)
_WORDS = {
    "overfitting": "The network learned its training rows too closely.",
    "underfitting": "The network has not learned what there is to learn.",
    "just right": "The kept epoch is where the validation loss is about as low as it gets.",
    "unknown": "No rows were held out, so that overfitting cannot be seen.",
}


def complexity(record: Record) -> dict[str, Any] | None:
    """Curves without the regularizers' penalty, `turned` (the last epoch before validation got worse), the kept epoch.

    None before the first epoch. At most `POINTS` points; the kept epoch and the turn are always among them.
    """
    trial, kept = record.trial, record.kept_index
    if trial is None or kept is None:
        return None
    turned = fit.turn(trial.validation) if trial.validation else None
    # Underfitting is a verdict too where it is a mere symptom, as of dead units.
    overfits = any(finding.rule == "overfitting" for finding in diagnose(record))
    verdict = "overfitting" if overfits else _verdict(speaking(record), bool(trial.validation))
    points = _thin(len(trial.epochs), {kept, turned} - {None})
    return {
        "trial": trial.number,
        "loss": record.loss or "loss",
        "baseline": record.baseline,
        "epochs": [trial.epochs[i] for i in points],
        "train": [_number(trial.train[i]) for i in points],
        "validation": [_number(trial.validation[i]) for i in points] if trial.validation else None,
        "best_epoch": trial.epochs[trial.best] if trial.best is not None else None,
        "turned_epoch": trial.epochs[turned] if turned is not None else None,
        "kept_epoch": trial.epochs[kept],
        "verdict": verdict,
        "sentence": _WORDS[verdict],
    }


def _verdict(rules: set[str], held_out: bool) -> str:
    if rules & set(_UNDER):
        return "underfitting"
    return "just right" if held_out else "unknown"


def _thin(count: int, always: set[Any]) -> Sequence[int]:
    if count <= POINTS:
        return range(count)
    step = count / POINTS
    return sorted({int(i * step) for i in range(POINTS)} | {count - 1} | always)


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
