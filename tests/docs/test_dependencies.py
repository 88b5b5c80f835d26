"""docs/explanation/dependencies.md has a line for each direct dependency, under its heading, and for nothing else."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from tests.conftest import PROJECT

PROJECT_FILE = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PAGE = (PROJECT / "docs" / "explanation" / "dependencies.md").read_text()


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def declared() -> dict[str, set[str]]:
    """The direct dependencies of each section."""
    project, groups = PROJECT_FILE["project"], PROJECT_FILE["dependency-groups"]
    extras = project["optional-dependencies"]
    development = [one for group in groups.values() for one in group if isinstance(one, str)]
    pages = json.loads((PROJECT / "services" / "dashboard" / "package.json").read_text())
    sections = {
        "The client": project["dependencies"],
        "The server": extras["server"],
        "The worker": [*extras["worker"], *extras["worker-gpu"]],
        "Where they are wanted": [
            *(*extras["s3"], *extras["traces"], *extras["channels"], *extras["embedded"], *extras["mcp"]),
            *extras["encryption"],
            *(*extras["sql"], *extras["delta"], *extras["gcs"], *extras["azure"]),
        ],
        "For development": development,
    }
    named = {title: {name_of(one) for one in requirements} for title, requirements in sections.items()}
    for extra, requirements in extras.items():
        if extra != "all":
            assert {name_of(one) for one in requirements} <= set().union(*named.values()), extra
    named["Where they are wanted"] -= named["The server"]  # what `fitserve mcp --http` listens with
    named["For development"] -= named["The server"] | named["Where they are wanted"]  # psutil, mcp
    return {**named, "The pages": {*pages["dependencies"], *pages["devDependencies"]}}


def rows(title: str) -> list[list[str]]:
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section is not None, title
    lines = [line.strip("|").split("|") for line in section[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines[1:]]


@pytest.mark.parametrize("title", declared())
def test_each_has_its_line(title: str) -> None:
    listed = rows(title)
    assert {name for name, *_ in listed} == declared()[title]
    assert [len(row) for row in listed] == [3] * len(listed)
    assert all(why and without for _, why, without in listed)


def test_the_locks_hold_what_is_declared() -> None:
    project = PROJECT_FILE["project"]
    for lock, extras in {"server": ["server"], "runtime": ["server", "worker", "embedded"]}.items():
        lines = (PROJECT / "locks" / f"{lock}.txt").read_text().splitlines()
        wanted = list(project["dependencies"])
        for extra in extras:
            wanted += project["optional-dependencies"][extra]
        assert {name_of(one) for one in wanted} <= {name_of(line) for line in lines if "==" in line}, "run: make locks"


def test_every_lock_is_written_by_the_one_command() -> None:
    script = (PROJECT / "locks" / "compile.sh").read_text()
    written = set(re.findall(r"^lock (\w+) pyproject", script, re.MULTILINE))
    written |= set(re.search(r"for tool in (.*?);", script)[1].split())  # type: ignore[index]
    assert {path.stem for path in (PROJECT / "locks").glob("*.txt")} - {"overrides"} == written
