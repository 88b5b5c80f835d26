"""Every lesson is run on a real server, and what it claims is checked; its README shows what it prints."""

from __future__ import annotations

import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples.lesson import report
from fitserve.client import Client
from tests.conftest import PROJECT, Server

pytestmark = pytest.mark.xdist_group("lessons")
EXAMPLES = PROJECT / "examples"
LESSONS = sorted(path.parent.name for path in EXAMPLES.glob("*/run.py"))
LABS = [name for name in LESSONS if "_lab_" in name]


def lesson(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}.run")


def check(name: str, client: Client, **table: Any) -> dict[str, float]:
    """Runs the lesson; every claim must hold, and every spec beside it be one that the server takes."""
    script = lesson(name)
    found: dict[str, float] = script.measure(client, **table)
    claimed = script.claims(found)
    assert len(claimed) >= 2
    assert all(claimed.values()), "\n" + report(found, claimed)
    specs = list((EXAMPLES / name).glob("*.yaml"))
    assert 1 <= len(specs) <= 2
    for path in specs:
        assert client.runs.validate(path).valid
    return found


def printed(name: str) -> str:
    """The output that a lesson's README shows."""
    (block,) = re.findall(r"```text\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.DOTALL)
    return str(block).strip()


def assert_as_printed(name: str, found: dict[str, float]) -> None:
    """The same lines in the same order; figures as close as other machines' arithmetic lets them be."""
    ours = report(found, lesson(name).claims(found)).splitlines()
    theirs = printed(name).splitlines()
    assert [_words(line) for line in ours] == [_words(line) for line in theirs]
    for line, value in zip(theirs, found.values(), strict=False):
        shown = float(line.rsplit(maxsplit=1)[1])
        assert math.isclose(shown, value, rel_tol=0.6, abs_tol=0.15), line


def _words(line: str) -> str:
    return re.sub(r"\s+-?[\d.]+(e[+-]\d+)?$", "", line)


@pytest.mark.parametrize("name", [name for name in LESSONS if name not in LABS])
def test_a_lesson_keeps_what_it_claims(name: str, client: Client) -> None:
    assert_as_printed(name, check(name, client))


@pytest.mark.parametrize("name", LABS)
def test_a_lab_works_on_a_made_table(name: str, client: Client) -> None:
    check(name, client)


def test_the_admissions_lab_reaches_what_its_notebook_reports(client: Client, data_folder: Path) -> None:
    found = check("15_lab_admissions", client, path=data_folder / "student_data.csv")
    assert_as_printed("15_lab_admissions", found)
    assert 0.68 - 0.066 <= found["ten seeds: test accuracy, mean"] <= 0.68 + 0.066


def test_the_imdb_lab_reaches_what_its_notebook_reports(client: Client, data_folder: Path) -> None:
    found = check("16_lab_imdb", client, path=data_folder / "imdb_train.csv.gz")
    assert_as_printed("16_lab_imdb", found)
    assert found["test accuracy"] >= 0.85


def test_the_imdb_lab_takes_numbered_words_as_keras_has_them(client: Client) -> None:
    """Two halves of lists of numbers, in which 7 is kind and 8 is not."""
    script = lesson("16_lab_imdb")
    reviews = [[1, 4 + number % 3, 7 + number % 2, 4 + number % 5 % 3] for number in range(400)]
    half = (reviews, [1 - number % 2 for number in range(400)])
    found = script.measure(client, table=script.numbered({"train": half, "test": half}))
    assert found["test rows"] == 400
    assert found["test accuracy"] == 1.0


def test_a_script_runs_as_its_readme_says(server: Server, tmp_path: Path) -> None:
    environment = {**os.environ, "FITSERVE_URL": server.base_url, "FITSERVE_HOME": str(server.home)}
    environment.pop("FITSERVE_API_KEY", None)
    done = subprocess.run(
        [sys.executable, "-m", "examples.01_perceptron.run"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [_words(line) for line in done.stdout.strip().splitlines()] == [
        _words(line) for line in printed("01_perceptron").splitlines()
    ]


def test_every_lesson_is_in_the_table_of_contents() -> None:
    contents = (EXAMPLES / "README.md").read_text()
    linked = re.findall(r"\]\((\d\d_\w+)/README\.md\)", contents)
    assert linked == LESSONS


@pytest.mark.parametrize("name", LESSONS)
def test_a_readme_names_what_is_there(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    assert f"python -m examples.{name}.run" in text
    for path in re.findall(r"examples/[\w/]+\.(?:yaml|py)", text):
        assert (PROJECT / path).is_file(), path
    for link in re.findall(r"\]\(([\w./]+)\)", text):
        assert (EXAMPLES / name / link).exists(), link
