"""Summary of a search's trials: the best, their spread, which parameters matter, and the effects of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fitserve.spec.search import LEFT_OUT, SearchSpec, short_names
from fitserve.spec.spec import Spec
from fitserve.states import FailureCause
from fitserve.strictjson import finite_json
from workers.trainer.interface import Reporter, TrainingFailed
from workers.trainer.search.ablation_effects import effects_of_parts
from workers.trainer.trials.trial import TrialRecord

ENDED = ("succeeded", "pruned", "failed")
Row = dict[str, Any]


def no_trial(rows: Sequence[Row]) -> TrainingFailed:
    """Return the error of a search without a trial that succeeded."""
    pruned = sum(row["state"] == "pruned" for row in rows)
    reasons = [str(row["reason"]) for row in rows if row["state"] == "failed"]
    message = f"No trial of {len(rows)} succeeded: {len(reasons)} failed, {pruned} were pruned."
    first = f" The first failure: {reasons[0]}" if reasons else ""
    return TrainingFailed(FailureCause.search, message + first, {"failed": len(reasons), "pruned": pruned})


def summarize(
    search: SearchSpec,
    rows: Mapping[int, Row],
    best: int,
    spec: Spec,
    importance: Mapping[str, float],
    report: Reporter,
) -> dict[str, Any]:
    """Return what the run's result holds besides the network; `spec` is that of the trial `best`."""
    metric = search.settings.metric
    trials = [rows[number] for number in sorted(rows)]
    names = short_names(list(search.flat()))
    values = [row["value"] for row in trials if row["state"] == "succeeded"]
    states = {state: sum(row["state"] == state for row in trials) for state in ENDED}
    figures = {name: float(getattr(np, name)(values)) for name in ("min", "max", "mean", "std")}
    return finite_json(
        {
            "best_trial": best,
            "best_spec": {**spec.to_json(), "model": None},
            "spread": figures,
            "trials": [_as_trial(row, metric) for row in trials],
            "search": {
                "metric": metric,
                "direction": search.settings.direction,
                "configurations": search.configurations,
                **states,
                "best": {"trial": best, "value": rows[best]["value"]},
                "values": rows[best]["values"],
                "importance": {names[index]: share for index, share in importance.items()},
            },
            **_ablation(search, trials, spec, report),
        }
    )


def _ablation(search: SearchSpec, rows: Sequence[Row], spec: Spec, report: Reporter) -> dict[str, Any]:
    """Return what each part of an ablated spec does; nothing where none is ablated."""
    if search.ablation is None:
        return {}
    split, metric = spec.split, search.settings.metric
    drawn = split.method in ("random", "stratified", "group")
    held_out = split.validation / (1 - split.validation - split.test) if drawn else 0.0
    values = [row["value"] for row in rows if row["state"] == "succeeded" and row["point"][LEFT_OUT] == 0]
    entries = effects_of_parts(search, rows, held_out)
    for one in entries:
        if one["effect"] is not None:
            figures = f"{one['effect']:+.3g} ({one['low']:+.3g} to {one['high']:+.3g})"
            report.event("info", f"{one['part']}: {one['says']}, {figures} of {metric}.", {"ablation": one})
    return {"ablation": {"metric": metric, "whole": float(np.mean(values)), "parts": entries}}


def _as_trial(row: Row, metric: str | None) -> dict[str, Any]:
    """Return a search's trial as a run's result lists its trials."""
    record = TrialRecord(
        index=row["trial"],
        seed=0,
        state=row["state"],
        epochs=row.get("epochs") or 0,
        best_epoch=row.get("best_epoch"),
        monitor=str(metric),
        score=row.get("value"),
        seconds=row.get("seconds") or 0.0,
        failure={"cause": row["state"], "message": row["reason"]} if row.get("reason") else None,
    )
    return {**asdict(record), "values": row["values"]}
