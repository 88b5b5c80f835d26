"""A worker takes part in a gang only where strangers cannot reach TensorFlow's open server."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from fitserve.settings import Settings
from workers.attempt import gang_address
from workers.attempt.gang_address import NoFreePort, free_address, reachable, why_no_gang


def interfaces(*addresses: str) -> Any:
    rows = [SimpleNamespace(family=socket.AF_INET6 if ":" in one else socket.AF_INET, address=one) for one in addresses]
    return lambda: {"eth0": rows}


@pytest.mark.parametrize(
    ("host", "own", "refused"),
    [
        ("127.0.0.1", ["127.0.0.1", "10.0.0.7"], None),
        ("10.0.0.7", ["10.0.0.7", "fe80::1%eth0", "fd00::1"], None),
        ("8.8.8.8", ["10.0.0.7"], "the public address 8.8.8.8"),
        ("10.0.0.7", ["10.0.0.7", "8.8.8.8"], "the public address 8.8.8.8"),
        ("10.0.0.7", ["10.0.0.7", "2606:4700::1"], "the public address 2606:4700::1"),
        ("no.such.host.invalid", ["10.0.0.7"], "no address"),
    ],
)
def test_a_public_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, host: str, own: list[str], refused: str | None
) -> None:
    monkeypatch.setattr(gang_address.psutil, "net_if_addrs", interfaces(*own))
    why = why_no_gang(Settings(cluster_host=host))
    assert why is None if refused is None else refused in str(why)
    assert why_no_gang(Settings(cluster_host=host, cluster_public=True)) is None


def test_a_free_port_of_the_range_is_announced() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NoFreePort):
            free_address(Settings(cluster_ports=str(port)))
    assert free_address(Settings(cluster_host="fd00::7", cluster_ports=str(port))) == f"[fd00::7]:{port}"
    for wrong in ("80-90", "18600-18500", "a-b", "18600-70000"):
        with pytest.raises(ValidationError, match="a range of ports"):
            Settings(cluster_ports=wrong)


def test_loopback_reaches_the_same_machine_alone_and_an_unknown_name_nobody() -> None:
    assert reachable("127.0.0.1:1", "one", "127.0.0.1:2", "one")
    assert not reachable("127.0.0.1:1", "one", "127.0.0.1:2", "other")
    assert not reachable("10.0.0.1:1", "one", "127.0.0.1:2", "other")
    assert reachable("10.0.0.1:1", "one", "10.0.0.2:2", "other")
    assert reachable("[fd00::1]:1", "one", "[fd00::2]:2", "other")
    assert not reachable("10.0.0.1:1", "one", "no.such.host.invalid:2", "other")
