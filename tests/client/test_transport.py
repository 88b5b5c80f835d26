"""Behaviour common to every method of both clients: retries, errors, pages, streams."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fitserve.client import AsyncClient, Client, Unreachable
from fitserve.client.connection import Address, Connection, RetryPolicy
from fitserve.client.errors import retry_after
from fitserve.client.events import ServerEvent, follow
from fitserve.client.runs import Runs
from fitserve.client.upload_body import upload_of
from fitserve.errors import BadInput, Conflict, FitserveError, NotFound, TooLarge, TooMany, Unauthenticated
from tests.client.scripted_server import Reply, ScriptedServer, event_stream, hang_up, json_reply, scripted_server

QUICK = RetryPolicy(retries=3, first_pause=0.01, longest_pause=0.02)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def connection(server: ScriptedServer) -> Iterator[Connection]:
    with httpx2.Client(timeout=2) as http:
        yield Connection(http, Address(server.url, "key_1.secret"), QUICK)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_it_retries_when_the_server_is_busy(server: ScriptedServer, connection: Connection, status: int) -> None:
    server.script = [json_reply(status, {"detail": "busy"}), hang_up, json_reply(200, {"ok": True})]
    assert connection.get("/x", {"a": 1, "b": None}) == {"ok": True}
    assert [request.path for request in server.requests] == ["/x?a=1"] * 3
    assert server.requests[0].headers["authorization"] == "Bearer key_1.secret"


def test_runs_too_large_for_one_answer_are_asked_for_in_halves_each_once(
    server: ScriptedServer, connection: Connection
) -> None:
    too_large = json_reply(413, {"type": "urn:fitserve:problem:too-large", "detail": "too large"})
    server.script = [too_large, json_reply(200, []), json_reply(200, []), too_large]
    assert Runs(connection).get_many(["a", "b", "a", "c"]) == []
    asked = [request.path.partition("?")[2] for request in server.requests]
    assert asked == ["run=a&run=b&run=c", "run=a", "run=b&run=c"]
    with pytest.raises(TooLarge):
        Runs(connection).get_many(["a"])


def test_it_waits_as_long_as_retry_after_says(server: ScriptedServer, connection: Connection) -> None:
    server.script = [json_reply(503, Retry_After="1"), json_reply(200, {})]
    started = time.monotonic()
    connection.get("/x")
    assert time.monotonic() - started >= 1.0


def test_it_does_not_wait_for_hours(server: ScriptedServer, connection: Connection) -> None:
    problem = {"type": "urn:fitserve:problem:too-many", "detail": "used up"}
    server.script = [json_reply(429, problem, Retry_After="3600")]
    with pytest.raises(TooMany) as caught:
        connection.get("/x")
    assert caught.value.retry_after == 3600


def test_what_must_not_happen_twice_is_sent_once(server: ScriptedServer, connection: Connection) -> None:
    server.script = [hang_up]
    with pytest.raises(Unreachable, match="broke"):
        connection.send("POST", "/keys", json={}, repeatable=False)
    assert len(server.requests) == 1
    server.script = [json_reply(503), json_reply(201, {})]  # refused before acting, so that it may be sent again
    assert connection.send("POST", "/keys", json={}, repeatable=False).status_code == 201


def test_it_gives_up_after_its_retries_and_names_the_address() -> None:
    with httpx2.Client() as http, pytest.raises(Unreachable, match=r"127\.0\.0\.1:9.*fitserve up"):
        Connection(http, Address("http://127.0.0.1:9", None), QUICK).get("/x")


def test_problem_details_become_the_error_that_the_server_raised(
    server: ScriptedServer, connection: Connection
) -> None:
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
    server.script = [json_reply(422, body)]
    with pytest.raises(BadInput) as caught:
        connection.get("/x")
    error = caught.value
    assert [(p.pointer, p.row, p.column) for p in error.problems] == [("/features/1", None, None), (None, 9, "rank")]
    assert error.extra["request_id"] == "req_1"
    for words in ("2 problems.", "No column gpq.", "at /features/1", "Did you mean gpa?", "row 9, column rank"):
        assert words in str(error)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"type": "urn:fitserve:problem:unauthenticated"}, Unauthenticated),
        (404, {"error": "Servable not found"}, NotFound),  # as the prediction protocols put it
        (409, {"type": "urn:fitserve:problem:a-newer-kind"}, Conflict),
        (418, ["no object"], BadInput),
        (500, None, FitserveError),
    ],
)
def test_each_status_has_its_error(
    server: ScriptedServer, connection: Connection, status: int, body: object, kind: type[FitserveError]
) -> None:
    server.script = [json_reply(status, body)]
    with pytest.raises(kind) as caught:
        connection.get("/x")
    assert caught.value.status == status
    assert isinstance(body, list | None) or "error" not in body or str(caught.value) == body["error"]


def test_a_broken_upload_is_sent_again_from_its_beginning(
    server: ScriptedServer, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a\n1\n")
    server.script = [hang_up, json_reply(201, {})]
    connection.send("PUT", "/d", content=upload_of(path))
    assert [request.body for request in server.requests] == [b"a\n1\n"] * 2
    assert server.requests[1].headers["content-length"] == "4"
    server.script = [json_reply(201, {})]
    connection.send("PUT", "/d", content=upload_of(_Pipe(b"no length")))
    assert server.requests[2].body == b"no length"


class _Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_lists_are_read_page_by_page(server: ScriptedServer, connection: Connection) -> None:
    first = json_reply(200, {"items": [1, 2], "next_cursor": "c"})
    server.script = [first, json_reply(200, {"items": [3], "next_cursor": None})]
    assert list(connection.pages("/l", int, {"q": "x"})) == [1, 2, 3]
    assert [request.path for request in server.requests] == ["/l?q=x", "/l?q=x&cursor=c"]
    server.script = [first]
    assert list(connection.pages("/l", int, limit=2)) == [1, 2]


def event(number: int, data: str = "{}") -> bytes:
    return f"id: {number}\ndata: {data}\n\n".encode()


def follow_events(connection: Connection, lost: list[FitserveError], silence: float = 5) -> Iterator[ServerEvent]:
    def identity(event: ServerEvent) -> ServerEvent:
        return event

    def is_last(event: ServerEvent) -> bool:
        return event.data == "end"

    return follow(connection, "/events", after="", read=identity, is_last=is_last, silence=silence, on_lost=lost.append)


def test_a_stream_that_breaks_misses_nothing_and_repeats_nothing(
    server: ScriptedServer, connection: Connection
) -> None:
    half = event(3)[:9]
    server.script = [
        event_stream(event(1), event(2), half, cut=True),
        hang_up,
        json_reply(503, Retry_After="1"),
        event_stream(b": heartbeat\n\n", event(3)),
        event_stream(event(4, "end"), event(5)),
    ]
    lost: list[FitserveError] = []
    assert [e.id for e in follow_events(connection, lost)] == ["1", "2", "3", "4"]
    assert [request.headers.get("last-event-id") for request in server.requests] == [None, "2", "2", "2", "3"]
    assert len(lost) == 4


def test_a_stream_ends_with_the_servers_refusal(server: ScriptedServer, connection: Connection) -> None:
    server.script = [json_reply(404, {"detail": "No run."})]
    with pytest.raises(NotFound, match="No run"):
        list(follow_events(connection, []))


def test_a_stream_gives_up_when_the_server_stays_away(server: ScriptedServer, connection: Connection) -> None:
    server.script = [hang_up] * 100
    with pytest.raises(Unreachable):
        list(follow_events(connection, [], silence=0.1))


RUN = {"id": "run_1", "kind": "training", "owner": "ann", "shared": False, "dataset_id": "ds_1", "model": None}
RUN |= {"state": "running", "priority": 0, "attempt": 1, "cancel_requested_at": None, "error": None, "result": None}
RUN |= {"parent_id": None, "started_at": None, "finished_at": None, "created_at": "2026-01-01T00:00:00Z"}


def test_the_asynchronous_client_retries_pages_and_streams(server: ScriptedServer) -> None:
    values = {"run_id": "run_1", "attempt": 1, "level": "info", "message": "", "created_at": "2026-01-01T00:00:00Z"}
    message = json.dumps({**values, "id": 1, "type": "message", "data": {}})
    end = json.dumps({**values, "id": 2, "type": "state", "data": {"state": "failed"}})
    server.script = [
        hang_up,
        json_reply(200, RUN),
        json_reply(200, {"items": [RUN], "next_cursor": "c"}),
        json_reply(200, {"items": [RUN]}),
        event_stream(event(1, message), cut=True),
        event_stream(event(2, end)),
        json_reply(404, {"detail": "Nothing."}),
    ]

    async def main() -> None:
        async with AsyncClient(server.url, "k.s") as client:
            run = await client.runs.get("run_1")
            assert (run.state, run.scores(), repr(run)) == ("running", {}, "<Run run_1: running>")
            assert [one.id async for one in client.runs.list()] == ["run_1", "run_1"]
            assert [event.id async for event in run.events()] == [1, 2]
            with pytest.raises(NotFound):
                await run.refresh()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("endless", "reply"),
    [
        (lambda run: run.wait(), json_reply(200, RUN)),  # it never ends
        (lambda run: run.refresh(), hang_up),
        (lambda run: anext(run.events()), hang_up),
    ],
)
def test_a_cancelled_call_of_the_asynchronous_client_stops(
    server: ScriptedServer, endless: Callable[[Any], Awaitable[Any]], reply: Reply
) -> None:
    server.script = [json_reply(200, RUN), *[reply] * 1000]

    async def main() -> None:
        async with AsyncClient(server.url, "k.s", retries=1000) as client:
            run = await client.runs.get("run_1")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(endless(run), 0.6)
            await asyncio.sleep(0.3)  # for the request in flight
            requests = len(server.requests)
            assert requests > 2
            await asyncio.sleep(1.5)
            assert len(server.requests) == requests

    asyncio.run(main())


def test_a_client_is_shared_between_threads(server: ScriptedServer, connection: Connection) -> None:
    server.script = [json_reply(200, {"n": 1})] * 40
    answers: list[int] = []

    def request_ten() -> None:
        answers.extend(connection.get("/x")["n"] for _ in range(10))

    threads = [threading.Thread(target=request_ten) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [1] * 40


def test_retry_after_is_read_in_both_forms() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None


@pytest.mark.parametrize(
    "id", ["../keys", "..", "a/../../keys", "%2e%2e/keys", "a?limit=1", "a#b", "a\\b", "a\nb", "."]
)
def test_an_id_cannot_lead_to_another_path(id: str) -> None:
    client = Client("http://127.0.0.1:1", "id.secret", retries=0)
    for ask in (client.runs.get, client.keys.revoke, client.webhooks.delete):
        with pytest.raises(BadInput, match="An id or a name"):
            ask(id)
