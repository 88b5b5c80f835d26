"""A bar for bytes on their way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fitserve.cli.session import Session


@contextmanager
def moving(session: Session, name: str) -> Iterator[Any]:
    """A function of the bytes moved so far and the bytes in all, which moves a bar; None where there is no terminal."""
    if session.json or not session.err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=session.err, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def move(moved: int, size: int | None) -> None:
            text = f"{name}: all sent or received" if moved == size else name
            bar.update(task, completed=moved, total=size, description=text)

        yield move
