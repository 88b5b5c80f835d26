"""The model complexity graph: training and validation loss over the epochs, its turning point, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fitserve.findings.finding import diagnose, evaluate
from fitserve.findings.record import RunRecord
from fitserve.strictjson import finite_json

MAX_POINTS = 1000
_SENTENCES = {
    "overfitting": "The network has memorised its training rows.",
    "underfitting": "The network has not learned what there is to learn.",
    "just right": "The validation loss of the kept epoch is close to its minimum.",
    "nothing learned": "On unseen rows the network is no better than a constant answer: it learned nothing that helps.",
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
    nothing = _nothing_learned(record)
    verdict = _verdict(record, bool(trial.validation), nothing is not None)
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
        "sentence": f"{_SENTENCES[verdict]} {nothing}" if nothing and verdict != "overfitting" else _SENTENCES[verdict],
    }


def _nothing_learned(record: RunRecord) -> str | None:
    """Return the figures of a network that is no better than a constant answer on rows that it never saw; else None.

    Its loss is not lower by more than chance; or, of labels, its accuracy is not above that of the commonest label and
    the interval of its ROC AUC includes 0.5.
    """
    insight = record.insight or {}
    part = str(insight.get("evaluated_on"))
    verdict = ((insight.get("against") or {}).get("baseline") or {}).get("verdict")
    own = (insight.get("evaluation") or {}).get(part) or {}
    constant = (insight.get("reference_figures") or {}).get("baseline") or {}
    if part not in ("validation", "test") or verdict is None:
        return None
    accuracy, common, area = own.get("accuracy"), constant.get("accuracy"), own.get("roc_auc")
    interval = (own.get("intervals") or {}).get("roc_auc")
    no_ranking = interval is not None and interval[0] <= 0.5
    no_gain = accuracy is not None and common is not None and accuracy <= common
    if verdict == "better" and not (no_ranking and no_gain):
        return None
    rows = f"On {own.get('rows')} {part} rows"
    if accuracy is not None and common is not None:
        ranking = "" if area is None else f"; ROC AUC {area:.2f}"
        ranking += f", its interval from {interval[0]:.2f} to {interval[1]:.2f}" if ranking and interval else ""
        usual = f"{common:.2f} of always saying the commonest label"
        return f"{rows} its accuracy is {accuracy:.2f}, against {usual}{ranking}."
    network, trivial = record.mean_loss("network", part), record.mean_loss("baseline", part)
    if network is None or trivial is None:
        return None
    return f"{rows} its squared error is {network:.3g}, against {trivial:.3g} of always saying the mean."


def _verdict(record: RunRecord, held_out: bool, nothing_learned: bool) -> str:
    if any(finding.rule == "overfitting" for finding in diagnose(record)):
        return "overfitting"
    # Underfitting is a verdict even where it is the symptom of another finding, such as dead units.
    if any(rule.means_underfitting for rule, _ in evaluate(record)):
        return "underfitting"
    if nothing_learned:
        return "nothing learned"
    return "just right" if held_out else "unknown"


def _thinned(count: int, always: set[int]) -> Sequence[int]:
    if count <= MAX_POINTS:
        return range(count)
    step = count / MAX_POINTS
    return sorted({int(i * step) for i in range(MAX_POINTS)} | {count - 1} | always)
