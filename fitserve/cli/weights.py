"""`fitserve weights`: upload, list, show, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fitserve.cli import screen
from fitserve.cli.session import Session, command

group = typer.Typer(
    name="weights", no_args_is_help=True, help="Trained weights for networks to begin with: upload, list, delete."
)
WeightsId = Annotated[str, typer.Argument(help="Their id, from `weights list`.")]


@command(group, "upload", "fitserve weights upload body.safetensors")
def upload(
    session: Session,
    path: Annotated[Path, typer.Argument(help="A safetensors file: arrays named by layer and place, as dense/0.")],
) -> None:
    """Upload weights: arrays, without code."""
    with session.client() as client, session.progress_bar(path.name) as progress:
        made = client.weights.upload(path, progress=progress)
    session.show(made, screen.table(("array", "shape"), [(name, str(shape)) for name, shape in made.tensors.items()]))
    session.hint(f"Begin with them: fitserve train spec.yaml --initial-weights {made.id}")


@command(group, "list", "fitserve weights list")
def list_(session: Session) -> None:
    """List uploaded weights, newest first."""
    with session.client() as client:
        listed = list(client.weights.list())
    rows = [(one.id, one.parameters, screen.size(one.bytes), one.owner, screen.age(one.created_at)) for one in listed]
    names = ("id", "parameters", "size", "owner", "created")
    session.show(listed, screen.table(names, rows, droppable=("created", "owner")))


@command(group, "show", "fitserve weights show wts_01kb...")
def show(session: Session, weights: WeightsId) -> None:
    """Show the arrays of uploaded weights."""
    with session.client() as client:
        uploaded = client.weights.get(weights)
    session.show(
        uploaded, screen.table(("array", "shape"), [(name, str(shape)) for name, shape in uploaded.tensors.items()])
    )


@command(group, "delete", "fitserve weights delete wts_01kb...")
def delete(session: Session, weights: WeightsId) -> None:
    """Delete uploaded weights. Runs that started from them keep their copy."""
    with session.client() as client:
        client.weights.delete(weights)
    session.show({"id": weights}, f"The weights {weights} are deleted.")
