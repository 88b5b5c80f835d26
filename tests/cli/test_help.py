"""Every command explains itself: help, options, examples."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from docs import make_cli
from fitserve.cli import app
from fitserve.cli.session import MEANING, Exit


def leaves(command: Any, path: tuple[str, ...] = ("fitserve",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that is not a group, by its words."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from leaves(child, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


def examples_of(path: tuple[str, ...]) -> list[str]:
    """Return a command's examples."""
    return [line.strip() for line in COMMANDS[path].epilog.split("\n\n")[1:]]


def test_the_reference_has_every_command_and_exit_code() -> None:
    page = make_cli.page()
    for path in COMMANDS:
        assert f" `{' '.join(path)}`\n" in page
    for code in Exit:
        assert f"| {code.value} | {MEANING[code]} |" in page


def test_every_command_has_an_example_that_its_parser_accepts() -> None:
    for path, command in COMMANDS.items():
        assert examples_of(path), path
        for example in examples_of(path):
            words = shlex.split(example.partition(" | jq")[0].rpartition("| ")[2].partition(" > ")[0])
            start = words.index("fitserve")
            rest = [word for word in words[start + 1 :] if "http" not in word and word != "--url"]
            assert ("fitserve", *rest[: len(path) - 1]) == path, example
            command.make_context("fitserve", rest[len(path) - 1 :])


def test_every_option_has_a_help_text() -> None:
    for path, command in COMMANDS.items():
        assert command.help, path
        for parameter in command.params:
            help_text = getattr(parameter, "help", None)
            assert help_text, (path, parameter.name)
            assert "[" not in help_text, f"{path} {parameter.name}: Rich reads brackets as markup"


def test_every_command_but_those_that_become_the_server_prints_json() -> None:
    without = {path[1] for path, command in COMMANDS.items() if "as_json" not in [p.name for p in command.params]}
    assert without == {"up", "start", "migrate", "copy-blobs", "mcp"}


def commands_run(path: Path) -> set[tuple[str | None, ...]]:
    """Return the words of each command that a test module runs; None for a word that is computed."""
    runners = {"fitserve", "fitserve_json", "as_a_process", "Terminal"}
    return {
        tuple(word.value if isinstance(word, ast.Constant) else None for word in node.args)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) in runners or getattr(node.func, "attr", None) == "run")
    }


def test_every_command_is_run_against_the_real_server() -> None:
    calls = {call for path in Path(__file__).parent.glob("test_*.py") for call in commands_run(path)}
    missing = {
        path for path in COMMANDS if not any(path[1:] == tuple(filter(None, call))[: len(path) - 1] for call in calls)
    }
    assert missing == set()
