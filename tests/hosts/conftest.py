"""Hosts on one machine: the database with the broker, the API, and workers."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.faults.__main__ import LEASES
from tests.faults.cluster import Cluster, Member
from tests.hosts.network import Network, missing

HOSTS = ("data", "web", "worker1", "worker2")


@dataclass
class Deployment:
    """A cluster whose members run on hosts of a network. Its `cluster` sees database and broker directly."""

    network: Network
    cluster: Cluster
    variables: dict[str, str]

    def start(self, role: str, host: str, **environment: str) -> Member:
        """Start a member on a host."""
        namespace = {"FITSERVE_TEST_NETNS": self.network.hosts[host].namespace}
        return self.cluster.start(role, **self.variables, **namespace, **environment)

    def get(self, path: Path, target: str) -> tuple[int, Any]:
        """Send a GET over a Unix socket. Returns status and JSON."""
        return self.ask(path, "GET", target)

    def ask(self, path: Path, method: str, target: str, body: bytes | None = None, kind: str = "") -> tuple[int, Any]:
        """Send a request over a Unix socket. Returns status and JSON."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(path))
        connection.request(method, target, body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def answers(self, path: Path, target: str) -> bool:
        """Whether a GET is answered with 200."""
        try:
            return self.get(path, target)[0] == 200
        except (OSError, ValueError):
            return False


def deployment(
    home: Path, postgres_url: str, hosts: tuple[str, ...] = HOSTS, /, **environment: str
) -> Iterator[Deployment]:
    """Yield a deployment without members."""
    with Network(hosts) as network, Cluster(home, postgres_url, environment=environment) as cluster:
        parsed = make_url(postgres_url)
        data = network.hosts["data"].address
        assert cluster.redis is not None
        network.forward("data", f"{data}:5432", f"{parsed.query['host']}/.s.PGSQL.{parsed.port or 5432}")
        network.forward("data", f"{data}:6379", str(cluster.redis.socket))
        query = {name: value for name, value in parsed.query.items() if name != "host"}
        url = parsed.set(host=data, port=5432, query=query).render_as_string(hide_password=False)
        yield Deployment(
            network, cluster, {"FITSERVE_DATABASE_URL": url, "FITSERVE_REDIS_URL": f"redis://{data}:6379/0"}
        )


@pytest.fixture
def hosts(tmp_path: Path, postgres_url: str) -> Iterator[Deployment]:
    """A deployment with short leases. Skipped where no network namespaces can be made."""
    if reason := missing():
        pytest.skip(f"namespaces: {reason}")
    yield from deployment(tmp_path / "home", postgres_url)


@pytest.fixture
def patient_hosts(tmp_path: Path, postgres_url: str) -> Iterator[Deployment]:
    """A deployment with the leases of production, which a busy machine does not let expire."""
    if reason := missing():
        pytest.skip(f"namespaces: {reason}")
    yield from deployment(tmp_path / "home", postgres_url, **LEASES)
