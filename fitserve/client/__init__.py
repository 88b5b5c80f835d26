"""The typed HTTP client. It needs httpx2 and pydantic; pandas, polars and matplotlib are used where they are there."""

from fitserve.client.client import AsyncClient, Client
from fitserve.client.errors import RunEnded, Unreachable, WaitedTooLong

__all__ = ["AsyncClient", "Client", "RunEnded", "Unreachable", "WaitedTooLong"]
