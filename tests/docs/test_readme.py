"""The README's commands work, and the targets, commands and files that it names exist."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

from fitserve.cli import app
from tests.conftest import PROJECT, Server
from tests.docs.blocks import Reader, blocks_of

pytestmark = pytest.mark.xdist_group("readme")
README = (PROJECT / "README.md").read_text()


def test_one_minute_from_csv_to_prediction(server: Server, data_folder: Path, tmp_path: Path) -> None:
    shutil.copy(data_folder / "student_data.csv", tmp_path / "admissions.csv")
    reader = Reader(server, tmp_path)
    for block in blocks_of(PROJECT / "README.md"):
        reader.read(block)
    last = json.loads(reader.output[reader.output.rindex('{"results"') :])
    ((first, second),) = last["results"]
    assert {first[0], second[0]} == {"0", "1"}
    assert abs(first[1] + second[1] - 1) < 1e-6


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
