"""Every error of the command line names a command that helps, and the command exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from fitserve import errors
from fitserve.cli import app
from fitserve.cli.next_command import next_command_after
from fitserve.cli.server import NotInstalled
from fitserve.client.errors import RunEnded, Unreachable, WaitedTooLong
from fitserve.errors import FitserveError, Problem
from fitserve.local_server import AlreadyRunning
from tests.cli.conftest import Fitserve
from tests.cli.test_help import COMMANDS

GROUPS = get_command(app).commands  # type: ignore[attr-defined]
WORDS = [" ".join(path) for path in COMMANDS]


def named_commands(text: str) -> list[str]:
    """The commands that a text names. Fails where one of them does not exist."""
    found = []
    for words in re.findall(r"fitserve ((?:[a-z][a-z-]* ?){1,2})", text):
        group, *rest = words.split()
        if group not in GROUPS:
            continue
        found.append(words.strip())
        inner = getattr(GROUPS[group], "commands", None)
        assert inner is None or (rest and rest[0] in inner), text
    return found


def every_error() -> Iterator[FitserveError]:
    classes = {*_tree(FitserveError), FitserveError, AlreadyRunning, NotInstalled, RunEnded, Unreachable, WaitedTooLong}
    for cls in sorted(classes, key=lambda cls: cls.__name__):
        yield cls("It did not work.")
        yield cls("It did not work.", fix="Do it otherwise.", pointer="/training/epochs")
        yield cls("It did not work.", problems=[Problem("Bad", row=3)])
        for noun in ("run", "dataset", "model", "version", "label", "key", "sample", "finding", "column"):
            yield cls(f"There is no {noun} x.")


def _tree(root: type[FitserveError]) -> Iterator[type[FitserveError]]:
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _tree(child)


@pytest.mark.parametrize("command", WORDS)
def test_whatever_fails_some_command_is_named(command: str) -> None:
    for error in every_error():
        assert named_commands(next_command_after(error, command) or ""), (command, error)


def test_an_error_that_names_a_command_stays_as_it_is() -> None:
    assert next_command_after(errors.NotFound("No.", fix="See: fitserve runs list"), "fitserve runs show") is None
    assert (
        next_command_after(
            errors.Unauthenticated("No.", fix="Ask for one: fitserve keys create."), "fitserve runs list"
        )
        is None
    )


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--url", "http://127.0.0.1:9", "runs", "list"), 6, "up"),
        (("--url", "http://127.0.0.1:9", "status"), 6, "up"),
        (("--url", "models.example", "runs", "list"), 3, "runs list"),
        (("runs", "show", "run_nobody"), 4, "runs list"),
        (("runs", "watch", "run_nobody"), 4, "runs list"),
        (("runs", "compare", "run_1"), 3, "runs compare"),
        (("datasets", "show", "nothing"), 4, "datasets list"),
        (("datasets", "rows", "nothing@7"), 4, "datasets list"),
        (("datasets", "upload", "nothing.csv"), 3, "datasets upload"),
        (("datasets", "sample", "nothing"), 4, "datasets sample"),
        (("models", "show", "nothing"), 4, "models list"),
        (("models", "predict", "nothing", "[[1]]"), 4, "models list"),
        (("models", "predict", "nothing", "nothing.csv"), 3, "models predict"),
        (("keys", "revoke", "key_nobody"), 4, "keys list"),
        (("keys", "create", "BAD NAME"), 3, "keys create"),
        (("train", "nothing", "--target", "y"), 4, "datasets list"),
        (("train", "nothing.csv", "--target", "y"), 3, "datasets list"),
        (("train", "nothing.yaml"), 3, "train"),
        (("spec", "check", "nothing.yaml"), 3, "spec check"),
        (("spec", "init", "--dataset", "nothing"), 4, "datasets list"),
        (("logs", "--home", "nowhere"), 4, "up"),
        (("status", "--home", "nowhere"), 4, "up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_common_errors_name_the_command_that_mends_them(
    words: tuple[str, ...],
    code: int | None,
    named: str,
    fitserve: Fitserve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fitserve(*words, code=code)
    assert named in " ".join(named_commands(result.stderr)), result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_key_and_the_file_beside_it(
    fitserve: Fitserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FITSERVE_API_KEY", "key_nobody.secret")
    monkeypatch.delenv("FITSERVE_HOME", raising=False)
    assert named_commands(fitserve("runs", "list", code=5).stderr) == ["keys create"]
    (tmp_path / "fitserve-data").mkdir()
    (tmp_path / "fitserve-data" / "first-key").write_text("key_1.secret")
    assert "unset FITSERVE_API_KEY" in fitserve("runs", "list", code=5).stderr
    problem = json.loads(fitserve("runs", "list", "--json", code=5).stderr)
    assert named_commands(problem["fix"]) == ["keys create"]


def test_a_table_without_a_target_says_how_to_name_one(fitserve: Fitserve, tmp_path: Path) -> None:
    table = tmp_path / "students.csv"
    table.write_text("\ufeffgre;gpa;admit\n1;2;yes\n")
    shown = fitserve("train", str(table), code=3).stderr
    assert "gre, gpa, admit" in shown
    assert f"fitserve train {table} --target admit" in shown
