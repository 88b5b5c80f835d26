"""`Client` and `AsyncClient`: the same resources, blocking or awaited."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from fitserve.client.connection import Connection, Resource, ask, ask_json, find_predict, pages
from fitserve.client.datasets import Datasets
from fitserve.client.drive import AsyncDriver, SyncDriver
from fitserve.client.effects import Async, Call, Listing, M, Operation, Sync, listing, operation
from fitserve.client.keys import Keys
from fitserve.client.models import Models
from fitserve.client.retry import Patience
from fitserve.client.runs import Runs
from fitserve.client.server_address import Address
from fitserve.wire.admin import AuditEntry, SystemInfo

TIMEOUT = 60.0  # seconds without a byte


class _Server(Resource[M]):
    """What both clients can ask of a server as a whole."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.datasets: Datasets[M] = Datasets(connection)
        self.runs: Runs[M] = Runs(connection)
        self.models: Models[M] = Models(connection)
        self.keys: Keys[M] = Keys(connection)

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return self._connection.address.base_url

    @operation
    def limits(self) -> Operation[dict[str, Any]]:
        """The server's upper bounds, and where its prediction service is."""
        found: dict[str, Any] = yield from ask_json(self._connection, "GET", "/api/v1/limits")
        return found

    @operation
    def spec_schema(self) -> Operation[dict[str, Any]]:
        """The JSON Schema of a spec, for editors."""
        found: dict[str, Any] = yield from ask_json(self._connection, "GET", "/api/v1/schemas/spec")
        return found

    @operation
    def ready(self) -> Operation[dict[str, Any]]:
        """What `/readyz` says. Raises Unavailable where the server cannot do its work, Unreachable."""
        found: dict[str, Any] = yield from ask_json(self._connection, "GET", "/readyz")
        return found

    @operation
    def telemetry(self, of: Literal["control", "predict"] = "control") -> Operation[str]:
        """The text of `/metrics` of the API (`control`) or of the prediction service (`predict`)."""
        if of == "predict":
            yield from find_predict(self._connection)
        answer = yield from ask(self._connection, Call("GET", "/metrics", service=of))
        return answer.content.decode()

    @operation
    def system(self) -> Operation[SystemInfo]:
        """Workers, the queue and storage, now."""
        return SystemInfo.model_validate((yield from ask_json(self._connection, "GET", "/api/v1/system")))

    @listing
    def audit(self, limit: int | None = None) -> Listing[AuditEntry]:
        """Who changed what, the newest first. Needs the scope `admin`."""
        yield from pages(self._connection, "/api/v1/audit", {}, AuditEntry.model_validate, limit)

    def __repr__(self) -> str:
        key = "with a key" if self._connection.address.api_key else "without a key"
        return f"<{type(self).__name__} of {self.base_url}, {key}>"


def _limits() -> httpx2.Limits:
    return httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=30)


class Client(_Server[Sync]):
    """A client that blocks. Safe to share between threads.

    Args:
        base_url: of the API; FITSERVE_URL, else http://127.0.0.1:8000.
        api_key: FITSERVE_API_KEY, else the first key of a server on this machine whose home is here.
        predict_url: of the prediction service; the API tells where it is.
        timeout: seconds without a byte before a request is given up.
        retries: how often to ask again after a lost connection, 429, 502, 503 or 504, where that does no harm.
        http_client: an httpx2.Client of one's own, for proxies, certificates or tests.

    Example:
        >>> with Client() as client:
        ...     client.datasets.upload("admissions.csv")
        ...     run = client.runs.create(dataset="admissions", target="admit", model="admissions").wait()
        ...     client.models.predict("admissions", [{"gre": 700, "gpa": 3.9, "rank": 1}])
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        predict_url: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = 4,
        http_client: httpx2.Client | None = None,
    ) -> None:
        address = Address.find(base_url, api_key, predict_url)
        self._http = http_client or httpx2.Client(timeout=httpx2.Timeout(timeout, connect=5.0), limits=_limits())
        self._owns_http = http_client is None
        super().__init__(Connection(SyncDriver(self._http, address), address, Patience(retries)))

    def close(self) -> None:
        """Closes the connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Server[Async]):
    """`Client` for asyncio: its methods are awaited, its lists and events are read with `async for`.

    Example:
        >>> async with AsyncClient() as client:
        ...     run = await client.runs.create(dataset="admissions", target="admit")
        ...     async for event in run.events():
        ...         print(event.message)
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        predict_url: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = 4,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        address = Address.find(base_url, api_key, predict_url)
        self._http = http_client or httpx2.AsyncClient(timeout=httpx2.Timeout(timeout, connect=5.0), limits=_limits())
        self._owns_http = http_client is None
        super().__init__(Connection(AsyncDriver(self._http, address), address, Patience(retries)))

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
