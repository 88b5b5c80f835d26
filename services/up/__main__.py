"""`python -m services.up`, which is what `fitserve up` and `make run` start."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import migrations
from fitserve import api_keys, db, logs
from fitserve.embedded import EmbeddedRedis
from fitserve.errors import FitserveError
from fitserve.settings import Settings
from services.up.processes import Child, stop_all

log = logging.getLogger("fitserve.up")
FIRST_KEY = "first-key"  # a file under home, mode 0600: the command line on this machine signs in with it


def main() -> int:
    settings = Settings()
    logs.configure("up", settings.log_level)
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())
    try:
        return run(settings, stopping)
    except FitserveError as error:
        print(f"fitserve: {error.detail} {error.fix or ''}", file=sys.stderr)
        return 1


def run(settings: Settings, stopping: threading.Event) -> int:
    """Starts everything, tends it until `stopping` is set, stops it in the right order."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_busy_ports(settings)
    migrations.upgrade(settings.resolved_database_url)
    token = first_key(settings)
    broker = None if settings.redis_url else EmbeddedRedis(settings.home / "redis").start()
    children = plan(settings, broker.url if broker else str(settings.redis_url))
    try:
        for child in children:
            child.start()
        announced = False
        while not stopping.wait(0.05 if not announced else 0.5):
            if broker:
                broker.tend()
            for child in children:
                child.tend()
            if not announced and all(is_ready(url) for url in readiness_urls(settings)):
                announce(settings, token)
                announced = True
    finally:
        # The broker goes last: workers hand their runs back while it is there.
        stop_all(children, settings.graceful_seconds + 5)
        if broker:
            broker.stop()
        print("fitserve has stopped.", file=sys.stderr, flush=True)
    return 0


def plan(settings: Settings, redis_url: str) -> list[Child]:
    """The processes, each given the settings that we settled."""
    shared = {
        "FITSERVE_HOME": str(settings.home.resolve()),
        "FITSERVE_DATABASE_URL": settings.resolved_database_url,
        "FITSERVE_BLOB_URL": settings.resolved_blob_url,
        "FITSERVE_REDIS_URL": redis_url,
    }
    python = sys.executable
    children = [
        Child("api", [python, "-m", "services.control"], shared),
        Child("predict", [python, "-m", "services.predict"], shared),
        Child("reaper", [python, "-m", "workers.reaper"], shared),
    ]
    for index in range(settings.workers):
        port = {"FITSERVE_WORKER_METRICS_PORT": str(settings.worker_metrics_port + 100 * index)}
        children.append(Child(f"worker-{index + 1}", [python, "-m", "workers"], {**shared, **port}))
    return children


def first_key(settings: Settings) -> str | None:
    """An admin key made at random at the first start; None later, or where keys are off."""
    if not settings.auth:
        return None
    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.transaction(engine) as session:
            if api_keys.listing(session):
                return None
            _, token = api_keys.create(session, owner="admin", name="first", scopes=["admin"])
            _write_private(settings.home / FIRST_KEY, token)
            return token
    finally:
        engine.dispose()


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def refuse_busy_ports(settings: Settings) -> None:
    """Raises SystemExit naming a port that another process holds."""
    named = {"FITSERVE_PORT": settings.port, "FITSERVE_PREDICT_PORT": settings.predict_port}
    named["FITSERVE_GRPC_PORT"] = settings.grpc_port
    named["FITSERVE_REAPER_METRICS_PORT"] = settings.reaper_metrics_port
    for index in range(settings.workers):
        named[f"FITSERVE_WORKER_METRICS_PORT + {100 * index}"] = settings.worker_metrics_port + 100 * index
    for name, port in named.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise SystemExit(f"fitserve: port {port} of {settings.host}: {error.strerror}. Set {name}.") from None


def readiness_urls(settings: Settings) -> list[str]:
    """Every process's /readyz."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    web = [f"{_scheme(settings)}://{host}:{port}/readyz" for port in (settings.port, settings.predict_port)]
    ports = [settings.reaper_metrics_port]
    ports += [settings.worker_metrics_port + 100 * index for index in range(settings.workers)]
    return [*web, *(f"http://{host}:{port}/readyz" for port in ports)]


def _scheme(settings: Settings) -> str:
    return "https" if settings.tls_certificate else "http"


def is_ready(url: str) -> bool:
    """Whether a process says that it is."""
    try:
        # Our own process on this machine; no key goes there, so its certificate need not be known.
        unchecked = ssl._create_unverified_context() if url.startswith("https") else None  # noqa: S323
        with urllib.request.urlopen(url, timeout=2, context=unchecked) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def announce(settings: Settings, token: str | None) -> None:
    """The health line, with the first key once."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    scheme = _scheme(settings)
    address = f"{scheme}://{host}:{settings.port}/"
    lines = [f"fitserve is ready: {address}" + (f"#key={token}" if token else "")]
    lines.append(f"  predictions  {scheme}://{host}:{settings.predict_port}/v1/models   API  {address}docs")
    if token:
        lines.append(
            f"  first key    {token}   (shown this once; kept for this machine in {settings.home / FIRST_KEY})"
        )
    lines.append("  Ctrl-C stops everything.")
    print("\n".join(lines), file=sys.stderr, flush=True)
    log.info("ready", extra={"seconds": round(time.monotonic() - _STARTED, 2)})


_STARTED = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
