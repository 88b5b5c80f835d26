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

from examples.lesson import report, spec
from fitserve.client import Client
from tests import needs
from tests.conftest import PROJECT, Server

EXAMPLES = PROJECT / "examples"
LESSONS = sorted(path.parent.name for path in EXAMPLES.glob("*/run.py"))
LABS = [name for name in LESSONS if "_lab_" in name]
FIRST = "01_perceptron"
# Run every time, of those that train for seconds. The others are run in the long form; every time, the figures that
# their READMEs print are held against what they claim, and their specs are checked.
SHORT = frozenset(("04_softmax", "10_random_restarts"))
# With the real tables, the labs are run on these.
REPEATED = needs.find("the real tables") is not None


def lesson(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}.run")


def check(name: str, client: Client, **table: Any) -> dict[str, float]:
    """Run the lesson and check its figures."""
    found: dict[str, float] = lesson(name).measure(client, **table)
    check_figures(name, client, found)
    return found


def check_figures(name: str, client: Client, found: dict[str, float]) -> None:
    """Every claim must hold, and every spec beside the lesson be one that the server takes."""
    claimed = lesson(name).claims(found)
    assert len(claimed) >= 2
    assert all(claimed.values()), "\n" + report(found, claimed)
    specs = list((EXAMPLES / name).glob("*.yaml"))
    assert 1 <= len(specs) <= 2
    for path in specs:
        assert client.runs.validate(path).valid


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


def long_if(repeated: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.long] if repeated else []


OTHERS = [name for name in LESSONS if name not in (*LABS, FIRST)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=long_if(name not in SHORT)) for name in OTHERS])
def test_a_lesson_keeps_what_it_claims(name: str, client: Client) -> None:
    assert_as_printed(name, check(name, client))


@pytest.mark.parametrize("name", [pytest.param(name, marks=long_if(REPEATED)) for name in LABS])
def test_a_lab_works_on_a_made_table(name: str, client: Client) -> None:
    check(name, client)


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in SHORT])
def test_what_a_readme_prints_is_what_its_lesson_claims(name: str, client: Client) -> None:
    """The figures fulfil the claims, the claims are the script's, and the server takes the specs."""
    figures = (line.rsplit(maxsplit=1) for line in printed(name).partition("\n\n")[0].splitlines())
    found = {figure: float(value) for figure, value in figures}
    for path in (EXAMPLES / name).glob("*.yaml"):
        table = spec(path)["dataset"]
        client.datasets.sample(table.partition("-")[0], table)  # "xor-few" is made of "xor"
    check_figures(name, client, found)
    assert_as_printed(name, found)


def test_the_admissions_lab_reaches_what_its_notebook_reports(client: Client, data_folder: Path) -> None:
    found = check("15_lab_admissions", client, path=data_folder / "student_data.csv")
    assert_as_printed("15_lab_admissions", found)
    assert 0.68 - 0.066 <= found["ten seeds: test accuracy, mean"] <= 0.68 + 0.066


@pytest.mark.long
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


def test_the_first_lesson_runs_as_its_readme_says_and_keeps_what_it_claims(server: Server, client: Client) -> None:
    environment = {**os.environ, "FITSERVE_URL": server.base_url, "FITSERVE_HOME": str(server.home)}
    environment.pop("FITSERVE_API_KEY", None)
    command = [sys.executable, "-m", f"examples.{FIRST}.run"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert [_words(line) for line in lines] == [_words(line) for line in printed(FIRST).splitlines()]
    figures = (line.rsplit(maxsplit=1) for line in lines[: lines.index("")])
    found = {name.strip(): float(value) for name, value in figures}
    check_figures(FIRST, client, found)
    assert_as_printed(FIRST, found)


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
