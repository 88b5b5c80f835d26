"""A bar for bytes on their way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from fitserve.cli import screen
from fitserve.cli.session import Session


@contextmanager
def moving(session: Session, name: str, then: str = "") -> Iterator[Any]:
    """A function of the bytes moved so far and the bytes in all, which moves a bar; None where there is no terminal.

    `then` says what is waited for once all bytes have moved.
    """
    if session.json or not session.err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TransferSpeedColumn())
    with ExitStack() as shown:
        bar = shown.enter_context(Progress(*columns, TimeRemainingColumn(), console=session.err, transient=True))
        task = bar.add_task(name, total=None)

        def move(moved: int, size: int | None) -> None:
            bar.update(task, completed=moved, total=size)
            if then and moved == size:
                bar.stop()
                shown.enter_context(session.err.status(f"{name}: {screen.size(size)} sent; {then}"))

        yield move
