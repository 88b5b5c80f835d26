"""`python -m tests.hosts.bad_line ADDRESS DELAY_MS LOSS_PERCENT`: delay and lose packets to an address, as netem does.

For kernels without netem. It runs on the router: packets to the address leave by a TUN device, wait here, and come back
by it. All of it is undone when the process ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

DEVICE = "/dev/net/tun"
_SET_NAME = 0x400454CA  # TUNSETIFF
_PACKETS, _WITHOUT_HEADER = 0x0001, 0x1000  # IFF_TUN, IFF_NO_PI
_TABLE = "77"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def open_device(address: str) -> int:
    """Make a TUN device that packets to `address` are routed through. Returns its file descriptor."""
    device = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    asked = struct.pack("16sH22x", b"bad%d", _PACKETS | _WITHOUT_HEADER)
    name = fcntl.ioctl(device, _SET_NAME, asked)[:16].rstrip(b"\0").decode()
    for of in ("all", name):  # the packets come back from where their sender is not
        Path(f"/proc/sys/net/ipv4/conf/{of}/rp_filter").write_text("0")
    _ip("link", "set", name, "up")
    _ip("route", "add", "default", "dev", name, "table", _TABLE)
    _ip("rule", "add", "priority", "100", "iif", name, "lookup", "main")
    _ip("rule", "add", "priority", "101", "to", address, "lookup", _TABLE)
    return device


async def disturb(address: str, delay: float, loss: float) -> None:
    device, loop, chance = open_device(address), asyncio.get_running_loop(), random.Random()

    def take() -> None:
        packet = os.read(device, 65_536)
        if packet[0] >> 4 == 4 and chance.random() >= loss:
            loop.call_later(delay, os.write, device, packet)

    loop.add_reader(device, take)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    asyncio.run(disturb(sys.argv[1], float(sys.argv[2]) / 1000, float(sys.argv[3]) / 100))
