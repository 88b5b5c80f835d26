"""The reference is what the commands say, and every command says enough."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import typer.main

from fitserve.cli.exit_codes import MEANING, Exit
from fitserve.cli.reference import leaves, markdown
from fitserve.cli.root import app

COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_the_reference_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
    assert page.read_text() == markdown(), "python -m fitserve.cli.reference > docs/reference/cli.md"


def test_every_command_has_an_example_that_its_parser_takes() -> None:
    for path, command in COMMANDS.items():
        examples = [line.strip() for line in (command.epilog or "").split("\n\n")[1:]]
        assert examples, path
        for example in examples:
            words = shlex.split(example.partition(" | jq")[0].rpartition("| ")[2].partition(" > ")[0])
            start = words.index("fitserve")
            rest = [word for word in words[start + 1 :] if "http" not in word and word != "--url"]
            assert ("fitserve", *rest[: len(path) - 1]) == path, example
            command.make_context("fitserve", rest[len(path) - 1 :])


def test_every_option_has_a_help_text() -> None:
    for path, command in COMMANDS.items():
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), (path, parameter.name)


def test_every_command_but_those_that_become_the_server_prints_json() -> None:
    without = {path[1] for path, command in COMMANDS.items() if "as_json" not in [p.name for p in command.params]}
    assert without == {"up", "migrate"}


def test_every_exit_code_has_a_meaning() -> None:
    assert set(MEANING) == set(Exit)


def driven(path: Path) -> set[tuple[str, ...]]:
    """The literal words that a test hands to one of the ways to run a command."""
    ways = {"fitserve", "told", "as_a_process", "Terminal"}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ways:
            found.add(tuple(word.value if isinstance(word, ast.Constant) else None for word in node.args))
    return found


def test_every_command_is_driven_against_the_real_server() -> None:
    calls = {call for path in Path(__file__).parent.glob("test_*.py") for call in driven(path)}
    wanted = {path[1:] for path in COMMANDS}
    missing = {
        words for words in wanted if not any(words == tuple(w for w in call if w)[: len(words)] for call in calls)
    }
    assert missing == set()
