"""Predictions through nginx, configured as `deploy/nginx` has it, beside an echo through another such nginx.

Part of `make bench-serving`. Both run on the servers' core.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.wrk import SERVER_CORE, Side, load, median
from tests import nginx
from tests.conftest import free_ports
from tests.waiting import wait_until

CONNECTIONS = 16


@contextlib.contextmanager
def running(program: str, path: Path) -> Iterator[int]:
    """Run nginx on the servers' core until the block ends; yield its process id."""
    folder = path.parent
    command = ["taskset", "-c", SERVER_CORE, program, "-e", f"{folder}/error.log", "-c", str(path)]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: (folder / "pid").exists(), "nginx", process=process, log=folder / "error.log")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def figures(ours: Side, echo: Side, seconds: int, rounds: int, folder: Path) -> dict[str, float]:
    """Return `proxy_ratio`: the rate of predictions through nginx, as a share of the echo's."""
    program = shutil.which("nginx")
    if program is None:
        return {}
    through = []
    route = "/" + ours.url.split("/", 3)[3]
    with contextlib.ExitStack() as stack:
        for side in (ours, echo):
            port, other = free_ports(2)
            own = folder / f"nginx-{port}"
            own.mkdir(parents=True)
            address = [re.sub(r"^http://([^/]+)/.*", r"\1", side.url)]
            listen = [f"127.0.0.1:{port}", f"127.0.0.1:{other}"]
            path = nginx.configuration(program, own, listen, {"api": address, "predict": address, "grpc": address})
            pid = stack.enter_context(running(program, path))
            through.append(Side(side.name, f"http://127.0.0.1:{port}{route}", side.body, side.headers, pid=pid))
        for _ in range(rounds):
            for side in through:
                load(side, CONNECTIONS, seconds, folder)
    ratios = [a / b for a, b in zip(*(side.rates[CONNECTIONS] for side in through), strict=True)]
    return {"proxy_ratio": round(median(ratios), 3), "proxy_a_second": round(median(through[0].rates[CONNECTIONS]))}
