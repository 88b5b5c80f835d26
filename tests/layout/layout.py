"""A deployment of several machines as processes on loopback: two of each service, behind nginx, with S3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from fitserve.embedded_redis import die_with_parent, redis_binary
from services import secrets
from tests import nginx
from tests.conftest import PROJECT, free_ports, listens
from tests.needs import need
from tests.server_logs import add_log
from tests.waiting import PATIENCE, wait_until

MODULES = {
    "api": "services.control",
    "predict": "services.predict",
    "worker": "workers",
    "reaper": "workers.reaper",
}
LEASES = {
    "FITSERVE_LEASE_SECONDS": "3",
    "FITSERVE_MAX_ATTEMPTS": "100",  # a busy machine's pauses cost attempts too
    "FITSERVE_HEARTBEAT_SECONDS": "0.5",
    "FITSERVE_REAP_SECONDS": "0.5",
    "FITSERVE_REDISPATCH_SECONDS": "3",
    "FITSERVE_CHECKPOINT_SECONDS": "1",
    "FITSERVE_TRUSTED_PROXIES": "127.0.0.1",  # nginx
}


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true value of `condition`. Fails after `seconds`, or PATIENCE where that is longer."""
    return wait_until(condition, what, patience=max(seconds, PATIENCE), pause=0.1)


@dataclass
class Member:
    """One process with its own home, as on its own machine."""

    name: str
    module: str
    home: Path
    environment: dict[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Member:
        self.home.mkdir(exist_ok=True)
        add_log(self.log)
        # Import Redis first: releases before 0.2 imported it in two threads at once and could fail to start (in
        # production they are restarted).
        program = f"import redis, runpy; runpy.run_module({self.module!r}, run_name='__main__', alter_sys=True)"
        old = "PYTHONPATH" in self.environment
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *(["-c", program] if old else ["-m", self.module])],
                cwd=self.environment.get("PYTHONPATH", PROJECT),
                env={**os.environ, **self.environment},
                stdout=sink,
                stderr=sink,
                preexec_fn=die_with_parent,
            )
        return self

    def is_ready(self) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 40) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(max(seconds, PATIENCE))


@dataclass
class Layout:
    """Starts and stops the members. `variables` configure the database, the broker and the blobs."""

    folder: Path
    variables: dict[str, str]
    members: dict[str, Member] = field(default_factory=dict)
    _others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    token: str = ""
    base: str = ""

    def make_secrets(self) -> None:
        """Create the first key and Redis's users, as in the compose deployment."""
        token = secrets.create_secrets(self.folder / "secrets")
        assert token is not None
        self.token = token
        self.variables["FITSERVE_ROOT_KEY"] = token

    def start_redis(self) -> None:
        """Start Redis with docker-compose.yml's users, append-only file and policy, over TCP."""
        (port,) = free_ports(1)
        folder = self.folder / "redis"
        folder.mkdir()
        command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes"]
        command += ["--maxmemory", "512mb", "--maxmemory-policy", "noeviction", "--dir", str(folder)]
        command += ["--aclfile", str(self.folder / "secrets" / "redis_users.acl")]
        self._run(command, port)
        written = urlsplit((self.folder / "secrets" / "fitserve_redis_url").read_text())
        self.variables["FITSERVE_REDIS_URL"] = f"redis://{written.username}:{written.password}@127.0.0.1:{port}/0"

    def start_nginx(self, kind: str = "http", tls: tuple[Path, Path] | None = None) -> str:
        """Start nginx with the files of deploy/nginx; return its URL. `tls` is a certificate and its key."""
        port, grpc_port = free_ports(2)
        folder, program = self.folder / f"nginx-{kind}", need("nginx")
        folder.mkdir(parents=True)
        if tls is not None:
            (folder / "tls").mkdir()
            shutil.copy(tls[0], folder / "tls/fullchain.pem")
            shutil.copy(tls[1], folder / "tls/privkey.pem")
        addresses = {
            role: [f"127.0.0.1:{member.port}" for member in self.members_of(role)] for role in ("api", "predict")
        }
        addresses["grpc"] = ["127.0.0.1:1"]  # which processes of one machine cannot both have
        listen = [f"127.0.0.1:{port}", f"127.0.0.1:{grpc_port}"]
        path = nginx.configuration(program, folder, listen, addresses, kind, f"{folder}/access.log")
        self._run([program, "-c", str(path), "-e", str(folder / "error.log")], port)
        return f"{kind}://127.0.0.1:{port}"

    def _run(self, command: list[str], port: int) -> None:
        with (self.folder / "others.log").open("ab") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, preexec_fn=die_with_parent)
        self._others.append(process)
        until(lambda: listens(port), 20, f"{command[0]}: {(self.folder / 'others.log').read_text()}")

    def add(self, name: str, environment: Mapping[str, str] | None = None) -> Member:
        """Add a member such as `api-1`; the caller starts it."""
        role = name.partition("-")[0]
        port, grpc = free_ports(2)
        ports = {
            "FITSERVE_PORT": str(port),
            "FITSERVE_PREDICT_PORT": str(port),
            "FITSERVE_GRPC_PORT": str(grpc),
            "FITSERVE_WORKER_METRICS_PORT": str(port),
            "FITSERVE_REAPER_METRICS_PORT": str(port),
        }
        home = self.folder / name
        variables = {**self.variables, **ports, "FITSERVE_HOME": str(home), **(environment or {})}
        self.members[name] = Member(name, MODULES[role], home, variables, port, self.folder / f"{name}.log")
        return self.members[name]

    def run_job(self, module: str) -> None:
        """Run a job that must succeed before the members start."""
        home = self.folder / "job"
        home.mkdir(exist_ok=True)
        environment = {**os.environ, **self.variables, "FITSERVE_HOME": str(home)}
        subprocess.run([sys.executable, "-m", module], cwd=PROJECT, env=environment, check=True, capture_output=True)

    def members_of(self, role: str) -> list[Member]:
        return [member for name, member in self.members.items() if name.startswith(f"{role}-")]

    def wait_ready(self, seconds: float = 90) -> None:
        for member in self.members.values():
            if member.process is not None:
                until(lambda member=member: member.is_ready() or member.has_ended(), seconds, f"{member.name} ready")
                assert not member.has_ended(), member.log.read_text()[-3000:]

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.base, headers={"Authorization": f"Bearer {self.token}"}, timeout=PATIENCE)

    def close(self) -> None:
        running = [m.process for m in self.members.values() if m.process and m.process.poll() is None]
        for process in running:
            process.kill()
        for process in self._others:
            process.terminate()  # which ends nginx's workers too
        for process in (*running, *self._others):
            process.wait()
