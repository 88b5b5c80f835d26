"""The `fitserve` command: its groups, and the options that stand before a command."""

from __future__ import annotations

from typing import Annotated

import typer

from fitserve.cli import (
    automations,
    batch,  # noqa: F401  (adds a command to those of models)
    datasets,
    demo,
    drift,  # noqa: F401  (adds a command to those of models)
    keys,
    local,
    mcp,
    models,
    rollouts,  # noqa: F401  (adds a group to that of models)
    runs,
    server,
    slices,  # noqa: F401  (adds commands to those of runs)
    spec,
    train,
    webhooks,
    weights,
)
from fitserve.cli.session import Session

# A group of commands with a name, or top-level commands without one.
GROUPS = (
    server.group,
    local.group,
    demo.group,
    train.group,
    datasets.group,
    runs.group,
    models.group,
    spec.group,
    keys.group,
    mcp.group,
    webhooks.group,
    automations.group,
    weights.group,
)

app = typer.Typer(
    name="fitserve",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here:\n\n    fitserve up\n\n    fitserve demo\n\nEvery command has an example: fitserve train --help",
)
for group in GROUPS:
    app.add_typer(group, rich_help_panel="Work")


def _print_version(requested: bool) -> None:
    if requested:
        from fitserve.build_info import build_info  # starts Git in a checkout, so only when asked

        typer.echo(f"fitserve {build_info()}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="FITSERVE_URL", help="The API's address. Default: http://127.0.0.1:8000."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as after any command.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version, commit and day."),
    ] = False,
) -> None:
    """Train neural networks over HTTP and serve their predictions.

    The API key is FITSERVE_API_KEY; for a server on this machine, its first key is read from FITSERVE_HOME.
    """
    ctx.obj = Session(url=url or None, json=as_json)
