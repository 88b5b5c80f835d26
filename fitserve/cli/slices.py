"""`fitserve runs slices` and `fitserve runs fairness`: parts of the held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.runs import RunId, group
from fitserve.cli.session import Session, command

if TYPE_CHECKING:
    from fitserve.wire.insight import Fairness

_RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "precision", "calibration_error")
_ERRORS = ("mean_error", "mae", "rmse")


@command(group, "slices", "fitserve runs slices run_01kb...", "fitserve runs slices run_01kb... --column gpa")
def slices(
    session: Session,
    run_id: RunId,
    column: Annotated[str | None, typer.Option(help="The figures by category or range of this column.")] = None,
    target: Annotated[str | None, typer.Option(help="The target, where the run has several.")] = None,
) -> None:
    """Show the rows that a run predicts worst, by one condition or two; or the figures of a column."""
    with session.client() as client:
        report = client.runs.get(run_id).slices(target, column=column)
    measure = report.metric.replace("_", " ")
    names = ("rows", "share", measure, "elsewhere", "difference")
    if column is not None:
        items = [item for one in report.columns for item in one["items"]]
        rows = [(condition(one["condition"]), *_row(one), "worse" if one["worse"] else "") for one in items]
        none = f"{column} has no two parts of {report.least_rows} held-out rows."
        session.show(report, screen.table(("where", *names, ""), rows) if rows else none)
        return
    rows = [(" and ".join(map(condition, one["conditions"])), *_row(one)) for one in report.worst]
    none = f"No part of the {report.rows} held-out rows is worse than the rest by more than chance."
    if report.rows < report.fewest_searched:
        none = f"{report.rows} held-out rows are too few to look for worse parts; it takes {report.fewest_searched}."
    session.show(report, screen.table(("where", *names), rows) if rows else none)
    if report.columns:
        session.hint(f"By column: fitserve runs slices {run_id} --column '{report.columns[0]['column']}'")


def condition(one: Mapping[str, Any]) -> str:
    """Return a condition in words."""
    column = one["column"]
    if one.get("missing"):
        return f"{column} is missing"
    if "others" in one:
        return f"{column}: {one['others']} other values"
    if "equals" in one:
        return f"{column} = {one['equals']}"
    low, high = one["from"], one["to"]
    return (
        f"{column} < {high}" if low is None else f"{column} ≥ {low}" if high is None else f"{low} ≤ {column} < {high}"
    )


def _row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    value, rest = screen.number(one["value"]), screen.number(one["rest"])
    return (
        one["rows"],
        f"{one['share']:.1%}",
        value,
        rest,
        _with_interval(one["difference"], one["difference_interval"]),
    )


def _with_interval(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return screen.number(value)
    low, high = map(screen.number, interval)
    return f"{screen.number(value)} ({low} to {high})"


@command(group, "fairness", "fitserve runs fairness run_01kb...", "fitserve runs fairness run_01kb... --json")
def fairness(session: Session, run_id: RunId) -> None:
    """Compare the groups of the columns that the spec protects: rates, errors, and how they differ."""
    with session.client() as client:
        report = client.runs.get(run_id).fairness()
    session.show(report, *_tables(report))
    if not report.items:
        session.hint("Name columns in the spec and train again: protected: [column]")


def _tables(report: Fairness) -> Iterator[Any]:
    for item in report.items:
        for one in item["labels"]:
            yield from _table(item, one, _RATES, f"{item['output']}: {one['label']}, by {item['column']}")
        if item["numbers"]:
            yield from _table(item, item["numbers"], _ERRORS, f"{item['output']}, by {item['column']}")


def _table(item: Mapping[str, Any], one: Mapping[str, Any], names: tuple[str, ...], title: str) -> Iterator[Any]:
    rows = [
        (
            "(missing)" if entry["group"] is None else entry["group"],
            entry["rows"],
            *(screen.number(entry[name]) for name in names),
            f"fewer than {item['min_group']} rows" if entry["small"] else "",
        )
        for entry in one["groups"]
    ]
    yield screen.table((item["column"], "rows", *(name.replace("_", " ") for name in names), ""), rows, title=title)
    for name, measured in (one["differences"] or {}).items():
        yield f"{name.replace('_', ' ')}: {_with_interval(measured['value'], measured['interval'])}"
