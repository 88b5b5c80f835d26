"""End a failed test's report with the logs of the servers that ran meanwhile: their paths and last lines."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import pytest

LINES = 15
MAX_LOGS = 12
_logs: dict[Path, None] = {}  # in order of their start


def add_log(path: Path) -> Path:
    """Remember where a server that a test starts writes its log. Returns the path."""
    _logs.pop(path, None)
    _logs[path] = None
    return path


def written_since(moment: float) -> list[Path]:
    """Return the logs that were written to since then (`time.time()`), the newest last."""
    found = [(path.stat().st_mtime, path) for path in _logs if path.is_file()]
    return [path for written, path in sorted(found) if written >= moment][-MAX_LOGS:]


def last_lines(path: Path, count: int = LINES) -> str:
    with path.open("rb") as source:
        source.seek(max(0, path.stat().st_size - 20_000))
        return "\n".join(source.read().decode(errors="replace").splitlines()[-count:])


class ServerLogs:
    """The plugin: adds a section to the report of each test that fails."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        item.stash[_BEGAN] = time.time() - 1  # a file's time may be rounded down to seconds
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            for path in written_since(item.stash[_BEGAN]):
                report.sections.append((f"Server log {path}", last_lines(path)))
        return report


_BEGAN = pytest.StashKey[float]()
