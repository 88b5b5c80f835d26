"""A trainer that attempts what the sandbox must refuse, and reports how each attempt ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.trainer.interface import Reporter, TrainingFailed, TrainingRequest, TrainingResult


def train(request: TrainingRequest, report: Reporter) -> TrainingResult:
    home = request.folder.parent.parent.parent  # home/scratch/runs/<run>
    parent = os.getppid()
    attempts: dict[str, Callable[[], Any]] = {
        "tcp": lambda: socket.create_connection(("127.0.0.1", int(request.spec["probe"]["port"])), 2),
        "unix": lambda: socket.socket(socket.AF_UNIX),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "names": lambda: socket.getaddrinfo("localhost", 80) and socket.socket(),
        "database": lambda: (home / "fitserve.db").read_bytes(),
        "key": lambda: (home / "first-key").read_text(),
        "secrets": lambda: Path(request.spec["probe"]["secret"]).read_text(),
        "write_home": lambda: (home / "left-behind").write_text("x"),
        "write_blobs": lambda: (request.table.parent / "other").write_text("x"),
        "write_tmp": lambda: Path("/tmp/fitserve-left-behind").write_text("x"),
        "parent_environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "parent_memory": lambda: os.close(os.open(f"/proc/{parent}/mem", os.O_RDONLY)),
        "passwords": lambda: Path("/etc/shadow").read_bytes(),
        "signal": lambda: os.kill(parent, signal.SIGCONT),
        "signal_group": lambda: os.kill(0, signal.SIGCONT),
        "signal_handle": lambda: signal.pidfd_send_signal(os.pidfd_open(parent), signal.SIGCONT),
        "signal_itself": lambda: os.kill(os.getpid(), signal.SIGCONT),
        "memory": lambda: bytearray(4 * 1024**3),
        "own_folder": lambda: (request.folder / "mine").write_text("x"),
        "temporary": lambda: os.close(tempfile.mkstemp()[0]),
        "table": lambda: request.table.read_bytes(),
        "library": lambda: Path(os.__file__).read_bytes() and __import__("numpy"),
    }
    outcomes = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            outcomes[name] = "done"
        except (OSError, MemoryError) as error:
            outcomes[name] = type(error).__name__
    data = {"outcomes": outcomes, "environment": dict(os.environ), "arguments": sys.argv}
    report.event("info", "Probed", data)
    raise TrainingFailed("bad_data", "Nothing was trained")
