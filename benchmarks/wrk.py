"""The load generator `wrk` (apt-get install wrk) on one core, and the servers under test on another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SERVER_CORE, LOAD_CORE = "0", "1"
CONNECTIONS = (1, 16, 64)


@dataclass
class Side:
    """One server with one request. Figures are lists over rounds, by the number of connections."""

    name: str
    url: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    rates: dict[int, list[float]] = field(default_factory=dict)  # requests per second
    p50: dict[int, list[float]] = field(default_factory=dict)  # microseconds
    p99: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)  # microseconds of the server's CPU per request


def load(side: Side, connections: int, seconds: int, folder: Path) -> None:
    """Run wrk once and add its figures to the side's."""
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(side.body)}"]
    for name, value in {"Content-Type": "application/json", **side.headers}.items():
        lines.append(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}")
    script = folder / "wrk.lua"
    script.write_text("\n".join(lines))
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    before = processor_seconds(side.pid)
    out = subprocess.run([*command, "-s", str(script), side.url], capture_output=True, text=True, check=True).stdout
    spent = processor_seconds(side.pid) - before
    if "Non-2xx" in out:
        raise RuntimeError(f"{side.name}: {out}")
    side.rates.setdefault(connections, []).append(float(_match(r"Requests/sec:\s+([\d.]+)", out)[0]))
    requests = int(_match(r"(\d+) requests in", out)[0])
    side.cpu.setdefault(connections, []).append(spent / max(1, requests) * 1e6)
    for share, into in (("50", side.p50), ("99", side.p99)):
        number, unit = _match(rf"{share}%\s+([\d.]+)(us|ms|s)", out)
        into.setdefault(connections, []).append(float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit])


def processor_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its children, which depend less on other load than time does."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _match(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk printed:\n{text}")
    return match.groups()


class DidNotStart(Exception):
    """A server that does not answer, with the end of its log."""


@contextlib.contextmanager
def started(command: list[str], folder: Path, url: str, body: str, environment: dict[str, str]) -> Iterator[int]:
    """Start a process on the server's core and yield its id once it answers. Raises DidNotStart."""
    with started_when(command, folder, lambda: answers(url, body), environment) as pid:
        yield pid


@contextlib.contextmanager
def started_when(
    command: list[str], folder: Path, is_ready: Callable[[], bool], environment: dict[str, str]
) -> Iterator[int]:
    """Start a process on the server's core and yield its id once it is ready. Raises DidNotStart."""
    log = folder / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                raise DidNotStart(" / ".join(lines[-2:])[-400:] or f"exit code {process.poll()}, no output")
            time.sleep(0.1)
        yield process.pid
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything it started, in its own process group or not."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def answers(url: str, body: str) -> bool:
    """Return whether a request is answered with 200."""
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def median(values: list[float]) -> float:
    return statistics.median(values)


def report(sides: list[Side]) -> None:
    """Print the table."""
    print(f"{'':22}" + "".join(f"{f'c={c}':>30}" for c in CONNECTIONS))
    print(f"{'':22}" + f"{'per second':>12}{'p50 us':>9}{'p99 us':>9}" * 3 + f"{'cpu us':>9}")
    for side in sides:
        cells = "".join(
            f"{median(side.rates[c]):12,.0f}{median(side.p50[c]):9,.0f}{median(side.p99[c]):9,.0f}" for c in CONNECTIONS
        )
        print(f"{side.name:22}{cells}{median(side.cpu[16]):9,.1f}")
