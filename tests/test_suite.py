"""The suite's report: server logs with a failure, one line on what the machine lacks, and the fast tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import needs, scheduling
from tests.long_forms import LONG_FORMS
from tests.needs import MissingTools, Tool
from tests.server_logs import ServerLogs, add_log
from tests.waiting import wait_until

pytest_plugins = ["pytester"]
QUIET = ("-p", "no:cacheprovider", "-p", "no:xdist")


def test_a_failed_test_shows_the_logs_of_the_servers_that_ran_meanwhile(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    log, idle = add_log(tmp_path / "server.log"), add_log(tmp_path / "idle.log")
    pytester.makepyfile(
        f"""
        from pathlib import Path

        def test_one():
            Path({str(log)!r}).write_text("".join(f"line {{n}}\\n" for n in range(40)))
            assert 1 == 2

        def test_two():
            pass
        """
    )
    done = pytester.runpytest_inprocess(*QUIET, plugins=[ServerLogs()])
    done.assert_outcomes(failed=1, passed=1)
    done.stdout.fnmatch_lines([f"*Server log {log}*", "line 39"])
    done.stdout.no_fnmatch_line("line 20")
    done.stdout.no_fnmatch_line(f"*{idle}*")


def test_what_is_missing_is_said_in_one_line_with_the_command_that_brings_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(needs.TOOLS, "a hammer", Tool(lambda: None, "apt-get install hammer"))
    monkeypatch.setitem(needs.TOOLS, "a shell", Tool(lambda: "/bin/sh", "apt-get install dash"))
    monkeypatch.delenv("FITSERVE_TEST_TOOLS", raising=False)
    pytester.makepyfile(
        """
        import pytest
        from tests.needs import need, needs

        @pytest.fixture
        def nail():
            return need("a hammer")

        def test_in_a_fixture(nail): pass

        @needs("a hammer")
        def test_by_a_mark(): pass

        @needs("a shell")
        def test_of_what_is_there():
            assert need("a shell") == "/bin/sh"
        """
    )
    done = pytester.runpytest_inprocess(*QUIET, "--strict-markers", plugins=[MissingTools()])
    done.assert_outcomes(passed=1, skipped=2)
    done.stdout.fnmatch_lines(["Skipped for want of a hammer (apt-get install hammer): 2. `make test-tools` *"])
    monkeypatch.setenv("FITSERVE_TEST_TOOLS", "all")
    strict = pytester.runpytest_inprocess(*QUIET, plugins=[MissingTools()])
    strict.assert_outcomes(passed=1, errors=2)


def test_every_tool_says_what_brings_it() -> None:
    for name, tool in needs.TOOLS.items():
        assert tool.bring, name
        assert all(package in tool.bring for package in tool.packages if package != "iproute2"), name


def test_waiting_ends_when_the_process_does(tmp_path: Path) -> None:
    import subprocess

    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], stdout=sink)
    with pytest.raises(AssertionError, match=r"(?s)ended with 3.*a port.*the reason"):
        wait_until(lambda: False, "a port", process=process, log=log, patience=60)
    assert wait_until(lambda: [1], patience=0) == [1]
    with pytest.raises(AssertionError, match="did not come"):
        wait_until(lambda: False, patience=0)


def test_what_is_fast_trains_nothing_and_starts_no_server(request: pytest.FixtureRequest) -> None:
    assert scheduling.trains(Path(__file__).parent / "trainer" / "test_loop.py")
    assert not scheduling.trains(Path(__file__))
    folders = {path.name for path in Path(__file__).parent.iterdir() if (path / "__init__.py").exists()}
    assert {"core", "spec", "control", "datasets", "runs", "client", "cli"} <= folders - scheduling.SLOW_FOLDERS


def test_each_file_that_trains_may_go_to_another_process_and_a_servers_tests_stay_together(
    pytester: pytest.Pytester,
) -> None:
    trains = "import pytest\npytestmark = pytest.mark.tensorflow\ndef test_one(): pass\ndef test_two(): pass\n"
    asks = (
        "import pytest\n@pytest.fixture\ndef main_server(): pass\n@pytest.fixture\ndef api(main_server): pass\n"
        "@pytest.mark.tensorflow\ndef test_three(api): pass\ndef test_four(): pass\n"
    )
    pytester.makepyfile(test_a=trains, test_b=trains, test_c=asks)
    items, _ = pytester.inline_genitems("-m", "", *QUIET)
    assert [scheduling.group_of(item) for item in items] == [
        *("tensorflow/test_a", "tensorflow/test_a", "tensorflow/test_b", "tensorflow/test_b"),
        *("server", None),
    ]
    assert [scheduling.is_slow(item) for item in items] == [True] * 5 + [False]


def test_a_server_is_stopped_behind_the_last_test_of_its_group(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from tests.scheduling import Scheduling

        def pytest_addoption(parser):
            parser.addoption("--fast", action="store_true")
            parser.addoption("--dist", default="loadgroup")

        def pytest_configure(config):
            config.addinivalue_line("markers", "xdist_group: as xdist has it")
            config.pluginmanager.register(Scheduling(config))

        steps = []

        @pytest.fixture(scope="session")
        def main_server():
            steps.append("started")
            yield
            steps.append("stopped")

        @pytest.fixture(scope="session")
        def trained(main_server):
            steps.append("trained")
            yield steps
            steps.append("deleted")
        """
    )
    pytester.makepyfile(
        """
        from conftest import steps

        def test_behind_it(): assert steps == ["started", "trained", "deleted", "stopped"]
        def test_one(trained): assert steps == ["started", "trained"]
        def test_two(trained): assert steps == ["started", "trained"]
        """
    )
    pytester.runpytest_inprocess(*QUIET).assert_outcomes(passed=3)


@pytest.mark.parametrize("path", sorted(LONG_FORMS))
def test_long_forms_name_tests_that_are_there(path: str) -> None:
    source = (scheduling.TESTS / path).read_text()
    assert [name for name in LONG_FORMS[path] if f"def {name.partition('[')[0]}(" not in source] == []
