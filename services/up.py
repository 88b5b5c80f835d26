"""`python -m services.up`: all of fitserve on one machine. `fitserve up` and `make run` start it.

Runs the embedded Redis (unless FITSERVE_REDIS_URL names another), the API, the prediction service, the reaper and the
workers as child processes, and restarts any of them that dies.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import migrations
from fitserve import api_keys, db, logs
from fitserve.embedded_redis import EmbeddedRedis, die_with_parent
from fitserve.errors import FitserveError
from fitserve.settings import Settings
from services.secrets import write_secret

log = logging.getLogger("fitserve.up")

FIRST_KEY = "first-key"  # a file under home, mode 0600: the command line on this machine signs in with it
_MAX_RESTART_DELAY = 10.0  # seconds, for a process that keeps dying
_STABLE_SECONDS = 60.0  # a process that ran this long restarts without delay
_STARTED_AT = time.monotonic()


def main() -> int:
    settings = Settings()
    logs.configure("up", settings.log_level)
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    try:
        run(settings, stopping)
    except FitserveError as error:
        print(f"fitserve: {error.detail} {error.fix or ''}", file=sys.stderr)
        return 1
    return 0


def run(settings: Settings, stopping: threading.Event) -> None:
    """Start all processes, restart those that die until `stopping` is set, then stop them in order."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_busy_ports(settings)
    migrations.upgrade(settings.resolved_database_url)
    token = create_first_key(settings)
    broker = None if settings.redis_url else EmbeddedRedis(settings.home / "redis").start()
    children = make_children(settings, broker.url if broker else str(settings.redis_url))
    try:
        for child in children:
            child.start()
        announced = False
        while not stopping.wait(0.05 if not announced else 0.5):
            if broker:
                broker.restart_if_dead()
            for child in children:
                child.restart_if_dead()
            if not announced and all(is_ready(url) for url in readiness_urls(settings)):
                announce(settings, token)
                announced = True
    finally:
        # The broker stops last, because workers hand their runs back through it.
        stop_all(children, settings.graceful_seconds + 5)
        if broker:
            broker.stop()
        print("fitserve has stopped.", file=sys.stderr, flush=True)


@dataclass
class Child:
    """A child process that is restarted whenever it ends."""

    name: str
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    restart_at: float = 0.0

    def start(self) -> None:
        """Start it in our process group; the kernel ends it when this process dies (Linux)."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        self.started_at = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def restart_if_dead(self) -> None:
        """Start it again if it has died, after a delay that doubles with every early death."""
        if self.running:
            return
        now = time.monotonic()
        if self.process is not None:
            code = self.process.returncode
            self.deaths = 1 if now - self.started_at > _STABLE_SECONDS else self.deaths + 1
            delay = 0.0 if self.deaths == 1 else min(_MAX_RESTART_DELAY, 0.5 * 2 ** (self.deaths - 2))
            self.restart_at = now + delay
            self.process = None
            log.error("%s ended; restarting it", self.name, extra={"code": code, "delay_s": delay})
        if now >= self.restart_at:
            self.start()


def stop_all(children: Sequence[Child], seconds: float) -> None:
    """Send SIGTERM to all, then SIGKILL to those that are still running after that time."""
    for child in children:
        if child.running and child.process:
            child.process.terminate()
    deadline = time.monotonic() + seconds
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop in time; killed", child.name)
            child.process.kill()
            child.process.wait()


def make_children(settings: Settings, redis_url: str) -> list[Child]:
    """Return the processes to run, all with the same resolved database, blob store and broker."""
    shared = {
        "FITSERVE_HOME": str(settings.home.resolve()),
        "FITSERVE_DATABASE_URL": settings.resolved_database_url,
        "FITSERVE_BLOB_URL": settings.resolved_blob_url,
        "FITSERVE_REDIS_URL": redis_url,
    }
    children = [
        Child("api", "services.control", shared),
        Child("predict", "services.predict", shared),
        Child("reaper", "workers.reaper", shared),
    ]
    for index, port in enumerate(_worker_ports(settings), 1):
        children.append(Child(f"worker-{index}", "workers", {**shared, "FITSERVE_WORKER_METRICS_PORT": str(port)}))
    return children


def _worker_ports(settings: Settings) -> range:
    """Telemetry ports of the workers, 100 apart because the ports next to the first one belong to other processes."""
    first = settings.worker_metrics_port
    return range(first, first + 100 * settings.workers, 100)


def create_first_key(settings: Settings) -> str | None:
    """Create a random admin key at the first start and return its token; None later, or if keys are off."""
    if not settings.auth:
        return None
    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.transaction(engine) as session:
            if api_keys.listing(session):
                return None
            _, token = api_keys.create(session, owner="admin", name="first", scopes=["admin"])
            # Before the commit, because a key whose token nobody has is useless.
            write_secret(settings.home / FIRST_KEY, f"{token}\n", 0o600)
            return token
    finally:
        engine.dispose()


def refuse_busy_ports(settings: Settings) -> None:
    """Raise SystemExit naming a port that another process uses, and the setting to change."""
    ports = {
        "FITSERVE_PORT": settings.port,
        "FITSERVE_PREDICT_PORT": settings.predict_port,
        "FITSERVE_GRPC_PORT": settings.grpc_port,
        "FITSERVE_REAPER_METRICS_PORT": settings.reaper_metrics_port,
    }
    for port in _worker_ports(settings):
        ports[f"FITSERVE_WORKER_METRICS_PORT + {port - settings.worker_metrics_port}"] = port
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise SystemExit(f"fitserve: port {port} of {settings.host}: {error.strerror}. Set {name}.") from None


def _web_url(settings: Settings, port: int) -> str:
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://{_local_host(settings)}:{port}"


def _local_host(settings: Settings) -> str:
    return "127.0.0.1" if settings.host == "0.0.0.0" else settings.host


def readiness_urls(settings: Settings) -> list[str]:
    """Return the /readyz address of every process."""
    web = [f"{_web_url(settings, port)}/readyz" for port in (settings.port, settings.predict_port)]
    ports = [settings.reaper_metrics_port, *_worker_ports(settings)]
    return [*web, *(f"http://{_local_host(settings)}:{port}/readyz" for port in ports)]


def is_ready(url: str) -> bool:
    """Return whether a process reports that it is ready."""
    try:
        # Our own process on this machine, and no key is sent, so its certificate is not verified.
        unverified = ssl._create_unverified_context() if url.startswith("https") else None  # noqa: S323
        with urllib.request.urlopen(url, timeout=2, context=unverified) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def announce(settings: Settings, token: str | None) -> None:
    """Print the addresses, and the first key if it was created at this start."""
    address = f"{_web_url(settings, settings.port)}/"
    lines = [f"fitserve is ready: {address}" + (f"#key={token}" if token else "")]
    lines.append(f"  predictions  {_web_url(settings, settings.predict_port)}/v1/models   API  {address}docs")
    if token:
        lines.append(f"  first key    {token}   (shown only once; saved in {settings.home / FIRST_KEY})")
    lines.append("  Ctrl-C stops everything.")
    print("\n".join(lines), file=sys.stderr, flush=True)
    log.info("ready", extra={"seconds": round(time.monotonic() - _STARTED_AT, 2)})


if __name__ == "__main__":
    sys.exit(main())
