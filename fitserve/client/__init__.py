"""The HTTP client. It needs httpx2 and pydantic; pandas, polars and matplotlib are optional."""

from fitserve.client.asynchronous import AsyncClient
from fitserve.client.client import Client
from fitserve.client.errors import RunEnded, Unreachable, WaitedTooLong

__all__ = ["AsyncClient", "Client", "RunEnded", "Unreachable", "WaitedTooLong"]
