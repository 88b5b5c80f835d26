"""What holds for every method of both clients: retries, errors, pages, streams."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from fitserve.client import Unreachable
from fitserve.client.connection import Connection, ask, pages
from fitserve.client.drive import AsyncDriver, SyncDriver
from fitserve.client.effects import Answer, Call, Listing
from fitserve.client.errors import retry_after
from fitserve.client.events import ServerEvent, follow
from fitserve.client.retry import Patience
from fitserve.client.server_address import Address
from fitserve.client.upload_body import upload_of
from fitserve.errors import BadInput, Conflict, FitserveError, NotFound, TooMany, Unauthenticated
from tests.client.toy import Toy, hang_up, says, streams, toy_server

QUICK = Patience(retries=3, first_pause=0.01, longest_pause=0.02)


@pytest.fixture
def toy() -> Iterator[Toy]:
    with toy_server() as running:
        yield running


@pytest.fixture
def connection(toy: Toy) -> Iterator[Connection]:
    address = Address(toy.url, "key_1.secret")
    with httpx2.Client(timeout=2) as http:
        yield Connection(SyncDriver(http, address), address, QUICK)


def send(connection: Connection, call: Call) -> Answer:
    answer: Answer = connection.driver.run(ask(connection, call))
    return answer


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_it_asks_again_when_the_server_is_busy(toy: Toy, connection: Connection, status: int) -> None:
    toy.script = [says(status, {"detail": "busy"}), hang_up, says(200, {"ok": True})]
    assert send(connection, Call("GET", "/x", {"a": 1, "b": None})).json() == {"ok": True}
    assert [seen.path for seen in toy.seen] == ["/x?a=1"] * 3
    assert toy.seen[0].headers["authorization"] == "Bearer key_1.secret"


def test_it_waits_as_long_as_retry_after_says(toy: Toy, connection: Connection) -> None:
    toy.script = [says(503, Retry_After="1"), says(200, {})]
    started = time.monotonic()
    send(connection, Call("GET", "/x"))
    assert time.monotonic() - started >= 1.0


def test_it_does_not_wait_for_hours(toy: Toy, connection: Connection) -> None:
    toy.script = [says(429, {"type": "urn:fitserve:problem:too-many", "detail": "used up"}, Retry_After="3600")]
    with pytest.raises(TooMany) as caught:
        send(connection, Call("GET", "/x"))
    assert caught.value.retry_after == 3600


def test_what_must_not_happen_twice_is_sent_once(toy: Toy, connection: Connection) -> None:
    toy.script = [hang_up]
    with pytest.raises(Unreachable, match="broke"):
        send(connection, Call.with_json("POST", "/keys", {}, repeatable=False))
    assert len(toy.seen) == 1
    toy.script = [says(503), says(201, {})]  # refused before acting, so that it may be sent again
    assert send(connection, Call.with_json("POST", "/keys", {}, repeatable=False)).status == 201


def test_it_gives_up_after_its_retries_and_says_where_it_looked() -> None:
    address = Address("http://127.0.0.1:9", None)
    with httpx2.Client() as http, pytest.raises(Unreachable, match=r"127\.0\.0\.1:9.*fitserve up"):
        send(Connection(SyncDriver(http, address), address, QUICK), Call("GET", "/x"))


def test_problem_details_become_the_error_that_the_server_raised(toy: Toy, connection: Connection) -> None:
    body = {
        "type": "urn:fitserve:problem:bad-input",
        "title": "Bad input",
        "status": 422,
        "detail": "2 problems.",
        "errors": [
            {"detail": "No column gpq.", "pointer": "/features/1", "received": "gpq", "fix": "Did you mean gpa?"},
            {"detail": "Too wide.", "row": 9, "column": "rank", "unknown": 1},
        ],
        "request_id": "req_1",
        "self": "a member that is no keyword",
    }
    toy.script = [says(422, body)]
    with pytest.raises(BadInput) as caught:
        send(connection, Call("GET", "/x"))
    error = caught.value
    assert [(p.pointer, p.row, p.column) for p in error.problems] == [("/features/1", None, None), (None, 9, "rank")]
    assert error.extra["request_id"] == "req_1"
    for words in ("2 problems.", "No column gpq.", "at /features/1", "Did you mean gpa?", "row 9, column rank"):
        assert words in str(error)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"type": "urn:fitserve:problem:unauthenticated"}, Unauthenticated),
        (404, {"error": "Servable not found"}, NotFound),  # as the prediction protocols say it
        (409, {"type": "urn:fitserve:problem:a-newer-kind"}, Conflict),
        (418, ["no object"], BadInput),
        (500, None, FitserveError),
    ],
)
def test_each_status_has_its_error(
    toy: Toy, connection: Connection, status: int, body: object, kind: type[FitserveError]
) -> None:
    toy.script = [says(status, body)]
    with pytest.raises(kind) as caught:
        send(connection, Call("GET", "/x"))
    assert caught.value.status == status
    assert isinstance(body, list | None) or "error" not in body or str(caught.value) == body["error"]


def test_a_broken_upload_is_sent_again_from_its_beginning(toy: Toy, connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a\n1\n")
    toy.script = [hang_up, says(201, {})]
    send(connection, Call("PUT", "/d", content=upload_of(path)))
    assert [seen.body for seen in toy.seen] == [b"a\n1\n"] * 2
    assert toy.seen[1].headers["content-length"] == "4"
    toy.script = [says(201, {})]
    send(connection, Call("PUT", "/d", content=upload_of(_Pipe(b"no length"))))
    assert toy.seen[2].body == b"no length"


class _Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_lists_are_read_page_by_page(toy: Toy, connection: Connection) -> None:
    toy.script = [says(200, {"items": [1, 2], "next_cursor": "c"}), says(200, {"items": [3], "next_cursor": None})]
    assert list(connection.driver.iterate(pages(connection, "/l", {"q": "x"}, int))) == [1, 2, 3]
    assert [seen.path for seen in toy.seen] == ["/l?q=x", "/l?q=x&cursor=c"]
    toy.script = [says(200, {"items": [1, 2], "next_cursor": "c"})]
    assert list(connection.driver.iterate(pages(connection, "/l", {}, int, 2))) == [1, 2]


def event(number: int, data: str = "{}") -> bytes:
    return f"id: {number}\ndata: {data}\n\n".encode()


def following(
    call: Call, silence: float, on_lost: Callable[[FitserveError], None] | None = None
) -> Listing[ServerEvent]:
    def itself(event: ServerEvent) -> ServerEvent:
        return event

    def is_last(event: ServerEvent) -> bool:
        return event.data == "end"

    return follow(call, after="", read=itself, ended=is_last, patience=QUICK, silence=silence, on_lost=on_lost)


def watch(connection: Connection, lost: list[FitserveError], silence: float = 5) -> Iterator[ServerEvent]:
    call = Call("GET", "/events")
    stream = following(call, silence, lost.append)
    found: Iterator[ServerEvent] = connection.driver.iterate(stream)
    return found


def test_a_stream_that_breaks_misses_nothing_and_repeats_nothing(toy: Toy, connection: Connection) -> None:
    half = event(3)[:9]
    toy.script = [
        streams(event(1), event(2), half, cut=True),
        hang_up,
        says(503, Retry_After="1"),
        streams(b": heartbeat\n\n", event(3)),
        streams(event(4, "end"), event(5)),
    ]
    lost: list[FitserveError] = []
    assert [e.id for e in watch(connection, lost)] == ["1", "2", "3", "4"]
    assert [seen.headers.get("last-event-id") for seen in toy.seen] == [None, "2", "2", "2", "3"]
    assert len(lost) == 4


def test_a_stream_ends_with_the_servers_refusal(toy: Toy, connection: Connection) -> None:
    toy.script = [says(404, {"detail": "No run."})]
    with pytest.raises(NotFound, match="No run"):
        list(watch(connection, []))


def test_a_stream_gives_up_when_the_server_stays_away(toy: Toy, connection: Connection) -> None:
    toy.script = [hang_up] * 100
    with pytest.raises(Unreachable):
        list(watch(connection, [], silence=0.1))


def test_the_asynchronous_driver_does_the_same(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a\n1\n")
    toy.script = [
        hang_up,
        says(201, {}),
        says(200, {"items": [1], "next_cursor": "c"}),
        says(200, {"items": [2]}),
        streams(event(1), cut=True),
        streams(event(2, "end")),
        says(404, {"detail": "Nothing."}),
    ]

    async def main() -> None:
        address = Address(toy.url, None)
        async with httpx2.AsyncClient(timeout=2) as http:
            connection = Connection(AsyncDriver(http, address), address, QUICK)
            await connection.driver.run(ask(connection, Call("PUT", "/d", content=upload_of(path))))
            assert [i async for i in connection.driver.iterate(pages(connection, "/l", {}, int))] == [1, 2]
            found = connection.driver.iterate(following(Call("GET", "/e"), 5))
            assert [e.id async for e in found] == ["1", "2"]
            with pytest.raises(NotFound):
                await connection.driver.run(ask(connection, Call("GET", "/x")))

    asyncio.run(main())
    assert toy.seen[1].body == b"a\n1\n"


def test_a_client_is_shared_between_threads(toy: Toy, connection: Connection) -> None:
    toy.script = [says(200, {"n": 1})] * 40
    found: list[int] = []

    def ask_ten() -> None:
        found.extend(send(connection, Call("GET", "/x")).json()["n"] for _ in range(10))

    threads = [threading.Thread(target=ask_ten) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 40


def test_retry_after_is_read_in_both_forms() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
