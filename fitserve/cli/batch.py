"""`fitserve models batch`: predictions for a whole dataset, written to a dataset, a table or a folder."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.models import ModelName, group
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.client import Client


class IfExists(Enum):
    """What to do with a table or a folder that already exists."""

    fail = "fail"
    append = "append"
    replace = "replace"


@command(
    group,
    "batch",
    "fitserve models batch admissions applicants",
    "fitserve models batch admissions applicants --to warehouse/analytics.scores --if-exists append",
    "fitserve models batch admissions applicants --to lake/scores/2026-11-29 --columns id,name --no-wait",
)
def batch(
    session: Session,
    model: ModelName,
    dataset: Annotated[str, typer.Argument(help="A dataset's name, name@version, or id.")],
    to: Annotated[
        str | None,
        typer.Option(help="CONNECTION/TABLE or CONNECTION/FOLDER. Default: a new dataset."),
    ] = None,
    if_exists: Annotated[
        IfExists, typer.Option(help="What becomes of a table or folder that is there already.")
    ] = IfExists.fail,
    columns: Annotated[
        str | None, typer.Option(help="The dataset's columns beside the predictions, such as id,name. Default: all.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The new dataset's name.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="This version instead of the serving one.")] = None,
    label: Annotated[str | None, typer.Option(help="The version of this label.")] = None,
    interval: Annotated[
        float | None, typer.Option(help="Add the interval that holds this share of the truths; 0: none.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for its end.")] = True,
) -> None:
    """Predict a whole dataset on the workers; write a new dataset, a table or a folder in object storage."""
    with session.client() as client:
        run = client.models.predict_dataset(
            model,
            dataset,
            version=version,
            label=label,
            name=name,
            interval=False if interval == 0 else interval,
            destination=_destination(client, to, if_exists.value),
            columns=None if columns is None else [one.strip() for one in columns.split(",") if one.strip()],
        )
        if not wait:
            session.show(run, f"{run.id} is queued.")
            session.hint(f"Follow it: fitserve runs watch {run.id}")
            return
        ended = client.runs.get(run.id).wait()
    result: dict[str, Any] = ended.result or {}
    where = to or result.get("dataset", "")
    parts = [(one["name"], one["rows"], screen.size(one["bytes"])) for one in result.get("parts", ())]
    sentence = f"{result.get('rows')} rows in {where}, by version {result.get('model_version')} of {model}."
    session.show(ended, sentence, *([screen.table(("part", "rows", "size"), parts)] if to else []))
    if to is None:
        session.hint(f"Read them: fitserve datasets rows {where}")


def _destination(client: Client, to: str | None, if_exists: str) -> dict[str, Any] | None:
    """Return the destination that `--to` names. Raises BadInput."""
    if to is None:
        return None
    connection, _, rest = to.partition("/")
    known = {one.name: one for one in client.datasets.connections()}
    if not rest or connection not in known:
        writable = ", ".join(name for name, one in known.items() if one.writable) or "a connection; there is none"
        raise BadInput(
            "This names no place for predictions.",
            received=to,
            expected=f"CONNECTION/TABLE or CONNECTION/FOLDER, with one of: {writable}",
            fix="The operator names connections in FITSERVE_CONNECTIONS_FILE, with `writable: true`.",
        )
    kind = known[connection].kind
    if kind in ("s3", "gs", "az"):
        return {kind: {"connection": connection, "path": rest, "if_exists": if_exists}}
    return {"sql": {"connection": connection, "table": rest, "if_exists": if_exists}}
