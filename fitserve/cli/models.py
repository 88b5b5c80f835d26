"""`fitserve models`: list, show, promote, rollback, download, predict."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

models = typer.Typer(no_args_is_help=True, help="Models: list, promote, roll back, download, predict.")
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")]


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


def read_rows(source: str) -> list[Any]:
    """Rows from a file, from JSON text or from standard input. Raises BadInput."""
    if source.lstrip()[:1] in "[{" and source.strip():
        return _listed(_json(source, "the argument"))
    if source == "-":
        text, name = sys.stdin.read(), "-"
    else:
        try:
            text, name = Path(source).read_text(encoding="utf-8-sig"), source
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{source} cannot be read: {error}.", received=source) from None
    if text.lstrip()[:1] == "[":
        return _listed(_json(text, name))
    if text.lstrip()[:1] == "{":
        return [_json(line, f"{name}, line {n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    return _csv(text, name)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"That is not JSON ({where}): {error}.", received=text[:100]) from None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _csv(text: str, name: str) -> list[Any]:
    """Rows of a CSV file with a header. Numbers and true/false become values; an empty field is missing."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise BadInput(f"{name}, line {reader.line_num}: this row has not the header's number of fields.")
        rows.append({column: _value(field) for column, field in row.items()})
    if not rows:
        raise BadInput(f"{name} holds no rows.", expected="a header and at least one row")
    return rows


def _value(field: str) -> Any:
    """Leading zeros are kept as text: `001` is no number."""
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
