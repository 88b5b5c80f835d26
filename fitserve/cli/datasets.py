"""`fitserve datasets`: upload, list, show, rows, sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.session import Session, command
from fitserve.cli.transfer import moving
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.client.datasets import Dataset

datasets = typer.Typer(no_args_is_help=True, help="Datasets: upload, list, look into.")


@command(
    datasets,
    "upload",
    "fitserve datasets upload admissions.csv",
    "fitserve datasets upload sales.csv.gz --name sales --kind zip=categorical --lenient",
    "fitserve datasets upload large.parquet --resumable",
)
def upload(
    session: Session,
    path: Annotated[Path, typer.Argument(help="CSV, JSON Lines, Parquet or Arrow; also gzip or zstd.")],
    name: Annotated[str | None, typer.Option(help="Its name; made from the file's when left out.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Correct a column's kind: zip=categorical; more than once.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between two fields; recognised when left out.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the text, as gb18030; recognised when left out.")] = None,
    missing: Annotated[list[str] | None, typer.Option(help="A spelling of a missing value; more than once.")] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Leave bad rows out and report them.")] = False,
    resumable: Annotated[
        bool, typer.Option("--resumable", help="In pieces: a lost connection goes on where it stopped.")
    ] = False,
) -> None:
    """Upload a table as a dataset. The same content again is the same dataset."""
    options: dict[str, Any] = {"delimiter": delimiter, "encoding": encoding, "missing": missing or None}
    given = {key: value for key, value in options.items() if value is not None}
    with session.client() as client, moving(session, path.name, "the server reads it") as progress:
        found = client.datasets.upload(
            path,
            name,
            kinds=_kinds(kind or []),
            progress=progress,
            resumable=resumable,
            lenient=lenient,
            **given,
        )
        if not found.columns:
            found.refresh()
    session.show(found, _head(found), "", _columns(found))
    if found.refused:
        session.say(f"{found.refused.rows} rows were left out; --json shows the first of them.")
    session.say(f"Train on it: fitserve spec init --dataset {found.name} --output spec.yaml")


def _kinds(changes: list[str]) -> dict[str, Any]:
    found = {}
    for change in changes:
        column, equals, kind = change.rpartition("=")
        if not equals:
            raise BadInput("That is no kind of a column.", received=change, expected="--kind zip=categorical")
        found[column] = kind
    return found


@command(datasets, "list", "fitserve datasets list", "fitserve datasets list --limit 5 --json")
def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
) -> None:
    """List datasets, the newest first."""
    with session.client() as client:
        found = list(client.datasets.list(limit))
    rows = [(item.ref, item.rows, screen.size(item.bytes), item.owner, item.created_at, item.id) for item in found]
    names = ("dataset", "rows", "size", "owner", "uploaded", "id")
    session.show(found, screen.table(names, rows, may_go=("id", "owner")))


@command(datasets, "show", "fitserve datasets show admissions", "fitserve datasets show admissions --target admit")
def show(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name (its newest version), name@version, or id.")],
    target: Annotated[str | None, typer.Option(help="Show how each column relates to this one.")] = None,
) -> None:
    """Show a dataset: its columns, their kinds, and what is in them."""
    with session.client() as client:
        found = client.datasets.get(ref)
        if target is not None:
            relations = found.relations(target)
            rows = [(r.column, r.strength, r.direction, r.measure, r.warning) for r in relations]
            names = ("column", "strength", "direction", "measure", "warning")
            session.show(relations, screen.table(names, rows, title=f"{found.ref}: how columns relate to {target}"))
            return
        profile = found.profile() if session.json else None
    value = {**found.model_dump(mode="json"), "profile": profile.model_dump(mode="json")} if profile else found
    session.show(value, _head(found), "", _columns(found))


def _head(found: Dataset) -> Any:
    return screen.pairs(
        {
            "dataset": found.ref,
            "id": found.id,
            "rows": found.rows,
            "size": screen.size(found.bytes),
            "uploaded": found.created_at,
            "left out": f"{found.refused.rows} rows" if found.refused and found.refused.rows else None,
        }
    )


def _columns(found: Dataset) -> Any:
    rows = []
    for column in found.columns:
        number = column.kind == "numeric"
        content = f"{screen.number(column.min)} to {screen.number(column.max)}" if number else ""
        if column.labels and not number:
            content = ", ".join(column.labels[:6]) + (", ..." if len(column.labels) > 6 else "")
        rows.append((column.name, column.kind, column.missing, column.distinct, content, column.evidence))
    return screen.table(("column", "kind", "missing", "distinct", "content", "because"), rows, may_go=("because",))


@command(datasets, "share", "fitserve datasets share admissions", "fitserve datasets share admissions@2 --private")
def share(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name (its newest version), name@version, or id.")],
    private: Annotated[bool, typer.Option("--private", help="Take it back.")] = False,
) -> None:
    """Let other owners read a version of a dataset."""
    with session.client() as client:
        found = client.datasets.get(ref).change(shared=not private)
    session.show(found, f"{found.ref} is {'shared with every owner' if found.shared else 'yours alone'}.")


@command(datasets, "rows", "fitserve datasets rows admissions --limit 5", "fitserve datasets rows admissions --json")
def rows_(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A name, name@version, or id.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """Show the first rows of a dataset."""
    with session.client() as client:
        found = client.datasets.get(ref)
        rows = list(found.iter_rows(limit))
    names = list(rows[0]) if rows else [column.name for column in found.columns]
    session.show(rows, screen.table(names, [[row[name] for name in names] for row in rows]))


@command(
    datasets,
    "sample",
    "fitserve datasets sample",
    "fitserve datasets sample spiral --noise 10",
)
def sample(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="A built-in table; without it they are listed.")] = None,
    as_: Annotated[str | None, typer.Option("--name", help="The dataset's name; the sample's when left out.")] = None,
    noise: Annotated[float, typer.Option(min=0, max=50, help="Of the Playground's tables.")] = 0,
    rows: Annotated[int | None, typer.Option(min=10, help="Of the Playground's tables.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the Playground's tables.")] = 0,
) -> None:
    """Make a dataset from a built-in table: TensorFlow Playground's six and scikit-learn's own."""
    with session.client() as client:
        if name is None:
            there = list(client.datasets.samples())
            table = [(item.sample, item.task, item.rows, item.target, item.title) for item in there]
            session.show(there, screen.table(("sample", "task", "rows", "target", "what it is"), table))
            return
        found = client.datasets.sample(name, as_, noise=noise, rows=rows, seed=seed)
        if not found.columns:
            found.refresh()
    session.show(found, _head(found), "", _columns(found))
    session.say(f"Train on it: fitserve spec init --dataset {found.name} --output spec.yaml")
