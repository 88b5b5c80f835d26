"""`fitserve runs`: list, show, watch, cancel, retry, compare, findings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fitserve.cli import screen, watch
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.client.runs import Run
    from fitserve.wire.insight import FindingInfo

runs = typer.Typer(no_args_is_help=True, help="Runs: list, look into, watch, cancel, retry, compare.")
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
_SEVERITY = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


@command(runs, "list", "fitserve runs list", "fitserve runs list --state failed --limit 5 --json")
def list_(
    session: Session,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    model: Annotated[str | None, typer.Option(help="Those of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List runs, the newest first."""
    with session.client() as client:
        found = list(client.runs.list(state=state, model=model, limit=limit))
    rows = [
        (run.id, screen.state(run.state), run.model or "", run.dataset, run.created_at, _took(run), _score(run))
        for run in found
    ]
    names = ("run", "state", "model", "dataset", "created", "took", "reached")
    session.show(found, screen.table(names, rows, may_go=("dataset", "took", "created", "model")))


def _took(run: Run) -> str:
    if run.started_at is None or run.finished_at is None:
        return ""
    return screen.duration((run.finished_at - run.started_at).total_seconds())


def _score(run: Run) -> str:
    """One figure that tells most: on the test rows, else on the validation rows."""
    for part in ("test", "validation", "train"):
        for name, value in run.scores(part).items():
            return f"{name} {screen.number(value)} ({part})"
    return str((run.error or {}).get("cause", ""))


@command(runs, "show", "fitserve runs show run_01kb...", "fitserve runs show run_01kb... --json | jq .resolved")
def show(session: Session, run_id: RunId) -> None:
    """Show a run: its state, its place in the queue, what it reached or why it failed."""
    with session.client() as client:
        run = client.runs.get(run_id)
    values = {
        "model": run.model,
        "dataset": run.dataset,
        "created": run.created_at,
        "took": _took(run),
        "attempts": run.attempt or None,
    }
    session.show(run, watch.summary(run), screen.pairs(values))
    if not run.ended:
        session.say(f"Watch it: fitserve runs watch {run.id}")


@command(runs, "watch", "fitserve runs watch run_01kb...", "fitserve runs watch run_01kb... --json > events.jsonl")
def watch_(session: Session, run_id: RunId) -> None:
    """Watch a run to its end, through lost connections; Ctrl-C leaves it going.

    The exit code tells how it ended: 0 succeeded, 7 failed, 8 cancelled.
    """
    with session.client() as client:
        watch.watch(session, client.runs.get(run_id))


@command(runs, "cancel", "fitserve runs cancel run_01kb...")
def cancel(session: Session, run_id: RunId) -> None:
    """Cancel a run. A queued run ends at once, a running one within seconds."""
    with session.client() as client:
        run = client.runs.get(run_id).cancel()
    text = f"{run.id} is cancelled." if run.state == "cancelled" else f"{run.id} will stop within seconds."
    session.show(run, Text(text))


@command(runs, "share", "fitserve runs share run_01kb...", "fitserve runs share run_01kb... --private")
def share(
    session: Session,
    run_id: RunId,
    private: Annotated[bool, typer.Option("--private", help="Take it back.")] = False,
) -> None:
    """Let other owners look at a run: its epochs, events and what it teaches."""
    with session.client() as client:
        run = client.runs.get(run_id).share(not private)
    session.show(run, f"{run.id} is {'shared with every owner' if run.shared else 'yours alone'}.")


@command(runs, "retry", "fitserve runs retry run_01kb... --watch")
def retry(
    session: Session,
    run_id: RunId,
    watched: Annotated[bool, typer.Option("--watch", "-w", help="Watch the new run.")] = False,
) -> None:
    """Submit the spec of a failed or cancelled run again, as a new run."""
    with session.client() as client:
        run = client.runs.get(run_id).retry()
        if watched:
            watch.watch(session, run)
            return
    session.show(run, screen.pairs({"run": run.id, "state": screen.state(run.state), "model": run.model}))
    session.say(f"Watch it: fitserve runs watch {run.id}")


@command(runs, "compare", "fitserve runs compare run_01kb... run_01kc...")
def compare(
    session: Session, run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two runs or more.")]
) -> None:
    """Compare runs: where their specs differ, and what each reached."""
    if len(run_ids) < 2:
        raise BadInput("One run has nothing to be compared with.", received=run_ids, expected="two runs or more")
    with session.client() as client:
        found = [client.runs.get(run_id) for run_id in run_ids]
    specs = [_flat(run.resolved or {}) for run in found]
    keys = [key for key in dict.fromkeys(key for spec in specs for key in spec) if _differs(key, specs)]
    differences = {key: [spec.get(key) for spec in specs] for key in keys}
    scores = [
        {f"{part} {name}": v for part in ("validation", "test") for name, v in run.scores(part).items()}
        for run in found
    ]
    reached = {name: [score.get(name) for score in scores] for name in dict.fromkeys(n for s in scores for n in s)}
    rows = [("state", *(screen.state(run.state) for run in found))]
    rows += [(name, *values) for name, values in reached.items()]
    rows += [(name, *(_shown(value) for value in values)) for name, values in differences.items()]
    value = {"runs": run_ids, "reached": reached, "differences": differences}
    session.show(value, screen.table(("", *(run.id for run in found)), rows))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A spec's leaves by their JSON Pointers."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, item in pairs for key, leaf in _flat(item, f"{prefix}/{name}").items()}
    return {prefix: value}


def _differs(key: str, specs: list[dict[str, Any]]) -> bool:
    return len({json.dumps(spec.get(key), sort_keys=True) for spec in specs}) > 1


def _shown(value: Any) -> Any:
    return "-" if value is None else json.dumps(value) if isinstance(value, dict | list | bool) else value


@command(
    runs,
    "findings",
    "fitserve runs findings run_01kb...",
    "fitserve runs findings run_01kb... --apply 1 --watch",
)
def findings(
    session: Session,
    run_id: RunId,
    apply: Annotated[int | None, typer.Option(min=1, help="Train again with the change of this finding.")] = None,
    seeds: Annotated[int | None, typer.Option(min=2, help="Train both under so many seeds, to compare them.")] = None,
    watched: Annotated[bool, typer.Option("--watch", "-w", help="Watch the new run.")] = False,
) -> None:
    """Show what went wrong in a run, the evidence, and the change that answers it."""
    with session.client() as client:
        run = client.runs.get(run_id)
        if apply is not None:
            child = client.runs.get(run.apply_finding(apply, seeds=seeds).id)
            if watched:
                watch.watch(session, child)
                return
            session.show(child, screen.pairs({"run": child.id, "state": screen.state(child.state)}))
            session.say(
                f"Watch it: fitserve runs watch {child.id}    Compare: fitserve runs compare {run.id} {child.id}"
            )
            return
        found = run.findings()
    session.show(found, *map(_finding, found))
    if not found:
        session.say("Nothing was found to be wrong.")
    elif any(item.patch for item in found):
        session.say(f"Train again with a change: fitserve runs findings {run_id} --apply 1 --watch")


def _finding(item: FindingInfo) -> Text:
    lines = Text.assemble((f"{item.n}. ", "bold"), (item.title, _SEVERITY.get(item.severity, "")))
    lines.append(f"\n   {item.sentence}")
    if item.patch:
        lines.append(f"\n   {item.answer}", style="dim")
    for change in item.patch:
        value = json.dumps(change["value"]) if "value" in change else ""
        lines.append(f"\n     {change.get('op')} {change.get('path')} {value}", style="dim")
    return lines
