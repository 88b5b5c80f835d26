"""The control API and the prediction service as processes with one home, and the models `m` and `adm`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.conftest import PROJECT, free_ports
from tests.predict.toy_registry import ToyRegistry, mixed, numeric, wait_ready
from tests.server_logs import add_log
from tests.waiting import PATIENCE

UNLIMITED = {"FITSERVE_RATE_REQUESTS_PER_MINUTE": "100000000", "FITSERVE_RATE_UPLOADS_PER_HOUR": "100000000"}


@dataclass(frozen=True)
class Servers:
    toys: ToyRegistry
    api_url: str
    predict_url: str
    token: str
    log: Path
    processes: list[subprocess.Popen[bytes]]

    def client(self, url: str) -> httpx2.Client:
        return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)


@contextmanager
def servers(home: Path, redis_url: str, **more: str) -> Iterator[Servers]:
    """Start both servers with an admin's key; stop them at the end."""
    toys = ToyRegistry(home)
    toys.register("m", numeric())
    toys.register("adm", mixed())
    token = toys.create_key(["admin"], owner="ada")
    port, predict = free_ports(2)
    settings = toys.settings(
        FITSERVE_PORT=str(port),
        FITSERVE_PREDICT_PORT=str(predict),
        FITSERVE_GRPC_PORT="0",
        FITSERVE_REDIS_URL=redis_url,
        **{**UNLIMITED, **more},
    )
    log = add_log(home / "log")
    with log.open("wb") as sink:
        processes = [
            subprocess.Popen([sys.executable, "-m", module], cwd=PROJECT, env={**os.environ, **settings}, stderr=sink)
            for module in ("services.control", "services.predict")
        ]
    try:
        urls = [f"http://127.0.0.1:{one}" for one in (port, predict)]
        for url, process in zip(urls, processes, strict=True):
            wait_ready(f"{url}/readyz", process, log)
        yield Servers(toys, *urls, token, log, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(PATIENCE)
