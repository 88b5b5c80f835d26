"""Several prediction processes on one port: supervision, and one scrape for all of them.

The kernel passes a scrape to any one process, so each process also serves its metrics on a Unix socket in a shared
folder. The scraped process reads the others' and labels every sample with its `process`; a restarted process counts
from zero under the same label, as Prometheus expects.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from fitserve import telemetry
from fitserve.embedded_redis import die_with_parent

# Set by the supervising process for its children alone.
FOLDER_VARIABLE = "FITSERVE_PREDICT_FOLDER"  # folder of the sockets
NUMBER_VARIABLE = "FITSERVE_PREDICT_MEMBER"  # this process's number, from 0
SCRAPE_SECONDS = 2.0  # timeout for another process's answer


def supervise(count: int) -> int:
    """Run `count` processes until a signal stops them, restarting any that ends."""
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    with tempfile.TemporaryDirectory(prefix="fitserve-predict-") as folder:

        def start(number: int) -> subprocess.Popen[bytes]:
            environment = {**os.environ, NUMBER_VARIABLE: str(number), FOLDER_VARIABLE: folder}
            command = [sys.executable, "-m", "services.predict"]
            return subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)

        processes = [start(number) for number in range(count)]
        while not stopping.wait(0.5):
            for number, process in enumerate(processes):
                if process.poll() is not None:
                    processes[number] = start(number)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    return 0


def combined_exposition() -> Callable[[], bytes]:
    """Return the text of a scrape: this process's metrics if it is alone, else those of all processes."""
    folder, number = os.environ.get(FOLDER_VARIABLE), os.environ.get(NUMBER_VARIABLE)
    if folder is None or number is None:
        return telemetry.exposition
    _serve_metrics(Path(folder, number))

    def read() -> bytes:
        texts = {}
        for path in sorted(Path(folder).iterdir()):
            with contextlib.suppress(OSError):
                texts[path.name] = telemetry.exposition() if path.name == number else _scrape(path)
        return _merge(texts)

    return read


def _serve_metrics(path: Path) -> None:
    """Serve this process's metrics on its own socket, in a thread."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.sendall(telemetry.exposition())

    path.unlink(missing_ok=True)
    server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="process-metrics", daemon=True).start()


def _scrape(path: Path) -> bytes:
    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SCRAPE_SECONDS)
        connection.connect(str(path))
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def _merge(texts: Mapping[str, bytes]) -> bytes:
    """Merge expositions by process: each family once, each sample labelled with its process."""
    families: dict[str, list[str]] = {}
    for process, text in texts.items():
        lines: list[str] = []
        known = False
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                lines = families.setdefault(line.split(" ", 3)[2], [])
                known = bool(lines)
            if not line.startswith("#"):
                lines.append(_label(line, process))
            elif not known:
                lines.append(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _label(sample: str, process: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{process}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{process="{process}"}} {value}'
