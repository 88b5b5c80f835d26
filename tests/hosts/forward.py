"""`python -m tests.hosts.forward LISTEN TARGET`: carry connections between `address:port` or Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def forward(listen: str, target: str) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if target.startswith("/"):
                inner = await asyncio.open_unix_connection(target)
            else:
                inner = await asyncio.open_connection(*_host_and_port(target))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, inner[1]), _pump(inner[0], writer))

    if listen.startswith("/"):
        server = await asyncio.start_unix_server(carry, listen)
    else:
        server = await asyncio.start_server(carry, *_host_and_port(listen))
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    asyncio.run(forward(sys.argv[1], sys.argv[2]))
