"""`pytest --processor-time=20`: the tests that take most processor time, their processes' included.

Other work on the machine lengthens a test's wall-clock time, but hardly its processor time.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psutil
import pytest


def seconds() -> float:
    """Return the processor seconds of this process and of all that it has started, running or waited for."""
    me, total = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of children that have ended
        except psutil.NoSuchProcess:
            continue
    return total


class ProcessorTime:
    """The plugin. What a fixture takes counts for the first test that asks for it."""

    def __init__(self, shown: int) -> None:
        self.shown = shown
        self.by_test: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        before = seconds()
        done = yield
        self.by_test[item.nodeid] = seconds() - before
        return done

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):  # one of several processes (pytest -n)
            session.config.workeroutput["processor_time"] = self.by_test

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.by_test |= getattr(node, "workeroutput", {}).get("processor_time", {})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        # Less than none: processes that another test started have ended, and their parent before them.
        total = sum(taken for taken in self.by_test.values() if taken > 0)
        terminalreporter.section(f"{total:.0f} s of processor time")
        for test, taken in sorted(self.by_test.items(), key=lambda pair: -pair[1])[: self.shown]:
            terminalreporter.write_line(f"{taken:7.2f} s  {test}")
