"""One invocation of the command line: its server, its output, its exit code."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from fitserve.cli import screen
from fitserve.cli.next_command import next_command_after
from fitserve.errors import FitserveError

if TYPE_CHECKING:
    from fitserve.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


class Exit(IntEnum):
    """Exit codes, for scripts."""

    done = 0
    failed = 1
    usage = 2
    refused = 3
    not_found = 4
    no_access = 5
    try_again = 6
    run_failed = 7
    run_cancelled = 8
    interrupted = 130


MEANING = {
    Exit.done: "done",
    Exit.failed: "something went wrong on the server or in the command itself",
    Exit.usage: "the command line is wrong",
    Exit.refused: "the server, or the command itself, refused the input",
    Exit.not_found: "there is no such dataset, run, model, version or key",
    Exit.no_access: "the API key is missing, not valid, or lacks a scope",
    Exit.try_again: "the server was not reached, is busy, or a quota is used up: try again later",
    Exit.run_failed: "the watched run failed",
    Exit.run_cancelled: "the watched run was cancelled",
    Exit.interrupted: "stopped by Ctrl-C; a run continues",
}

_BY_STATUS = {
    401: Exit.no_access,
    403: Exit.no_access,
    404: Exit.not_found,
    408: Exit.try_again,
    429: Exit.try_again,
    502: Exit.try_again,
    503: Exit.try_again,
    504: Exit.try_again,
}


def exit_code(error: FitserveError) -> Exit:
    """Return the exit code of an error."""
    if error.slug == "run-ended":
        return Exit.run_cancelled if error.extra.get("state") == "cancelled" else Exit.run_failed
    return _BY_STATUS.get(error.status) or (Exit.refused if error.status < 500 else Exit.failed)


@dataclass
class Session:
    """The context of a command: the server's address, and where and how to print."""

    url: str | None = None
    json: bool = False
    out: Console = field(default_factory=screen.make_console)
    err: Console = field(default_factory=functools.partial(screen.make_console, stderr=True))

    @contextmanager
    def client(self, **options: Any) -> Iterator[Client]:
        """Yield a client of the server."""
        from fitserve.client import Client

        with Client(base_url=self.url, **{"retries": 2, **options}) as client:
            yield client

    def show(self, value: Any, *shown: RenderableType) -> None:
        """Print `value` as JSON for programs, or `shown` for people."""
        if self.json:
            typer.echo(screen.json_text(value))
        else:
            self.out.print(*shown, sep="\n")

    def hint(self, text: str) -> None:
        """Print a hint for people on standard error, such as what to do next. Silent with --json."""
        if not self.json:
            self.err.print(text, style="dim", markup=False, soft_wrap=True)  # unbroken, so that it can be copied

    def fail(self, error: FitserveError, command: str = "fitserve") -> typer.Exit:
        """Print an error of a command, as problem details in JSON or as text, and return its exit.

        The fix of every error names a command.
        """
        if next_command := next_command_after(error, command):
            error.fix = f"{error.fix} {next_command}" if error.fix else next_command
        if self.json:
            typer.echo(screen.json_text(error.as_problem()), err=True)
        else:
            from fitserve.client.errors import render

            first, *rest = render(error).splitlines()
            self.err.print(f"[bold red]error:[/] {escape(first)}", soft_wrap=True)
            for line in rest:
                self.err.print(line, markup=False, soft_wrap=True)
            if error.status == 401:
                self.hint(_where_the_key_is())
        return typer.Exit(exit_code(error))

    @contextmanager
    def progress_bar(self, name: str, then: str = "") -> Iterator[Callable[[int, int | None], None] | None]:
        """Yield a function `(bytes moved, bytes in all)` that advances a bar; None without a terminal.

        `then` describes the wait after all bytes have moved.
        """
        if self.json or not self.err.is_terminal:
            yield None
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TransferSpeedColumn())
        with ExitStack() as stack:
            bar = stack.enter_context(Progress(*columns, TimeRemainingColumn(), console=self.err, transient=True))
            task = bar.add_task(name, total=None)

            def move(moved: int, size: int | None) -> None:
                bar.update(task, completed=moved, total=size)
                if then and moved == size:
                    bar.stop()
                    stack.enter_context(self.err.status(f"{name}: {screen.size(size)} sent; {then}"))

            yield move


def _where_the_key_is() -> str:
    from fitserve.client.connection import FIRST_KEY
    from fitserve.local_server import home_here

    path = home_here() / FIRST_KEY
    if os.environ.get("FITSERVE_API_KEY") and path.is_file():
        return f"FITSERVE_API_KEY is set, so {path} was not tried: unset FITSERVE_API_KEY"
    return "The key is FITSERVE_API_KEY, or the first key in FITSERVE_HOME of a server on this machine."


def command(
    group: typer.Typer, name: str, *examples: str, prints_json: bool = True, **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Register a command whose first parameter is the Session; add --json, and turn errors into exit codes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _, *parameters = inspect.signature(function, eval_str=True).parameters.values()

        @functools.wraps(function)
        def run(ctx: typer.Context, as_json: bool = False, **arguments: Any) -> None:
            session = session_of(ctx)
            session.json = session.json or as_json
            try:
                function(session, **arguments)
            except FitserveError as error:
                raise session.fail(error, ctx.command_path) from None
            except KeyboardInterrupt:
                raise typer.Exit(Exit.interrupted) from None

        # Typer reads the options from the signature.
        first = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        json_option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        signature = [first, *keyword, json_option] if prints_json else [first, *keyword]
        run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
        del run.__dict__["__wrapped__"]
        label = "Example:" if len(examples) == 1 else "Examples:"
        epilog = "\n\n".join([label, *(f"    {example}" for example in examples)])  # a block of code in Markdown
        group.command(name, epilog=epilog, no_args_is_help=False, **options)(run)
        return function

    return register


def session_of(ctx: typer.Context) -> Session:
    """Return the session of this invocation."""
    root = ctx.find_root()
    if not isinstance(root.obj, Session):
        root.obj = Session()
    session: Session = root.obj
    return session
