"""Addresses for training together: where a trainer can be reached, and whether that is allowed on this machine.

TensorFlow's server has neither encryption nor authentication, and listens on every address of the machine, whichever
one the others connect to: anyone who reaches its port can run code in the trainer. So a machine with a public address
takes part only if its operator has declared that the ports are closed to the outside.
"""

from __future__ import annotations

import random
import socket
from ipaddress import ip_address

import psutil

from fitserve import name_resolution
from fitserve.settings import Settings


class NoFreePort(Exception):
    """Every port of the range is in use."""


def why_no_gang(settings: Settings) -> str | None:
    """Return why this worker must not train together with others; None if it may."""
    if settings.cluster_public:
        return None
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6) and _is_public(one.address):
                return f"this machine has the public address {one.address}"
    try:
        own = name_resolution.addresses(settings.resolved_cluster_host, None)
    except OSError:
        return f"FITSERVE_CLUSTER_HOST: no address for {settings.resolved_cluster_host!r}"
    for address in own:
        if _is_public(address):
            return f"FITSERVE_CLUSTER_HOST is the public address {address}"
    return None


def free_address(settings: Settings) -> str:
    """Return `host:port` with a free port of the range. Raises NoFreePort."""
    first, _, last = settings.cluster_ports.partition("-")
    ports = list(range(int(first), int(last or first) + 1))
    random.shuffle(ports)  # random, since several trainers of a machine may look at the same time
    for port in ports:
        with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        host = settings.resolved_cluster_host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    raise NoFreePort(f"every port of {settings.cluster_ports} is in use")


def host_of(address: str) -> str:
    """Return the host of `host:port`."""
    return address.rpartition(":")[0].strip("[]")


def reachable(own: str, own_hostname: str, other: str, other_hostname: str) -> bool:
    """Return whether two workers can reach each other: names resolve here; loopback only within one machine."""
    local = [_is_loopback(address) for address in (own, other)]
    if any(local) and own_hostname != other_hostname:
        return False
    try:
        return bool(name_resolution.addresses(host_of(other), None))
    except OSError:
        return False


def _is_loopback(address: str) -> bool:
    host = host_of(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_public(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_global
    except ValueError:
        return False
