"""Operations without input and output: what a method wants done, said once for `Client` and for `AsyncClient`.

An operation is a generator that yields effects and is sent their outcomes. `fitserve.client.drive` performs them,
blocking or not. So pagination, retries, waiting and event streams are each written once:

    @operation
    def get(self, run_id: str) -> Operation[Run[M]]:
        answer = yield from self._ask(Call("GET", f"/api/v1/runs/{run_id}"))
        return ...

`Client.runs` is a `Runs[Sync]`, so that `client.runs.get(id)` is a `Run[Sync]`; `AsyncClient.runs` is a `Runs[Async]`,
where the same call is a coroutine of a `Run[Async]`. `listing` does the same for (async) iterators.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from inspect import Signature, signature
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
M = TypeVar("M")
Query = Mapping[str, str | int | float | bool | None]


class Sync:
    """Mark of what belongs to a `Client`."""


class Async:
    """Mark of what belongs to an `AsyncClient`."""


class Body(Protocol):
    """Bytes to be sent, as often as it takes."""

    content_type: str
    size: int | None  # bytes, where known

    def chunks(self) -> Iterator[bytes]:
        """The bytes from their beginning."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request. `repeatable` says that sending it twice does no harm."""

    method: str
    path: str
    query: Query = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Body | None = None
    service: Literal["control", "predict"] = "control"
    timeout: float | None = None  # seconds; the client's own when None
    repeatable: bool = True

    @classmethod
    def with_json(cls, method: str, path: str, value: Any, **options: Any) -> Call:
        """A call whose body is that value as JSON."""
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        return cls(method, path, content=content, headers=headers, **options)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response; `content` is empty for a stream. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.content)


@dataclass(frozen=True, slots=True)
class Send:
    """Send and read the whole answer. Sent back: an Answer; thrown in: Unreachable."""

    call: Call


@dataclass(frozen=True, slots=True)
class Open:
    """Send and read the head of the answer. Sent back: an Answer; thrown in: Unreachable."""

    call: Call


@dataclass(frozen=True, slots=True)
class Read:
    """The next bytes of what `Open` opened; empty at its end. Thrown in: Unreachable."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[T_co]):
    """Hand an item to whoever iterates."""

    item: T_co


Effect = Send | Open | Read | Sleep
Operation = Generator[Effect, Any, T_co]
Listing = Generator[Effect | Item[T_co], Any, None]


class Driver(Protocol):
    """Performs operations."""

    def run(self, operation: Operation[Any]) -> Any:
        """Its result, or a coroutine of it."""
        ...

    def iterate(self, listing: Listing[Any]) -> Any:
        """An iterator, or an asynchronous one, over what it emits."""
        ...


class Bound(Generic[M]):
    """Something whose methods talk to a server, by `_connection.driver`."""

    _connection: Any


class operation(Generic[P, T_co]):  # noqa: N801
    """A method that asks the server: it blocks on a `Client`, and is awaited on an `AsyncClient`."""

    def __init__(self, function: Callable[Concatenate[Any, P], Operation[T_co]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @overload
    def __get__(self, instance: None, owner: Any) -> operation[P, T_co]: ...
    @overload
    def __get__(self, instance: Bound[Sync], owner: Any) -> Callable[P, T_co]: ...
    @overload
    def __get__(self, instance: Bound[Async], owner: Any) -> Callable[P, Coroutine[Any, Any, T_co]]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self

        @wraps(self.function)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._connection.driver.run(self.function(instance, *args, **kwargs))

        method.__signature__ = _without_self(self.function)  # type: ignore[attr-defined]
        return method


class listing(Generic[P, T_co]):  # noqa: N801
    """A method that iterates: an iterator on a `Client`, an asynchronous one on an `AsyncClient`."""

    def __init__(self, function: Callable[Concatenate[Any, P], Listing[T_co]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @overload
    def __get__(self, instance: None, owner: Any) -> listing[P, T_co]: ...
    @overload
    def __get__(self, instance: Bound[Sync], owner: Any) -> Callable[P, Iterator[T_co]]: ...
    @overload
    def __get__(self, instance: Bound[Async], owner: Any) -> Callable[P, AsyncIterator[T_co]]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self

        @wraps(self.function)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._connection.driver.iterate(self.function(instance, *args, **kwargs))

        method.__signature__ = _without_self(self.function)  # type: ignore[attr-defined]
        return method


def _without_self(function: Callable[..., Any]) -> Signature:
    """What `help()` and completion in a notebook show."""
    shown = signature(function)
    return shown.replace(parameters=list(shown.parameters.values())[1:])
