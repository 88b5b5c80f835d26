"""What all resources of one client share: its driver, its addresses and its patience; and how they use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from fitserve.client.effects import (
    Answer,
    Bound,
    Call,
    Driver,
    Item,
    Listing,
    M,
    Operation,
    Query,
    Send,
    listing,
    operation,
)
from fitserve.client.retry import Patience, persist
from fitserve.client.server_address import Address
from fitserve.errors import FitserveError

T = TypeVar("T")
_PROBE_SECONDS = 3.0


@dataclass(slots=True)
class Connection:
    """One client's side of the wire."""

    driver: Driver
    address: Address
    patience: Patience = field(default_factory=Patience)


class Resource(Bound[M]):
    """The methods of one noun."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection = connection

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection.address.base_url}>"


class Handle(BaseModel, Bound[M]):
    """Something that the server answered, with methods that ask about it further.

    Members that a newer server adds are kept out of the way.
    """

    model_config = ConfigDict(ignored_types=(operation, listing), extra="ignore")
    _connection: Connection = PrivateAttr()

    def _update(self, fresh: Mapping[str, Any]) -> None:
        """Takes over what the server says now."""
        found = type(self).model_validate(fresh)
        self.__dict__.update(found.__dict__)
        self.__pydantic_fields_set__.update(found.__pydantic_fields_set__)


H = TypeVar("H", bound=Handle[Any])


def bind(cls: type[H], value: Any, connection: Connection) -> H:
    """An answer's value as a handle."""
    made = cls.model_validate(value)
    made._connection = connection
    return made


def ask(connection: Connection, call: Call) -> Operation[Answer]:
    """The answer, asked for again where that may help. Raises what the server's problem details say."""
    return (yield from persist(call, connection.patience))


def ask_json(connection: Connection, method: str, path: str, query: Query | None = None) -> Operation[Any]:
    """The JSON value of an answer to a request without a body."""
    answer = yield from ask(connection, Call(method, path, query or {}))
    return answer.json()


def pages(
    connection: Connection, path: str, query: Query, make: Callable[[Any], T], limit: int | None = None
) -> Listing[T]:
    """Emits every item of a list, page by page; at most `limit` of them."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        size = {} if left is None else {"limit": min(left, 100)}
        page = yield from ask_json(connection, "GET", path, {**query, **size, "cursor": cursor})
        items = page if isinstance(page, list) else page["items"]
        for item in items[:left]:
            yield Item(make(item))
        left = None if left is None else left - len(items)
        cursor = None if isinstance(page, list) else page.get("next_cursor")
        if not cursor:
            return


def gather(listing: Listing[T]) -> Operation[list[T]]:
    """What a listing emits, as one list."""
    found: list[T] = []
    outcome: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = listing.throw(failure) if failure else listing.send(outcome)
        except StopIteration:
            return found
        outcome = failure = None
        if isinstance(effect, Item):
            found.append(effect.item)
            continue
        try:
            outcome = yield effect
        except Exception as error:  # what the driver throws in belongs to the listing
            failure = error


def find_predict(connection: Connection) -> Operation[None]:
    """Learns where the prediction service is: from the API, else the same host's usual port.

    Where that cannot be reached from here (an address within a cluster), the API forwards to it.
    """
    address = connection.address
    if address.predict_url is not None:
        return
    try:
        told = yield from ask_json(connection, "GET", "/api/v1/limits")
        url = told.get("predict_url") if isinstance(told, dict) else None
    except FitserveError:
        url = None  # the API is away, or a key that may only predict: the data plane may well answer
    address.predict_url = str(url or address.guessed_predict_url()).rstrip("/")
    try:
        yield Send(Call("GET", "/livez", service="predict", timeout=_PROBE_SECONDS))
    except FitserveError:
        address.predict_url = address.base_url
