"""Several prediction processes on one port: a scrape of any of them tells of all.

The kernel gives a scrape to one process, so each also shows its series on a socket of its own in a shared folder.
Whoever is scraped asks the others and labels every sample with its `process`; a process that was started again counts
from zero under the same label, as Prometheus expects.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from fitserve import telemetry

FOLDER = "FITSERVE_PREDICT_FOLDER"  # where the members' sockets are: set by who tends them, for them alone
MEMBER = "FITSERVE_PREDICT_MEMBER"  # this one's number
PATIENCE = 2.0  # seconds


def serve(folder: Path, number: str) -> None:
    """Shows this process's series on its own socket, in a thread."""
    path = folder / number

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.sendall(telemetry.exposition())

    path.unlink(missing_ok=True)
    server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="members", daemon=True).start()


def exposition_of_all() -> Callable[[], bytes]:
    """What a scrape reads: of this process where it is alone, else of all members."""
    folder, number = os.environ.get(FOLDER), os.environ.get(MEMBER)
    if folder is None or number is None:
        return telemetry.exposition
    serve(Path(folder), number)

    def read() -> bytes:
        texts = {}
        for path in sorted(Path(folder).iterdir()):
            with contextlib.suppress(OSError):
                texts[path.name] = telemetry.exposition() if path.name == number else _ask(path)
        return merged(texts)

    return read


def _ask(path: Path) -> bytes:
    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Expositions by process as one: each family once, each sample with its process."""
    families: dict[str, list[str]] = {}
    for process, text in texts.items():
        lines: list[str] = []
        known = False
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                lines = families.setdefault(line.split(" ", 3)[2], [])
                known = bool(lines)
            if not line.startswith("#"):
                lines.append(_labelled(line, process))
            elif not known:
                lines.append(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _labelled(sample: str, process: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{process}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{process="{process}"}} {value}'
