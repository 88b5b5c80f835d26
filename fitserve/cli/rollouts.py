"""`fitserve models rollout` and `fitserve models rollout ab`: gradual promotions and A/B comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.models import ModelName
from fitserve.cli.models import group as models_group
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.wire.rollouts import RolloutDetail, RolloutInfo

group = typer.Typer(
    name="rollout", no_args_is_help=True, help="Make a version the champion step by step, watched by guards."
)
models_group.add_typer(group)
RolloutId = Annotated[str | None, typer.Argument(metavar="[ROLLOUT]", help="A rollout's id; the newest if omitted.")]
Version = Annotated[int, typer.Option("--to", min=1, help="The version's number.")]
GuardOption = Annotated[
    list[str] | None,
    typer.Option("--guard", metavar="NAME=LIMIT", help="A limit, or NAME=off: errors=0.01, live_accuracy=0.02, ..."),
]


@command(
    group,
    "start",
    "fitserve models rollout start admissions --to 4",
    "fitserve models rollout start admissions --to 4 --steps 5,50,100 --hold 600 --shadow --guard live_accuracy=0.02",
)
def start(
    session: Session,
    model: ModelName,
    to: Version,
    steps: Annotated[str, typer.Option(help="Percentages of the traffic, growing.")] = "1,10,50,100",
    hold: Annotated[float, typer.Option(min=0, help="Least seconds of each step.")] = 3600.0,
    min_requests: Annotated[int, typer.Option(min=0, help="Least requests of the new version in each step.")] = 100,
    min_truths: Annotated[int, typer.Option(min=0, help="Least predictions of it with ground truth in each step.")] = 0,
    deadline: Annotated[
        float, typer.Option(min=0, help="Most seconds that a step waits, after its hold, for these; 0: no limit.")
    ] = 604_800.0,
    guard: GuardOption = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="First send it a copy of the traffic.")] = False,
) -> None:
    """Start a rollout: the version answers a growing share of requests; guards roll it back if it does worse."""
    shares = [_number(part, "--steps") for part in steps.split(",")]
    with session.client() as client:
        made = client.rollouts.start(
            model,
            to,
            steps=shares,
            hold=hold,
            min_requests=min_requests,
            min_truths=min_truths,
            deadline=deadline or math.inf,
            guards=_guards(guard),
            shadow=shadow,
        )
    session.show(made, _line(made))
    session.hint(f"Watch it: fitserve models rollout show {model}")


@command(group, "ab", "fitserve models rollout ab admissions --to 4 --share 50")
def ab(
    session: Session,
    model: ModelName,
    to: Version,
    share: Annotated[float, typer.Option(help="Percent of the traffic that it answers.")] = 50.0,
    guard: GuardOption = None,
) -> None:
    """Compare a version with the champion on live traffic, until it is promoted or aborted."""
    with session.client() as client:
        made = client.rollouts.compare(model, to, share=share, guards=_guards(guard))
    session.show(made, _line(made))
    session.hint(f"The difference so far: fitserve models rollout show {model}")


@command(group, "list", "fitserve models rollout list admissions")
def list_(
    session: Session,
    model: ModelName,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = 20,
) -> None:
    """List a model's rollouts, newest first."""
    with session.client() as client:
        rollouts = list(client.rollouts.list(model, limit))
    rows = [
        (one.id, one.kind, f"{one.base} -> {one.to}", one.state.replace("_", " "), f"{one.share:.4g}", one.created_at)
        for one in rollouts
    ]
    session.show(rollouts, screen.table(("rollout", "kind", "versions", "state", "share", "started"), rows))


@command(group, "show", "fitserve models rollout show admissions")
def show(session: Session, model: ModelName, rollout: RolloutId = None) -> None:
    """Show a rollout: its step, its guards' figures, and the live metric of both versions."""
    with session.client() as client:
        detail = client.rollouts.get(model, rollout or _newest(client, model))
    guards = [
        (
            f"{step.share:.4g}",
            figure.guard + (f" of {figure.output}" if figure.output else ""),
            *(screen.number(value) for value in (figure.base, figure.new, figure.value, figure.low)),
            screen.number(figure.limit),
            "breached" if figure.breached else "",
        )
        for step in detail.steps
        for figure in step.figures
    ]
    names = ("share", "guard", "before", "new", "value", "certainly over", "limit", "")
    session.show(detail, _line(detail), screen.table(names, guards) if guards else "", _comparison(detail))


def _comparison(detail: RolloutDetail) -> Any:
    rows = [
        (
            f"{one.metric.replace('_', ' ')} of {one.output}",
            *(screen.number(value) for value in (one.base, one.new, one.difference)),
            "" if one.low is None else f"{screen.number(one.low)} to {screen.number(one.high)}",
            f"{one.base_rows} / {one.new_rows}",
        )
        for one in detail.comparison
    ]
    names = ("live metric", f"version {detail.base}", f"version {detail.to}", "difference", "95% interval", "truths")
    return screen.table(names, rows) if rows else ""


@command(group, "pause", "fitserve models rollout pause admissions")
def pause(session: Session, model: ModelName, rollout: RolloutId = None) -> None:
    """Pause a rollout at its step; its guards stay active."""
    _change(session, model, rollout, "pause")


@command(group, "resume", "fitserve models rollout resume admissions")
def resume(session: Session, model: ModelName, rollout: RolloutId = None) -> None:
    """Resume a paused rollout."""
    _change(session, model, rollout, "resume")


@command(group, "abort", "fitserve models rollout abort admissions")
def abort(session: Session, model: ModelName, rollout: RolloutId = None) -> None:
    """Abort a rollout: return all traffic to the champion."""
    _change(session, model, rollout, "abort")


@command(group, "promote", "fitserve models rollout promote admissions")
def promote(session: Session, model: ModelName, rollout: RolloutId = None) -> None:
    """Make a rollout's version the champion at once."""
    _change(session, model, rollout, "promote")


def _change(session: Session, model: str, rollout: str | None, action: str) -> None:
    with session.client() as client:
        done = getattr(client.rollouts, action)(model, rollout or _newest(client, model))
    session.show(done, _line(done))


def _newest(client: Any, model: str) -> str:
    for one in client.rollouts.list(model, 1):
        return str(one.id)
    raise BadInput(f"The model {model} has no rollout.", fix=f"fitserve models rollout start {model} --to VERSION")


def _line(one: RolloutInfo) -> str:
    what = "Comparison" if one.kind == "ab" else "Rollout"
    state = one.state.replace("_", " ")
    line = f"{what} {one.id} of {one.model}: version {one.to} against {one.base}, {state}"
    if one.finished_at is None:
        at = "as a shadow" if one.share == 0 else f"answering {one.share:.4g} of the requests"
        return f"{line}, {at} (step {one.step + 1} of {len(one.shares)})."
    return f"{line}. {(one.reason or {}).get('detail', '')}"


def _guards(texts: list[str] | None) -> Mapping[str, float | None] | None:
    if not texts:
        return None
    guards: dict[str, float | None] = {}
    for text in texts:
        name, equals, limit = text.partition("=")
        if not equals:
            raise BadInput("A guard has a limit.", received=text, expected="--guard errors=0.01, or --guard errors=off")
        guards[name.strip().replace("-", "_")] = None if limit.strip() == "off" else _number(limit, "--guard")
    return guards


def _number(text: str, option: str) -> float:
    try:
        return float(json.loads(text))
    except (ValueError, TypeError):
        raise BadInput(f"{option} takes numbers.", received=text) from None
