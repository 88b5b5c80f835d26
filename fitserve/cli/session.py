"""One invocation of the command line: where the server is, how to print, and how to say what went wrong."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from fitserve.cli import screen
from fitserve.cli.exit_codes import Exit, exit_of
from fitserve.errors import FitserveError

if TYPE_CHECKING:
    from fitserve.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


@dataclass
class Session:
    """What every command is given."""

    url: str | None = None
    json: bool = False
    out: Console = field(default_factory=screen.make_console)
    err: Console = field(default_factory=functools.partial(screen.make_console, stderr=True))

    @contextmanager
    def client(self, **options: Any) -> Iterator[Client]:
        """A client of the server."""
        from fitserve.client import Client

        with Client(base_url=self.url, **{"retries": 2, **options}) as client:
            yield client

    def show(self, value: Any, *shown: RenderableType) -> None:
        """`value` as JSON, or what was made of it for people."""
        if self.json:
            typer.echo(screen.json_text(value))
        else:
            self.out.print(*shown, sep="\n")

    def say(self, text: str) -> None:
        """A remark for people, on standard error: what to do next. Silent with --json."""
        if not self.json:
            self.err.print(text, style="dim", markup=False, soft_wrap=True)  # a command to be copied is not broken

    def fail(self, error: FitserveError) -> typer.Exit:
        """Prints an error: problem details as JSON, or what is wrong, where, and how to mend it."""
        if self.json:
            typer.echo(screen.json_text(error.as_problem()), err=True)
        else:
            from fitserve.client.errors import render

            first, *rest = render(error).splitlines()
            self.err.print(f"[bold red]error:[/] {_escape(first)}", soft_wrap=True)
            for line in rest:
                self.err.print(line, markup=False, soft_wrap=True)
            if error.status == 401:
                self.say("The key is FITSERVE_API_KEY, or the first key in the FITSERVE_HOME of a server here.")
        return typer.Exit(exit_of(error))


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def command(
    group: typer.Typer, name: str, *examples: str, prints_json: bool = True, **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Registers a command whose first parameter is the Session; adds --json, and turns errors into exit codes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _, *parameters = inspect.signature(function, eval_str=True).parameters.values()

        @functools.wraps(function)
        def run(ctx: typer.Context, as_json: bool = False, **arguments: Any) -> None:
            session = session_of(ctx)
            session.json = session.json or as_json
            try:
                function(session, **arguments)
            except FitserveError as error:
                raise session.fail(error) from None
            except KeyboardInterrupt:
                raise typer.Exit(Exit.interrupted) from None

        first = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        json_ = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        listed = [first, *keyword, json_] if prints_json else [first, *keyword]
        run.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in listed}
        del run.__dict__["__wrapped__"]
        label = "Example:" if len(examples) == 1 else "Examples:"
        epilog = "\n\n".join([label, *(f"  {example}" for example in examples)]) if examples else None
        group.command(name, epilog=epilog, no_args_is_help=False, **options)(run)
        return function

    return register


def session_of(ctx: typer.Context) -> Session:
    """The session of this invocation."""
    root = ctx.find_root()
    if not isinstance(root.obj, Session):
        root.obj = Session()
    found: Session = root.obj
    return found
