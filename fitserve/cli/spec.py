"""`fitserve spec`: write one, check one, the schema for editors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fitserve.cli import screen
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.client import Client
    from fitserve.wire.runs import Validation

spec = typer.Typer(no_args_is_help=True, help="Network specs: start one, check one, the schema for editors.")

_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# Names and arguments are Keras's. What is left out is chosen for you; `fitserve spec check` shows it all.
dataset: {dataset}
target: {target}
{features}split: {{method: random, validation: 0.2, test: 0.2}}   # the test part is kept from training
network:
  - Dense: {{units: 32, activation: relu}}
  - Dropout: 0.2
  - Dense: {{units: 16, activation: relu}}
training:
  optimizer: {{Adam: {{learning_rate: 0.003}}}}
  batch_size: 32
  epochs: 200
  early_stopping: {{monitor: val_loss, patience: 20, restore_best_weights: true}}
  seed: 0
model: {model}   # served under this name when the run succeeds
"""


@command(
    spec,
    "init",
    "fitserve spec init --dataset admissions --target admit > spec.yaml",
    "fitserve spec init --output spec.yaml",
)
def init(
    session: Session,
    dataset: Annotated[str | None, typer.Option(help="A dataset on the server: its columns are written out.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict; the last one when left out.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file to write; never overwritten.")] = None,
) -> None:
    """Start a spec: a small network, ready to train, with comments."""
    from fitserve.client.server_address import Address

    schema = f"{Address.find(session.url, None, None).base_url}/api/v1/schemas/spec"
    name, column, features = dataset or "my-dataset", target or "my-target", "# features: [a, b]   # left out: all\n"
    if dataset is not None:
        with session.client() as client:
            column, features = _columns(client, dataset, target)
    model = name.partition("@")[0].lower()
    text = _TEMPLATE.format(
        schema=schema, dataset=_scalar(name), target=_scalar(column), features=features, model=_scalar(model)
    )
    if output is None:
        typer.echo(json.dumps({"spec": text}) if session.json else text, nl=session.json)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(f"{output} was not written: {error.strerror}.", received=str(output)) from None
    session.show({"written": str(output)}, f"{output} is written.")
    session.say(f"Check it: fitserve spec check {output}    Train: fitserve train {output} --watch")


def _columns(client: Client, dataset: str, target: str | None) -> tuple[str, str]:
    """The target and the `features:` lines for a dataset's columns."""
    columns = client.datasets.get(dataset).columns
    names = [column.name for column in columns]
    column = target or names[-1]
    if column not in names:
        raise BadInput(f"The dataset {dataset} has no column {column}.", received=column, expected=", ".join(names))
    lines = ["features:   # left out: every other column\n"]
    for found in columns:
        if found.name != column:
            mark = "# " if found.kind == "ignored" else ""
            lines.append(f"  {mark}- {_scalar(found.name)}   # {found.kind}\n")
    return column, "".join(lines)


def _scalar(text: str) -> str:
    """A string in YAML: bare where that is unambiguous, quoted as JSON otherwise."""
    import yaml

    bare = text.replace("_", "").replace("-", "").replace(".", "").replace("@", "").isalnum() and text[0] != "@"
    return text if bare and isinstance(yaml.safe_load(text), str) else json.dumps(text, ensure_ascii=False)


@command(spec, "check", "fitserve spec check spec.yaml", "fitserve spec check spec.yaml --offline --json")
def check(
    session: Session,
    path: Annotated[Path, typer.Argument(help="A spec in YAML or JSON; - reads standard input.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: training.epochs=50; more than once.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Without a server: all but what needs the dataset.")
    ] = False,
) -> None:
    """Check a spec as the server will: layers, shapes, columns, cost. Nothing is queued."""
    body = read(path, set_ or [])
    if offline:
        from fitserve.spec.spec import parse

        parse(body)
        session.show({"valid": True, "offline": True}, f"{path} is a spec. Columns and cost were not checked.")
        return
    with session.client() as client:
        found = client.runs.validate(body)
    session.show(found, *_report(found))
    session.say(f"Train: fitserve train {path} --watch")


def _report(found: Validation) -> list[Any]:
    names = ("layer", "class", "output shape", "parameters", "connected to")
    rows = [(row.name, row.layer, _shape(row.output_shape), row.parameters, row.inputs) for row in found.summary]
    costs = found.estimates
    estimates = {
        "parameters": costs.parameters,
        "training rows": costs.training_rows,
        "memory": screen.size(costs.training_bytes),
        "time, at most": f"about {screen.duration(costs.seconds)}",
    }
    warnings = [
        Text.assemble(("warning: ", "yellow"), f"{item.detail} {item.fix or ''}".strip(), (f"  {item.pointer}", "dim"))
        for item in found.warnings
    ]
    return [screen.table(names, rows), "", screen.pairs(estimates), *warnings]


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("rows" if size is None else str(size) for size in shape) + ")"


@command(spec, "schema", "fitserve spec schema > spec.schema.json")
def schema(session: Session) -> None:
    """Print the JSON Schema of a spec, for editors and generators. Needs no server."""
    from fitserve.spec.schema import json_schema

    typer.echo(screen.json_text(json_schema()))


def read(path: Path, changes: list[str]) -> dict[str, Any]:
    """A spec's file with `--set` changes. Raises BadInput naming line and column, or the change."""
    from fitserve.spec.text import values_of

    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", received=str(path)) from None
    is_json = path.suffix.lower() == ".json" or content.lstrip()[:1] == b"{"
    body = values_of(content, "application/json" if is_json else "application/yaml")
    if not isinstance(body, dict):
        raise BadInput("A spec is a mapping.", received=type(body).__name__, expected="dataset: ..., target: ...")
    for change in changes:
        apply(body, change)
    return body


def apply(body: dict[str, Any], change: str) -> None:
    """Sets one value: `training.epochs=50`, `network.0.Dense.units=8`; the value is read as YAML."""
    import yaml

    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise BadInput("That is no change of a spec.", received=change, expected="--set training.epochs=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    where: Any = body
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(where, list):
            if not key.isdigit() or int(key) >= len(where):
                raise BadInput(f"There is no entry {key}.", received=change, expected=f"0 to {len(where) - 1}")
            if last:
                where[int(key)] = value
            where = where[int(key)]
        elif isinstance(where, dict):
            if last:
                where[key] = value
            where = where.setdefault(key, {})
        else:
            raise BadInput(f"{'.'.join(keys[:depth])} holds no names.", received=change)
