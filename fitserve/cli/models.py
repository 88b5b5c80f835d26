"""`fitserve models`: list, show, promote, decision, share, rollback, download, predict."""

from __future__ import annotations

import csv
import io
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fitserve.cli import screen
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.client import Client
    from fitserve.client.predictions import Predictions

group = typer.Typer(name="models", no_args_is_help=True, help="Models: list, promote, roll back, download, predict.")


class SharingOption(StrEnum):
    """What a model can be shared for."""

    ask = "ask"
    inspect = "inspect"
    download = "download"


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")]


@command(group, "list", "fitserve models list", "fitserve models list --json")
def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = 100,
) -> None:
    """List models: the serving version, and the labels."""
    with session.client() as client:
        models = [model.refresh() for model in client.models.list(limit)]
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
        for model in models
    ]
    names = ("model", "serving", "versions", "labels", "owner", "loaded", "newest")
    session.show(models, screen.table(names, rows, droppable=("owner", "newest", "loaded")))


@command(group, "show", "fitserve models show admissions")
def show(session: Session, name: ModelName) -> None:
    """Show a model: its versions, their runs and scores."""
    with session.client() as client:
        model = client.models.get(name)
    labels: dict[int, list[str]] = {}
    for label in model.labels:
        labels.setdefault(label.version, []).append(_label(label))
    rows = [
        (
            ("-> " if version.version == model.serving else "   ") + str(version.version),
            version.run_id,
            ", ".join(labels.get(version.version, [])),
            _metrics(version.metrics),
            version.created_at,
            "retired" if version.retired_at else "",
        )
        for version in model.versions
    ]
    names = ("version", "run", "labels", "scores", "created", "")
    head = screen.pairs({"model": model.name, "owner": model.owner})
    session.show(model, head, screen.table(names, rows, droppable=("created",)))


def _label(label: Any) -> str:
    extra = f" ({label.weight:.0%})" if label.weight else " (shadow)" if label.shadow else ""
    return f"{label.label}{extra}"


def _metrics(metrics: dict[str, Any]) -> str:
    """Return the scores on the test rows, else on the validation rows, else on the training rows."""
    for part in ("test", "validation", "train"):
        figures = metrics.get(part)
        if isinstance(figures, dict):
            return ", ".join(f"{name} {screen.number(v)}" for name, v in figures.items() if isinstance(v, float | int))
    return ""


@command(
    group,
    "promote",
    "fitserve models promote admissions 3",
    "fitserve models promote admissions 4 --label canary --weight 0.1",
)
def promote(
    session: Session,
    model: ModelName,
    version: Annotated[int, typer.Argument(min=1, help="The version's number.")],
    label: Annotated[str, typer.Option(help="champion answers requests that name no version.")] = "champion",
    weight: Annotated[float | None, typer.Option(min=0, max=1, help="Share of the traffic, for a canary.")] = None,
    shadow: Annotated[bool | None, typer.Option("--shadow/--no-shadow", help="Send it a copy of the traffic.")] = None,
    epoch: Annotated[int | None, typer.Option(min=1, help="A kept epoch of its run instead of the best one.")] = None,
) -> None:
    """Point a label at a version, at once."""
    with session.client() as client:
        result = client.models.promote(model, version, label, weight=weight, shadow=shadow, epoch=epoch)
    session.show(result, f"{model}: {_label(result)} is version {result.version}.")
    if result.previous is not None:
        session.hint(f"Go back to version {result.previous}: fitserve models rollback {model} --label {label}")


@command(
    group,
    "decision",
    "fitserve models decision admissions 3",
    "fitserve models decision admissions 3 --cost false_positive=1,false_negative=5",
    "fitserve models decision admissions 3 --recall-at-least 0.9 --abstain",
    "fitserve models decision admissions 3 --reset",
)
def decision(
    session: Session,
    model: ModelName,
    version: Annotated[int, typer.Argument(min=1, help="The version's number.")],
    maximize: Annotated[str | None, typer.Option(help="f1, balanced_accuracy, accuracy or mcc.")] = None,
    cost: Annotated[str | None, typer.Option(help="false_positive=1,false_negative=5; or JSON by label.")] = None,
    recall_at_least: Annotated[float | None, typer.Option(help="Minimum recall of the label.")] = None,
    precision_at_least: Annotated[float | None, typer.Option(help="Minimum precision of the label.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Minimum probability to predict the label.")] = None,
    label: Annotated[str | None, typer.Option(help="The label. Default: the second of two.")] = None,
    output: Annotated[str | None, typer.Option(help="The target, where the model has several.")] = None,
    abstain: Annotated[bool, typer.Option("--abstain", help="No label for rows unlike the training rows.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Restore the decisions that training chose.")] = False,
) -> None:
    """Show or change how labels follow from probabilities, without training."""
    asked = {
        "maximize": maximize,
        "cost": None if cost is None else _costs(cost),
        "recall_at_least": recall_at_least,
        "precision_at_least": precision_at_least,
        "threshold": threshold,
        "label": label,
        "output": output,
        "abstain": True if abstain else None,
    }
    moves = any(value is not None for name, value in asked.items())
    if moves and reset:
        raise BadInput("--reset takes no other option.", received="--reset")
    with session.client() as client:
        if moves or reset:
            detail = client.models.decide(model, version, **asked)
        else:
            detail = client.models.decision(model, version)
    rows = [_decision_row(one) for one in detail.decisions]
    names = ("target", "asked", "answers", "recall", "precision", "cost", "judged on")
    session.show(detail, screen.table(names, rows) if rows else "No decision: the likeliest label is predicted.")


def _costs(text: str) -> Any:
    """Return costs parsed from `name=number,name=number` or from JSON. Raises BadInput."""
    if text.lstrip().startswith("{"):
        return _json(text, "--cost")
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        expected = "false_positive=1,false_negative=5"
        raise BadInput("These costs cannot be read.", received=text[:100], expected=expected) from None


def _decision_row(made: dict[str, Any]) -> tuple[Any, ...]:
    """Return a decision in force as a table row."""
    asked = ", ".join(f"{name}: {json.dumps(value)}" for name, value in made["asked"].items() if name != "output")
    answers = f"{made['label']} from {screen.number(made['threshold'])} on" if "threshold" in made else made["method"]
    part = next((one for one in ("test", "validation") if one in made["figures"]), None)
    figures = made["figures"].get(part, {})
    shown = [screen.number(figures[name]) if figures.get(name) is not None else "" for name in ("recall", "precision")]
    cost = screen.number(figures["cost"]) if "cost" in figures else ""
    judged = f"{figures['answered']} of {figures['rows']} {part} rows" if part else ""
    return (made["output"], asked, answers, *shown, cost, judged)


@command(
    group,
    "share",
    "fitserve models share admissions",
    "fitserve models share admissions --to download",
    "fitserve models share admissions --private",
)
def share(
    session: Session,
    name: ModelName,
    to: Annotated[
        SharingOption, typer.Option(help="What other owners may do; each includes those before it.")
    ] = SharingOption.ask,
    private: Annotated[bool, typer.Option("--private", help="Stop sharing.")] = False,
) -> None:
    """Let other owners request a model's predictions; with --to also inspect or download it."""
    with session.client() as client:
        model = client.models.change(name, shared=False) if private else client.models.change(name, sharing=to.value)
    session.show(model, f"{model.name} is {f'shared with every owner to {to.value}' if model.shared else 'private'}.")


@command(group, "rollback", "fitserve models rollback admissions")
def rollback(
    session: Session,
    model: ModelName,
    label: Annotated[str, typer.Option(help="The label to move back.")] = "champion",
) -> None:
    """Point a label back at its previous version, at once."""
    with session.client() as client:
        result = client.models.rollback(model, label)
    session.show(result, f"{model}: {result.label} is version {result.version} again.")


@command(
    group,
    "download",
    "fitserve models download admissions --version 3 --output admissions.keras",
    "fitserve models download admissions --kind onnx",
)
def download(
    session: Session,
    model: ModelName,
    version: Annotated[int | None, typer.Option(min=1, help="The version. Default: the serving one.")] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="keras takes raw columns in plain Keras; onnx is the serving graph; weights are arrays by layer."
        ),
    ] = "keras",
    output: Annotated[Path, typer.Option("--output", "-o", help="A file, or a folder.")] = Path(),
) -> None:
    """Download a trained network; its bytes are verified."""
    with session.client() as client:
        number = version or client.models.get(model).serving
        if number is None:
            raise BadInput(f"The model {model} has no version to download.", received=model)
        with session.progress_bar(f"{model} {number}") as progress:
            path = client.models.download(model, number, output, kind, progress=progress)
    value = {"model": model, "version": number, "kind": kind, "path": str(path), "bytes": path.stat().st_size}
    session.show(value, f"{path}: version {number} of {model}, {screen.size(path.stat().st_size)}")
    if kind == "keras":
        session.hint(f"Use it without fitserve: keras.saving.load_model({str(path)!r})")


@command(
    group,
    "card",
    "fitserve models card admissions --version 3",
    "fitserve models card admissions --output card.html",
)
def card(
    session: Session,
    model: ModelName,
    version: Annotated[int | None, typer.Option(min=1, help="The version. Default: the serving one.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; HTML where it ends in .html. Default: print it.")
    ] = None,
) -> None:
    """Write a version's model card: data, figures with intervals, calibration, slices, lineage, drift, spec."""
    with session.client() as client:
        number = version or client.models.get(model).serving
        if number is None:
            raise BadInput(f"The model {model} has no version to describe.", received=model)
        is_html = output is not None and output.suffix.lower() in (".html", ".htm")
        text = client.models.card(model, number, "html" if is_html else "markdown")
    value = {"model": model, "version": number, "card": text, "path": str(output) if output else None}
    if output is None and not session.json:
        typer.echo(text)  # unformatted, because Rich would wrap its lines
        return
    if output is not None:
        output.write_text(text, encoding="utf-8")
    session.show(value, f"{output}: card of version {number} of {model}")


class ExportFormatName(StrEnum):
    """Formats beside those of `download`."""

    onnx_raw = "onnx-raw"
    mlflow = "mlflow"
    saved_model = "saved-model"
    code = "code"


@command(
    group,
    "export",
    "fitserve models export admissions --format onnx-raw",
    "fitserve models export admissions --version 3 --format saved-model --output admissions.zip",
)
def export(
    session: Session,
    model: ModelName,
    format: Annotated[
        ExportFormatName,
        typer.Option(
            help="onnx-raw: with the preprocessing; mlflow; saved-model: for TensorFlow Serving; code: script."
        ),
    ],
    version: Annotated[int | None, typer.Option(min=1, help="The version. Default: the serving one.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file, or a folder.")] = Path(),
) -> None:
    """Export a version to another format, compared with what is served, and download it."""
    with session.client() as client:
        number = version or client.models.get(model).serving
        if number is None:
            raise BadInput(f"The model {model} has no version to export.", received=model)
        path = client.models.export(model, number, output, format.value)
        made = next(one for one in client.models.exports(model, number) if one.format == format.value)
    session.show({**made.model_dump(mode="json"), "path": str(path)}, f"{path}: {screen.size(path.stat().st_size)}")
    if made.parity:
        difference = screen.number(made.parity["max_rel"])
        session.hint(f"Largest difference from what is served, on {made.parity['rows']} rows: {difference}")


@command(
    group,
    "predict",
    "fitserve models predict admissions rows.csv",
    """fitserve models predict admissions '[{"gre": 700, "gpa": 3.9, "rank": 1}]' --json""",
    "cat rows.jsonl | fitserve models predict admissions - --version 3",
)
def predict(
    session: Session,
    model: ModelName,
    rows: Annotated[str, typer.Argument(help="A CSV, JSON or JSON Lines file; JSON text; - reads standard input.")],
    version: Annotated[int | None, typer.Option(min=1, help="This version instead of the serving one.")] = None,
    label: Annotated[str | None, typer.Option(help="The version of this label.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print the network's outputs as they are.")] = False,
    output: Annotated[str | None, typer.Option(help="The target, where the model has several.")] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            help="Add the interval, or the set of labels, that holds this share of the truths. Default: the level of "
            "the version's spec, if any; 0: none."
        ),
    ] = None,
) -> None:
    """Predict rows: labels with scores, or numbers."""
    values = read_rows(rows)
    with session.client() as client:
        level = False if interval == 0 else interval
        if raw or level:
            answers = client.models.predict(model, values, version=version, label=label, interval=level)
        else:
            answers = _predict(client, model, values, version, label, output, level)
    shown = answers.rows
    if answers.decisions is not None:
        shown = [{"label": label, **row} for label, row in zip(answers.labels, shown, strict=True)]
    names = list(dict.fromkeys(name for row in shown for name in row))
    table = [(number, *(row.get(name) for name in names)) for number, row in enumerate(shown, 1)]
    value = {"model": model, "version": answers.version, "predictions": list(answers), "warnings": answers.warnings}
    if answers.decisions is not None:
        value["decisions"] = answers.decisions
    session.show(value, screen.table(("row", *names), table))
    if answers.warnings:
        session.hint(f"{len(answers.warnings)} values are unlike those of training; --json shows them.")
    session.hint(f"{model} version {answers.version} answered.")


def _predict(
    client: Client,
    model: str,
    rows: list[Any],
    version: int | None,
    label: str | None,
    output: str | None,
    interval: float | Literal[False] | None,
) -> Predictions:
    """Classify if the model has classes, regress if it has numbers, else return its outputs."""
    if all(isinstance(row, dict) for row in rows):
        for ask in (client.models.classify, client.models.regress):
            try:
                return ask(model, rows, version=version, label=label, output=output, interval=interval)
            except BadInput as error:
                if "no output to" not in error.detail or output is not None:
                    raise
    return client.models.predict(model, rows, version=version, label=label, interval=interval)


def read_rows(source: str) -> list[Any]:
    """Return rows from a file, from JSON text or from standard input. Raises BadInput."""
    if source.lstrip().startswith(("[", "{")):
        return _as_list(_json(source, "the argument"))
    if source == "-":
        text, name = sys.stdin.read(), "-"
    else:
        try:
            text, name = Path(source).read_text(encoding="utf-8-sig"), source
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{source} cannot be read: {error}.", received=source) from None
    if text.lstrip()[:1] == "[":
        return _as_list(_json(text, name))
    if text.lstrip()[:1] == "{":
        return [_json(line, f"{name}, line {n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    return _csv(text, name)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"This is not JSON ({where}): {error}.", received=text[:100]) from None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _csv(text: str, name: str) -> list[Any]:
    """Return the rows of a CSV file with a header. Numbers and true/false become values; empty fields are missing."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise BadInput(f"{name}, line {reader.line_num}: this row does not have the header's number of fields.")
        rows.append({column: _value(field) for column, field in row.items()})
    if not rows:
        raise BadInput(f"{name} holds no rows.", expected="a header and at least one row")
    return rows


def _value(field: str) -> Any:
    """Return a field's value. With leading zeros it stays text: `001` is not a number."""
    text = field.strip()
    if not text:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return field
    try:
        number = float(text)
    except ValueError:
        return field
    return int(text) if digits.isdecimal() and len(digits) < 16 else number if number == number else None
