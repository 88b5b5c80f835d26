"""The ports: whether they are free, the addresses that they are part of, and whether a process answers there."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any

from fitserve.errors import Conflict
from fitserve.settings import Settings

_STEP = 100  # between the workers' ports, because the ports next to the first one belong to other processes


class PortTaken(Conflict):
    """A port is taken."""

    slug = "port-taken"
    title = "Port taken"


def worker_ports(settings: Settings) -> range:
    """Return the workers' telemetry ports."""
    first = settings.worker_metrics_port
    return range(first, first + _STEP * settings.workers, _STEP)


def ports_of(settings: Settings) -> dict[str, int]:
    """Return every port by the setting that moves it."""
    ports = {
        "FITSERVE_PORT": settings.port,
        "FITSERVE_PREDICT_PORT": settings.predict_port,
        "FITSERVE_GRPC_PORT": settings.grpc_port,
        "FITSERVE_REAPER_METRICS_PORT": settings.reaper_metrics_port,
    }
    for port in worker_ports(settings):
        offset = port - settings.worker_metrics_port
        ports["FITSERVE_WORKER_METRICS_PORT" + (f" + {offset}" if offset else "")] = port
    return ports


def refuse_busy_ports(settings: Settings) -> None:
    """Raise PortTaken with who answers there and a command that avoids it."""
    taken = {}
    for name, port in ports_of(settings).items():
        error = _bind_error(settings.host, port)
        if error is not None:
            taken[name] = (port, error)
    if not taken:
        return
    name, (port, error) = next(iter(taken.items()))
    other = next((url for port, _ in taken.values() if (url := fitserve_at(settings, port))), None)
    if other:
        detail = f"Port {port} is taken by another fitserve: {other} answers there."
    else:
        detail = f"Port {port} of {settings.host} cannot be used: {error} ({name})."
    moved = " ".join(f"{setting}={free_port(settings, port)}" for setting, port in _movable(settings, taken).items())
    stop = "Stop it (`fitserve down` in its folder), or start" if other else "Start"
    raise PortTaken(detail, fix=f"{stop} this one on other ports: {moved} fitserve up", address=other, port=port)


def _movable(settings: Settings, taken: dict[str, tuple[int, str]]) -> dict[str, int]:
    """Return the settings to change; a later worker's port moves with the first one's."""
    names = dict.fromkeys(name.partition(" ")[0] for name in taken)
    return {name: ports_of(settings).get(name, settings.worker_metrics_port) for name in names}


def _bind_error(host: str, port: int) -> str | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", None) or str(error)
    return None


def free_port(settings: Settings, near: int) -> int:
    """Return a free port, some tens above a taken one."""
    for port in range(near + 10, min(near + 1000, 65_535), 10):
        if all(_bind_error(settings.host, port + step) is None for step in range(0, _STEP * settings.workers, _STEP)):
            return port
    return near


def fitserve_at(settings: Settings, port: int) -> str | None:
    """Return the address of a fitserve's API or prediction service that answers on a port of this machine."""
    for scheme in ("https", "http") if settings.tls_certificate else ("http", "https"):
        url = f"{scheme}://{local_host(settings)}:{port}"
        answer = _get(f"{url}/readyz")
        if isinstance(answer, dict) and {"status", "checks"} <= answer.keys():
            return f"{url}/"
    return None


def web_url(settings: Settings, port: int) -> str:
    """Return the base URL of a web process."""
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://{local_host(settings)}:{port}"


def local_host(settings: Settings) -> str:
    """Return the host, as this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"[{host}]" if ":" in host else host


def readiness_urls(settings: Settings) -> dict[str, str]:
    """Return the /readyz address of every process by its name."""
    telemetry = f"http://{local_host(settings)}"
    return {
        "api": f"{web_url(settings, settings.port)}/readyz",
        "predict": f"{web_url(settings, settings.predict_port)}/readyz",
        **{f"worker-{n}": f"{telemetry}:{port}/readyz" for n, port in enumerate(worker_ports(settings), 1)},
        "reaper": f"{telemetry}:{settings.reaper_metrics_port}/readyz",
    }


def is_ready(url: str) -> bool:
    """Return whether a process reports that it is ready."""
    try:
        with _open(url) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def _get(url: str) -> Any:
    """Return the JSON value at an address, whatever its status; None where there is none."""
    try:
        with _open(url) as answer:
            body = answer.read(65_536)
    except urllib.error.HTTPError as error:
        body = error.read(65_536)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None


def _open(url: str) -> Any:
    # Our own process on this machine, and no key is sent, so its certificate is not verified.
    unverified = ssl._create_unverified_context() if url.startswith("https") else None  # noqa: S323
    return urllib.request.urlopen(url, timeout=2, context=unverified)  # noqa: S310 (our own address)
