"""The pages' own checks: unit tests, and types generated from the current OpenAPI document. `make lint` has more."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fitserve.settings import Settings
from services.control.app import create_app
from tests.dashboard.conftest import DASHBOARD, node

pytestmark = pytest.mark.xdist_group("node")


def run_node(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [node(), f"node_modules/{script}", *arguments], cwd=DASHBOARD, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_unit_tests_pass() -> None:
    # In one process: they test functions, which leave nothing behind.
    run_node("vitest/vitest.mjs", "run", "--pool=threads", "--no-isolate")


def test_generated_types_are_current(tmp_path: Path, sqlite_url: str) -> None:
    app = create_app(Settings(home=tmp_path, database_url=sqlite_url, redis_url="redis://127.0.0.1:1/0"))
    (tmp_path / "openapi.json").write_text(json.dumps(app.openapi()))
    run_node("openapi-typescript/bin/cli.js", str(tmp_path / "openapi.json"), "-o", str(tmp_path / "schema.d.ts"))
    known = DASHBOARD / "src" / "api" / "schema.d.ts"
    assert known.read_text() == (tmp_path / "schema.d.ts").read_text(), "the API has changed: make types"


def test_the_lock_records_no_addresses() -> None:
    assert "resolved" not in (DASHBOARD / "package-lock.json").read_text()
    assert "http" not in json.dumps(json.loads((DASHBOARD / "package.json").read_text()))
