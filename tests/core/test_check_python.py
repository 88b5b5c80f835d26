"""If fitserve cannot be installed, one sentence says what works, before anything is installed."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import PROJECT

SCRIPT = PROJECT / ".ci" / "check_python.py"


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_python", SCRIPT)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_python_works() -> None:
    done = subprocess.run([sys.executable, SCRIPT], cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_newer_python_is_told_which_ones_work(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 19, 0))
    monkeypatch.setattr(platform, "python_version", lambda: "3.19.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    sentence = check.problem()
    assert "Python 3.11, 3.12 and 3.13" in sentence
    assert "3.19.0" in sentence
    assert "install one" in sentence
    other = tmp_path / "python3.12"
    other.touch(0o755)
    assert "run `make run PYTHON=python3.12`" in check.problem()


@pytest.mark.parametrize(
    ("attribute", "value", "named"),
    [
        ("python_implementation", "PyPy", "PyPy"),
        ("machine", "riscv64", "riscv64"),
        ("libc_ver", ("", ""), "glibc 2.28"),
        ("libc_ver", ("glibc", "2.17"), "glibc 2.28"),
    ],
)
def test_a_machine_without_wheels_is_told(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, attribute: str, value: object, named: str
) -> None:
    monkeypatch.setattr(platform, attribute, lambda: value)
    assert named in check.problem()


def test_a_python_without_venv_is_told_its_package(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: None if name == "ensurepip" else name)
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in check.problem()


def test_make_tells_before_it_installs(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 'fitserve: not this one.' >&2\nexit 1\n")
    python.chmod(0o755)
    folder = tmp_path / "v"
    command = ["make", "-C", str(PROJECT), "run", f"PYTHON={python}", f"VENV={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fitserve: not this one." in done.stderr
    assert not folder.exists()
