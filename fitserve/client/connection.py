"""Shared by the resources of one client: connections, retries, the server's addresses."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import ip_address
from threading import Event
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2
from pydantic import ConfigDict, PrivateAttr

from fitserve import __version__, local_server
from fitserve.client.errors import Unreachable, error_of
from fitserve.client.upload_body import UploadBody
from fitserve.data_model import DataModel
from fitserve.errors import BadInput, FitserveError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Query = Mapping[str, str | int | float | bool | list[str] | None]

_REFUSED_BEFORE_ACTING = frozenset({429, 503})
_MAY_HAVE_ACTED = frozenset({408, 502, 504})
_PROBE_SECONDS = 3.0
FIRST_KEY = "first-key"  # written by `fitserve up` at its first start, with mode 0600

# Set once nobody awaits the call that this thread runs for an `AsyncClient`.
abandoned: ContextVar[Event | None] = ContextVar("abandoned", default=None)


def pause(seconds: float = 0.0) -> None:
    """Sleep. Raise CancelledError as soon as nobody awaits this call any more."""
    event = abandoned.get()
    if event is None:
        time.sleep(seconds)
    elif event.wait(seconds):
        raise CancelledError


@dataclass(slots=True)
class Address:
    """The API's and the prediction service's base URLs, without a trailing slash."""

    base_url: str
    api_key: str | None = field(repr=False)
    predict_url: str | None = None  # learned from the API when it is first needed

    @classmethod
    def find(cls, base_url: str | None, api_key: str | None, predict_url: str | None) -> Address:
        """Fill in what is None from FITSERVE_URL, FITSERVE_API_KEY, FITSERVE_PREDICT_URL.

        Without FITSERVE_URL, the server is on this machine: at FITSERVE_PORT, else at the address that the server
        running from FITSERVE_HOME (./fitserve-data) recorded, else at port 8000. That folder's key file is used only
        for a server on this machine, so that the key is never sent elsewhere.
        """
        predict = predict_url or os.environ.get("FITSERVE_PREDICT_URL")
        url, here = base_url or os.environ.get("FITSERVE_URL"), False
        if not url and not (port := os.environ.get("FITSERVE_PORT")):
            server = local_server.find()
            url, here = (server.base_url, True) if server else ("http://127.0.0.1:8000", False)
            predict = predict or (server.predict_url if server else None)
        url = _checked(url or f"http://127.0.0.1:{port}", "FITSERVE_URL")
        key = api_key or os.environ.get("FITSERVE_API_KEY") or None
        if key is None and (here or is_this_machine(url)):
            key = key_of_home()
        return cls(url, key.strip() if key else None, _checked(predict, "FITSERVE_PREDICT_URL") if predict else None)

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        headers = {"User-Agent": f"fitserve-python/{__version__}", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def base(self, service: Literal["control", "predict"]) -> str:
        """Return a service's base URL."""
        return self.base_url if service == "control" else self.predict_url or self.guessed_predict_url()

    def guessed_predict_url(self) -> str:
        """Return the API's host with FITSERVE_PREDICT_PORT (8501)."""
        parts = urlsplit(self.base_url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return urlunsplit((parts.scheme, f"{host}:{os.environ.get('FITSERVE_PREDICT_PORT', 8501)}", "", "", ""))


def _checked(url: str, name: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise BadInput(f"This is not a server's address: {url}", received=url, expected=f"{name}=http://host:port")
    return url.rstrip("/")


def is_this_machine(url: str) -> bool:
    """Return whether a URL names a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def key_of_home() -> str | None:
    """Return the first key of the server whose home is here, if we may read it."""
    path = local_server.home_here() / FIRST_KEY
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after how long, a request is sent again. Times are in seconds."""

    retries: int = 4
    first_pause: float = 0.25
    longest_pause: float = 8.0
    longest_retry_after: float = 60.0  # if a server asks for more, its error is raised at once

    def pause_before(self, retry: int, retry_after: float | None = None) -> float:
        """Return the pause before a retry (from 0): exponential, half of it random; at least `retry_after`."""
        backoff = min(self.longest_pause, self.first_pause * 2.0**retry)
        return max(retry_after or 0.0, backoff * random.uniform(0.5, 1.0))

    def covers(self, error: FitserveError, repeatable: bool) -> bool:
        """Return whether the same request may succeed later, and sending it again does no harm."""
        if error.retry_after is not None and error.retry_after > self.longest_retry_after:
            return False
        if isinstance(error, Unreachable):
            return repeatable or not error.sent
        return error.status in _REFUSED_BEFORE_ACTING or (error.status in _MAY_HAVE_ACTED and repeatable)


class RequestOptions(TypedDict, total=False):
    """Options of a request besides its method and path. Members of `query` that are None are left out."""

    query: Query
    headers: Mapping[str, str]
    json: Any
    content: bytes | UploadBody
    service: Literal["control", "predict"]
    timeout: float  # seconds without a byte; the client's own when left out


class Connection:
    """Requests to one server: its API and its prediction service. Safe to share between threads."""

    def __init__(self, http: httpx2.Client, address: Address, policy: RetryPolicy | None = None) -> None:
        self.http = http
        self.address = address
        self.policy = policy or RetryPolicy()

    def send(
        self, method: str, path: str, *, repeatable: bool = True, **options: Unpack[RequestOptions]
    ) -> httpx2.Response:
        """Send a request until its answer is below 400, as the retry policy allows.

        `repeatable` says that sending it twice does no harm. Raises the server's error, or Unreachable.
        """
        return self.with_retries(lambda: self.send_once(method, path, **options), repeatable)

    def send_once(self, method: str, path: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a request without retries. Raises the server's error, or Unreachable."""
        with self.stream(method, path, **options) as response:
            response.read()
            return response

    @contextmanager
    def stream(self, method: str, path: str, **options: Unpack[RequestOptions]) -> Iterator[httpx2.Response]:
        """Send a request without retries; the block reads the body. Raises the server's error, or Unreachable."""
        pause()
        request = self._build(method, path, **options)
        try:
            response = self.http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    response.read()
                    raise error_of(response)
                yield response
            finally:
                response.close()
        except httpx2.TransportError as error:
            raise _unreachable(error, self.address.base(options.get("service", "control"))) from error

    def _build(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | UploadBody | None = None,
        service: Literal["control", "predict"] = "control",
        timeout: float | None = None,
    ) -> httpx2.Request:
        all_headers = {**self.address.headers(), **(headers or {})}
        if isinstance(content, UploadBody):
            all_headers.setdefault("Content-Type", content.content_type)
            if content.size is not None:  # so that the server can refuse it at once
                all_headers["Content-Length"] = str(content.size)
        return self.http.build_request(
            method,
            self.address.base(service) + _unmoved(path),
            params={key: value for key, value in (query or {}).items() if value is not None},
            headers=all_headers,
            json=json,
            content=content.chunks() if isinstance(content, UploadBody) else content,
            timeout=(
                httpx2.USE_CLIENT_DEFAULT
                if timeout is None
                else httpx2.Timeout(timeout, connect=5.0, write=min(timeout, 60.0))
            ),
        )

    def with_retries(self, attempt: Callable[[], T], repeatable: bool = True) -> T:
        """Return what `attempt` returns, calling it again after errors that the retry policy covers."""
        retry = 0
        while True:
            try:
                return attempt()
            except FitserveError as error:
                if retry >= self.policy.retries or not self.policy.covers(error, repeatable):
                    raise
                seconds = self.policy.pause_before(retry, error.retry_after)
            pause(seconds)
            retry += 1

    def get(self, path: str, query: Query | None = None) -> Any:
        """Return the JSON value at a path of the API."""
        return self.send("GET", path, query=query or {}).json()

    def pages(
        self, path: str, make: Callable[[Any], T], query: Query | None = None, limit: int | None = None
    ) -> Iterator[T]:
        """Yield `make(item)` for each item of a list, requesting page by page; at most `limit` of them."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = {} if left is None else {"limit": min(left, 100)}
            page = self.get(path, {**(query or {}), **size, "cursor": cursor})
            items = page if isinstance(page, list) else page["items"]
            yield from map(make, items[:left])
            left = None if left is None else left - len(items)
            cursor = None if isinstance(page, list) else page.get("next_cursor")
            if not cursor:
                return

    def find_predict(self) -> None:
        """Learn where the prediction service is: from the API, else the same host's usual port.

        If that address cannot be reached from here (inside a cluster, for example), the API forwards requests to it.
        """
        address = self.address
        if address.predict_url is not None:
            return
        try:
            limits = self.get("/api/v1/limits")
            url = limits.get("predict_url") if isinstance(limits, dict) else None
        except FitserveError:
            url = None  # the API is unreachable, or the key may only predict; the prediction service may still respond
        address.predict_url = str(url or address.guessed_predict_url()).rstrip("/")
        try:
            self.send_once("GET", "/livez", service="predict", timeout=_PROBE_SECONDS)
        except Unreachable:
            address.predict_url = address.base_url
        except FitserveError:
            pass  # any response shows that it is reachable


def _unmoved(path: str) -> str:
    """Return a path that no id or name in it has turned into another one, as `../keys` would. Raises BadInput."""
    if not {".", ".."}.isdisjoint(unquote(path).split("/")) or not path.isprintable() or set(path) & set("?#\\"):
        raise BadInput("An id or a name has signs that no id or name has.", received=path[:200])
    return path


def chunks(response: httpx2.Response) -> Iterator[bytes]:
    """Yield a streamed response's bytes as they come."""
    for chunk in response.iter_bytes():
        pause()
        yield chunk


def _unreachable(error: httpx2.TransportError, base_url: str) -> Unreachable:
    """Return our error for a broken connection. If no connection was made, the server cannot have acted."""
    not_sent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    if isinstance(error, httpx2.TimeoutException):
        detail = f"The server at {base_url} did not answer in time."
    elif not_sent:
        detail = f"No server answers at {base_url}."
    else:
        detail = f"The connection to {base_url} broke."
    fix = "Start one with `fitserve up`, or say where it is: FITSERVE_URL, or --url." if not_sent else None
    result = Unreachable(detail, fix=fix)
    result.sent = not not_sent
    result.args = (detail if fix is None else f"{detail} {fix}",)
    return result


class Resource:
    """The methods of one noun."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection.address.base_url}>"


class Handle(DataModel):
    """An object from the server's answer, with methods that send further requests about it.

    Members that a newer server adds are ignored.
    """

    model_config = ConfigDict(extra="ignore")
    _connection: Connection = PrivateAttr()

    @classmethod
    def bind(cls, value: Any, connection: Connection) -> Self:
        """Return the JSON value of an answer as a handle."""
        handle = cls.model_validate(value)
        handle._connection = connection
        return handle

    def _update(self, value: Any) -> Self:
        """Update this object from the server's newer JSON value."""
        newer = type(self).model_validate(value)
        self.__dict__.update(newer.__dict__)
        self.__pydantic_fields_set__.update(newer.__pydantic_fields_set__)
        return self


def local(method: F) -> F:
    """Mark a method that sends no request: on an `AsyncClient`, too, it is called without `await`."""
    method.local = True  # type: ignore[attr-defined]
    return method
