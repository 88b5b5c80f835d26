"""The house's promises about itself: who imports whom, who writes what, what the documents say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fitserve import states

PROJECT = Path(__file__).resolve().parent.parent
SOURCES = [path for top in ("fitserve", "services", "workers", "migrations") for path in (PROJECT / top).rglob("*.py")]


def test_imports_keep_their_directions() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_web_processes_start_without_tensorflow() -> None:
    script = (
        "import sys, services.control.app, services.predict.app\n"
        "assert not {'tensorflow', 'keras', 'tf2onnx'} & set(sys.modules), 'TensorFlow was imported'"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_state_diagram_is_the_one_in_the_code() -> None:
    document = (PROJECT / "ARCHITECTURE.md").read_text()
    assert f"```mermaid\n{states.mermaid()}\n```" in document


def test_no_file_is_a_grab_bag() -> None:
    banned = {"utils.py", "util.py", "common.py", "helpers.py", "manager.py", "misc.py"}
    assert [path for path in SOURCES if path.name in banned] == []


def test_locks_hold_versions_and_hashes_but_no_addresses() -> None:
    for lock in (PROJECT / "locks").glob("*.txt"):
        text = lock.read_text()
        assert not re.search(r"https?://|file://|--index|--find-links", text), lock
        if lock.name != "overrides.txt":
            for requirement in re.split(r"\n(?=\S)", text.strip()):
                assert "==" in requirement, requirement
                assert "--hash=sha256:" in requirement, requirement
