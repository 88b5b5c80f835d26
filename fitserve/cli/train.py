"""`fitserve train`: submit a spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fitserve.cli import screen, watch
from fitserve.cli.session import Session, command
from fitserve.cli.spec import read


def register(app: typer.Typer) -> None:
    """Adds the command."""
    examples = (
        "fitserve train spec.yaml --watch",
        "fitserve train spec.yaml --set training.epochs=50 --set training.seed=1",
    )
    command(app, "train", *examples, rich_help_panel="Work")(train)


def train(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec in YAML or JSON; - reads standard input.")],
    watched: Annotated[
        bool, typer.Option("--watch", "-w", help="Watch it train; Ctrl-C leaves the run going.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: training.epochs=50; more than once.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submit once under this key, however often this is called.")
    ] = None,
) -> None:
    """Train a network: submit a spec as a run.

    With --watch the exit code tells how the run ended: 0 succeeded, 7 failed, 8 cancelled.
    """
    body = read(path, set_ or [])
    with session.client() as client:
        run = client.runs.create(body, idempotency_key=idempotency_key)
        if watched:
            watch.watch(session, run)
            return
    session.show(run, screen.pairs({"run": run.id, "state": screen.state(run.state), "model": run.model}))
    session.say(f"Watch it: fitserve runs watch {run.id}")
