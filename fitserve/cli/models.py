"""`fitserve models`: list, show, promote, rollback, download, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.rows import read_rows
from fitserve.cli.session import Session, command
from fitserve.cli.transfer import moving
from fitserve.errors import BadInput

models = typer.Typer(no_args_is_help=True, help="Models: list, promote, roll back, download, predict.")
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")]


@command(models, "list", "fitserve models list", "fitserve models list --json")
def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
) -> None:
    """List models: which version answers, and the labels."""
    with session.client() as client:
        found = [model.refresh() for model in client.models.list(limit)]
    rows = [
        (
            model.name,
            model.serving or "",
            len(model.versions),
            ", ".join(f"{label.label}={label.version}" for label in model.labels),
            model.owner,
            "yes" if model.loaded else "no",
            model.versions[0].created_at if model.versions else None,
        )
        for model in found
    ]
    names = ("model", "answers", "versions", "labels", "owner", "loaded", "newest")
    session.show(found, screen.table(names, rows, may_go=("owner", "newest", "loaded")))


@command(models, "show", "fitserve models show admissions")
def show(session: Session, model: ModelName) -> None:
    """Show a model: its versions, their runs and what they reached."""
    with session.client() as client:
        found = client.models.get(model)
    labels: dict[int, list[str]] = {}
    for label in found.labels:
        labels.setdefault(label.version, []).append(_label(label))
    rows = [
        (
            ("-> " if version.version == found.serving else "   ") + str(version.version),
            version.run_id,
            ", ".join(labels.get(version.version, [])),
            _metrics(version.metrics),
            version.created_at,
            "retired" if version.retired_at else "",
        )
        for version in found.versions
    ]
    names = ("version", "run", "labels", "reached", "created", "")
    session.show(
        found, screen.pairs({"model": found.name, "owner": found.owner}), screen.table(names, rows, may_go=("created",))
    )


def _label(label: Any) -> str:
    extra = f" ({label.weight:.0%})" if label.weight else " (shadow)" if label.shadow else ""
    return f"{label.label}{extra}"


def _metrics(metrics: dict[str, Any]) -> str:
    """What the version reached on the part that tells most."""
    for part in ("test", "validation", "train"):
        figures = metrics.get(part)
        if isinstance(figures, dict):
            return ", ".join(f"{name} {screen.number(v)}" for name, v in figures.items() if isinstance(v, float | int))
    return ""


@command(
    models,
    "promote",
    "fitserve models promote admissions 3",
    "fitserve models promote admissions 4 --label canary --weight 0.1",
)
def promote(
    session: Session,
    model: ModelName,
    version: Annotated[int, typer.Argument(min=1, help="The version's number.")],
    label: Annotated[str, typer.Option(help="champion answers all who name no version.")] = "champion",
    weight: Annotated[float | None, typer.Option(min=0, max=1, help="Share of the traffic, for a canary.")] = None,
    shadow: Annotated[bool | None, typer.Option("--shadow/--no-shadow", help="A copy of the traffic.")] = None,
    epoch: Annotated[int | None, typer.Option(min=1, help="A kept epoch of its run instead of the best.")] = None,
) -> None:
    """Point a label at a version, at once."""
    with session.client() as client:
        found = client.models.promote(model, version, label, weight=weight, shadow=shadow, epoch=epoch)
    session.show(found, f"{model}: {_label(found)} is version {found.version}.")
    if found.previous is not None:
        session.say(f"Go back to version {found.previous}: fitserve models rollback {model} --label {label}")


@command(models, "share", "fitserve models share admissions", "fitserve models share admissions --private")
def share(
    session: Session,
    model: ModelName,
    private: Annotated[bool, typer.Option("--private", help="Take it back.")] = False,
) -> None:
    """Let other owners see a model and predict with it."""
    with session.client() as client:
        found = client.models.change(model, shared=not private)
    session.show(found, f"{found.name} is {'shared with every owner' if found.shared else 'yours alone'}.")


@command(models, "rollback", "fitserve models rollback admissions")
def rollback(
    session: Session,
    model: ModelName,
    label: Annotated[str, typer.Option(help="Which label goes back.")] = "champion",
) -> None:
    """Point a label back at the version that it named before, at once."""
    with session.client() as client:
        found = client.models.rollback(model, label)
    session.show(found, f"{model}: {found.label} is version {found.version} again.")


@command(
    models,
    "download",
    "fitserve models download admissions --version 3 --output admissions.keras",
    "fitserve models download admissions --kind onnx",
)
def download(
    session: Session,
    model: ModelName,
    version: Annotated[int | None, typer.Option(min=1, help="The one that answers, when left out.")] = None,
    kind: Annotated[
        str, typer.Option(help="keras takes raw columns in plain Keras; onnx is the serving graph.")
    ] = "keras",
    output: Annotated[Path, typer.Option("--output", "-o", help="A file, or a folder.")] = Path(),
) -> None:
    """Download a trained network; its bytes are verified."""
    with session.client() as client:
        number = version or client.models.get(model).serving
        if number is None:
            raise BadInput(f"The model {model} has no version to download.", received=model)
        with moving(session, f"{model} {number}") as progress:
            path = client.models.download(model, number, output, kind, progress=progress)
    value = {"model": model, "version": number, "kind": kind, "path": str(path), "bytes": path.stat().st_size}
    session.show(value, f"{path}: version {number} of {model}, {screen.size(path.stat().st_size)}")
    if kind == "keras":
        session.say(f"Use it without fitserve: keras.saving.load_model({str(path)!r})")


@command(
    models,
    "predict",
    "fitserve models predict admissions rows.csv",
    """fitserve models predict admissions '[{"gre": 700, "gpa": 3.9, "rank": 1}]' --json""",
    "cat rows.jsonl | fitserve models predict admissions - --version 3",
)
def predict(
    session: Session,
    model: ModelName,
    rows: Annotated[str, typer.Argument(help="A CSV, JSON or JSON Lines file; JSON text; - reads standard input.")],
    version: Annotated[int | None, typer.Option(min=1, help="This version instead of the champion.")] = None,
    label: Annotated[str | None, typer.Option(help="The version of this label.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The network's numbers instead of labels and scores.")] = False,
    output: Annotated[str | None, typer.Option(help="Which target, where the model has several.")] = None,
) -> None:
    """Ask a model about rows: labels with scores, or numbers."""
    found = read_rows(rows)
    with session.client() as client:
        if raw:
            answers = client.models.predict(model, found, version=version, label=label)
        else:
            answers = _ask(client, model, found, version, label, output)
    shown = answers.rows
    names = list(dict.fromkeys(name for row in shown for name in row))
    table = [(number, *(row.get(name) for name in names)) for number, row in enumerate(shown, 1)]
    value = {"model": model, "version": answers.version, "predictions": list(answers), "warnings": answers.warnings}
    session.show(value, screen.table(("row", *names), table))
    if answers.warnings:
        session.say(f"{len(answers.warnings)} values are unlike those of training; --json shows them.")
    session.say(f"{model} version {answers.version} answered.")


def _ask(client: Any, model: str, rows: list[Any], version: int | None, label: str | None, output: str | None) -> Any:
    """Classify where the model has classes, regress where it has numbers, else what it says."""
    options = {"version": version, "label": label}
    if all(isinstance(row, dict) for row in rows):
        for ask in (client.models.classify, client.models.regress):
            try:
                return ask(model, rows, **options, output=output)
            except BadInput as error:
                if "no output to" not in error.detail or output is not None:
                    raise
    return client.models.predict(model, rows, **options)
