"""deploy/sourceless.py: a package runs from byte code as from its sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SOURCE = '''"""A module."""
from __future__ import annotations


class Empty(Exception):
    """A docstring."""


async def waits():
    """A docstring."""


def half(number: int) -> float:
    """Half of it."""
    assert number > 0, "more than nothing"
    return number / 2
'''

PROBE = """
import asyncio, bare, six, wordy
print(bare.__doc__, bare.half.__doc__, bare.Empty.__doc__, wordy.__doc__, wordy.half.__doc__, six.half(3))
asyncio.run(bare.waits())
bare.half(0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("bare", "wordy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(SOURCE)
    (tmp_path / "six.py").write_text(SOURCE)
    (tmp_path / "bare" / "template.py").write_text("def ${name}(): pass\n")
    subprocess.run([sys.executable, PROJECT / "deploy" / "sourceless.py", tmp_path, "wordy"], check=True)
    return tmp_path


def test_only_files_that_are_not_python_stay(folder: Path) -> None:
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"bare/__init__.pyc", "bare/template.py", "six.pyc", "wordy/__init__.pyc"}


def test_byte_code_runs_without_docstrings_and_with_assertions(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "None None None A module. Half of it. 1.5", done.stderr
    assert "AssertionError: more than nothing" in done.stderr
    assert f'File "{folder}/bare/__init__.py", line 15, in half' in done.stderr


def test_a_driver_that_reads_a_source_of_its_own_can_be_imported(tmp_path: Path) -> None:
    for name in ("adbc_driver_manager", "adbc_driver_postgresql"):
        found = find_spec(name)
        assert found is not None
        assert found.origin is not None
        shutil.copytree(Path(found.origin).parent, tmp_path / name)
    subprocess.run([sys.executable, PROJECT / "deploy" / "sourceless.py", tmp_path], check=True)
    probe = "import adbc_driver_postgresql.dbapi as found; print(found.__file__)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(tmp_path / "adbc_driver_postgresql" / "dbapi.pyc"), done.stderr
