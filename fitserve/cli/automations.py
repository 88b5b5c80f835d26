"""`fitserve automations`: create, list, show, rehearse, pause, resume, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

group = typer.Typer(
    name="automations", no_args_is_help=True, help="Models that train again by themselves: create, rehearse, pause."
)
Automation = Annotated[str, typer.Argument(help="Its id or name, from `automations list`.")]
PolicyFile = Annotated[
    Path, typer.Argument(help="A policy as YAML or JSON: on, do, gate, then, overlap, budget, pause_after.")
]


def read_policy(path: Path) -> dict[str, Any]:
    """Return the policy in a file. Raises BadInput."""
    import yaml

    try:
        policy = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"The policy cannot be read: {error}", received=str(path)) from error
    if not isinstance(policy, dict):
        raise BadInput("A policy is a mapping with `on`, `do` and `then`.", received=str(path))
    # YAML 1.1 reads the key `on` as true.
    return {"on" if key is True else str(key): value for key, value in policy.items()}


@command(group, "create", "fitserve automations create weekly policy.yaml")
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Lower case, digits, `.`, `_`, `-`.")],
    policy: PolicyFile,
    paused: Annotated[bool, typer.Option("--paused", help="Create it without switching it on.")] = False,
) -> None:
    """Create an automation from a file with its policy."""
    with session.client() as client:
        made = client.automations.create(name, read_policy(policy), enabled=not paused)
    rows = {"id": made.id, "model": made.model, "next": made.next_at, "then": made.policy.then}
    session.show(made, screen.pairs(rows))
    session.hint(f"What it would have done: fitserve automations rehearse {made.name}")


@command(group, "list", "fitserve automations list", "fitserve automations list --json")
def list_(session: Session) -> None:
    """List automations."""
    with session.client() as client:
        automations = list(client.automations.list())
    rows = []
    for one in automations:
        on = one.policy.on.model_dump(exclude_none=True, exclude={"timezone"})
        state = "on" if one.enabled else "paused"
        when = " ".join(f"{key} {value}" for key, value in on.items())
        rows.append((one.id, one.name, when, one.policy.then, state, screen.age(one.next_at), one.owner))
    names = ("id", "name", "when", "then", "state", "next", "owner")
    session.show(automations, screen.table(names, rows, droppable=("owner", "then")))


@command(group, "show", "fitserve automations show weekly")
def show(
    session: Session,
    automation: Automation,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many times.")] = 20,
) -> None:
    """Show what an automation did, newest first."""
    with session.client() as client:
        row = client.automations.get(automation)
        history = list(client.automations.history(row.id, limit=limit))
    rows = [
        (screen.age(one.created_at), one.decision or one.state, one.dataset, one.version, one.why or one.reason)
        for one in history
    ]
    names = ("when", "what", "dataset", "version", "why")
    session.show(
        {"automation": row.model_dump(mode="json"), "history": [one.model_dump(mode="json") for one in history]},
        screen.table(names, rows, droppable=("version", "dataset")),
    )
    if row.paused_reason:
        session.hint(f"It is paused: {row.paused_reason}. Go on: fitserve automations resume {row.name}")


@command(
    group, "rehearse", "fitserve automations rehearse weekly", "fitserve automations rehearse --policy policy.yaml"
)
def rehearse(
    session: Session,
    automation: Annotated[str | None, typer.Argument(help="Its id or name. Left out with --policy.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy that is not an automation yet.")] = None,
) -> None:
    """Show what a policy would have done over the history of its model and dataset. Nothing is trained."""
    if (automation is None) == (policy is None):
        raise BadInput("Give either an automation or --policy.")
    with session.client() as client:
        played = client.automations.rehearse(read_policy(policy) if policy is not None else str(automation))
    rows = [(str(tick.at)[:16], tick.outcome, tick.dataset, tick.why) for tick in played.ticks]
    session.show(played, screen.table(("when", "what", "dataset", "why"), rows, droppable=("dataset",)))
    for note in played.notes:
        session.hint(note)


@command(group, "pause", "fitserve automations pause weekly")
def pause(session: Session, automation: Automation) -> None:
    """Pause an automation; a run that it has started continues."""
    _switch(session, automation, enabled=False)


@command(group, "resume", "fitserve automations resume weekly")
def resume(session: Session, automation: Automation) -> None:
    """Resume an automation, also one that was paused after repeated failures."""
    _switch(session, automation, enabled=True)


def _switch(session: Session, automation: str, *, enabled: bool) -> None:
    with session.client() as client:
        row = client.automations.change(automation, enabled=enabled)
    session.show(row, f"{row.name} is {'on' if row.enabled else 'paused'}.")


@command(group, "delete", "fitserve automations delete weekly")
def delete(session: Session, automation: Automation) -> None:
    """Delete an automation and its history; its runs and versions remain."""
    with session.client() as client:
        client.automations.delete(automation)
    session.show({"automation": automation}, f"The automation {automation} is deleted.")
