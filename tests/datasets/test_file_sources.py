"""Datasets from object storage, addresses and Delta tables: joined by name, resumed, and never a mix of two states."""

from __future__ import annotations

import gzip
import http.client
import io
import itertools
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import deltalake
import fsspec
import httpx2 as httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.large_import import peak_of
from fitserve.datasets.sources import fetched, https, objects
from fitserve.ids import new_id
from tests.datasets.conftest import Api
from tests.object_stores import AZURE_KEY, KINDS, emulated
from tests.tls.certificate import make_certificate

TABLE = "".join(f"{i},{i % 7},{i / 4},{i:06}\n" for i in range(20_000))
MODIFIED = "Sat, 28 Nov 2026 08:00:00 GMT"
CSV = ("id,group,size,code\n" + TABLE).encode()


def ask(api: Api, name: str, **source: Any) -> httpx.Response:
    options = source.pop("options", {})
    return api.ann.post("/datasets", json={"name": name, "source": source, "options": options})


def rows(api: Api, body: dict[str, Any]) -> list[dict[str, Any]]:
    page = api.ann.get(f"/datasets/{body['id']}/rows", params={"limit": 10_000}).json()
    return [dict(zip(page["columns"], row, strict=True)) for row in page["rows"]]


# --- a store of files ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lake(s3_environment: dict[str, str], api: Api) -> Any:
    """A bucket on moto's S3, which the operator has named `lake`."""
    bucket = new_id("b").replace("_", "-")
    endpoint = s3_environment["AWS_ENDPOINT_URL"]
    options = {"key": "tester", "secret": "lake-s3cret", "client_kwargs": {"endpoint_url": endpoint}}
    api.connect(
        lake={"url": f"s3://{bucket}/data", "options": options},
        dry={"url": "s3://no-such-bucket", "options": options},
        away={"url": "s3://x", "options": {**options, "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}},
    )
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **options)
    store.mkdir(bucket)
    return lambda path, data: store.pipe(f"{bucket}/data/{path}", data)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_parts_are_joined_by_the_names_of_their_columns(api: Api, lake: Callable[[str, bytes], None]) -> None:
    lake("sales/a.parquet", parquet(id=[1, 2], price=[1, 2], code=["01", "02"]))
    lake("sales/b.parquet", parquet(code=["03"], id=[3], price=[2.5], shop=["x"]))
    lake("sales/_SUCCESS", b"")
    first = ask(api, "parts", s3={"connection": "lake", "path": "sales/*"})
    assert first.status_code == 201, first.text
    body = first.json()
    assert rows(api, body) == [
        {"id": 1, "price": 1.0, "code": "01", "shop": None},
        {"id": 2, "price": 2.0, "code": "02", "shop": None},
        {"id": 3, "price": 2.5, "code": "03", "shop": "x"},
    ]
    said = {(one["column"], one["evidence"]) for one in body["notices"] if one["code"] == "parts_differ"}
    assert said == {("price", "int64 in a.parquet, double in b.parquet"), ("shop", "a.parquet")}
    assert [part["bytes"] > 0 for part in body["source"]["imported"]["snapshot"]["parts"]] == [True, True]
    assert api.ann.post("/datasets/parts/refresh").status_code == 200
    lake("sales/c.parquet", parquet(id=[4], price=[3], code=["04"]))
    after = api.ann.post("/datasets/parts/refresh").json()
    assert (after["version"], after["parent_id"], after["rows"]) == (2, body["id"], 4)


def test_parts_of_csv_and_json_lines_are_read_as_one_table(api: Api, lake: Callable[[str, bytes], None]) -> None:
    lake("logs/2.csv.gz", gzip.compress(b"n,zip\n3.5,20\nNA,21\n"))
    lake("logs/1.csv", b"zip;n\n007;1.5\n010;2.5\n")
    answer = ask(
        api, "logs", s3={"connection": "lake", "path": "logs/*.csv*"}, options={"kinds": {"zip": "categorical"}}
    )
    assert answer.status_code == 201, answer.text
    assert [row["zip"] for row in rows(api, answer.json())] == ["007", "010", "20", "21"]
    assert [row["n"] for row in rows(api, answer.json())] == [1.5, 2.5, 3.5, None]
    lake("lines/1.jsonl", b'{"a": 1, "b": "x"}')
    lake("lines/2.jsonl", b'{"a": 2.5}\n')
    lines = ask(api, "lines", s3={"connection": "lake", "path": "lines/*.jsonl"}).json()
    assert rows(api, lines) == [{"a": 1.0, "b": "x"}, {"a": 2.5, "b": None}]
    assert [one["column"] for one in lines["notices"] if one["code"] == "parts_differ"] == ["b"]
    few = {"": b"", "0.csv": b"n,zip\n", "1.csv": b"zip,n\n1,2\n", "2.csv": b"", "3.csv": b"\n"}
    for name, data in few.items():
        lake(f"few/{name}", data)  # as Spark writes parts without rows, and some tools a folder
    read = ask(api, "few", s3={"connection": "lake", "path": "few/*"}).json()
    assert [row["n"] for row in rows(api, read)] == [2]
    assert [(one["code"], one["evidence"]) for one in read["notices"]] == [("parts_empty", "0.csv, 2.csv, 3.csv")]
    one = ask(api, "single", s3={"connection": "lake", "path": "lines/2.jsonl"}).json()
    assert one["sha256"] == api.ann.put("/datasets/same", content=b'{"a": 2.5}\n').json()["sha256"]


def test_a_store_that_gives_nothing_is_refused_or_away(api: Api, lake: Callable[[str, bytes], None]) -> None:
    lake("bad/1.csv", b"a,b\n1,2\n")
    lake("bad/2.csv", b"a,b\n1,2\n1,2,3\n")
    lake("bad/3.parquet", parquet(a=[1]))
    lake("folder/1.csv", b"a\n1\n")
    lake("none/1.csv", b"")
    lake("none/2.csv", b"a,b\n")
    lake("bare/1.csv", b"red,blue\nred,green\nblue,green\nred,red\n")
    lake("bare/2.csv", b"green,red\n")
    before = api.blobs()
    for connection, path, status, says in (
        ("lake", "never/*.csv", 422, "no object"),
        ("lake", "folder", 422, "folder"),
        ("lake", "../other/x.csv", 422, "below"),
        ("lake", "%2e%2e/other/x.csv", 422, "below"),
        ("lake", "a/.%252E/..%2fother/x.csv", 422, "below"),
        ("lake", "bad/*", 422, "several formats"),
        ("lake", "bad/*.csv", 422, "2.csv"),
        ("lake", "bad/***/x", 422, "folders"),
        ("lake", "none/*", 400, "No part has a row"),
        ("lake", "bare/*", 422, "2.csv has one line"),  # a row of texts, not a header
        ("lake", "bad/[z-a", 422, "no object"),
        ("dry", "x.csv", 422, "no object"),
        ("away", "x.csv", 503, "does not answer"),
    ):
        answer = ask(api, "nothing", s3={"connection": connection, "path": path})
        assert answer.status_code == status, answer.text
        assert says in answer.json()["detail"], answer.text
        assert "lake-s3cret" not in answer.text
    assert (api.blobs(), api.leftovers()) == (before, [])


@pytest.mark.long  # the short form: S3
@pytest.mark.parametrize("kind", KINDS)
def test_other_stores_are_read_too(api: Api, kind: str) -> None:
    with emulated(kind) as (connection, store, folder):
        api.connect(pond=connection)
        store.pipe(f"{folder}/sales/a.parquet", parquet(id=[1, 2], code=["01", "02"]))
        store.pipe(f"{folder}/sales/b.parquet", parquet(id=[3], code=["03"]))
        first = ask(api, f"pond-{kind}", **{kind: {"connection": "pond", "path": "sales/*.parquet"}})
        assert first.status_code == 201, first.text
        assert [row["code"] for row in rows(api, first.json())] == ["01", "02", "03"]
        refreshed = f"/datasets/pond-{kind}/refresh"
        assert api.ann.post(refreshed).json()["id"] == first.json()["id"]
        store.pipe(f"{folder}/sales/b.parquet", parquet(id=[4], code=["04"]))
        assert api.ann.post(refreshed).json()["version"] == 2
        for path, says in (("none/*.csv", "no object"), ("sales", "folder")):
            refused = ask(api, "nothing", **{kind: {"connection": "pond", "path": path}})
            assert (refused.status_code, says in refused.text) == (422, True), refused.text
            assert AZURE_KEY not in refused.text


@contextmanager
def meddled(endpoint: str, before: Callable[[int], None]) -> Iterator[str]:
    """Yield another address of the store, which calls `before` with the number of each read of an object's bytes."""
    address, numbers = urlsplit(endpoint).netloc, itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def forward(self) -> None:
            if self.command == "GET" and "?" not in self.path and "/data/" in self.path:
                before(next(numbers))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            store = http.client.HTTPConnection(address)
            store.request(self.command, self.path, body, dict(self.headers))
            response = store.getresponse()
            content = response.read()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                    self.send_header(name, value)
            length = response.headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)
            store.close()

        do_GET = do_HEAD = do_POST = do_PUT = forward

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_an_object_that_changes_midway_is_never_half_of_a_dataset(
    api: Api,
    lake: Callable[[str, bytes], None],
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    format: str,
) -> None:
    monkeypatch.setattr(objects, "CHUNK", 4096)  # an object is read in several ranges
    monkeypatch.setattr(fetched, "FIRST_PAUSE", 0.0)

    def state(number: int) -> bytes:
        values = [number * 100_000 + row for row in range(20_000)]
        return parquet(n=values) if format == "parquet" else b"n\n" + b"".join(b"%d\n" % value for value in values)

    for at, changes in (("listed", [0]), ("half read", [2]), ("always", range(1_000))):
        folder = f"{format}-{at.replace(' ', '-')}"
        for part in "ab":
            lake(f"{folder}/{part}.{format}", state(1))

        def overwrite(number: int, folder: str = folder, changes: Sequence[int] = changes) -> None:
            if number in changes:
                new = state(2 + number * (len(changes) > 1))
                for part in "ab":
                    lake(f"{folder}/{part}.{format}", new)

        known = json.loads((api.settings.connections_file or Path()).read_text())["lake"]
        before = api.blobs()
        with meddled(s3_environment["AWS_ENDPOINT_URL"], overwrite) as endpoint:
            options = {**known["options"], "client_kwargs": {"endpoint_url": endpoint}}
            api.connect(meddled={"url": known["url"], "options": options})
            answer = ask(api, folder, s3={"connection": "meddled", "path": f"{folder}/*"})
        if at == "always":
            assert (answer.status_code, "changed while it was read" in answer.text) == (503, True), answer.text
            assert (api.blobs(), api.leftovers()) == (before, [])
        else:
            assert answer.status_code == 201, answer.text
            table = api.ann.get(f"/datasets/{answer.json()['id']}/download", params={"format": "parquet"}).content
            numbers = pq.read_table(io.BytesIO(table))["n"].to_pylist()
            assert (len(numbers), {number // 100_000 for number in numbers}) == (40_000, {2}), at


# --- an address ----------------------------------------------------------------------------------------------------


class BreakingFiles:
    """A server whose connections break after some bytes; `states` are what the file holds at each request."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.states, self.breaks, self.requests = [CSV], [len(CSV)], []
        self.resumes, self.careless = True, False  # whether it heeds Range, and Range without If-Range
        self.mark, self.block = "ETag", len(CSV)  # what identifies a state; the most bytes of a range
        self.silent, self._end = False, threading.Event()  # whether a connection falls silent instead of breaking
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        number = len(self.requests)
        self.requests.append(dict(to.headers))
        data = self.states[min(number, len(self.states) - 1)]
        most = self.breaks[min(number, len(self.breaks) - 1)]
        etag = f'"{len(data)}-{hash(data)}"'
        if to.path == "/private.csv" and to.headers.get("Authorization") != "Bearer t0ken":
            to.send_error(403)
            return
        if to.path in ("/away.csv", "/odd-pause.csv"):
            to.send_response(503)
            if to.path == "/odd-pause.csv":
                to.send_header("Retry-After", "²")  # a digit to Python, and no number
            to.end_headers()
            return
        if to.path == "/odd-length.csv":
            to.send_response(200)
            to.send_header("Content-Length", "9" * 5_000)  # more digits than Python reads
            to.end_headers()
            to.wfile.write(data)
            return
        if to.path == "/packed.csv":
            to.send_response(200)
            to.send_header("Content-Encoding", "br")
            to.end_headers()
            return
        if to.path in ("/inside.csv", "/nowhere.csv"):
            to.send_response(302)
            to.send_header("Location", "http://127.0.0.9/x.csv" if to.path == "/inside.csv" else "https://[")
            to.end_headers()
            return
        if to.headers.get("If-None-Match") == etag:
            to.send_response(304)
            to.end_headers()
            return
        start, end, mark = 0, len(data), (self.mark, etag if self.mark == "ETag" else MODIFIED)
        if "Range" in to.headers and (self.careless or (self.resumes and to.headers["If-Range"] == mark[1])):
            start = int(to.headers["Range"].removeprefix("bytes=").rstrip("-"))
            end = min(end, start + self.block)
        to.send_response(206 if start else 200)
        if start:
            to.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        if not (start and self.careless):
            to.send_header(*mark)
        if to.path == "/irises.csv":
            to.send_header("Content-Encoding", "aws-chunked")  # as some stores say of bytes that are not packed
        to.send_header("Content-Length", str(end - start))
        to.end_headers()
        to.wfile.write(data[start : min(end, start + most)])
        if self.silent and start + most < end:
            self._end.wait(30)
        to.close_connection = True

    def close(self) -> None:
        self._end.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BreakingFiles]:
    """Yield an HTTPS file server that fails as each test tells it to."""
    certificate, key = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    files = BreakingFiles(tls)
    yield files
    files.close()


def test_a_broken_download_is_resumed_and_a_changed_file_begins_again(api: Api, files: BreakingFiles) -> None:
    files.breaks = [100_000, 150_000, 0, len(CSV)]
    answer = ask(api, "irises", https={"url": f"{files.url}/irises.csv"})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["rows"] == 20_000
    assert [request.get("Range") for request in files.requests] == [
        *(None, "bytes=100000-", "bytes=250000-", "bytes=250000-"),
    ]
    assert body["sha256"] == api.ann.put("/datasets/irises-sent", content=CSV).json()["sha256"]
    assert api.ann.post("/datasets/irises/refresh").status_code == 200
    assert files.requests[-1]["If-None-Match"] == body["source"]["imported"]["snapshot"]["etag"]

    changed = CSV.replace(b"000001", b"changed")
    for resumes in (True, False):
        files.requests, files.resumes = [], resumes
        files.states, files.breaks = [CSV, changed], [300_000, len(changed)]
        after = ask(api, f"changed-{resumes}".lower(), https={"url": f"{files.url}/irises.csv"})
        assert after.status_code == 201, after.text
        assert "changed" in [row["code"] for row in rows(api, after.json())[:3]]
        assert after.json()["bytes"] == len(changed)


@pytest.mark.parametrize("mark", ["ETag", "Last-Modified"])
def test_a_file_is_never_joined_from_two_states(api: Api, files: BreakingFiles, mark: str) -> None:
    files.mark, files.breaks, files.block = mark, [100_000, len(CSV)], 150_000  # a range is answered in parts
    answer = ask(api, f"blocks-{mark.lower()}", https={"url": f"{files.url}/blocks.csv"})
    assert (answer.status_code, answer.json()["bytes"]) == (201, len(CSV)), answer.text

    longer = CSV + b"20000,1,1,changed\n"
    files.careless, files.requests, files.breaks = True, [], [100_000, len(longer)]
    files.states = [CSV, longer]  # the server heeds no If-Range and says no ETag of its parts
    again = ask(api, f"longer-{mark.lower()}", https={"url": f"{files.url}/longer.csv"})
    assert (again.status_code, again.json()["bytes"]) == (201, len(longer)), again.text
    assert [request.get("Range") for request in files.requests] == [None, "bytes=100000-", None]


@pytest.mark.parametrize("format", ["csv", "parquet"])
@pytest.mark.long
def test_memory_does_not_grow_with_the_file(format: str) -> None:
    """FITSERVE_TEST_LARGE_MB says how large: the file is generated while it is read, and takes twice that on disk."""
    small, large = (peak_of(format, size) for size in (200, int(os.environ.get("FITSERVE_TEST_LARGE_MB", "1000"))))
    assert large["rows"] > 3 * small["rows"]
    assert large["peak"] < 1.3 * small["peak"], f"{small} {large}"


def test_a_silent_connection_is_a_broken_one_and_a_slow_one_is_given_up(
    api: Api, files: BreakingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "SILENCE", 0.5)
    monkeypatch.setattr(fetched, "FIRST_PAUSE", 0.0)
    files.breaks, files.silent = [100_000, len(CSV)], True
    answer = ask(api, "silent", https={"url": f"{files.url}/silent.csv"})
    assert (answer.status_code, answer.json().get("bytes")) == (201, len(CSV)), answer.text
    assert [request.get("Range") for request in files.requests] == [None, "bytes=100000-"]
    monkeypatch.setattr(https, "SLOWEST", 10**9)
    monkeypatch.setattr(https, "SILENCE", 0.0001)
    answer = ask(api, "slow", https={"url": f"{files.url}/silent.csv"})
    assert (answer.status_code, "fewer than" in answer.text or "does not answer" in answer.text) == (503, True)


def test_what_an_address_does_not_give_is_said(api: Api, files: BreakingFiles) -> None:
    api.connect(partner={"url": files.url, "options": {"headers": {"Authorization": "Bearer t0ken"}}})
    before = api.blobs()
    for url, more, status, says in (
        (f"{files.url}/private.csv", {}, 422, "403"),
        (f"{files.url}/away.csv", {}, 503, "503"),
        (f"{files.url}/odd-pause.csv", {}, 503, "503"),
        (f"{files.url}/inside.csv", {}, 422, "not allowed"),
        (f"{files.url}/nowhere.csv", {}, 422, "not allowed"),
        (f"{files.url}/%2e%2e/x.csv", {"connection": "partner"}, 422, "other addresses"),
        (f"{files.url}/packed.csv", {}, 422, "packed as br"),
        ("http://169.254.169.254/latest", {}, 422, "not allowed"),
        ("http://2130706433/x.csv", {}, 422, "not allowed"),
        ("file:///etc/passwd", {}, 422, "not allowed"),
        ("http://127.0.0.1:1/x.csv", {"connection": "partner"}, 422, "other addresses"),
        ("http://127.0.0.1:1/x.csv", {}, 503, "does not answer"),
    ):
        answer = ask(api, "said", https={"url": url, **more})
        assert answer.status_code == status, answer.text
        assert says in answer.json()["detail"], answer.text
    files.states, files.breaks = [b"a\n" * 5_000_000], [10_000_000]
    assert ask(api, "said", https={"url": f"{files.url}/big.csv"}).status_code == 413
    assert (api.blobs(), api.leftovers()) == (before, [])
    files.states = [CSV]
    named = ask(api, "private", https={"url": f"{files.url}/private.csv", "connection": "partner"})
    assert named.status_code == 201, named.text
    assert "t0ken" not in named.text
    assert ask(api, "odd", https={"url": f"{files.url}/odd-length.csv"}).json()["rows"] == 20_000  # read to its end


# --- a Delta table -------------------------------------------------------------------------------------------------


_FUTURE = (
    '{"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["x"], "writerFeatures": ["x"]}}\n'
    '{"metaData": {"id": "1", "format": {"provider": "parquet", "options": {}}, "partitionColumns": [],'
    ' "configuration": {}, "schemaString": "{\\"type\\": \\"struct\\", \\"fields\\": []}"}}'
)


def test_a_delta_table_is_read_at_a_version(api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "tables" / "visits"
    first = pa.table({"id": [1, 2, 3], "shop": ["x", "y", "x"], "price": [1.5, None, 2.5]})
    deltalake.write_deltalake(folder, first, partition_by=["shop"])
    deltalake.write_deltalake(folder, pa.table({"id": [4], "shop": ["y"], "price": [4.0]}), mode="append")
    api.connect(tables={"url": f"file://{tmp_path}/tables"})
    newest = ask(api, "visits", delta={"connection": "tables", "path": "visits"})
    assert newest.status_code == 201, newest.text
    body = newest.json()
    assert sorted((row["id"], row["shop"], row["price"]) for row in rows(api, body)) == [
        *((1, "x", 1.5), (2, "y", None), (3, "x", 2.5), (4, "y", 4.0)),
    ]
    assert body["source"]["imported"]["snapshot"]["version"] == 1
    assert api.ann.post("/datasets/visits/refresh").status_code == 200
    before = ask(api, "visits-before", delta={"connection": "tables", "path": "visits", "version": 0}).json()
    again = ask(api, "visits-again", delta={"connection": "tables", "path": "visits", "version": 0}).json()
    assert (before["rows"], again["sha256"]) == (3, before["sha256"])
    deltalake.DeltaTable(folder).delete("id = 4")
    assert api.ann.post("/datasets/visits/refresh").json()["version"] == 2
    deltalake.write_deltalake(folder.parent / "torn", first)
    (part,) = (folder.parent / "torn").glob("*.parquet")
    part.write_bytes(b"PAR1" + bytes(part.stat().st_size - 8) + b"PAR1")
    for name, log in (("empty", "{}"), ("text", "no JSON"), ("future", _FUTURE)):
        (folder.parent / name / "_delta_log").mkdir(parents=True)
        (folder.parent / name / "_delta_log" / f"{0:020}.json").write_text(log)
    unread = [(name, None) for name in ("none", "../tables/visits", "torn", "empty", "text", "future")]
    for path, version in (("visits", 99), *unread):
        source = {"connection": "tables", "path": path, **({"version": version} if version else {})}
        answer = ask(api, "visits", delta=source)
        assert answer.status_code == 422, answer.text
