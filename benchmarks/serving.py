"""`make bench-serving`: predictions per second, compared with a bare echo and with other servers.

Every side serves (or echoes the body of) the same request: one JSON row of six numbers, keep-alive, to the network
6-128-64-2; the server runs on core 0, `wrk` on core 1. Ours checks keys and records telemetry. The sides are
interleaved round by round, and medians are taken. The last line is one JSON object.

    python -m benchmarks.serving [--seconds 3] [--rounds 5] [--peers FOLDER --environments FOLDER] [--only mlserver ...]

`--peers` (or FITSERVE_BENCH_PEERS) names a folder with one folder per peer: each alternates with ours and the echo.
`--environments` (or FITSERVE_BENCH_ENVIRONMENTS) names the folder of their virtual environments, which are
created as needed; `--python mlserver=/venv/bin/python` names an existing one. A peer that is not available or does not
start is reported. `naive` (hand-written FastAPI) runs with this interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks import batch, default_models, grpc_calls, intervals, proxied, rows
from benchmarks.peers import PEERS, ROWS, VALUES, NotInstalled, interpreter, peer_side
from benchmarks.wrk import CONNECTIONS, SERVER_CORE, DidNotStart, Side, load, median, report, started
from tests.conftest import free_ports
from tests.predict.toy_registry import NUMBERS, RunningService, ToyRegistry, numeric, run_service
from tests.telemetry.drifting import toy_with_distributions

MANY = 512  # number of connections for which the slowest answers are reported
POSITIONAL = ROWS
NAMED = json.dumps({"instances": [dict(zip(NUMBERS, VALUES, strict=True))]})
V2 = json.dumps({"inputs": [{"name": "instances", "shape": [1, 6], "datatype": "FP32", "data": VALUES}]})

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


def our_sides(served: RunningService) -> list[Side]:
    """The three request formats of our service."""
    predict, infer = f"{served.url}/v1/models/m1:predict", f"{served.url}/v2/models/m1/infer"
    return [
        Side("positional", predict, POSITIONAL, served.headers, pid=served.process.pid),
        Side("named", predict, NAMED, served.headers, pid=served.process.pid),
        Side("oip", infer, V2, served.headers, pid=served.process.pid),
    ]


def memory_of(models: int, work: Path) -> tuple[float, float]:
    """Return resident megabytes with that many models loaded, and seconds until ready."""
    toys = ToyRegistry(work / "many")
    for number in range(models):
        toys.register(f"m{number}", numeric(seed=number))
    with run_service(toys) as served:
        loaded = served.telemetry("fitserve_predict_networks_loaded")
        if loaded != models:
            raise RuntimeError(f"{loaded} of {models} models are loaded")
        return psutil.Process(served.process.pid).memory_info().rss / 1e6, served.ready_seconds


def peer_onnx(path: Path) -> Path:
    """Write the same network with the input's name that the peers use."""
    import onnx

    model = onnx.load_from_string(numeric().onnx)
    model.graph.input[0].name = "x"
    model.graph.node[0].input[0] = "x"
    path.write_bytes(model.SerializeToString())
    return path


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    toys = ToyRegistry(work / "home")
    toys.register("m1", numeric())
    mixed, row = default_models.default_model(arguments.data / "penguins.csv", "species")
    toys.register("penguins", mixed)
    ensemble, passenger = default_models.default_model(arguments.data / "titanic.csv", "Survived")
    toys.register("ensemble", ensemble)
    toys.register("plain", default_models.default_model(arguments.data / "titanic.csv", "Survived", preset="plain")[0])
    with_bounds = intervals.register(toys, arguments.data)
    (work / "echo.py").write_text(ECHO)
    (echo_port,) = free_ports(1)
    echo_command = [sys.executable, "-m", "uvicorn", "echo:app", "--port", str(echo_port), "--loop", "uvloop"]
    echo_command += ["--http", "httptools", "--no-access-log", "--log-level", "error"]
    echo_url = f"http://127.0.0.1:{echo_port}/"
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(run_service(toys, ("taskset", "-c", SERVER_CORE)))
        echo_pid = stack.enter_context(started(echo_command, work, echo_url, POSITIONAL, {}))
        sides = our_sides(served)
        path = f"{served.url}/v1/models/penguins:predict"
        sides.append(Side("mixed", path, json.dumps({"instances": [row]}), served.headers, pid=served.process.pid))
        echoes = {
            side.name: Side(f"echo of {side.name}", echo_url, side.body, side.headers, pid=echo_pid) for side in sides
        }
        for _ in range(arguments.rounds):
            for connections in CONNECTIONS:
                for side in sides:
                    load(side, connections, arguments.seconds, work)
                    load(echoes[side.name], connections, arguments.seconds, work)
        for _ in range(arguments.rounds):
            for side in (sides[0], echoes["positional"]):
                load(side, MANY, arguments.seconds, work)
        body = json.dumps({"instances": [passenger]})
        networks = [
            Side(name, f"{served.url}/v1/models/{name}:predict", body, served.headers, pid=served.process.pid)
            for name in ("ensemble", "plain")
        ]
        for _ in range(arguments.rounds):
            for side in networks:
                load(side, 16, arguments.seconds, work)
        through = proxied.figures(sides[0], echoes["positional"], arguments.seconds, arguments.rounds, work / "nginx")
        calls = grpc_calls.figures(served, work)
        bounds = intervals.figures(served, with_bounds, arguments.seconds, arguments.rounds, work)
        fast = served.telemetry("fitserve_predict_fast_lane_requests_total")
        pairs, absent = measure_peers(arguments, work, served, Side("echo", echo_url, POSITIONAL, pid=echo_pid))
    report([side for ours in sides for side in (ours, echoes[ours.name])] + [peer for peer, _ in pairs])
    for name, why in absent.items():
        print(f"{name:22}{why}")
    ours, named, v2, of_mixed = sides
    ratio = {
        side.name: [a / b for a, b in zip(side.rates[16], echoes[side.name].rates[16], strict=True)] for side in sides
    }
    p99 = [a / b for a, b in zip(ours.p99[MANY], echoes["positional"].p99[MANY], strict=True)]
    over = [a - b for a, b in zip(ours.p50[1], echoes["positional"].p50[1], strict=True)]
    mb, ready = memory_of(200, work)
    return {
        "echo_ratio_positional": round(median(ratio["positional"]), 3),
        "echo_ratio_named": round(median(ratio["named"]), 3),
        "oip_over_tfserving": round(median(v2.rates[16]) / median(ours.rates[16]), 3),
        **compare_with_peers(pairs, absent),
        "mixed_row": round(median(ratio["mixed"]), 3),
        "p99_512": round(median(p99), 3),
        "ensemble_ratio": round(median([a / b for a, b in zip(*(one.rates[16] for one in networks), strict=True)]), 3),
        **through,
        **calls,
        **bounds,
        **rows.figures(),
        **rows.one_row(ensemble, passenger),
        **batch.figures(work / "batch"),
        "p50_over_echo_us": round(median(over), 1),
        "mb_200_models": round(mb, 1),
        "ready_200_models_s": round(ready, 2),
        "fast_lane_requests": fast,
        "cpu_ratio_positional": round(median(echoes["positional"].cpu[16]) / median(ours.cpu[16]), 3),
        "cpu_ratio_named": round(median(echoes["named"].cpu[16]) / median(named.cpu[16]), 3),
        "cpu_ratio_oip": round(median(echoes["oip"].cpu[16]) / median(v2.cpu[16]), 3),
        "cpu_ratio_mixed": round(median(echoes["mixed"].cpu[16]) / median(of_mixed.cpu[16]), 3),
        "cpu_over_echo_us_1": round(median(ours.cpu[1]) - median(echoes["positional"].cpu[1]), 1),
        "predictions_a_second_16": round(median(ours.rates[16])),
    }


def telemetry_cost(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return throughput and CPU per request with telemetry and drift, relative to those without."""
    toys = ToyRegistry(work / "telemetry")
    toys.register("m1", toy_with_distributions())
    pinned = ("taskset", "-c", SERVER_CORE)
    with run_service(toys, pinned) as full, run_service(toys, pinned, "benchmarks.without_telemetry") as bare:
        pairs = list(zip(our_sides(full), our_sides(bare), strict=True))
        for side, without in pairs:
            without.name = f"{side.name}, bare"
        for round_number in range(arguments.rounds):
            for connections in (1, 16, 64):
                for pair in pairs:
                    for side in pair if round_number % 2 else reversed(pair):
                        load(side, connections, arguments.seconds, work)
        counted = full.telemetry("fitserve_predict_value_bucket")
    report([side for pair in pairs for side in pair])
    if not counted:
        raise RuntimeError("drift counted no rows")

    def ratio(measure: str, connections: int) -> float:
        ratios = []
        for side, bare in pairs:
            ours, theirs = getattr(side, measure)[connections], getattr(bare, measure)[connections]
            ratios += [a / b for a, b in zip(ours, theirs, strict=True)]
        return round(median(ratios), 3)

    return {
        **{f"telemetry_rate_ratio_{connections}": ratio("rates", connections) for connections in (1, 16, 64)},
        **{f"telemetry_cpu_ratio_{connections}": ratio("cpu", connections) for connections in (1, 16, 64)},
        "telemetry_rows_counted": counted,
    }


def measure_peers(
    arguments: argparse.Namespace, work: Path, served: RunningService, echo: Side
) -> tuple[list[tuple[Side, Side]], dict[str, str]]:
    """Measure each available peer together with ours, and say why others are unavailable.

    In each round the peer, ours and the echo alternate.
    """
    if arguments.peers is None:
        return [], {}
    onnx = peer_onnx(work / "m1.onnx")
    interpreters = dict(entry.split("=", 1) for entry in arguments.python)
    measured: list[tuple[Side, Side]] = []
    absent: dict[str, str] = {}
    for name in arguments.only or PEERS:
        for _ in range(2):  # Ray gives its node 30 s, which a cold start may exceed
            try:
                python = interpreter(name, arguments.environments, interpreters)
                with peer_side(name, python, arguments.peers, onnx) as peer:
                    ours = our_sides(served)[0]
                    for _ in range(arguments.rounds):
                        for connections in CONNECTIONS:
                            for side in (peer, ours, echo):
                                load(side, connections, arguments.seconds, work)
            except NotInstalled as why:
                absent[name] = f"not installed: {why}"
                break
            except (DidNotStart, OSError) as why:
                absent[name] = f"did not start: {why}"
            except RuntimeError as why:
                absent[name] = f"failed under load: {str(why)[:400]}"
            else:
                measured.append((peer, ours))
                absent.pop(name, None)
                break
    return sorted(measured, key=lambda pair: -median(pair[0].rates[16])), absent


def compare_with_peers(pairs: list[tuple[Side, Side]], absent: dict[str, str]) -> dict[str, Any]:
    """Return our rate relative to each peer's in the same rounds, and relative to the best one."""
    if not pairs:
        return {"best_peer": None, "best_peer_ratio": None, "p99_lower_than_all": None, "peers": absent}
    best, ours = pairs[0]
    lower = [median(ours.p99[c]) < median(peer.p99[c]) for peer, ours in pairs for c in CONNECTIONS]
    figures: dict[str, Any] = {
        peer.name: {
            "a_second_16": round(median(peer.rates[16])),
            "ratio_16": round(median(ours.rates[16]) / median(peer.rates[16]), 1),
            "p99_us": [round(median(peer.p99[c])) for c in CONNECTIONS],
            "our_p99_us": [round(median(ours.p99[c])) for c in CONNECTIONS],
        }
        for peer, ours in pairs
    }
    return {
        "best_peer": best.name,
        "best_peer_ratio": round(median(ours.rates[16]) / median(best.rates[16]), 2),
        "p99_lower_than_all": all(lower),
        "peers": {**figures, **absent},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=default_models.DATA, help="folder of the tables")
    parser.add_argument("--telemetry", action="store_true", help="measure only the cost of telemetry and drift")
    default = os.environ.get("FITSERVE_BENCH_PEERS")
    parser.add_argument("--peers", type=Path, default=Path(default) if default else None)
    default = os.environ.get("FITSERVE_BENCH_ENVIRONMENTS")
    parser.add_argument("--environments", type=Path, default=Path(default).absolute() if default else None)
    parser.add_argument("--only", action="append", choices=list(PEERS), help="only these peers; may be repeated")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=INTERPRETER")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("The load generator is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        figures = {} if arguments.telemetry else measure(arguments, Path(folder))
        print(json.dumps(figures | telemetry_cost(arguments, Path(folder))))


if __name__ == "__main__":
    main()
