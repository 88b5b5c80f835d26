"""`fitserve runs`: list, show, watch, cancel, share, retry, fork, compare, findings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fitserve.cli import screen
from fitserve.cli.session import Session, command
from fitserve.cli.watch import show_new, summary, watch
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.client.runs import Run
    from fitserve.wire.insight import FindingInfo

group = typer.Typer(name="runs", no_args_is_help=True, help="Runs: list, inspect, watch, cancel, retry, fork, compare.")
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Watch the new run; Ctrl-C leaves it running.")]
_SEVERITY = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


@command(group, "list", "fitserve runs list", "fitserve runs list --state failed --limit 5 --json")
def list_(
    session: Session,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    model: Annotated[str | None, typer.Option(help="Only runs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = 20,
) -> None:
    """List runs, newest first."""
    with session.client() as client:
        runs = list(client.runs.list(state=state, model=model, limit=limit))
    rows = [
        (run.id, screen.state(run.state), run.model or "", run.dataset, run.created_at, _duration(run), _score(run))
        for run in runs
    ]
    names = ("run", "state", "model", "dataset", "created", "duration", "score")
    session.show(runs, screen.table(names, rows, droppable=("dataset", "duration", "created", "model")))


def _duration(run: Run) -> str:
    if run.started_at is None or run.finished_at is None:
        return ""
    return screen.duration((run.finished_at - run.started_at).total_seconds())


def _score(run: Run) -> str:
    """Return one score on the test rows, else the validation rows, else the training rows; or why the run failed."""
    for part in ("test", "validation", "train"):
        for name, value in run.scores(part).items():
            return f"{name} {screen.number(value)} ({part})"
    return str((run.error or {}).get("cause", ""))


@command(group, "show", "fitserve runs show run_01kb...", "fitserve runs show run_01kb... --json | jq .resolved")
def show(session: Session, run_id: RunId) -> None:
    """Show a run: its state, its scores, or why it failed."""
    with session.client() as client:
        run = client.runs.get(run_id)
        shown = summary(run)
    values = {
        "model": run.model,
        "dataset": run.dataset,
        "created": run.created_at,
        "duration": _duration(run),
        "attempts": run.attempt or None,
    }
    session.show(run, shown, screen.pairs(values))
    if not run.ended:
        session.hint(f"Watch it: fitserve runs watch {run.id}")


@command(group, "watch", "fitserve runs watch run_01kb...", "fitserve runs watch run_01kb... --json > events.jsonl")
def watch_(session: Session, run_id: RunId) -> None:
    """Watch a run to its end, reconnecting as needed; Ctrl-C leaves it running.

    The exit code tells how it ended: 0 succeeded, 7 failed, 8 cancelled.
    """
    with session.client() as client:
        watch(session, client.runs.get(run_id))


@command(group, "cancel", "fitserve runs cancel run_01kb...")
def cancel(session: Session, run_id: RunId) -> None:
    """Cancel a run. A queued run ends at once, a running one within seconds."""
    with session.client() as client:
        run = client.runs.get(run_id).cancel()
    text = f"{run.id} is cancelled." if run.state == "cancelled" else f"{run.id} will stop within seconds."
    session.show(run, Text(text))


@command(group, "share", "fitserve runs share run_01kb...", "fitserve runs share run_01kb... --private")
def share(
    session: Session,
    run_id: RunId,
    private: Annotated[bool, typer.Option("--private", help="Stop sharing.")] = False,
) -> None:
    """Let other owners read a run with its epochs, events and insight."""
    with session.client() as client:
        run = client.runs.get(run_id).share(not private)
    session.show(run, f"{run.id} is {'shared with every owner' if run.shared else 'private'}.")


@command(group, "retry", "fitserve runs retry run_01kb... --watch")
def retry(session: Session, run_id: RunId, watched: Watch = False) -> None:
    """Submit the spec of a failed or cancelled run again, as a new run."""
    with session.client() as client:
        show_new(session, client.runs.get(run_id).retry(), watched)


@command(
    group,
    "fork",
    "fitserve runs fork run_01kb... --epoch 20 --learning-rate 0.0005",
    "fitserve runs fork run_01kb... --epoch 40 --optimizer SGD --learning-rate 0.01 --epochs 120 --watch",
)
def fork(
    session: Session,
    run_id: RunId,
    epoch: Annotated[int, typer.Option(min=1, help="The last one that is trained as in the run.")],
    learning_rate: Annotated[float | None, typer.Option(min=0, help="From the next epoch on.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Another one, such as SGD; its arguments are Keras's.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the new run, from its first.")] = None,
    watched: Watch = False,
) -> None:
    """Continue from an epoch of a run with another learning rate or optimizer, as a new run."""
    with session.client() as client:
        run = client.runs.get(run_id).fork(epoch, learning_rate=learning_rate, optimizer=optimizer, epochs=epochs)
        show_new(session, run, watched)


@command(group, "compare", "fitserve runs compare run_01kb... run_01kc...")
def compare(
    session: Session, run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="At least two runs.")]
) -> None:
    """Compare runs: their scores, and where their specs differ."""
    if len(run_ids) < 2:
        raise BadInput("There is nothing to compare with.", received=run_ids, expected="at least two runs")
    with session.client() as client:
        runs = [client.runs.get(run_id) for run_id in run_ids]
    specs = [_leaves(run.resolved or {}) for run in runs]
    keys = [key for key in dict.fromkeys(key for spec in specs for key in spec) if _differs(key, specs)]
    differences = {key: [spec.get(key) for spec in specs] for key in keys}
    scores = [
        {f"{part} {name}": v for part in ("validation", "test") for name, v in run.scores(part).items()} for run in runs
    ]
    by_name = {name: [score.get(name) for score in scores] for name in dict.fromkeys(n for s in scores for n in s)}
    rows = [("state", *(screen.state(run.state) for run in runs))]
    rows += [(name, *values) for name, values in by_name.items()]
    rows += [(name, *(_text(value) for value in values)) for name, values in differences.items()]
    value = {"runs": run_ids, "reached": by_name, "differences": differences}
    session.show(value, screen.table(("", *(run.id for run in runs)), rows))


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a spec's leaves by their JSON Pointers."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, item in pairs for key, leaf in _leaves(item, f"{prefix}/{name}").items()}
    return {prefix: value}


def _differs(key: str, specs: list[dict[str, Any]]) -> bool:
    return len({json.dumps(spec.get(key), sort_keys=True) for spec in specs}) > 1


def _text(value: Any) -> Any:
    return "-" if value is None else json.dumps(value) if isinstance(value, dict | list | bool) else value


@command(
    group,
    "findings",
    "fitserve runs findings run_01kb...",
    "fitserve runs findings run_01kb... --apply 1 --watch",
)
def findings(
    session: Session,
    run_id: RunId,
    apply: Annotated[int | None, typer.Option(min=1, help="Train again with this finding's change.")] = None,
    seeds: Annotated[int | None, typer.Option(min=2, help="Train both under so many seeds, to compare them.")] = None,
    watched: Watch = False,
) -> None:
    """Show what went wrong in a run, the evidence, and the change that would fix it."""
    with session.client() as client:
        run = client.runs.get(run_id)
        if apply is not None:
            child = client.runs.get(run.apply_finding(apply, seeds=seeds).id)
            show_new(session, child, watched)
            session.hint(f"Compare: fitserve runs compare {run.id} {child.id}")
            return
        items = run.findings()
    session.show(items, *map(_finding, items))
    if not items:
        session.hint("No problems found.")
    elif any(item.patch for item in items):
        session.hint(f"Train again with a change: fitserve runs findings {run_id} --apply 1 --watch")


def _finding(item: FindingInfo) -> Text:
    lines = Text.assemble((f"{item.n}. ", "bold"), (item.title, _SEVERITY.get(item.severity, "")))
    lines.append(f"\n   {item.sentence}")
    if item.patch:
        lines.append(f"\n   {item.answer}", style="dim")
    for change in item.patch:
        value = json.dumps(change["value"]) if "value" in change else ""
        lines.append(f"\n     {change.get('op')} {change.get('path')} {value}", style="dim")
    return lines
