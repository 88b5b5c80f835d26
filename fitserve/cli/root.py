"""The `fitserve` command: its groups, and the options that stand before a command."""

from __future__ import annotations

from typing import Annotated

import typer

from fitserve import __version__
from fitserve.cli import demo, server, train
from fitserve.cli.datasets import datasets
from fitserve.cli.keys import keys
from fitserve.cli.models import models
from fitserve.cli.runs import runs
from fitserve.cli.session import Session
from fitserve.cli.spec import spec

app = typer.Typer(
    name="fitserve",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here:\n\n  fitserve up\n\n  fitserve demo\n\nEvery command has an example: fitserve train --help",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fitserve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="FITSERVE_URL", help="The API's address. [default: http://127.0.0.1:8000]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as after any command.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Train neural networks over HTTP and serve their predictions.

    The API key is FITSERVE_API_KEY; for a server on this machine, its first key is found in FITSERVE_HOME.
    """
    ctx.obj = Session(url=url or None, json=as_json)


server.register(app)
demo.register(app)
train.register(app)
app.add_typer(datasets, name="datasets", rich_help_panel="Work")
app.add_typer(runs, name="runs", rich_help_panel="Work")
app.add_typer(models, name="models", rich_help_panel="Work")
app.add_typer(spec, name="spec", rich_help_panel="Work")
app.add_typer(keys, name="keys", rich_help_panel="Work")
