"""The fast lane's responses are uvicorn's byte for byte, except dates, for any bytes in any packets."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.predict.toy_registry import NUMBERS, RunningService, ToyRegistry, mixed, numeric, run_service, wide
from tests.waiting import wait_until

pytestmark = pytest.mark.xdist_group("fast_lane")
VALUES = [1.5, -2.0, 3.25, 4, 5, 6]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, RunningService]]:
    """The service, and the same app under plain uvicorn."""
    toys = ToyRegistry(tmp_path_factory.mktemp("fast"))
    toys.register("m1", numeric())
    toys.register("adm", mixed())
    toys.register("wide", wide())
    with run_service(toys) as ours, run_service(toys, module="tests.predict.reference_server") as plain:
        yield ours, plain


def request(
    path: str,
    body: str | bytes,
    token: str,
    *,
    method: str = "POST",
    version: str = "HTTP/1.1",
    length: object = None,
    more: str = "",
    end: str = "\r\n",
) -> bytes:
    payload = body.encode() if isinstance(body, str) else body
    size = len(payload) if length is None else length
    head = [f"{method} {path} {version}", "Host: x", f"Authorization: Bearer {token}", "Content-Type: application/json"]
    head += [f"Content-Length: {size}"] if size != "none" else []
    head += [more] if more else []
    return end.join([*head, "", ""]).encode() + payload


def plain_requests(token: str) -> list[bytes]:
    """Return requests that the fast lane answers."""
    rows = json.dumps({"instances": [VALUES]})
    two = json.dumps({"instances": [VALUES, VALUES[::-1]]})
    named = json.dumps({"instances": [dict(zip(NUMBERS, VALUES, strict=True))]})
    adm = json.dumps({"instances": [{"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}]})
    tensor = {"name": "instances", "shape": [1, 6], "datatype": "FP32", "data": VALUES}
    v1, v2 = "/v1/models/m1:predict", "/v2/models/m1/infer"
    pixels = [place % 2 for place in range(144)]
    image = {"name": "instances", "shape": [1, 144], "datatype": "FP32", "data": pixels}
    return [
        request("/v1/models/wide:predict", json.dumps({"instances": [pixels, pixels[::-1]]}), token),
        request("/v1/models/wide:predict", json.dumps({"instances": [pixels, [0.5, *pixels[1:]]]}), token),
        request("/v2/models/wide/infer", json.dumps({"inputs": [image]}), token),
        request(v1, rows, token),
        request(v1, two, token),
        request(v1, named, token),
        request("/v1/models/m1/versions/1:predict", rows, token),
        request("/v1/models/adm:predict", adm, token),
        request(v2, json.dumps({"inputs": [tensor]}), token),
        request(v2, json.dumps({"id": 'a"b', "inputs": [{**tensor, "datatype": "FP64"}]}), token),
        request(v1, rows, token, more="Connection: keep-alive"),
    ]


def odd_requests(token: str) -> list[bytes]:
    """Return requests that the fast lane must leave to uvicorn, and requests that must be refused."""
    v1 = "/v1/models/m1:predict"
    rows = json.dumps({"instances": [VALUES]})
    known = plain_requests(token)[0]
    head, _, body = known.partition(b"\r\n\r\n")
    adm = "/v1/models/adm:predict"
    bodies = [
        '{"instances": []}',
        '{"instances": [[1,2,3]]}',
        '{"instances": [[1,2,3,4,5,null]]}',
        '{"instances": [[1,2,3,4,5,NaN]]}',
        '{"instances": [[1,2,3,4,5,1e6]]}',
        '{"instances": [[1,2,3,4,5,1e999]]}',
        '{"instances": [[1,2,3,4,5,"6"]]}',
        '{"instances": [[1,2,3,4,5,true]]}',
        '{"instances": [[1,2,3,4,5,6]], "instances": [[6,5,4,3,2,1]]}',
        '{"signature_name": "serving_default", "instances": [[1,2,3,4,5,6]]}',
        '{"inputs": [[1,2,3,4,5,6]]}',
        "[" * 5000,
        "",
        "\xff",
        '{"instances": [{"x0": 1}]}',
        json.dumps({"instances": [VALUES] * 100}),
        json.dumps({"instances": [VALUES] * 900}),
    ]
    requests = [request(v1, one, token) for one in bodies]
    for value in ("2", "0.5", "256", "true", "null", "1e999", "123456789012345678901234567890"):  # 12 is a boolean
        image = ",".join(["1"] * 12 + [value] + ["1"] * 131)
        requests.append(request("/v1/models/wide:predict", f'{{"instances": [[{image}]]}}', token))
    slow = json.dumps({"instances": [VALUES] * 200})  # answered in a thread: what follows must wait for it
    requests += [
        request("/v1/models/m1:explain", slow, token),
        request(adm, '{"instances": [{"gre": 700, "gpa": 9.5, "rank": 3, "city": "Rom"}]}', token),
        request(adm, '{"instances": [{"gre": 700, "gpa": 3.5, "rank": 3, "city": null}]}', token),
        request(adm, '{"instances": [{"gre": "x", "gpa": 3.5, "rank": 3, "city": "Rom"}]}', token),
        request(adm, '{"instances": [[700, 3.5, 3, "Rom"], [700, 3.5, 7, "Rom"]]}', token),
        request(
            "/v2/models/m1/infer",
            '{"inputs": [{"name": "instances", "shape": [2, 6], "datatype": "FP32", "data": [1,2,3,4,5,6]}]}',
            token,
        ),
        request(
            "/v2/models/m1/infer",
            '{"inputs": [{"name": "instances", "shape": [1, 6], "datatype": "FP32", "data": [1e300,2,3,4,5,6]}]}',
            token,
        ),
        request(v1, rows, "wrong.key"),
        request("/v1/models/none:predict", rows, token),
        request("/v1/models/m1:predict?x=1", rows, token),
        request("/v1/models/m%31:predict", rows, token),
        request("/v1/models/m1", "", token, method="GET", length="none"),
        request(v1, rows, token, version="HTTP/1.0"),
        request(v1, rows, token, more="Connection: close"),
        request(v1, rows, token, more="Expect: 100-continue"),
        request(v1, rows, token, more="Content-Length: 5"),
        request(v1, rows, token, more=f"Content-Length: {len(rows)}"),
        request(v1, rows, token, more="Transfer-Encoding: chunked"),
        request(v1, rows, token, more="X-Request-Timeout-Ms: 0"),
        request(v1, rows, token, length="none", more="Transfer-Encoding: chunked"),
        request(v1, f"{len(rows):x}\r\n{rows}\r\n0\r\n\r\n", token, length="none", more="Transfer-Encoding: chunked"),
        request(v1, rows, token, length=len(rows) - 3),
        request(v1, rows, token, length=len(rows) + 3),
        request(v1, rows, token, length=f"+{len(rows)}"),
        request(v1, rows, token, length=f"0{len(rows)}"),
        request(v1, rows, token, length="-1"),
        request(v1, rows, token, end="\n"),
        known.replace(b"Host: x", b"Host : x"),
        known.replace(b"Host: x", b"Host: x\r\n folded"),
        known.replace(b"Host: x", b"Host: x\rX: y"),
        known.replace(b"Host: x", b"Host: x\nX: y"),
        known.replace(b"Host: x", b"Host: x\x00"),
        known.replace(b"POST", b"post"),
        known.replace(b"HTTP/1.1", b"HTTP/1.2"),
        known + b"\r\n",
        b"\r\n\r\n" + known,
        known + b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        head + b"\r\n\r\n",
        body,
        b"\x16\x03\x01\x02\x00",
        head + b"\r\n\r\n" + b"\r\n\r\n" + body,
    ]
    return requests


def scenario(generator: random.Random, known: list[bytes], odd: list[bytes]) -> list[bytes]:
    """Return the packets of one connection."""
    stream = [generator.choice(known if generator.random() < 0.7 else odd) for _ in range(generator.randint(1, 5))]
    style = generator.random()
    if style < 0.4:  # one request per packet
        return stream
    if style < 0.6:  # pipelined: all in one
        return [b"".join(stream)]
    whole = b"".join(stream)
    cuts = sorted(generator.sample(range(1, len(whole)), min(len(whole) - 1, generator.randint(1, 4))))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


_DATE = re.compile(rb"date: [^\r]*\r\n")


def unread(server_port: int, client_port: int) -> int:
    """Return the bytes of a connection that have arrived and that the server has not read (Linux)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{server_port:04X}") and fields[2].endswith(f":{client_port:04X}"):
            return int(fields[4].split(":")[1], 16)
    return 0


class Conversation:
    """One connection: the packets sent, the bytes received, and whether the server closed it."""

    def __init__(self, port: int, packets: list[bytes], pause: float) -> None:
        self.port, self.packets, self.pause = port, packets, pause
        self.received = bytearray()
        self.closed = asyncio.Event()

    async def send(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.task = asyncio.ensure_future(self._read())
        for packet in self.packets:
            if self.closed.is_set():
                break
            self.writer.write(packet)
            await self._until_read()
            await asyncio.sleep(self.pause)

    async def _until_read(self) -> None:
        """Wait until the server has read everything, so that the next packet is a separate read."""
        port = self.writer.get_extra_info("sockname")[1]
        for _ in range(1000):
            await asyncio.sleep(0.003)
            if self.closed.is_set() or unread(self.port, port) == 0:
                return

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(65536):
                self.received.extend(data)
        except ConnectionError:
            pass
        self.closed.set()

    @property
    def outcome(self) -> tuple[bytes, bool]:
        return _DATE.sub(b"", bytes(self.received)), self.closed.is_set()

    def end(self) -> None:
        self.task.cancel()
        self.writer.close()


async def compare(ours: RunningService, plain: RunningService, packets: list[bytes]) -> None:
    """Assert that both servers end up with equal responses. A difference is retried more slowly: packets may merge."""
    for pause in (0.01, 0.05, 0.3):
        conversations = [Conversation(served.port, packets, pause) for served in (ours, plain)]
        await asyncio.gather(*(conversation.send() for conversation in conversations))
        unchanged, before = 0, None
        for _ in range(200):  # longer than any answer takes on a busy machine
            outcomes = [conversation.outcome for conversation in conversations]
            unchanged = unchanged + 1 if outcomes == before else 0
            if unchanged >= (3 if outcomes[0] == outcomes[1] else 60):
                break
            before = outcomes
            await asyncio.sleep(0.03)
        for conversation in conversations:
            conversation.end()
        if outcomes[0] == outcomes[1]:
            return
    assert outcomes[0] == outcomes[1], packets


async def run_all(ours: RunningService, plain: RunningService, scenarios: list[list[bytes]]) -> None:
    gate = asyncio.Semaphore(12)

    async def one(packets: list[bytes]) -> None:
        async with gate:
            await compare(ours, plain, packets)

    await asyncio.gather(*(one(packets) for packets in scenarios))


def test_answers_equal_uvicorns(pair: tuple[RunningService, RunningService]) -> None:
    ours, plain = pair
    token = ours.toys.token
    known, odd = plain_requests(token), odd_requests(token)
    before = ours.telemetry("fitserve_predict_fast_lane_requests_total")
    scenarios = [[one] for one in known]
    scenarios += [[one, one] for one in known]
    scenarios += [[known[0], one, known[0]] for one in odd]  # each odd request on a connection that used the lane
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    generator = random.Random(seed)
    scenarios += [scenario(generator, known, odd) for _ in range(50)]
    asyncio.run(run_all(ours, plain, scenarios))
    assert ours.telemetry("fitserve_predict_fast_lane_requests_total") - before > 150


@pytest.mark.long
def test_many_answers_equal_uvicorns(pair: tuple[RunningService, RunningService]) -> None:
    ours, plain = pair
    known, odd = plain_requests(ours.toys.token), odd_requests(ours.toys.token)
    generator = random.Random(7)
    asyncio.run(run_all(ours, plain, [scenario(generator, known, odd) for _ in range(10_000)]))


def test_one_inference_call_answers_many(pair: tuple[RunningService, RunningService]) -> None:
    ours, _ = pair
    known = plain_requests(ours.toys.token)[0]

    async def flood() -> None:
        connections = [await asyncio.open_connection("127.0.0.1", ours.port) for _ in range(32)]
        for _ in range(20):
            for _, writer in connections:
                writer.write(known)
            for reader, _ in connections:
                assert (await reader.readuntil(b"]]}")).startswith(b"HTTP/1.1 200 OK")
        for _, writer in connections:
            writer.close()

    requests = ours.telemetry("fitserve_predict_fast_lane_requests_total")
    batches = ours.telemetry("fitserve_predict_fast_lane_batches_total")
    asyncio.run(flood())
    requests = ours.telemetry("fitserve_predict_fast_lane_requests_total") - requests
    batches = ours.telemetry("fitserve_predict_fast_lane_batches_total") - batches
    assert requests >= 600
    assert batches < requests / 2


def overtaken(served: RunningService) -> bool:
    """Return whether the lane answers a request before an earlier one that a thread still computes."""
    known = plain_requests(served.toys.token)[0]
    rows = json.dumps({"instances": [VALUES] * 800})
    slow = request("/v1/models/m1:explain", rows, served.toys.token)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        for _ in range(3):  # until the lane knows the head
            assert ask(connection, known) == b"200"
        connection.sendall(slow)
        wait_until(lambda: not unread(served.port, connection.getsockname()[1]), "the request is read", pause=0.001)
        connection.sendall(known)
        return b'{"predictions"' in connection.recv(300)


def test_no_answer_overtakes_the_one_before_it(pair: tuple[RunningService, RunningService]) -> None:
    """The mutant, a lane that does not check whether its connection is idle, is detected."""
    ours, _ = pair
    assert not any(overtaken(ours) for _ in range(2))
    with run_service(ours.toys, module="tests.predict.mutant_server") as mutant:
        assert overtaken(mutant)


def test_a_revoked_key_is_forgotten_on_an_open_connection(pair: tuple[RunningService, RunningService]) -> None:
    from fitserve import api_keys

    ours, _ = pair
    token = ours.toys.create_key(["predict"])
    known = plain_requests(token)[0]
    with socket.create_connection(("127.0.0.1", ours.port)) as connection:
        wait_until(lambda: ask(connection, known) == b"200", "a poll has seen the key", pause=0)
        fast = ours.telemetry("fitserve_predict_fast_lane_requests_total")
        assert ask(connection, known) == b"200"
        assert ask(connection, known) == b"200"
        assert ours.telemetry("fitserve_predict_fast_lane_requests_total") > fast
        ours.toys.change(api_keys.revoke, token.split(".")[0])
        wait_until(lambda: ask(connection, known) == b"401", "a poll has seen that the key is revoked", pause=0)


def ask(connection: socket.socket, data: bytes) -> bytes:
    """Send a request and return its response's status."""
    connection.sendall(data)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head.split(b" ")[1]
