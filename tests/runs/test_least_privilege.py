"""What a trainer may do, shown by one that tries."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from fitserve import db
from fitserve.tables import Event, Run
from tests.faults.cluster import Cluster

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="seccomp and Landlock are Linux's")


def landlock() -> bool:
    """Whether this kernel has it, asked for as the trainer does."""
    code = (
        "from pathlib import Path; from workers.trainer import confine as c; print(c.with_few_files([], [], Path('/')))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return said.strip() == ""


@LINUX
def test_a_trainer_that_tries_gets_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://fitserve:hunter2@db/fitserve")
    environment = {
        "FITSERVE_TRAINER_MODULE": "tests.runs.probing_trainer",
        "FITSERVE_TRAINER_MEMORY_BYTES": str(1024**3),
        "FITSERVE_ROOT_KEY": "key_root.do-not-pass-this-on",
        "AWS_SECRET_ACCESS_KEY": "nor-this",
        "PGPASSWORD": "nor-that",
    }
    with Cluster(tmp_path / "home", environment=environment) as cluster, socket.create_server(("127.0.0.1", 0)) as door:
        (cluster.home / "first-key").write_text("key_1.secret")
        run_id = cluster.submit(probe=1)
        with db.transaction(cluster.engine) as session:
            spec = {"probe": {"port": door.getsockname()[1], "secret": str(secret)}}
            session.get_one(Run, run_id).resolved = spec
        cluster.start("worker")
        assert cluster.wait_over(run_id).state == "failed"
        with db.reading(cluster.engine) as session:
            told = next(
                event.data
                for event in session.scalars(select(Event).where(Event.run_id == run_id))
                if event.message == "Probed"
            )
        log = cluster.tail(100_000)
    ended, variables = told["ended"], told["environment"]
    for name in ("tcp", "unix", "udp", "names"):
        assert ended[name] == "PermissionError", (name, ended)
    assert ended["memory"] == "MemoryError"
    for name in ("own_folder", "temporary", "table", "library"):
        assert ended[name] == "done", (name, ended)
    if landlock():
        for name in ("database", "key", "secrets", "write_home", "write_blobs", "write_tmp"):
            assert ended[name] == "PermissionError", (name, ended)
        for name in ("parent_environment", "parent_memory"):
            assert ended[name] == "PermissionError", (name, ended)
        assert "more rights than it needs" not in log
    text = json.dumps(variables) + " ".join(told["arguments"])
    for secret_text in ("do-not-pass-this-on", "nor-this", "nor-that", "redis", "DATABASE_URL", "AWS_", "PG"):
        assert secret_text not in text, secret_text
    assert variables["HOME"] == variables["TMPDIR"]
    assert Path(variables["HOME"]).is_relative_to(cluster.settings.scratch)


@LINUX
def test_what_the_system_does_not_offer_is_said(tmp_path: Path) -> None:
    """On a machine that the filter does not know, the trainer starts all the same, and the reason is logged."""
    code = (
        "import platform; platform.machine = lambda: 'vax'\n"
        "from pathlib import Path; from workers.trainer.confine import confine\n"
        "print(confine([], [], Path('/nowhere')))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "no filter for linux on vax" in said


@LINUX
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_needs_no_privilege(tmp_path: Path) -> None:
    """The same as a user who may do nothing special."""
    code = (
        "import os, socket\nos.setgid(65534); os.setuid(65534)\n"
        "from pathlib import Path; from workers.trainer.confine import confine\n"
        "print(confine([], [], Path('/nowhere')))\nsocket.socket()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr or "PermissionError: [Errno 13] Permission denied: '/" in done.stderr:
        pytest.skip("this checkout cannot be read by another user")
    assert "sockets" not in done.stdout
    assert "PermissionError" in done.stderr
    with contextlib.suppress(OSError):
        socket.socket().close()  # ours still can
