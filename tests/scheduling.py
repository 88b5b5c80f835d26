"""Which tests run, in which order and in which process.

Tests that share something expensive (a whole server, a module's API, a file's trained networks) form a group, which one
process runs. The processes take the groups in the order below, and then single tests: with the longest first, all of
them are busy to the end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.long_forms import LONG_FORMS

# By processor time. A group that is not listed follows them.
LONGEST_FIRST = (
    *("server", "readers", "dashboard", "faults", "telemetry_running", "s3", "killed_worker", "served", "access"),
    *("up", "wheel", "layout", "tensorflow/predict/test_parity", "running"),
)
# Servers that are started once a process: the tests of each are one process's.
GROUP_OF_FIXTURE = {
    "reader_server": "readers",
    "main_server": "server",
    "served": "served",
    "own": "served",
    "running": "running",
    "two": "two",
    "secured": "tls",
    "wheel": "wheel",
    "s3_environment": "s3",
}
# Half of the tests of `main_server` start a second one, so that two processes share them.
GROUP_OF_FOLDER = {"dashboard": "dashboard"}
# Fixtures of every module, which take no time.
FOR_ALL = frozenset(("frozen_leftovers",))
# What `--fast` leaves out: folders that start whole systems, and fixtures that do.
SLOW_FOLDERS = frozenset(
    ("compatibility", "dashboard", "deploy", "docs", "examples", "faults", "fresh", "fuzz", "hosts", "journey")
).union(("layout", "predict", "telemetry", "tls", "trainer"))
# Processes of each kind, fleets of them that die, every route by every key.
SLOW_FILES = frozenset(
    (
        *("cli/test_commands.py", "runs/test_secrets.py", "encoding/test_adding_an_encoding.py"),
        *("events/test_scheduler_kills.py", "rollouts/test_crashes.py"),
        *("control/test_access_matrix.py", "control/test_access_effects.py"),
    )
)
SLOW_FIXTURES = frozenset(
    ("browser", "cluster", "main_server", "postgres", "reader_server", "s3_environment", "served")
)
SLOW_GROUPS = frozenset(("dashboard", "faults", "layout", "node", "readers", "server", "telemetry_running", "up"))
TESTS = Path(__file__).resolve().parent


def group_of(item: pytest.Item) -> str | None:
    """Return the group of a test: its mark's, that of the server that it uses, or its file's.

    A file is a group where it trains, and where its tests share a fixture: else each process would set that up. Each
    process has TensorFlow, because it collects all tests; what a file trains is shared within the file alone.
    """
    if mark := item.get_closest_marker("xdist_group"):
        return str(mark.args[0] if mark.args else mark.kwargs["name"])
    fixtures = getattr(item, "fixturenames", ())
    if group := next((group for fixture, group in GROUP_OF_FIXTURE.items() if fixture in fixtures), None):
        return GROUP_OF_FOLDER.get(item.path.parent.name, group)
    if item.get_closest_marker("tensorflow"):
        return f"tensorflow/{_path(item.path).removesuffix('.py')}"
    return _path(item.path).removesuffix(".py") if shares_fixtures(item) else None


def shares_fixtures(item: pytest.Item) -> bool:
    """Whether a test uses what is set up once for its file."""
    info: Any = getattr(item, "_fixtureinfo", None)
    used = info.name2fixturedefs if info is not None else {}
    return any(name not in FOR_ALL and found[-1].scope == "module" for name, found in used.items())


@cache
def _path(path: Path) -> str:
    """Return a test's file, seen from `tests`. There are twenty tests to a file, and each asks several times."""
    return path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else path.name


def is_slow(item: pytest.Item) -> bool:
    """Whether `--fast` leaves a test out."""
    path = _path(item.path)
    left_out = path.partition("/")[0] in SLOW_FOLDERS or path in SLOW_FILES
    left_out = left_out or item.get_closest_marker("tensorflow") is not None
    fixtures = set(getattr(item, "fixturenames", ()))
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    on_postgres = any(isinstance(value, str) and value == "postgresql" for value in parameters.values())
    return bool(left_out or group_of(item) in SLOW_GROUPS or fixtures & SLOW_FIXTURES or on_postgres)


def is_long_form(item: pytest.Item) -> bool:
    """Whether `tests/long_forms.py` names a test."""
    return bool({item.name, item.name.partition("[")[0]} & set(LONG_FORMS.get(_path(item.path), ())))


def _place(item: pytest.Item) -> int:
    group = group_of(item)
    if group is None:
        return len(LONGEST_FIRST) + 1
    return LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)


def trains(path: Path) -> bool:
    """Whether all tests of a file import TensorFlow."""
    return path.suffix == ".py" and re.search(r"^pytestmark = .*tensorflow", path.read_text(), re.MULTILINE) is not None


class Scheduling:
    """The plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        if not self.config.getoption("--fast") or not collection_path.is_relative_to(TESTS):
            return None
        top = collection_path.relative_to(TESTS).parts[:1]
        return bool(SLOW_FOLDERS & set(top)) or trains(collection_path) or None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.config.getoption("--fast"):
            slow = [item for item in items if is_slow(item)]
            items[:] = [item for item in items if not is_slow(item)]
            self.config.hook.pytest_deselected(items=slow)
        for item in items:
            if is_long_form(item):
                item.add_marker("long")
            if not item.get_closest_marker("xdist_group") and (group := group_of(item)):
                item.add_marker(pytest.mark.xdist_group(group))
        if self._divided:
            items.sort(key=_place)

    @property
    def _divided(self) -> bool:
        """Whether several processes run the tests, each of them group by group."""
        return self.config.getoption("dist", "no") != "no" or hasattr(self.config, "workerinput")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
        """Stop a group's servers behind its last test: an idle one takes 3% of a core, for the rest of the run."""
        yield
        if self._divided and nextitem is not None and group_of(item) != group_of(nextitem):
            finish_fixtures(item, GROUP_OF_FIXTURE)


def finish_fixtures(item: pytest.Item, names: Iterable[str]) -> None:
    """Tear down fixtures of the session, with all that use them. A later test that asks for one sets it up anew."""
    known = item.session._fixturemanager._arg2fixturedefs
    for definition in itertools.chain.from_iterable(known.get(name, ()) for name in names):
        if definition.scope == "session" and definition.cached_result is not None:
            definition.finish(item._request)
