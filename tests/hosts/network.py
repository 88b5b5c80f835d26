"""Hosts that are really apart: network namespaces behind a router, whose links a test cuts in either direction.

Nothing is closed when a link is cut: packets vanish, as between machines.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import PROJECT, wait_for

_numbers = itertools.count()


def run(*command: str) -> None:
    """Run a command of iproute2. Raises CalledProcessError with its message."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def missing() -> str | None:
    """Return why no network of namespaces can be made here; None where it can."""
    if shutil.which("ip") is None:
        return "no `ip` on the PATH (Debian: apt install iproute2)"
    name = f"fs-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    run("ip", "netns", "delete", name)
    return None


@dataclass(frozen=True)
class Host:
    """One host: its network namespace and its address."""

    namespace: str
    address: str
    router: str  # the router's namespace
    link: str  # the router's end of the link to it

    def cut(self, incoming: bool = True, outgoing: bool = True) -> None:
        """Lose every packet to it, from it, or both."""
        if incoming:
            run("ip", "-n", self.router, "rule", "add", "to", self.address, "blackhole")
        if outgoing:
            run("ip", "-n", self.router, "rule", "add", "from", self.address, "blackhole")

    def mend(self) -> None:
        """Undo every cut."""
        for direction in ("to", "from"):
            command = ["ip", "-n", self.router, "rule", "delete", direction, self.address]
            while subprocess.run(command, capture_output=True, check=False).returncode == 0:
                pass


@dataclass
class Network:
    """A router and its hosts, by name; all of it is gone when the `with` block ends."""

    names: tuple[str, ...]
    hosts: dict[str, Host] = field(default_factory=dict)
    forwarders: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prefix = f"fs{os.getpid()}-{next(_numbers)}"

    def __enter__(self) -> Network:
        router = f"{self.prefix}-router"
        run("ip", "netns", "add", router)
        run("ip", "netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for number, name in enumerate(self.names, 1):
            namespace, link, address = f"{self.prefix}-{name}", f"to-{name}", f"10.77.{number}.2"
            run("ip", "netns", "add", namespace)
            run("ip", "-n", router, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            run("ip", "-n", router, "address", "add", f"10.77.{number}.1/24", "dev", link)
            run("ip", "-n", router, "link", "set", link, "up")
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")
            run("ip", "-n", namespace, "route", "add", "default", "via", f"10.77.{number}.1")
            self.hosts[name] = Host(namespace, address, router, link)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.forwarders:
            process.kill()
            process.wait()
        for host in self.hosts.values():
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", f"{self.prefix}-router"], capture_output=True, check=False)

    def forward(self, host: str, listen: str, target: str) -> None:
        """On a host, carry connections from one address to another: `address:port`, or the path of a Unix socket."""
        self._serve(self.hosts[host].namespace, "tests.hosts.forward", listen, target)

    def disturb(self, host: str, delay_ms: int, loss_percent: int) -> None:
        """Delay and lose packets to a host: by netem, or by a process of ours where the kernel has none."""
        link, address = self.hosts[host].link, self.hosts[host].address
        router = f"{self.prefix}-router"
        netem = ["tc", "-n", router, "qdisc", "replace", "dev", link, "root", "netem"]
        netem += ["delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"]
        if subprocess.run(netem, capture_output=True, check=False).returncode:
            self._serve(router, "tests.hosts.bad_line", address, str(delay_ms), str(loss_percent))

    def unix_socket(self, host: str, port: int, path: Path) -> Path:
        """Return a Unix socket that leads to a port of a host, for the test itself, which stands outside."""
        self.forward(host, str(path), f"127.0.0.1:{port}")
        wait_for(path.exists, 30, str(path))
        return path

    def _serve(self, namespace: str, module: str, *arguments: str) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)
        self.forwarders.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
