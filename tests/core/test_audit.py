"""The audit of pinned dependencies: a known vulnerability fails it; unavailable data is only reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT

BAD = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}]}
GOOD = {"name": "numpy", "version": "2.4", "vulns": []}
UNKNOWN = {"name": "numpy", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "output"),
    [
        ([GOOD], 0, "no known vulnerabilities"),
        ([GOOD, BAD], 1, "jinja2 2.10: PYSEC-2019-217 (fixed in 2.10.1)"),
        ([UNKNOWN], 0, "SKIPPED, its data are not available here: 1 of 1 not checked"),
        ([UNKNOWN, BAD], 1, "SKIPPED"),
        (None, 0, "SKIPPED, its data are not available here: ConnectionError"),
    ],
)
def test_audit(packages: list[Any] | None, code: int, output: str, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "pip-audit"
    tool.parent.mkdir()
    report = json.dumps({"dependencies": packages})
    tool.write_text(
        # Not the interpreter itself: its path may contain a blank.
        f"#!/bin/sh\n'''exec' '{sys.executable}' \"$0\" \"$@\"\n'''\nimport sys\n"
        + (
            f"open(sys.argv[sys.argv.index('-o') + 1], 'w').write({report!r})\n"
            if packages is not None
            else "sys.exit('ConnectionError')\n"
        )
    )
    tool.chmod(0o755)
    command = [sys.executable, str(PROJECT / ".ci" / "audit.py"), str(tmp_path), "no-lock", "locks/runtime.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert output in done.stdout
