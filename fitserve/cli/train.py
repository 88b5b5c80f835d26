"""`fitserve train`: a table and the column to predict, or a spec."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fitserve.cli import screen
from fitserve.cli.datasets import columns_table, hint_at_notices, read_kinds
from fitserve.cli.session import Session, command
from fitserve.cli.spec import apply_change, read_spec
from fitserve.cli.watch import show_new, watch
from fitserve.errors import BadInput, FitserveError

if TYPE_CHECKING:
    from fitserve.client import Client
    from fitserve.client.datasets import Dataset
    from fitserve.client.runs import Run
    from fitserve.wire.runs import Validation

group = typer.Typer()
_HEADER_BYTES = 100_000


@command(
    group,
    "train",
    "fitserve train admissions.csv --target admit",
    "fitserve train admissions --target admit --set training.epochs=50",
    "fitserve train spec.yaml --watch",
    "fitserve train spec.yaml --set training.epochs=50 --set training.seed=1",
    "fitserve train admissions --target admit --initial-weights admissions@2 --freeze dense",
    rich_help_panel="Work",
)
def train(
    session: Session,
    what: Annotated[
        str,
        typer.Argument(
            metavar="TABLE|SPEC",
            help="A table (a file such as CSV or Parquet), a dataset's name, or a spec in YAML or JSON; "
            "- reads a spec from standard input.",
        ),
    ],
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="The column to predict. Repeatable.")
    ] = None,
    watched: Annotated[
        bool | None,
        typer.Option("--watch/--no-watch", "-w", help="Watch it; Ctrl-C leaves it running. A table's run is watched."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of the spec, as training.epochs=50. Repeatable.")
    ] = None,
    initial_weights: Annotated[
        str | None,
        typer.Option(help="Begin with trained weights: a run, a model, name@version, or an upload."),
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="With --initial-weights: a layer that is not trained. Repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The dataset's name. Default: from the file's name.")] = None,
    model: Annotated[str | None, typer.Option(help="Serve it under this name. Default: the dataset's.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Correct a column's kind, as zip=categorical. Repeatable.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submit only once under this key, however often this is called.")
    ] = None,
) -> None:
    """Train a network: on a table, to predict a column of it; or as a spec says.

    Of a table it shows how each column was read, trains what the defaults choose, and ends with the scores beside
    those of simpler models. The exit code of a watched run tells how it ended: 0 succeeded, 7 failed, 8 cancelled.
    """
    changes = [*_begins(initial_weights, freeze or []), *(set_ or [])]
    if is_spec(what, target):
        body = _spec(what, target, changes, name, model, kind)
        with session.client() as client:
            show_new(session, client.runs.create(body, idempotency_key=idempotency_key), bool(watched))
        return
    targets = _check_target(what, target)
    with session.client() as client:
        dataset = _dataset(session, client, what, targets, name, kind or [])
        body = _defaults(dataset, targets, model)
        for change in changes:
            apply_change(body, change)
        _explain(session, dataset, client.runs.validate(body))
        run = client.runs.create(body, idempotency_key=idempotency_key)
        if watched is False:
            show_new(session, run, False)
        else:
            watch(session, run, hints=False)
            _conclude(session, run, dataset, targets)


def _begins(source: str | None, freeze: list[str]) -> list[str]:
    """Return the changes to a spec that start its network from trained weights. Raises BadInput."""
    if source is None:
        if freeze:
            raise BadInput("Only given weights can be frozen.", received="--freeze", fix="--initial-weights SOURCE")
        return []
    kind = "run" if source.startswith("run_") else "upload" if source.startswith("wts_") else "model"
    return [f"initial_weights={json.dumps({kind: source, 'freeze': freeze})}"]


def is_spec(what: str, target: Sequence[str] | None) -> bool:
    """Return whether an argument names a spec rather than a table or a dataset."""
    from fitserve.client.upload_body import TABLE_SUFFIXES

    suffix = Path(what).suffix.lower()
    if what == "-" or suffix in (".yaml", ".yml"):
        return True
    if suffix == ".json" and Path(what).is_file():
        return target is None or _holds_spec(Path(what))
    # Any existing file without a table's suffix is a spec, unless a target is given: then it is a table.
    return target is None and suffix not in TABLE_SUFFIXES and Path(what).is_file()


def _holds_spec(path: Path) -> bool:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and bool({"dataset", "network", "training"} & value.keys())


def _spec(
    what: str, target: list[str] | None, changes: list[str], name: str | None, model: str | None, kind: Any
) -> dict[str, Any]:
    if name is not None or kind:
        option = "--name" if name is not None else "--kind"
        raise BadInput(f"{option} is for tables, but {what} is a spec.", received=option, fix="fitserve train --help")
    body = read_spec(Path(what), [])
    if target:
        body["target"] = target[0] if len(target) == 1 else target
    if model is not None:
        body["model"] = model
    for change in changes:
        apply_change(body, change)
    return body


def _check_target(what: str, target: list[str] | None) -> list[str]:
    """Return the targets. Raises BadInput, listing the columns, if none is given or no column has that name."""
    names = header_of(Path(what))
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    if not target:
        example = names[-1] if names else "COLUMN"
        known = f" It has the columns {shown}." if names else ""
        raise BadInput(
            f"Which column of {what} should be predicted?{known}",
            expected="--target COLUMN",
            fix=f"fitserve train {what} --target {example}",
        )
    return target


def header_of(path: Path) -> list[str]:
    """Return the column names of a plain CSV file; none if its first line does not show them."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return []
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES).decode("utf-8-sig")
        line = head.splitlines()[0]
        dialect = csv.Sniffer().sniff(line, ",;\t|")
        names = next(csv.reader([line], dialect))
    except (OSError, UnicodeDecodeError, IndexError, csv.Error, StopIteration):
        return []
    return [name.strip() for name in names if name.isprintable()]


def _dataset(
    session: Session, client: Client, what: str, targets: list[str], name: str | None, kind: list[str]
) -> Dataset:
    from fitserve.client.trained import check_target, dataset_of, looks_like_file

    if not looks_like_file(what):
        if name is not None or kind:
            raise BadInput(
                f"{what} is a dataset already.", received=what, fix="Upload the table again: fitserve datasets upload"
            )
        dataset = dataset_of(client.datasets, what, None)
    else:
        if not Path(what).is_file():
            raise BadInput(
                f"There is no file {what}.",
                received=what,
                expected="a table's file, or a dataset's name",
                fix="List the datasets: fitserve datasets list",
            )
        options: dict[str, Any] = {"kinds": read_kinds(kind)} if kind else {}
        with session.progress_bar(Path(what).name, "the server reads it") as progress:
            dataset = dataset_of(client.datasets, Path(what), name, progress=progress, **options)
    try:
        check_target(dataset, targets)
    except BadInput as error:
        columns = [column.name for column in dataset.columns]
        error.fix = f"fitserve train {what} --target {_quoted(_nearest(targets[0], columns))}"
        raise
    return dataset


def _nearest(name: str, names: Sequence[str]) -> str:
    import difflib

    lower = {one.lower(): one for one in names}
    near = difflib.get_close_matches(name.lower(), lower, 1, 0.5)
    return lower[near[0]] if near else names[-1]


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _defaults(dataset: Dataset, targets: list[str], model: str | None) -> dict[str, Any]:
    """Return a spec with only the table and its targets; the server chooses the rest."""
    from fitserve.client.upload_body import dataset_name

    target: Any = targets[0] if len(targets) == 1 else targets
    return {"dataset": dataset.ref, "target": target, "model": model or dataset_name(dataset.name)}


def _explain(session: Session, dataset: Dataset, validation: Validation) -> None:
    """Show how the table was read, and what will be trained on it."""
    if session.json:
        typer.echo(screen.json_text({"dataset": dataset}, indent=None))
        return
    show = session.out.print
    show(Text.assemble((dataset.ref, "bold"), f": {dataset.rows:,} rows, {screen.size(dataset.bytes)}"))
    show(columns_table(dataset))
    resolved = validation.resolved
    used = {name for one in resolved.get("features", ()) for name in _names(one)}
    used |= {name for one in resolved.get("target", ()) for name in one.get("columns", ())}
    for column in dataset.columns:
        if column.name not in used:
            show(f"{column.name} is left out: {column.evidence or column.kind}", style="dim", markup=False)
    if dataset.refused and dataset.refused.rows:
        show(f"{dataset.refused.rows} rows were skipped.", style="yellow")
    hint_at_notices(session, dataset)
    show()
    show(_plan(resolved), markup=False)
    for item in validation.warnings:
        session.out.print(Text.assemble(("warning: ", "yellow"), f"{item.detail} {item.fix or ''}".strip()))
    show()


def _names(feature: dict[str, Any]) -> list[str]:
    return [feature["column"]] if "column" in feature else list(feature.get("columns", ()))


def _plan(resolved: dict[str, Any]) -> str:
    """Return the choices of the defaults, in one or two sentences."""
    layers = [next(iter(entry)) for entry in resolved.get("network", ())]
    described = []
    for entry, layer in zip(resolved.get("network", ()), layers, strict=True):
        arguments = entry[layer] if isinstance(entry[layer], dict) else {}
        if layer == "Dense" and "output" not in entry:
            described.append(f"{arguments.get('units')} units ({arguments.get('activation') or 'linear'})")
    tasks = ", ".join(f"{one['name']} ({one['task']})" for one in resolved.get("target", ()))
    split, training = resolved.get("split", {}), resolved.get("training", {})
    held = [f"{split[part]:.0%} {part}" for part in ("validation", "test") if isinstance(split.get(part), float)]
    stop = ", early stopping" if training.get("early_stopping") else ""
    network = f"hidden layers of {' and '.join(described)}" if described else "no hidden layer"
    ensemble = resolved.get("ensemble")
    members = f"{ensemble} networks, each with " if isinstance(ensemble, int) and ensemble > 1 else ""
    rows = f"  Rows held out: {', '.join(held)}." if held else ""
    return f"Predicting {tasks}: {members}{network}; at most {training.get('epochs')} epochs{stop}.{rows}"


def _conclude(session: Session, run: Run, dataset: Dataset, targets: list[str]) -> None:
    """Show the network's figures beside those of simpler models, and how to request predictions."""
    from fitserve.client.trained import standings_of

    try:
        evaluation = run.evaluation()
    except FitserveError as error:
        session.hint(f"No comparison with simpler models: {error.detail}")
        evaluation = None
    if session.json:
        typer.echo(screen.json_text({"evaluation": evaluation}, indent=None))
        return
    for target, standings in (standings_of(evaluation) if evaluation else {}).items():
        if not standings:
            continue
        names = list(standings[0].figures)
        rows = [(one.title, *(one.figures.get(name) for name in names)) for one in standings]
        part = evaluation.part if evaluation else ""
        title = f"{target} on the {part} rows, beside simpler models"
        session.out.print()
        session.out.print(screen.table(("model", *names), rows, title=title, droppable=tuple(reversed(names[1:]))))
    session.out.print()
    session.out.print("Ask it:", style="dim")
    session.out.print(f"  {ask_command(run, dataset, targets)}", markup=False, soft_wrap=True)
    session.hint(f"What went well and what did not: fitserve runs findings {run.id}")
    session.hint(f"On the pages: {run_page(run)}")


def ask_command(run: Run, dataset: Dataset, targets: list[str]) -> str:
    """Return the command that predicts the table's first row."""
    used = {name for one in run.resolved.get("features", ()) for name in _names(one)}
    row = next(iter(dataset.iter_rows(1)), {})
    values = {name: value for name, value in row.items() if name in used and name not in targets}
    return f"fitserve models predict {run.model} {_quoted(json.dumps([values], ensure_ascii=False))}"


def run_page(run: Run) -> str:
    """Return the address of a run's page."""
    return f"{run._connection.address.base_url}/runs/{run.id}"
