"""`fitserve spec`: start one, check one, the schema for editors."""

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
    from fitserve.spec.assessment import SummaryRow
    from fitserve.wire.runs import Validation

group = typer.Typer(name="spec", no_args_is_help=True, help="Specs: start one, check one, the schema for editors.")

_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# Names and arguments are Keras's. What is left out gets a default; `fitserve spec check --json` shows them all.
dataset: {dataset}
target: {target}
{features}split: {{method: random, validation: 0.2, test: 0.2}}   # the test rows are not trained on
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
    group,
    "init",
    "fitserve spec init --dataset admissions --target admit > spec.yaml",
    "fitserve spec init --output spec.yaml",
)
def init(
    session: Session,
    dataset: Annotated[str | None, typer.Option(help="A dataset on the server, whose columns are listed.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict. Default: the last one.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file to write; never overwritten.")] = None,
) -> None:
    """Start a spec: a small network, ready to train, with comments."""
    from fitserve.client.connection import Address

    schema = f"{Address.find(session.url, None, None).base_url}/api/v1/schemas/spec"
    name, column, features = dataset or "my-dataset", target or "my-target", "# features: [a, b]   # left out: all\n"
    if dataset is not None:
        with session.client() as client:
            column, features = _target_and_features(client, dataset, target)
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
        raise BadInput(f"{output} cannot be written: {error.strerror}.", received=str(output)) from None
    session.show({"written": str(output)}, f"Wrote {output}.")
    session.hint(f"Check it: fitserve spec check {output}    Train: fitserve train {output} --watch")


def _target_and_features(client: Client, dataset: str, target: str | None) -> tuple[str, str]:
    """Return the target, and the `features:` lines of the other columns. Raises BadInput."""
    columns = client.datasets.get(dataset).columns
    names = [column.name for column in columns]
    column = target or names[-1]
    if column not in names:
        raise BadInput(f"The dataset {dataset} has no column {column}.", received=column, expected=", ".join(names))
    lines = ["features:   # left out: every other column\n"]
    for other in columns:
        if other.name != column:
            mark = "# " if other.kind == "ignored" else ""
            lines.append(f"  {mark}- {_scalar(other.name)}   # {other.kind}\n")
    return column, "".join(lines)


def _scalar(text: str) -> str:
    """Return a string in YAML: bare where that is unambiguous, else quoted as JSON."""
    import yaml

    bare = text.replace("_", "").replace("-", "").replace(".", "").replace("@", "").isalnum() and text[0] != "@"
    return text if bare and isinstance(yaml.safe_load(text), str) else json.dumps(text, ensure_ascii=False)


@command(group, "check", "fitserve spec check spec.yaml", "fitserve spec check spec.yaml --offline --json")
def check(
    session: Session,
    path: Annotated[Path, typer.Argument(help="A spec in YAML or JSON; - reads standard input.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value, as training.epochs=50. Repeatable.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check without a server all that needs no dataset.")
    ] = False,
) -> None:
    """Check a spec like the server does: layers, shapes, columns, cost. Nothing is queued."""
    body = read_spec(path, set_ or [])
    if offline:
        from fitserve.settings import Limits
        from fitserve.spec.spec import parse

        parse(body, Limits())
        session.show({"valid": True, "offline": True}, f"{path} is a valid spec. Columns and cost were not checked.")
        return
    with session.client() as client:
        validation = client.runs.validate(body)
    session.show(validation, *_report(validation))
    session.hint(f"Train: fitserve train {path} --watch")


def _report(validation: Validation) -> list[Any]:
    names: tuple[str, ...] = ("layer", "class", "output shape", "parameters", "connected to")
    rows: list[Any] = [
        (row.name, row.layer, _shape(row.output_shape), row.parameters, row.inputs) for row in validation.summary
    ]
    if any(row.begins for row in validation.summary):
        names = (*names, "begins with")
        rows = [(*cells, _begins(row)) for cells, row in zip(rows, validation.summary, strict=True)]
    costs = validation.estimates
    estimates = {
        "parameters": costs.parameters,
        "training rows": costs.training_rows,
        "memory": screen.size(costs.training_bytes + costs.rows_bytes),
        "time, at most": f"about {screen.duration(costs.seconds)}",
    }
    warnings = [
        Text.assemble(("warning: ", "yellow"), f"{item.detail} {item.fix or ''}".strip(), (f"  {item.pointer}", "dim"))
        for item in validation.warnings
    ]
    return [screen.table(names, rows), "", screen.pairs(estimates), *warnings]


def _begins(row: SummaryRow) -> str:
    """Return a layer's initial weights in words: where they come from, and whether they are frozen."""
    return {"source": "the source's weights", "seed": "the seed's", None: ""}[row.begins] + ", frozen" * row.frozen


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("rows" if size is None else str(size) for size in shape) + ")"


@command(group, "schema", "fitserve spec schema > spec.schema.json")
def schema(session: Session) -> None:
    """Print the JSON Schema of a spec, for editors and generators. Needs no server."""
    from fitserve.spec.schema import json_schema

    typer.echo(screen.json_text(json_schema()))


def read_spec(path: Path, changes: list[str]) -> dict[str, Any]:
    """Return a file's spec with `--set` changes. Raises BadInput naming line and column, or the change."""
    from fitserve.client.runs import spec_of

    # A line feed marks it as text, not a file name.
    body = spec_of(sys.stdin.read() + "\n" if str(path) == "-" else path, {})
    for change in changes:
        apply_change(body, change)
    return body


def apply_change(body: dict[str, Any], change: str) -> None:
    """Set one value, as `training.epochs=50` or `network.0.Dense.units=8`; it is read as YAML. Raises BadInput."""
    import yaml

    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise BadInput("This is not a change of a spec.", received=change, expected="--set training.epochs=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    node: Any = body
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise BadInput(f"There is no entry {key}.", received=change, expected=f"0 to {len(node) - 1}")
            if last:
                node[int(key)] = value
            node = node[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            node = node.setdefault(key, {})
        else:
            raise BadInput(f"{'.'.join(keys[:depth])} has no members.", received=change)
