"""The gRPC server's threads: calls that are held up delay no others, and their number is limited."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import grpc
import pytest

from services.predict.server.grpc_server import _Methods
from services.predict.server.grpc_threads import FREE, Threads, Wait
from tests.predict.toy_registry import eventually
from tests.waiting import PATIENCE


@contextlib.contextmanager
def stopped_at_end(threads: Threads) -> Iterator[threading.Event]:
    """An event that the calls of a test wait for."""
    gate = threading.Event()
    try:
        yield gate
    finally:
        gate.set()
        threads.stop()


@pytest.mark.parametrize("is_declared", [True, False])
def test_calls_that_are_held_up_are_replaced(is_declared: bool) -> None:
    threads, others = Threads(60, 1_000), threading.Semaphore(0)
    with stopped_at_end(threads) as gate:

        def wait() -> None:
            with threads.held_up() if is_declared else contextlib.nullcontext():
                gate.wait(PATIENCE)

        for _ in range(40):
            threads.submit(wait)
        for _ in range(10):
            threads.submit(others.release)
            assert others.acquire(timeout=PATIENCE)
            threads.trim()  # ends none of those that are left for others
    eventually(lambda: not threads.count)


def test_none_is_started_for_a_call_that_is_held_up_after_the_stop() -> None:
    threads, begun, gate = Threads(60, 1_000), threading.Semaphore(0), threading.Event()

    def wait_later() -> None:
        begun.release()
        gate.wait(PATIENCE)
        with threads.held_up():
            pass

    for _ in range(FREE):
        threads.submit(wait_later)
    assert all(begun.acquire(timeout=PATIENCE) for _ in range(FREE))
    threads.stop()
    gate.set()
    eventually(lambda: not threads.count)


def test_calls_that_only_lack_a_processor_are_not_replaced() -> None:
    threads, begun, waits = Threads(200, 1_000), threading.Semaphore(0), list[Wait]()
    with stopped_at_end(threads) as gate:

        def wait() -> None:
            waits.append(threads.wait())
            begun.release()
            gate.wait(PATIENCE)

        for _ in range(100):
            threads.submit(wait)
        assert all(begun.acquire(timeout=PATIENCE) for _ in range(FREE))
        assert not begun.acquire(timeout=0.1)
        for one in waits[:5]:
            for _ in range(2):  # each counts once
                one.begin()
        assert all(begun.acquire(timeout=PATIENCE) for _ in range(5))
        for one in waits[:FREE]:
            for _ in range(2):
                one.end()
            one.begin()  # too late
        assert not begun.acquire(timeout=0.1)
        assert threads.count == FREE + 5
    eventually(lambda: not threads.count)


def test_threads_are_limited_and_end_when_there_are_fewer_calls() -> None:
    threads, begun, done = Threads(FREE + 20, 1_000), threading.Semaphore(0), threading.Semaphore(0)
    with stopped_at_end(threads) as gate:

        def wait() -> None:
            begun.release()
            gate.wait(PATIENCE)
            done.release()

        for _ in range(100):
            threads.submit(wait)
        assert all(begun.acquire(timeout=PATIENCE) for _ in range(FREE + 20))
        assert not begun.acquire(timeout=0.1)
        assert threads.count == FREE + 20
        gate.set()
        assert all(done.acquire(timeout=PATIENCE) for _ in range(100))

        def is_small() -> bool:
            threads.trim()
            return threads.count == FREE

        eventually(is_small)


def test_a_call_that_finds_too_many_waiting_is_refused_at_once() -> None:
    threads, begun = Threads(FREE, 2), threading.Semaphore(0)
    server = grpc.server(threads)
    with stopped_at_end(threads) as gate:

        def echo(data: bytes, context: grpc.ServicerContext) -> bytes:
            begun.release()
            gate.wait(PATIENCE)
            return data

        handlers = {"/any/echo": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers((_Methods(handlers, threads),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary("/any/echo")
            calls = []
            for _ in range(FREE):
                calls.append(ask.future(b"x", timeout=PATIENCE))
                assert begun.acquire(timeout=PATIENCE)
            calls += [ask.future(b"x", timeout=PATIENCE) for _ in range(2)]
            eventually(lambda: threads.waiting == 2)
            with pytest.raises(grpc.RpcError, match="Too many calls at once") as refused:
                ask(b"x", timeout=PATIENCE)
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            gate.set()
            assert [call.result() for call in calls] == [b"x"] * (FREE + 2)
        server.stop(None).wait(PATIENCE)
