"""`fitserve datasets`: upload, import, append, list, show, share, rows, sample."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.client import Client
    from fitserve.client.datasets import Dataset

group = typer.Typer(name="datasets", no_args_is_help=True, help="Datasets: upload, list, inspect.")


@command(
    group,
    "upload",
    "fitserve datasets upload admissions.csv",
    "fitserve datasets upload sales.csv.gz --name sales --kind zip=categorical --lenient",
    "fitserve datasets upload statement.csv --skip-rows 4 --footer 1",
    "fitserve datasets upload statement.csv --option formats.amount.decimal=,",
    "fitserve datasets upload large.parquet --resumable",
)
def upload(
    session: Session,
    path: Annotated[Path, typer.Argument(help="A file, such as CSV, JSON Lines or Parquet; also gzip or zstd.")],
    name: Annotated[str | None, typer.Option(help="The dataset's name. Default: from the file's name.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Correct a column's kind, such as zip=categorical. Repeatable.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Character between fields. Default: detected.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Text encoding, such as gb18030. Default: detected.")] = None,
    quote: Annotated[str | None, typer.Option(help="Quote character; none: no quoting. Default: detected.")] = None,
    skip_rows: Annotated[int | None, typer.Option(help="Lines before the table. Default: detected.")] = None,
    footer: Annotated[int | None, typer.Option(help="Lines after the table. Default: detected.")] = None,
    comment: Annotated[
        str | None, typer.Option(help="Skip lines that begin with it; none: skip no lines. Default: detected.")
    ] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether the first line names the columns.")
    ] = None,
    missing: Annotated[list[str] | None, typer.Option(help="A spelling of a missing value. Repeatable.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Any upload option, as notices name them: 'formats.price.decimal=,'. Repeatable."),
    ] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Skip bad rows and report them.")] = False,
    resumable: Annotated[
        bool, typer.Option("--resumable", help="Send it in pieces, and resume after a lost connection.")
    ] = False,
) -> None:
    """Upload a table as a dataset. Uploading the same content again returns the same dataset."""
    options: dict[str, Any] = {
        "delimiter": delimiter,
        "encoding": encoding,
        "quote": quote,
        "skip_rows": skip_rows,
        "footer": footer,
        "comment": comment,
        "header": header,
        "missing": missing or None,
    }
    more = read_options(option or [])
    kinds = {**more.pop("kinds", {}), **read_kinds(kind or [])}
    options = {**more, **{name: value for name, value in options.items() if value is not None}}
    with session.client() as client, session.progress_bar(path.name, "the server reads it") as progress:
        dataset = client.datasets.upload(
            path,
            name,
            kinds=kinds,
            progress=progress,
            resumable=resumable,
            lenient=lenient,
            **options,
        )
        _show_new(session, dataset)


@command(
    group,
    "import",
    "fitserve datasets import sales --connection warehouse --query 'SELECT * FROM sales ORDER BY id'",
    "fitserve datasets import sales --connection lake --path 'sales/2026-*.parquet'",
    "fitserve datasets import visits --connection lake --path 'visits/*.csv.gz' --no-wait",
    "fitserve datasets import sales --connection lake --delta sales",
    "fitserve datasets import irises --url https://example.org/iris.csv",
    "fitserve datasets import --connections",
)
def import_(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="The dataset's name. A taken name gets its next version.")] = None,
    connection: Annotated[str | None, typer.Option(help="A connection that the operator has named.")] = None,
    query: Annotated[str | None, typer.Option(help="One SELECT, or @FILE that holds it.")] = None,
    path: Annotated[str | None, typer.Option(help="An object below the connection's folder, or a pattern.")] = None,
    delta: Annotated[str | None, typer.Option(help="A Delta table's folder, below the connection's.")] = None,
    version: Annotated[int | None, typer.Option(min=0, help="Of the Delta table. Default: the newest.")] = None,
    url: Annotated[str | None, typer.Option(help="The address of a file.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Correct a column's kind, such as zip=categorical. Repeatable.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Any upload option, as notices name them: 'delimiter=;'. Repeatable.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for its end; --no-wait has workers carry it out.")
    ] = True,
    connections: Annotated[
        bool, typer.Option("--connections", help="List the connections, and import nothing.")
    ] = False,
) -> None:
    """Import a table from its source as a dataset. Importing the same content again makes no new version."""
    with session.client() as client:
        if connections:
            known = client.datasets.connections()
            rows = [(one.name, one.kind, ", ".join(one.sources)) for one in known]
            session.show(known, screen.table(("connection", "kind", "sources"), rows))
            return
        if name is None:
            raise BadInput(
                "The dataset needs a name.", fix="fitserve datasets import NAME --connection ... --query ..."
            )
        more = read_options(option or [])
        kinds = {**more.pop("kinds", {}), **read_kinds(kind or [])}
        source = _source(client, connection, {"sql": query, "objects": path, "delta": delta, "https": url}, version)
        if not wait:
            run = client.datasets.queue_import(name, source, kinds=kinds, **more)
            session.show(run, f"{run.id} is queued.")
            session.hint(f"Follow it: fitserve runs watch {run.id}")
            return
        with session.progress_bar(name) as progress:
            made = client.datasets.import_from(name, source, kinds=kinds, progress=progress, **more)
        _show_new(session, made)


def _source(
    client: Client, connection: str | None, stated: dict[str, str | None], version: int | None
) -> dict[str, Any]:
    """Return the source that the options name. Raises BadInput."""
    options = {kind: text for kind, text in stated.items() if text is not None}
    if len(options) != 1:
        raise BadInput("An import has exactly one source.", expected="--query, --path, --delta or --url")
    ((kind, text),) = options.items()
    named = {"connection": connection} if connection is not None else {}
    if kind == "https":
        return {kind: {**named, "url": text}}
    if connection is None:
        raise BadInput("This source needs a connection.", fix="--connection; list them: datasets import --connections")
    if kind == "sql":
        return {kind: {**named, "query": Path(text[1:]).read_text() if text.startswith("@") else text}}
    if kind == "delta":
        return {kind: {**named, "path": text, **({"version": version} if version is not None else {})}}
    schemes = {one.name: one.kind for one in client.datasets.connections()}
    return {schemes.get(connection, "s3"): {**named, "path": text}}


@command(group, "refresh", "fitserve datasets refresh sales")
def refresh(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name, name@version, or id of an imported dataset.")],
) -> None:
    """Import a dataset from its source again; changed content becomes its next version."""
    with session.client() as client:
        before = client.datasets.get(ref)
        after = before.reimport()
        if after.id == before.id:
            session.show(after, f"{after.ref} is unchanged.")
        else:
            _show_new(session, after)


@command(
    group,
    "append",
    "fitserve datasets append visits more.csv",
    "fitserve datasets append visits more.csv --batch 2026-11-29",
    "fitserve datasets append visits hour.csv --stage --batch 2026-11-29T10",
    "fitserve datasets append visits --commit",
)
def append(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name: rows are appended to its newest version.")],
    path: Annotated[Path | None, typer.Argument(help="A table with the same columns; - reads standard input.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="An idempotency key: rows sent again under it are appended once.")
    ] = None,
    stage: Annotated[
        bool, typer.Option("--stage", help="Let them wait, so that many small batches make one version.")
    ] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Append all that waits, as one version.")] = False,
    option: Annotated[
        list[str] | None, typer.Option(help="Any upload option, as notices name them: 'delimiter=;'. Repeatable.")
    ] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Skip bad rows and report them.")] = False,
) -> None:
    """Append rows to a dataset. This makes its next version, whose parent is the version before."""
    if path is None and not commit:
        raise BadInput("There is nothing to append.", expected="a file, or --commit", fix=f"... append {ref} FILE")
    options = read_options(option or []) | ({"lenient": True} if lenient else {})
    with session.client() as client:
        dataset = client.datasets.get(ref)
        if path is not None:
            data: Any = sys.stdin.buffer.read() if str(path) == "-" else path
            if not stage and not commit:
                _show_new(session, dataset.append(data, batch=batch, **options))
                return
            waiting = dataset.stage(data, batch=batch, **options)
            if not commit:
                session.show(waiting, f"{waiting.rows} rows in {waiting.batches} batches wait for {waiting.name}.")
                session.hint(f"Append them as one version: fitserve datasets append {waiting.name} --commit")
                return
        before = dataset.version
        after = dataset.commit()
        if after.version == before:
            session.show(after, f"Nothing waits: {after.ref} is unchanged.")
        else:
            _show_new(session, after)


def _show_new(session: Session, dataset: Dataset) -> None:
    if not dataset.columns:
        dataset.refresh()
    session.show(dataset, _summary(dataset), "", columns_table(dataset))
    if dataset.refused:
        session.hint(f"{dataset.refused.rows} rows were skipped; --json shows the first of them.")
    hint_at_notices(session, dataset)
    last = dataset.columns[-1].name if dataset.columns else "COLUMN"
    session.hint(f"Train on it: fitserve train {dataset.name} --target {shlex.quote(last)}")
    session.hint(f"Design the network yourself: fitserve spec init --dataset {dataset.name} --output spec.yaml")


def read_options(changes: list[str]) -> dict[str, Any]:
    """Return upload options from texts such as `formats.price.decimal=,`; lists are JSON. Raises BadInput."""
    from pydantic import ValidationError  # slow to import, and few commands need them

    from fitserve.parsing import ColumnFormat
    from fitserve.validation import problems_from
    from fitserve.wire.datasets import UploadOptions

    options: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        group_name, _, rest = name.partition(".")
        if (
            not equals
            or group_name not in UploadOptions.model_fields
            or (rest and group_name not in ("kinds", "formats"))
        ):
            raise BadInput("This is not an upload's option.", received=change, expected="formats.price.decimal=,")
        value: Any = text
        if text[:1] in ("[", "{"):
            try:
                value = json.loads(text)
            except ValueError:
                raise BadInput("An option's JSON cannot be read.", received=change) from None
        column, _, member = rest.rpartition(".")
        if not rest:
            options[group_name] = value
        elif group_name == "kinds" or not column or member not in ColumnFormat.model_fields:
            options.setdefault(group_name, {})[rest] = value
        else:
            options.setdefault("formats", {}).setdefault(column, {})[member] = value
    try:
        UploadOptions.model_validate(options)
    except ValidationError as error:
        problems = problems_from(error.errors()[:20], UploadOptions)
        raise BadInput(problems[0].detail, problems=problems) from None
    return options


def read_kinds(changes: list[str]) -> dict[str, Any]:
    kinds = {}
    for change in changes:
        column, equals, kind = change.rpartition("=")
        if not equals:
            raise BadInput("This is not a column's kind.", received=change, expected="--kind zip=categorical")
        kinds[column] = kind
    return kinds


@command(group, "list", "fitserve datasets list", "fitserve datasets list --limit 5 --json")
def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = 50,
) -> None:
    """List datasets, newest first."""
    with session.client() as client:
        datasets = list(client.datasets.list(limit))
    rows = [(item.ref, item.rows, screen.size(item.bytes), item.owner, item.created_at, item.id) for item in datasets]
    names = ("dataset", "rows", "size", "owner", "uploaded", "id")
    session.show(datasets, screen.table(names, rows, droppable=("id", "owner")))


@command(group, "show", "fitserve datasets show admissions", "fitserve datasets show admissions --target admit")
def show(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name (its newest version), name@version, or id.")],
    target: Annotated[str | None, typer.Option(help="Show how each column relates to this one.")] = None,
) -> None:
    """Show a dataset: its columns, their kinds and contents."""
    with session.client() as client:
        dataset = client.datasets.get(ref)
        if target is not None:
            relations = dataset.relations(target)
            rows = [(r.column, r.strength, r.direction, r.measure, r.warning) for r in relations]
            names = ("column", "strength", "direction", "measure", "warning")
            session.show(relations, screen.table(names, rows, title=f"{dataset.ref}: how columns relate to {target}"))
            return
        profile = dataset.profile() if session.json else None
    value = {**dataset.model_dump(mode="json"), "profile": profile.model_dump(mode="json")} if profile else dataset
    session.show(value, _summary(dataset), "", columns_table(dataset))
    hint_at_notices(session, dataset)


def hint_at_notices(session: Session, dataset: Dataset) -> None:
    """Print the decisions made while the table was read, and the options that change them."""
    for notice in dataset.notices:
        evidence = f" ({notice.evidence})" if notice.evidence else ""
        otherwise = f" Otherwise: {notice.option}" if notice.option else ""
        session.hint(f"{notice.message}{evidence}{otherwise}")


def _summary(dataset: Dataset) -> Any:
    return screen.pairs(
        {
            "dataset": dataset.ref,
            "id": dataset.id,
            "rows": dataset.rows,
            "size": screen.size(dataset.bytes),
            "uploaded": dataset.created_at,
            "skipped": f"{dataset.refused.rows} rows" if dataset.refused and dataset.refused.rows else None,
        }
    )


def columns_table(dataset: Dataset) -> Any:
    rows = []
    for column in dataset.columns:
        content = ""
        if column.kind == "numeric":
            content = f"{screen.number(column.min)} to {screen.number(column.max)}"
        elif column.labels:
            content = ", ".join(column.labels[:6]) + (", ..." if len(column.labels) > 6 else "")
        rows.append((column.name, column.kind, column.missing, column.distinct, content, column.evidence))
    return screen.table(("column", "kind", "missing", "distinct", "content", "because"), rows, droppable=("because",))


@command(group, "share", "fitserve datasets share admissions", "fitserve datasets share admissions@2 --private")
def share(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name (its newest version), name@version, or id.")],
    private: Annotated[bool, typer.Option("--private", help="Stop sharing.")] = False,
) -> None:
    """Let other owners read a version of a dataset."""
    with session.client() as client:
        dataset = client.datasets.get(ref).change(shared=not private)
    session.show(dataset, f"{dataset.ref} is {'shared with every owner' if dataset.shared else 'private'}.")


@command(group, "rows", "fitserve datasets rows admissions --limit 5", "fitserve datasets rows admissions --json")
def rows_(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name, name@version, or id.")],
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = 20,
) -> None:
    """Show the first rows of a dataset."""
    with session.client() as client:
        dataset = client.datasets.get(ref)
        rows = list(dataset.iter_rows(limit))
    names = list(rows[0]) if rows else [column.name for column in dataset.columns]
    session.show(rows, screen.table(names, [[row[name] for name in names] for row in rows]))


@command(
    group,
    "sample",
    "fitserve datasets sample",
    "fitserve datasets sample spiral --noise 10",
)
def sample(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="A built-in table. Without one, list them.")] = None,
    as_: Annotated[str | None, typer.Option("--name", help="The dataset's name. Default: the sample's.")] = None,
    noise: Annotated[float, typer.Option(min=0, max=50, help="Noise of the Playground's tables.")] = 0,
    rows: Annotated[int | None, typer.Option(min=10, help="Number of rows of the Playground's tables.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the Playground's tables.")] = 0,
) -> None:
    """Make a dataset from a built-in table: TensorFlow Playground's six, scikit-learn's own, or the Titanic's."""
    with session.client() as client:
        if name is None:
            samples = list(client.datasets.samples())
            table = [(item.sample, item.task, item.rows, item.target, item.title) for item in samples]
            session.show(samples, screen.table(("sample", "task", "rows", "target", "description"), table))
            return
        _show_new(session, client.datasets.sample(name, as_, noise=noise, rows=rows, seed=seed))
