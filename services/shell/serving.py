"""uvicorn that stops without breaking a connection which a proxy has just opened."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

LAME_DUCK = 0.25  # seconds


class Server(uvicorn.Server):
    """Closes its door first, and for LAME_DUCK seconds still reads what comes over connections already made.

    uvicorn closes both at once: a request that a proxy has sent and we have not read is lost, and a proxy may not
    send it elsewhere unless its method is idempotent.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAME_DUCK)
        await super().shutdown(sockets)
