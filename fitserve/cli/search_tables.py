"""Results of a search, an ablation, folds and checks, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from fitserve.cli import screen
from fitserve.excerpts import shorten

if TYPE_CHECKING:
    from fitserve.wire.runs import TrialInfo

_WIDEST = 24  # characters of a value to show


def leaderboard(trials: Sequence[TrialInfo], search: Mapping[str, Any], most: int) -> RenderableType | None:
    """Return a table of the best trials, and a line that counts all; None before any has begun."""
    if not trials:
        return None
    sign = -1.0 if search.get("direction") == "max" else 1.0
    done = [trial for trial in trials if trial.state == "succeeded" and trial.value is not None]
    best = sorted(done, key=lambda trial: (sign * float(trial.value or 0.0), trial.trial))[:most]
    names = list(dict.fromkeys(name for trial in best for name in trial.values))
    rows = [
        (
            trial.trial + 1,
            screen.number(float(trial.value or 0.0)),
            *(_short(trial.values[name]) if name in trial.values else "" for name in names),
            trial.epochs,
        )
        for trial in best
    ]
    table = screen.table(("trial", str(search.get("metric") or "value"), *names, "epochs"), rows)
    counts = {state: sum(trial.state == state for trial in trials) for state in _STATES}
    counted = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return Group(table, Text(counted, style="dim")) if rows else Text(counted, style="dim")


_STATES = ("succeeded", "pruned", "failed", "running")


def _short(value: Any) -> str:
    text = screen.number(value) if isinstance(value, float) else value if isinstance(value, str) else _flow(value)
    return shorten(text, _WIDEST)


def _flow(value: Any) -> str:
    """Return a value in the flow style of YAML, without quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def result_tables(result: Mapping[str, Any]) -> list[RenderableType]:
    """Return the tables of a run's results other than a network: effects of parts, figures over folds, checks."""
    parts: list[RenderableType] = []
    if ablation := result.get("ablation"):
        rows = [(one["part"], one["says"], *(_number(one[name]) for name in _EFFECT)) for one in ablation["parts"]]
        parts.append(screen.table(("without", "it", f"effect on {ablation['metric']}", "low", "high"), rows))
    if folds := result.get("folds"):
        rows = [
            (target, name, _number(own["mean"]), _number(own["low"]), _number(own["high"]))
            for target, figures in folds.items()
            for name, own in figures.items()
        ]
        parts.append(screen.table(("target", "over folds", "mean", "low", "high"), rows))
    if dataset := result.get("out_of_fold"):
        parts.append(Text(f"Predictions out of the folds: {dataset['dataset']}"))
    for found in result.values():  # by checks: one sentence, or a list of what passed and what did not
        if isinstance(found, Mapping) and "says" in found:
            parts.append(Text(found["says"]))
        elif isinstance(found, list):
            parts += [_checked(one) for one in found if isinstance(one, Mapping) and "passed" in one]
    return parts


_EFFECT = ("effect", "low", "high")
_STYLES = {True: "green", False: "yellow", None: "dim"}
_PASSED = {True: "passed", False: "finding", None: "not made"}


def _checked(one: Mapping[str, Any]) -> Text:
    fix = f" ({one['fix']})" if one["fix"] else ""
    return Text.assemble((f"{_PASSED[one['passed']]:9}", _STYLES[one["passed"]]), f"{one['says']}{fix}")


def _number(value: float | None) -> str | None:
    return None if value is None else screen.number(value)
