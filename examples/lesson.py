"""Shared by the lessons' scripts: specs with changed values, figures of trials, the report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fitserve.client import Client

Figures = dict[str, float]


def spec(path: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a spec file's content, with values changed by dotted path, as by `fitserve train --set`."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    for dotted, value in (changes or {}).items():
        *parents, name = dotted.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return content


def final(run: Any, figure: str) -> list[float]:
    """Return a figure (`loss`, `val_accuracy`, ...) after the last epoch of each trial."""
    return [float(trial["logs"][figure]) for trial in run.result["trials"]]


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def main(measure: Callable[[Client], Figures], claims: Callable[[Figures], dict[str, bool]]) -> None:
    """Run a lesson against the server that `Client()` finds; print its figures, and whether its claims hold."""
    with Client() as client:
        figures = measure(client)
    print(report(figures, claims(figures)))


def report(figures: Figures, claims: Mapping[str, bool]) -> str:
    """Return the figures, then a line for each claim."""
    lines = [f"{name:<64} {value:10.4g}" for name, value in figures.items()]
    return "\n".join([*lines, "", *(f"{'yes' if holds else 'NO ':<4} {claim}" for claim, holds in claims.items())])
