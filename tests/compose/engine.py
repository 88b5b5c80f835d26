"""A container engine: Docker with its compose plugin, or podman driven by docker-compose over podman's socket."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]

# Settings that podman needs without systemd (in a container or a sandbox).
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""


class EngineMissing(Exception):
    """No supported container engine."""


class Engine:
    """Runs one compose project."""

    def __init__(self, project: str, compose: list[str], command: str, environment: Mapping[str, str]) -> None:
        self.project, self.command = project, command
        self._compose = [*compose, "-p", project]
        self.environment = {**os.environ, **environment}

    def build(self, target: str, tag: str, label: str) -> int:
        """Build one stage of deploy/Dockerfile and return the image's size in bytes."""
        options = ["--target", target, "-t", tag, "--label", f"release={label}", "-f", "deploy/Dockerfile", "."]
        if self.command == "podman":
            ours = ["buildah", "bud", "--format", "docker", "--runtime", "runc", "--network", "host", "--layers", "-q"]
            self._run([*ours, *options])
        else:
            self._run(["docker", "build", "-q", *options])
        return self.size(tag)

    def size(self, tag: str) -> int:
        """Return an image's size in bytes."""
        return int(self.inspect(tag)["Size"])

    def relabel(self, tag: str, new_tag: str, label: str) -> None:
        """Create another image with the same files, like a rebuild of the same tree."""
        form = ["--format", "docker"] if self.command == "podman" else []
        self._run(
            [self.command, "build", "-q", *form, "-t", new_tag, "-"], stdin=f"FROM {tag}\nLABEL release={label}\n"
        )

    def compose(self, *arguments: str, **environment: str) -> str:
        """Run a compose command and return its output."""
        return self._run([*self._compose, *arguments], environment)

    def down(self) -> None:
        """Remove the project's containers, networks and volumes."""
        self.compose("--profile", "dashboards", "down", "--volumes", "--timeout", "5")

    def containers(self, service: str, include_stopped: bool = False) -> list[str]:
        """Return the ids of a service's containers, oldest first."""
        by_service = f"label=com.docker.compose.service={service}"
        by_project = f"label=com.docker.compose.project={self.project}"
        listed = self._run(
            [
                self.command,
                "ps",
                *(["-a"] if include_stopped else []),
                "-q",
                "--no-trunc",
                "--filter",
                by_project,
                "--filter",
                by_service,
            ]
        ).split()
        return sorted(listed, key=lambda one: str(self.inspect(one)["Created"]))

    def inspect(self, name: str) -> Any:
        """Return the engine's description of a container or an image."""
        return json.loads(self._run([self.command, "inspect", name]))[0]

    def run(self, *arguments: str) -> str:
        """Run a command of the engine itself: `exec`, `kill`, `stop`, `rm`."""
        return self._run([self.command, *arguments])

    def fails(self, *arguments: str) -> bool:
        """Whether a command of the engine fails."""
        done = subprocess.run([self.command, *arguments], env=self.environment, capture_output=True, check=False)
        return done.returncode != 0

    def address(self, container: str) -> str:
        """Return its address in the project's network."""
        (network,) = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def is_healthy(self, container: str) -> bool:
        """Whether its health check passes."""
        state = self.inspect(container)["State"]
        health = state.get("Health") or state.get("Healthcheck") or {}
        return bool(state["Running"] and health.get("Status") == "healthy")

    def _run(self, command: list[str], environment: Mapping[str, str] | None = None, stdin: str = "") -> str:
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env={**self.environment, **(environment or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        return done.stdout


@contextmanager
def engine(project: str, environment: Mapping[str, str]) -> Iterator[Engine]:
    """Yield this machine's engine; remove what it started at the end. Raises EngineMissing."""
    with contextlib.ExitStack() as stack:
        if _works("docker", "info") and _works("docker", "compose", "version"):
            selected = Engine(project, ["docker", "compose"], "docker", environment)
        elif shutil.which("podman") and shutil.which("buildah") and shutil.which("docker-compose"):
            selected = stack.enter_context(_podman(project, environment))
        else:
            raise EngineMissing("Needs docker with the compose plugin, or podman, buildah and docker-compose.")
        try:
            yield selected
        finally:
            with contextlib.suppress(RuntimeError):
                selected.down()


def _works(*command: str) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def _podman(project: str, environment: Mapping[str, str]) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="fitserve-compose-") as folder:
        socket, conf = Path(folder, "podman.sock"), Path(folder, "containers.conf")
        conf.write_text(CONTAINERS_CONF)
        ours = {"DOCKER_HOST": f"unix://{socket}", **environment}
        if not Path("/run/systemd/system").is_dir():
            ours.setdefault("CONTAINERS_CONF", os.environ.get("CONTAINERS_CONF", str(conf)))
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{socket}"],
            env={**os.environ, **ours},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        podman = Engine(project, ["docker-compose"], "podman", ours)
        stopping = threading.Event()
        checking = threading.Thread(target=_check_health, args=(podman, stopping), daemon=True)
        try:
            until(socket.exists, 10, "podman's socket")
            if not Path("/run/systemd/system").is_dir():
                checking.start()
            yield podman
        finally:
            stopping.set()
            if checking.is_alive():
                checking.join(10)
            service.terminate()
            service.wait(10)


def _check_health(engine: Engine, stopping: threading.Event) -> None:
    """Run health checks, as systemd's timers do for podman elsewhere."""
    while not stopping.wait(1):
        with contextlib.suppress(RuntimeError):
            ours = f"label=com.docker.compose.project={engine.project}"
            for container in engine.run("ps", "-q", "--filter", ours).split():
                engine.fails("healthcheck", "run", container)


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for the first true value of `condition` and return it. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.2)
    return value
