"""`python -m fitserve.cli.reference`: docs/reference/cli.md, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from fitserve.cli.exit_codes import MEANING
from fitserve.cli.root import app

_HEAD = """\
# The command line

Made from the commands themselves by `python -m fitserve.cli.reference`; a test keeps the two equal.

The server is `--url`, else `FITSERVE_URL`, else `http://127.0.0.1:8000`. The key is `FITSERVE_API_KEY`; for a server
on this machine, its first key is found in `FITSERVE_HOME` (`./fitserve-data`). Every command but `up` and
`migrate` takes `--json`: it then
prints one JSON document on standard output (a watched run prints one JSON object a line), and errors as problem
details on standard error. `fitserve --install-completion` sets up the shell's completion.
"""


def leaves(command: Any, path: tuple[str, ...] = ("fitserve",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its words."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from leaves(child, (*path, name))


def markdown() -> str:
    """The whole reference."""
    parts = [_HEAD, "## Exit codes\n", "| code | means |", "|---|---|"]
    parts += [f"| {code.value} | {text} |" for code, text in MEANING.items()]
    for path, command in leaves(typer.main.get_command(app)):
        parts += ["", *_section(path, command)]
    return "\n".join(parts) + "\n"


def _section(path: tuple[str, ...], command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([*path, *(_usage(argument) for argument in arguments)])
    yield f"## `{usage}`\n"
    yield "\n".join(line.strip() for line in (command.help or "").strip().splitlines())
    yield ""
    if arguments or options:
        yield "| | |"
        yield "|---|---|"
        for parameter in (*arguments, *options):
            yield f"| {_names(parameter)} | {_escaped(_help(parameter))} |"
        yield ""
    examples = [line.strip() for line in (command.epilog or "").split("\n\n")[1:]]
    yield "\n".join(["```sh", *examples, "```"])


def _usage(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _help(parameter: Any) -> str:
    default = parameter.default
    shown = default not in (None, False, ()) and not callable(default) and parameter.param_type_name == "option"
    value = getattr(default, "value", default)
    return (parameter.help or "") + (f" Default: {value}." if shown else "")


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    print(markdown(), end="")
