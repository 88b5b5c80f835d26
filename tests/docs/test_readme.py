"""The README's commands work, and the targets, commands and files that it names exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from fitserve.cli import app
from tests.conftest import PROJECT, Server
from tests.docs.blocks import Reader, blocks_of
from tests.needs import need

README = (PROJECT / "README.md").read_text()


@pytest.fixture(scope="session")
def server(main_server: Server) -> Server:
    """A server whose `admissions` are the README's alone: the other pages have a table of that name too."""
    return main_server


def clone(folder: Path) -> Path:
    """Copy what git tracks, as a fresh clone has it, with the environment that `make run` creates."""
    names = subprocess.run([need("git"), "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=False).stdout
    if not names:
        pytest.skip("this tree is no git checkout")
    for name in filter(None, names.decode().split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    environment = Path(sys.executable).parent.parent
    if not (environment / "bin" / "activate").exists():
        pytest.skip("no virtual environment to activate")
    (folder / ".venv").symlink_to(environment)
    return folder


def test_one_minute_from_csv_to_prediction_word_for_word(server: Server, tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone")
    reader = Reader(server, folder, {"PYTHONPATH": str(folder)})
    blocks = list(blocks_of(PROJECT / "README.md"))
    for block in blocks:
        reader.read(block)
    assert "beside simpler models" in reader.output
    assert "'accuracy'" in reader.output  # of the Python block
    last = json.loads(reader.output[reader.output.rindex('{"results"') :])
    ((first, second),) = last["results"]
    assert {first[0], second[0]} == {"0", "1"}
    assert abs(first[1] + second[1] - 1) < 1e-6


def test_the_table_is_the_one_that_its_source_makes() -> None:
    folder = PROJECT / "examples" / "data"
    made = subprocess.run([sys.executable, folder / "make_admissions.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (folder / "admissions.csv").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 100_000
    for path in folder.glob("*.csv"):
        assert f"`{path.name}`" in (folder / "README.md").read_text()


def test_named_make_targets_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|\$ )make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:|^{re.sub('-.*', '-%', target)}:", makefile, re.MULTILINE), target


def test_named_commands_exist() -> None:
    groups = get_command(app).commands  # type: ignore[attr-defined]
    for words in re.findall(r"`fitserve ([a-z]+(?: [a-z]+)?)", README):
        group, _, command = words.partition(" ")
        assert group in groups, words
        if hasattr(groups[group], "commands"):
            assert command in groups[group].commands, words


def test_linked_files_exist() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (PROJECT / path).exists(), path
