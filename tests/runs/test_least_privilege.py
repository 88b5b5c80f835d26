"""What a sandboxed trainer can do, shown by one that tries."""

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

pytestmark = pytest.mark.xdist_group("faults")  # one process that forks members for all

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="seccomp and Landlock are Linux's")


def landlock() -> bool:
    """Whether this kernel has Landlock, as the trainer finds out."""
    code = (
        "from pathlib import Path; from workers.trainer.sandbox import restrict_files as r; print(r([], [], Path('/')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return output.strip() == ""


@LINUX
def test_a_trainer_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://fitserve:hunter2@db/fitserve")
    environment = {
        "FITSERVE_TRAINER_MODULE": "tests.runs.probing_trainer",
        "FITSERVE_TRAINER_MEMORY_BYTES": str(1024**3),
        "FITSERVE_ROOT_KEY": "key_root.do-not-pass-this-on",
        "AWS_SECRET_ACCESS_KEY": "nor-this",
        "PGPASSWORD": "nor-that",
    }
    with (
        Cluster(tmp_path / "home", environment=environment) as cluster,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        (cluster.home / "first-key").write_text("key_1.secret")
        run_id = cluster.submit(probe=1)
        with db.transaction(cluster.engine) as session:
            spec = {"probe": {"port": server.getsockname()[1], "secret": str(secret)}}
            session.get_one(Run, run_id).resolved = spec
        cluster.start("worker")
        assert cluster.wait_over(run_id).state == "failed"
        with db.reading(cluster.engine) as session:
            data = next(
                event.data
                for event in session.scalars(select(Event).where(Event.run_id == run_id))
                if event.message == "Probed"
            )
        log = cluster.tail(100_000)
    ended, variables = data["outcomes"], data["environment"]
    for name in ("tcp", "unix", "udp", "names", "signal", "signal_group", "signal_handle"):
        assert ended[name] == "PermissionError", (name, ended)
    assert ended["memory"] == "MemoryError"
    for name in ("own_folder", "temporary", "table", "library", "signal_itself"):
        assert ended[name] == "done", (name, ended)
    if landlock():
        for name in ("database", "key", "secrets", "passwords", "write_home", "write_blobs", "write_tmp"):
            assert ended[name] == "PermissionError", (name, ended)
        for name in ("parent_environment", "parent_memory"):
            assert ended[name] == "PermissionError", (name, ended)
        assert "more rights than it needs" not in log
    text = json.dumps(variables) + " ".join(data["arguments"])
    for secret_text in ("do-not-pass-this-on", "nor-this", "nor-that", "redis", "DATABASE_URL", "AWS_", "PG"):
        assert secret_text not in text, secret_text
    assert variables["HOME"] == variables["TMPDIR"]
    assert Path(variables["HOME"]).is_relative_to(cluster.settings.scratch)


@LINUX
def test_what_cannot_be_restricted_is_reported(tmp_path: Path) -> None:
    """On an architecture that the filter does not know the trainer starts nevertheless, and the reason is logged."""
    code = (
        "import platform; platform.machine = lambda: 'vax'\n"
        "from pathlib import Path; from workers.trainer.sandbox import enter_sandbox\n"
        "print(enter_sandbox([], [], Path('/nowhere')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "no filter for linux on vax" in output


@LINUX
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_needs_no_privilege(tmp_path: Path) -> None:
    """The sandbox works for an unprivileged user."""
    code = (
        "import os, socket\nos.setgid(65534); os.setuid(65534)\n"
        "from pathlib import Path; from workers.trainer.sandbox import enter_sandbox\n"
        "print(enter_sandbox([], [], Path('/nowhere')))\nsocket.socket()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr or "PermissionError: [Errno 13] Permission denied: '/" in done.stderr:
        pytest.skip("this checkout cannot be read by another user")
    assert "sockets" not in done.stdout
    assert "PermissionError" in done.stderr
    with contextlib.suppress(OSError):
        socket.socket().close()  # this process can still open sockets
