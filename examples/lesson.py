"""What the lessons' scripts share: a spec with a few values changed, figures of trials, and the printing."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fitserve.client import Client

Figures = dict[str, float]


def spec(path: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A spec file's content, with values changed by their dotted place, as `fitserve train --set` does it."""
    found: dict[str, Any] = copy.deepcopy(yaml.safe_load(path.read_text()))
    for place, value in (changes or {}).items():
        *parents, name = place.split(".")
        at = found
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = value
    return found


def last(run: Any, figure: str) -> list[float]:
    """What a figure (`loss`, `val_accuracy`, ...) was after the last epoch of each trial."""
    return [float(trial["logs"][figure]) for trial in run.result["trials"]]


def mean(values: Sequence[float]) -> float:
    """The average."""
    return statistics.fmean(values)


def main(measure: Callable[[Client], Figures], claims: Callable[[Figures], dict[str, bool]]) -> None:
    """Runs a lesson against the server that `Client()` finds, and prints what it measured and whether that holds."""
    with Client() as client:
        found = measure(client)
    print(report(found, claims(found)))


def report(found: Figures, claimed: Mapping[str, bool]) -> str:
    """The figures, then a line for each claim."""
    lines = [f"{name:<64} {value:10.4g}" for name, value in found.items()]
    return "\n".join([*lines, "", *(f"{'yes' if holds else 'NO ':<4} {claim}" for claim, holds in claimed.items())])
