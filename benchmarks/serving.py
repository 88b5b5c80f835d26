"""`make bench-serving`: predictions a second beside a bare echo and beside other servers.

Every side serves (or echoes the body of) the same request: one JSON row of six numbers, keep-alive, to the network
6-128-64-2; the server runs on core 0, `wrk` on core 1. Ours asks for a key and counts its telemetry. The sides are
interleaved round by round and medians are taken. The last line is one JSON object.

    python -m benchmarks.serving [--seconds 3] [--rounds 5] [--peers FOLDER] [--python mlserver=/venv/bin/python ...]

`--peers` (or FITSERVE_BENCH_PEERS) names a folder with one folder a peer; `naive` (FastAPI by hand) runs with this
interpreter, each other one only where `--python` names the interpreter of its virtual environment. The load
generator is Debian's: apt-get install wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import free_ports
from tests.predict.house import NUMBERS, House, Served, numeric, serving

VALUES = [1.5, -2.25, 3.0, 0.125, 5.75, -6.5]
POSITIONAL = json.dumps({"instances": [VALUES]})
NAMED = json.dumps({"instances": [dict(zip(NUMBERS, VALUES, strict=True))]})
V2 = json.dumps({"inputs": [{"name": "instances", "shape": [1, 6], "datatype": "FP32", "data": VALUES}]})
V2_PEER = V2.replace('"instances"', '"x"')
SERVER_CORE, LOAD_CORE = "0", "1"


@dataclass
class Side:
    """One server under one request."""

    name: str
    url: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)  # by connections: requests a second
    p50: dict[int, list[float]] = field(default_factory=dict)  # microseconds
    p99: dict[int, list[float]] = field(default_factory=dict)
    pid: int = 0
    cpu: dict[int, list[float]] = field(default_factory=dict)  # microseconds of the server's processor a request


@dataclass(frozen=True)
class Peer:
    """How one of the other servers is started in its folder, and asked."""

    command: list[str]
    path: str
    body: str
    prepare: list[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)


_UVICORN = ["uvicorn", "app:app", "--port", "8100", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
PEERS = {
    "naive": Peer(["-m", *_UVICORN], "/predict", POSITIONAL),
    "mlserver": Peer(["-m", "mlserver.cli", "start", "."], "/v2/models/m1/infer", V2_PEER),
    "kserve": Peer(["server.py"], "/v1/models/m1:predict", POSITIONAL),
    "bentoml": Peer(
        ["-m", "bentoml", "serve", "service:M1", "--host", "127.0.0.1", "--port", "8100"], "/predict", POSITIONAL
    ),
    "litserve": Peer(["server.py"], "/predict", POSITIONAL),
    "ray": Peer(["app.py"], "/predict", POSITIONAL, environment={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}),
    "mlflow": Peer(
        [
            "-m",
            "mlflow",
            "models",
            "serve",
            "-m",
            "onnx_model",
            "--env-manager",
            "local",
            "-h",
            "127.0.0.1",
            "-p",
            "8100",
        ],
        "/invocations",
        json.dumps({"inputs": [VALUES]}),
        prepare=["save.py"],
    ),
}

ECHO = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    message = await receive()
    body = message["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@contextlib.contextmanager
def started(command: list[str], folder: Path, url: str, body: str, environment: dict[str, str]) -> Iterator[int]:
    """A process pinned to the server's core, once it answers a request; its id."""
    process = subprocess.Popen(
        ["taskset", "-c", SERVER_CORE, *command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not answers(url, body):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str, body: str) -> bool:
    """Whether a request is answered 200."""
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def load(side: Side, connections: int, seconds: float, folder: Path) -> None:
    """One run of wrk; its figures are added to the side's."""
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(side.body)}"]
    for name, value in {"Content-Type": "application/json", **side.headers}.items():
        lines.append(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}")
    script = folder / "wrk.lua"
    script.write_text("\n".join(lines))
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    before = processor_seconds(side.pid)
    out = subprocess.run([*command, "-s", str(script), side.url], capture_output=True, text=True, check=True).stdout
    spent = processor_seconds(side.pid) - before
    if "Non-2xx" in out:
        raise RuntimeError(f"{side.name}: {out}")
    side.rates.setdefault(connections, []).append(float(_found(r"Requests/sec:\s+([\d.]+)", out)[0]))
    requests = int(_found(r"(\d+) requests in", out)[0])
    side.cpu.setdefault(connections, []).append(spent / max(1, requests) * 1e6)
    for share, into in (("50", side.p50), ("99", side.p99)):
        number, unit = _found(rf"{share}%\s+([\d.]+)(us|ms|s)", out)
        into.setdefault(connections, []).append(float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit])


def processor_seconds(pid: int) -> float:
    """What a process and its children have used: it tells less of what else the machine is doing."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def _found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk said:\n{text}")
    return match.groups()


@contextlib.contextmanager
def peer_side(name: str, python: str, peers: Path, onnx: Path, work: Path) -> Iterator[Side]:
    """A peer in a copy of its folder."""
    peer = PEERS[name]
    folder = work / name
    shutil.copytree(peers / name, folder)
    environment = {"M1_ONNX": str(onnx), "PATH": f"{Path(python).parent}:{os.environ['PATH']}", **peer.environment}
    if peer.prepare:
        subprocess.run([python, *peer.prepare], cwd=folder, env={**os.environ, **environment}, check=True)
    url = f"http://127.0.0.1:8100{peer.path}"
    with started([python, *peer.command], folder, url, peer.body, environment) as pid:
        yield Side(name, url, peer.body, pid=pid)


def our_sides(served: Served) -> list[Side]:
    """The three ways of asking us."""
    predict, infer = f"{served.url}/v1/models/m1:predict", f"{served.url}/v2/models/m1/infer"
    return [
        Side("positional", predict, POSITIONAL, served.headers, pid=served.process.pid),
        Side("named", predict, NAMED, served.headers, pid=served.process.pid),
        Side("oip", infer, V2, served.headers, pid=served.process.pid),
    ]


def memory_of(models: int, work: Path) -> tuple[float, float]:
    """Resident megabytes with that many models loaded, and seconds until ready."""
    house = House(work / "many")
    for number in range(models):
        house.register(f"m{number}", numeric(seed=number))
    with serving(house) as served:
        loaded = served.telemetry("fitserve_predict_networks_loaded")
        if loaded != models:
            raise RuntimeError(f"{loaded} of {models} models are loaded")
        return psutil.Process(served.process.pid).memory_info().rss / 1e6, served.ready_seconds


def peer_onnx(path: Path) -> Path:
    """The same network with the peers' names of input and output."""
    import onnx

    model = onnx.load_from_string(numeric().onnx)
    model.graph.input[0].name = "x"
    model.graph.node[0].input[0] = "x"
    path.write_bytes(model.SerializeToString())
    return path


def median(values: list[float]) -> float:
    return statistics.median(values)


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    house = House(work / "home")
    house.register("m1", numeric())
    (work / "echo.py").write_text(ECHO)
    (echo_port,) = free_ports(1)
    echo_command = [sys.executable, "-m", "uvicorn", "echo:app", "--port", str(echo_port), "--loop", "uvloop"]
    echo_command += ["--http", "httptools", "--no-access-log", "--log-level", "error"]
    echo_url = f"http://127.0.0.1:{echo_port}/"
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving(house, ("taskset", "-c", SERVER_CORE)))
        echo_pid = stack.enter_context(started(echo_command, work, echo_url, POSITIONAL, {}))
        sides = our_sides(served)
        echoes = {
            side.name: Side(f"echo of {side.name}", echo_url, side.body, side.headers, pid=echo_pid) for side in sides
        }
        for _ in range(arguments.rounds):
            for connections in (1, 16, 64):
                for side in sides:
                    load(side, connections, arguments.seconds, work)
                    load(echoes[side.name], connections, arguments.seconds, work)
        fast = served.telemetry("fitserve_predict_fast_lane_requests_total")
    every = [side for ours in sides for side in (ours, echoes[ours.name])]
    peers = measure_peers(arguments, work, house)
    every += peers
    report(every)
    ours, named, v2 = sides
    ratio = {
        side.name: [a / b for a, b in zip(side.rates[16], echoes[side.name].rates[16], strict=True)] for side in sides
    }
    over = [a - b for a, b in zip(ours.p50[1], echoes["positional"].p50[1], strict=True)]
    mb, ready = memory_of(200, work)
    best = max((median(peer.rates[16]) for peer in peers), default=None)
    return {
        "echo_ratio_positional": round(median(ratio["positional"]), 3),
        "echo_ratio_named": round(median(ratio["named"]), 3),
        "oip_over_tfserving": round(median(v2.rates[16]) / median(ours.rates[16]), 3),
        "best_peer_ratio": round(median(peers[0].rates[-16]) / best, 2) if best else None,
        "p50_over_echo_us": round(median(over), 1),
        "mb_200_models": round(mb, 1),
        "ready_200_models_s": round(ready, 2),
        "fast_lane_requests": fast,
        "cpu_ratio_positional": round(median(echoes["positional"].cpu[16]) / median(ours.cpu[16]), 3),
        "cpu_ratio_named": round(median(echoes["named"].cpu[16]) / median(named.cpu[16]), 3),
        "cpu_ratio_oip": round(median(echoes["oip"].cpu[16]) / median(v2.cpu[16]), 3),
        "cpu_over_echo_us_1": round(median(ours.cpu[1]) - median(echoes["positional"].cpu[1]), 1),
        "predictions_a_second_16": round(median(ours.rates[16])),
    }


def measure_peers(arguments: argparse.Namespace, work: Path, house: House) -> list[Side]:
    """Each peer interleaved with ours; ours beside it is kept in its rates under minus the connections."""
    if arguments.peers is None:
        return []
    onnx = peer_onnx(work / "m1.onnx")
    interpreters = {"naive": sys.executable, **dict(entry.split("=", 1) for entry in arguments.python)}
    found = []
    for name, python in interpreters.items():
        if not (arguments.peers / name).is_dir():
            continue
        with (
            peer_side(name, python, arguments.peers, onnx, work) as peer,
            serving(house, ("taskset", "-c", SERVER_CORE)) as served,
        ):
            ours = our_sides(served)[0]
            for _ in range(arguments.rounds):
                for connections in (1, 16, 64):
                    load(peer, connections, arguments.seconds, work)
                load(ours, 16, arguments.seconds, work)
            peer.rates[-16] = ours.rates[16]
            found.append(peer)
    return sorted(found, key=lambda side: -median(side.rates[16]))


def report(sides: list[Side]) -> None:
    """The table for people."""
    print(f"{'':22}" + "".join(f"{f'c={c}':>30}" for c in (1, 16, 64)))
    print(f"{'':22}" + f"{'a second':>12}{'p50 us':>9}{'p99 us':>9}" * 3 + f"{'cpu us':>9}")
    for side in sides:
        cells = "".join(
            f"{median(side.rates[c]):12,.0f}{median(side.p50[c]):9,.0f}{median(side.p99[c]):9,.0f}" for c in (1, 16, 64)
        )
        print(f"{side.name:22}{cells}{median(side.cpu[16]):9,.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    default = os.environ.get("FITSERVE_BENCH_PEERS")
    parser.add_argument("--peers", type=Path, default=Path(default) if default else None)
    parser.add_argument("--python", action="append", default=[], metavar="PEER=INTERPRETER")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("The load generator is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments, Path(folder))))


if __name__ == "__main__":
    main()
