"""Datasets over HTTP: upload, read, correct, append, share, delete; nothing half-written remains."""

from __future__ import annotations

import base64
import gzip
import io
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitserve import blobs, db
from fitserve.datasets import store
from fitserve.datasets.staging import Stage
from fitserve.wire.datasets import DatasetDetail
from services.control.datasets import routes
from services.control.datasets.access import with_frequent_labels
from tests.datasets.conftest import Api
from tests.waiting import PATIENCE, wait_until

CSV = b"admit,gre,rank\n" + b"".join(b"%d,%d,%d\n" % (i % 2, 400 + i, 1 + i % 4) for i in range(120))


def table(tag: str) -> bytes:
    return CSV + f"1,999,1\n0,{abs(hash(tag)) % 10**6},2\n".encode()


def test_put_creates_a_dataset_once_for_the_same_content(api: Api) -> None:
    first = api.ann.put("/datasets/puts", content=table("put"))
    assert first.status_code == 201, first.text
    body = first.json()
    assert (body["name"], body["version"], body["rows"]) == ("puts", 1, 122)
    assert first.headers["location"] == f"/api/v1/datasets/{body['id']}"
    assert {c["name"]: c["kind"] for c in body["columns"]} == {
        "admit": "boolean",
        "gre": "numeric",
        "rank": "categorical",
    }
    again = api.ann.put("/datasets/puts", content=table("put"))
    assert again.status_code == 200
    assert again.json()["id"] == body["id"]


def test_new_content_under_a_name_is_a_version_that_names_its_parent(api: Api) -> None:
    one = api.ann.put("/datasets/versions", content=table("v1")).json()
    two = api.ann.put("/datasets/versions", content=table("v2")).json()
    assert (two["version"], two["parent_id"]) == (2, one["id"])
    assert api.ann.get("/datasets/versions").json()["id"] == two["id"]
    assert api.ann.get("/datasets/versions@1").json()["id"] == one["id"]
    assert api.ann.get("/datasets", params={"name": "versions"}).json()["items"][0]["version"] == 2


def test_a_form_uploads_a_file_with_options_as_fields(api: Api) -> None:
    answer = api.ann.post(
        "/datasets",
        files={"file": ("My Table (1).csv.gz", gzip.compress(b"zip;n\n007;1\n010;2\n"), "text/csv")},
        data={"kinds": '{"n": "categorical"}', "delimiter": ";"},
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["name"] == "my-table-1"
    assert body["columns"][0]["labels"] == ["007", "010"]
    assert body["columns"][1]["kind"] == "categorical"
    assert body["source"]["compression"] == "gzip"


def test_options_of_the_query_and_of_a_form_are_added(api: Api) -> None:
    answer = api.ann.post(
        "/datasets?kinds.zip=categorical&missing=-1",
        files={"file": ("both.csv", b"zip;n\n7;1\n-1;x\n", "text/csv")},
        data={"kinds.n": "numeric", "missing": "x", "name": "both"},
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["name"] == "both"
    assert {column["name"]: column["kind"] for column in body["columns"]} == {"zip": "categorical", "n": "numeric"}
    assert [column["missing"] for column in body["columns"]] == [1, 1]
    assert body["source"]["options"] == {"kinds": {"zip": "categorical", "n": "numeric"}, "missing": ["-1", "x"]}


def test_posting_under_a_taken_name_is_a_conflict(api: Api) -> None:
    assert api.ann.post("/datasets?name=taken", content=table("t1")).status_code == 201
    assert api.ann.post("/datasets?name=taken", content=table("t2")).status_code == 409
    assert api.bob.put("/datasets/taken", content=table("t3")).status_code == 409


def test_owners_see_their_own_datasets_and_shared_ones(api: Api) -> None:
    made = api.ann.put("/datasets/secret", content=table("secret")).json()
    assert api.bob.get("/datasets/secret").status_code == 404
    assert api.bob.get(f"/datasets/{made['id']}/rows").status_code == 404
    assert api.admin.get("/datasets/secret").status_code == 200
    assert made["id"] not in {item["id"] for item in api.bob.get("/datasets").json()["items"]}
    assert api.ann.patch("/datasets/secret", json={"shared": True}).json()["shared"] is True
    assert api.bob.get("/datasets/secret").status_code == 200
    assert api.bob.patch("/datasets/secret", json={"shared": False}).status_code == 403
    assert api.bob.delete("/datasets/secret").status_code == 403


def test_rows_page_through_the_whole_table(api: Api) -> None:
    made = api.ann.put("/datasets/paged", content=b"x,t\n" + b"".join(b"%d,2020-01-01\n" % i for i in range(250)))
    values: list[Any] = []
    cursor = None
    while True:
        page = api.ann.get(
            f"/datasets/{made.json()['id']}/rows",
            params={"limit": 99, "cursor": cursor or ""} if cursor else {"limit": 99},
        ).json()
        values += [row[0] for row in page["rows"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert values == list(range(250))
    assert page["rows"][0][1] == "2020-01-01T00:00:00"
    assert api.ann.get("/datasets/paged/rows", params={"cursor": "zzzz"}).status_code == 422
    assert api.ann.get("/datasets/paged/rows", params={"offset": 249}).json()["rows"] == [[249, "2020-01-01T00:00:00"]]


def test_profile_and_relations(api: Api) -> None:
    rows = b"".join(
        b"%d,%s,%d,%s\n" % (i, b"yes" if i >= 100 else b"no", i % 7, b"ab"[i % 2 : i % 2 + 1]) for i in range(200)
    )
    api.ann.put("/datasets/related", content=b"x,y,z,c\n" + rows)
    profile = api.ann.get("/datasets/related/profile").json()
    x = profile["columns"]["x"]
    assert (x["min"], x["max"], x["mean"], x["missing"], x["distinct"]) == (0, 199, 99.5, 0, 200)
    assert x["quantiles"]["0.5"] == 99.5
    assert sum(x["histogram"]["counts"]) == 200
    assert profile["columns"]["y"]["top"] == [{"value": "no", "count": 100}, {"value": "yes", "count": 100}]
    found = api.ann.get("/datasets/related/relations", params={"target": "y"}).json()
    assert found["items"][0]["column"] == "x"
    assert found["items"][0]["strength"] > 0.8
    assert {item["column"]: item["strength"] for item in found["items"]}["z"] < 0.2
    assert api.ann.get("/datasets/related/relations", params={"target": "q"}).status_code == 404


def test_a_profile_is_read_some_columns_at_a_time(api: Api) -> None:
    names = [f"c{at}" for at in range(205)]
    api.ann.put("/datasets/wide-profile", content=",".join(names).encode() + b"\n" + b",".join([b"7"] * 205) + b"\n")
    address, found, query = "/datasets/wide-profile/profile", [], {}
    for expected in (100, 100, 5):
        page = api.ann.get(address, params=query).json()
        assert (page["rows"], len(page["columns"])) == (1, expected)
        found += page["columns"]
        query = {"cursor": page["next_cursor"]}
    assert page["next_cursor"] is None
    assert found == names, "in the table's order"
    assert [*api.ann.get(address, params={"offset": 203, "limit": 1}).json()["columns"]] == ["c203"]
    assert api.ann.get(address, params={"limit": 101}).status_code == 422
    assert api.ann.get(address, params={"cursor": "zzzz"}).status_code == 422


def test_kinds_are_corrected_in_a_new_version(api: Api) -> None:
    made = api.ann.put("/datasets/corrected", content=b"zip,n,when\n" + b"00123,5,7\n04567,6,8\n" * 20).json()
    fixed = api.ann.patch("/datasets/corrected", json={"kinds": {"zip": "numeric", "n": "categorical"}})
    assert fixed.status_code == 201, fixed.text
    body = fixed.json()
    assert (body["version"], body["parent_id"]) == (2, made["id"])
    columns = {column["name"]: column for column in body["columns"]}
    assert (columns["zip"]["kind"], columns["zip"]["storage"], columns["zip"]["max"]) == ("numeric", "int64", 4567)
    assert columns["n"]["labels"] == ["5", "6"]
    refused = api.ann.patch("/datasets/corrected@1", json={"kinds": {"zip": "datetime"}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0] | {"fix": ""} == {
        "row": 1,
        "column": "zip",
        "received": "00123",
        "expected": "a date or time",
        "detail": "Row 1, column 'zip': '00123' is not a date or time. The same is in rows 3, 5, 7, 9, 11 and more.",
        "fix": "",
    }
    assert api.ann.patch("/datasets/corrected", json={"kinds": {"no": "text"}}).status_code == 422


def test_a_batch_is_appended_once_and_no_append_loses_the_rows_of_another(api: Api) -> None:
    api.ann.put("/datasets/batches", content=b"a,b\n1,x\n2,y\n")
    answers: list[int] = []

    def append(number: int) -> None:
        key = {"Idempotency-Key": f"batch-{number}"}
        for _ in range(2):  # as a client does whose connection broke
            answer = api.ann.post("/datasets/batches/rows", content=f"b,a\nz,{number}\n".encode(), headers=key)
            answers.append(answer.status_code)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(10, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [*[200] * 4, *[201] * 4]
    newest = api.ann.get("/datasets/batches").json()
    values = [row[0] for row in api.ann.get("/datasets/batches/rows").json()["rows"]]
    assert (newest["version"], values[:2], sorted(values[2:])) == (5, [1, 2], [10, 11, 12, 13])
    other = api.ann.post("/datasets/batches/rows", content=b"a,b\n9,q\n", headers={"Idempotency-Key": "batch-10"})
    assert other.status_code == 409
    old = api.ann.post("/datasets/batches@1/rows", content=b"a,b\n9,q\n").json()
    assert (old["version"], old["rows"]) == (6, 3)


def test_small_batches_wait_and_become_one_version_once(api: Api) -> None:
    first = api.ann.put("/datasets/staged", content=b"a,b\n1,x\n2,y\n").json()

    def stage(number: int, rows: bytes = b"", ref: str = "staged") -> Any:
        body = rows or f"b,a\nz,{number}\n".encode()
        return api.ann.post(f"/datasets/{ref}/batches", content=body, headers={"Idempotency-Key": f"b{number}"})

    for number in (*range(10, 60), 20, 30):
        assert stage(number).status_code == 202
    assert api.ann.get("/datasets/staged").json()["id"] == first["id"]
    assert stage(10, b"a,b\n7,q\n").status_code == 409
    assert stage(99, b"a,c\n7,q\n").status_code == 422
    assert api.bob.get("/datasets/staged/batches").status_code == 404
    waiting = api.ann.get("/datasets/staged/batches").json()
    assert (waiting["batches"], waiting["rows"]) == (50, 50)
    answers: list[int] = []

    def commit() -> None:
        answers.append(api.ann.post("/datasets/staged/batches/commit").status_code)

    threads = [threading.Thread(target=commit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 201]
    newest = api.ann.get("/datasets/staged").json()
    values = [row[0] for row in api.ann.get("/datasets/staged/rows").json()["rows"]]
    assert (newest["version"], newest["parent_id"], values) == (2, first["id"], [1, 2, *range(10, 60)])
    assert stage(10).json()["batches"] == 0  # it is in version 2
    for version in (2, 1):
        assert api.ann.delete(f"/datasets/staged@{version}").status_code == 204
    api.bob.put("/datasets/staged", content=b"a,b\n1,x\n")  # a name that is free has no batches
    mine = api.bob.post("/datasets/staged/batches", content=b"a,b\n7,q\n", headers={"Idempotency-Key": "b10"})
    assert mine.json()["batches"] == 1


@pytest.mark.long  # the short form: fifty
def test_a_thousand_small_batches_of_several_clients_become_one_version(api: Api) -> None:
    api.ann.put("/datasets/thousand", content=b"a,b\n-1,x\n-2,y\n")

    def stage(number: int) -> int:
        headers = {"Idempotency-Key": f"b{number}"}
        path = "/datasets/thousand/batches"
        return api.ann.post(path, content=f"a,b\n{number},z\n".encode(), headers=headers).status_code

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(stage, [*range(1000), *range(0, 1000, 10)]))  # a tenth is sent twice
    assert set(answers) == {202}
    assert api.ann.get("/datasets/thousand").json()["version"] == 1
    assert api.ann.post("/datasets/thousand/batches/commit").status_code == 201
    newest = api.ann.get("/datasets/thousand").json()
    rows = api.ann.get("/datasets/thousand/rows?limit=2000").json()["rows"]
    assert (newest["version"], newest["rows"]) == (2, 1002)
    assert sorted(row[0] for row in rows) == [-2, -1, *range(1000)]


def test_what_has_waited_for_long_enough_is_appended(api: Api) -> None:
    api.ann.put("/datasets/waited", content=b"a,b\n1,x\n2,y\n")
    api.ann.post("/datasets/waited/batches", content=b"a,b\n3,z\n")
    engine = db.make_engine(api.settings.resolved_database_url)
    store = blobs.open_store(api.settings.resolved_blob_url)
    for seconds, version in ((300.0, 1), (1e-6, 2)):
        Stage(api.settings.model_copy(update={"append_commit_seconds": seconds}), engine, store).commit_due()
        assert api.ann.get("/datasets/waited").json()["version"] == version
    engine.dispose()


def test_rows_appended_make_a_new_version(api: Api) -> None:
    made = api.ann.put("/datasets/grown", content=b"code,n\n" + b"007,1\n008,2\n" * 20).json()
    more = api.ann.post("/datasets/grown/rows", content=b"n,code\n2.5,009\n")
    assert more.status_code == 201, more.text
    body = more.json()
    assert (body["version"], body["parent_id"], body["rows"]) == (2, made["id"], 41)
    assert body["columns"][0]["labels"] == ["007", "008", "009"]
    last = api.ann.get("/datasets/grown/rows", params={"offset": 40}).json()["rows"]
    assert last == [["009", 2.5]]
    other = api.ann.post("/datasets/grown/rows", content=b"n,kode\n2.5,009\n")
    assert other.status_code == 422
    assert {error["column"] for error in other.json()["errors"]} == {"kode", "code"}
    bad = api.ann.post("/datasets/grown/rows", content=b"n,code\n2,009\nx,1\n")
    assert bad.status_code == 422
    assert bad.json()["errors"][0]["row"] == 2


def test_samples(api: Api) -> None:
    names = {item["sample"] for item in api.ann.get("/datasets/samples").json()["items"]}
    assert {"circle", "xor", "gauss", "spiral", "plane", "multi-gauss", "iris", "wine", "breast_cancer"} <= names
    made = api.ann.post("/datasets/samples", json={"sample": "spiral", "noise": 10, "seed": 3})
    assert made.status_code == 201, made.text
    assert made.json()["rows"] == 500
    assert api.ann.post("/datasets/samples", json={"sample": "spiral", "noise": 10, "seed": 3}).status_code == 200
    iris = api.ann.post("/datasets/samples", json={"sample": "iris", "name": "flowers"}).json()
    assert iris["columns"][-1]["labels"] == ["setosa", "versicolor", "virginica"]
    assert api.ann.post("/datasets/samples", json={"sample": "nope"}).status_code == 404


def test_download_guards_formulas_and_parquet_is_exact(api: Api) -> None:
    api.ann.put("/datasets/formulas", content=b"a,b\n=1+1,-5\n@x,6\n")
    assert api.ann.get("/datasets/formulas/download?format=csv").content == b"a,b\n'=1+1,-5\n'@x,6\n"
    exact = pq.read_table(io.BytesIO(api.ann.get("/datasets/formulas/download").content))
    assert exact.to_pylist() == [{"a": "=1+1", "b": -5}, {"a": "@x", "b": 6}]


def test_delete(api: Api) -> None:
    made = api.ann.put("/datasets/gone", content=table("gone")).json()
    assert api.ann.delete(f"/datasets/{made['id']}").status_code == 204
    assert api.ann.get("/datasets/gone").status_code == 404


def test_a_dataset_that_is_replaced_while_it_is_deleted_stays(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.ann.put("/datasets/replaced", content=table("one")).raise_for_status()
    find = routes.owned_dataset

    def find_and_replace(*arguments: Any) -> Any:
        monkeypatch.setattr(routes, "owned_dataset", find)
        row = find(*arguments)
        api.ann.delete("/datasets/replaced").raise_for_status()
        api.ann.put("/datasets/replaced", content=table("two")).raise_for_status()
        return row

    monkeypatch.setattr(routes, "owned_dataset", find_and_replace)
    assert api.ann.delete("/datasets/replaced").status_code == 404
    assert api.ann.get("/datasets/replaced").json()["version"] == 1


def test_the_server_answers_while_a_table_is_parsed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsing, answered = store.ingest, threading.Event(), threading.Event()

    def parse_for_long(*arguments: Any) -> Any:
        parsing.set()
        assert answered.wait(PATIENCE), "nothing else was answered meanwhile"
        return parse(*arguments)

    monkeypatch.setattr(store, "ingest", parse_for_long)
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(api.ann.put, "/datasets/parsed", content=table("parsed"))
        assert parsing.wait(PATIENCE)
        assert api.bob.get("/datasets").status_code == 200
        answered.set()
        assert upload.result().status_code == 201


def test_errors_name_row_column_and_value_and_leave_nothing(api: Api) -> None:
    before = api.blobs()
    rows = b"x,y\n" + b"".join(b"%d,2\n" % i for i in range(5_000)) + b"oops,3\n"
    answer = api.ann.put("/datasets/bad", content=rows)
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    error = answer.json()["errors"][0]
    assert (error["row"], error["line"], error["column"], error["received"]) == (5001, 5002, "x", "oops")
    assert api.ann.get("/datasets/bad").status_code == 404
    lenient = api.ann.put("/datasets/bad?lenient=true", content=rows)
    assert lenient.status_code == 201
    assert lenient.json()["refused"]["rows"] == 1
    assert lenient.json()["refused"]["problems"][0]["row"] == 5001
    assert api.leftovers() == []
    assert len(api.blobs() - before) == 1


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"a,b\n", 400),
        (b"a,b\n1\n", 422),
        (b"\x93NUMPY" + bytes(range(256)) * 20, 415),
        (b"PAR1" + b"\0" * 100 + b"PAR1", 400),
        (gzip.compress(b"a\n1\n" * 1000)[:-10], 400),
        (b",".join([b"c"] * 10_000) + b"\n", 413),
        (b"x" * (9 << 20), 413),
        (b"a\n" + b"x" * (5 << 20) + b"\n", 422),
        (b"PK\x03\x04", 415),
    ],
    ids=[
        *("empty", "header only", "ragged", "numpy", "parquet", "half of a gzip"),
        *("columns", "one line", "one cell", "zip"),
    ],
)
def test_malformed_uploads_are_refused(api: Api, content: bytes, status: int) -> None:
    assert_refused(api, content, status)


def test_a_bomb_is_refused(api: Api) -> None:
    assert_refused(api, gzip.compress(b"0" * (80 << 20)), 413)


def assert_refused(api: Api, content: bytes, status: int) -> None:
    before = api.blobs()
    answer = api.ann.put("/datasets/malformed", content=content)
    assert answer.status_code == status, answer.text
    assert api.leftovers() == []
    assert api.blobs() == before


def test_unknown_options_and_names_are_refused(api: Api) -> None:
    assert api.ann.put("/datasets/x?delimeter=;", content=CSV).status_code == 422
    assert api.ann.put("/datasets/x?kinds.gre=purple", content=CSV).status_code == 422
    assert api.ann.put("/datasets/x?kinds={", content=CSV).status_code == 422
    assert api.ann.put("/datasets/UPPER", content=CSV).status_code == 422
    assert api.ann.put("/datasets/samples", content=CSV).status_code == 422
    assert api.ann.get("/datasets/..%2f..%2fetc").status_code == 404
    assert api.ann.get("/datasets/a@b").status_code == 404


FORM = b'--B\r\nContent-Disposition: form-data; name="file"; filename="t.csv"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (FORM + b"a,b\n1,2\n", 400),
        (b"x" * 200_000, 400),
        (b'--B\r\nContent-Disposition: form-data; name="q"\r\n\r\nv\r\n--B--\r\n', 400),
        (b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nv\r\n--B--\r\n', 400),
        (b"--B\r\n" + b"X-H: y\r\n" * 100_000, 400),
        (FORM + b"a\n1\n\r\n" + FORM + b"a\n1\n\r\n--B--\r\n", 400),
        (b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + b"y" * 300_000 + b"\r\n--B--\r\n", 413),
        (FORM + b"a,b\n1,2\n\r\n--B--\r\n", 201),
    ],
)
def test_broken_forms(api: Api, body: bytes, status: int) -> None:
    answer = api.ann.post("/datasets", content=body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert answer.status_code == status, answer.text
    assert api.leftovers() == []


def test_a_broken_connection_leaves_nothing(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    before = api.blobs()
    with socket.create_connection((host, int(port))) as raw:
        head = f"PUT /api/v1/datasets/cut HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        raw.sendall(head.encode() + b"Content-Length: 4000000\r\n\r\n" + CSV * 300)
        wait_until(api.leftovers, "a part of it is on the disk")
    wait_until(lambda: not api.leftovers(), "nothing is left over")
    assert api.blobs() == before
    assert api.ann.get("/datasets/cut").status_code == 404


def test_limits_are_listed(api: Api) -> None:
    found = api.ann.get("/limits").json()
    assert (found["upload_bytes"], found["columns"]) == (8 << 20, 500)


def test_parquet_round_trip_over_http(api: Api) -> None:
    made = pa.table({"a": pa.array([1, None, 3], pa.int16()), "b": ["x", None, "é"], "c": [0.1, float("inf"), None]})
    out = io.BytesIO()
    pq.write_table(made, out)
    assert api.ann.put("/datasets/exact", content=out.getvalue()).status_code == 201
    back = pq.read_table(io.BytesIO(api.ann.get("/datasets/exact/download").content))
    assert back.equals(made)
    assert api.ann.get("/datasets/exact/rows").json()["rows"][1] == [None, None, "Infinity"]


# --- resumable uploads ---

TUS = {"Tus-Resumable": "1.0.0"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def begin(api: Api, length: int, **metadata: str) -> str:
    header = ",".join(f"{name} {b64(value)}" for name, value in metadata.items())
    made = api.ann.post("/uploads", headers={**TUS, "Upload-Length": str(length), "Upload-Metadata": header})
    assert made.status_code == 201, made.text
    return str(made.headers["location"]).removeprefix("/api/v1")


def send(api: Api, location: str, offset: int, data: bytes) -> Any:
    headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    return api.ann.patch(location, content=data, headers=headers)


def test_a_resumable_upload_in_parts(api: Api) -> None:
    data = table("tus")
    location = begin(api, len(data), name="resumed", filename="t.csv")
    assert send(api, location, 0, data[:500]).headers["upload-offset"] == "500"
    head = api.ann.head(location, headers=TUS)
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("500", str(len(data)))
    assert send(api, location, 400, data[400:]).status_code == 409
    done = send(api, location, 500, data[500:])
    assert done.status_code == 204, done.text
    assert api.ann.get(done.headers["content-location"].removeprefix("/api/v1")).json()["name"] == "resumed"
    assert api.ann.get(location).json()["dataset_id"]
    assert send(api, location, len(data), b"").status_code == 409


def test_a_resumable_upload_survives_a_broken_connection(api: Api) -> None:
    data = table("broken-tus") + b"1,500,3\n" * 300_000
    location = begin(api, len(data), name="resumed-later")
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        head = (
            f"PATCH /api/v1{location} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
            f"Tus-Resumable: 1.0.0\r\n"
            f"Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        raw.sendall(head.encode() + data[:-500])
        wait_until(lambda: offset_of(api, location) >= 1 << 20)
        assert send(api, location, 0, data).status_code == 423  # the first request is still writing
    wait_until(lambda: send(api, location, len(data) - 1, b"").status_code == 409)  # it has ended
    offset = offset_of(api, location)
    assert 1 << 20 <= offset <= len(data) - 500
    assert send(api, location, offset, data[offset:]).status_code == 204
    assert api.ann.get("/datasets/resumed-later").json()["rows"] == 300_122


def offset_of(api: Api, location: str) -> int:
    return int(api.ann.head(location, headers=TUS).headers["upload-offset"])


def test_invalid_requests_of_resumable_uploads_are_refused(api: Api) -> None:
    assert api.ann.request("OPTIONS", "/uploads").headers["tus-version"] == "1.0.0"
    assert api.ann.post("/uploads", headers={**TUS, "Upload-Length": str(9 << 20)}).status_code == 413
    assert api.ann.post("/uploads", headers=TUS).status_code == 400
    assert api.ann.post("/uploads", headers={"Tus-Resumable": "0.9", "Upload-Length": "5"}).status_code == 412
    bad = {**TUS, "Upload-Length": "5", "Upload-Metadata": "name !!!"}
    assert api.ann.post("/uploads", headers=bad).status_code == 400
    unknown = {**TUS, "Upload-Length": "5", "Upload-Metadata": f"color {b64('red')}"}
    assert api.ann.post("/uploads", headers=unknown).status_code == 422
    location = begin(api, 8)
    assert send(api, location, 0, b"123456789").status_code == 413
    assert api.bob.head(location, headers=TUS).status_code == 404
    assert api.ann.delete(location, headers=TUS).status_code == 204
    assert api.ann.head(location, headers=TUS).status_code == 404


def test_a_refused_table_deletes_its_resumable_upload(api: Api) -> None:
    data = b"a,b\n1,2\n3\n"
    location = begin(api, len(data))
    refused = send(api, location, 0, data)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["row"] == 2
    assert api.ann.head(location, headers=TUS).status_code == 404
    assert not list((api.settings.scratch / "uploads").iterdir()) or location.rsplit("/", 1)[1] not in {
        path.name for path in (api.settings.scratch / "uploads").iterdir()
    }


def test_the_etag_of_a_version_changes_with_sharing_alone(api: Api) -> None:
    api.ann.put("/datasets/tagged", content=table("tagged"))
    tag = api.ann.get("/datasets/tagged").headers["etag"]
    assert api.ann.get("/datasets/tagged", headers={"If-None-Match": tag}).status_code == 304
    api.ann.patch("/datasets/tagged", json={"shared": True})
    assert api.ann.get("/datasets/tagged", headers={"If-None-Match": tag}).status_code == 200


def test_a_detail_has_the_frequent_labels_of_a_column_and_columns_have_all(api: Api) -> None:
    rows = [f"{n:03d}x,{n % 3}" for n in range(300)] + [f"{n:03d}x,0" for n in range(1, 300, 3)]
    sent = api.ann.put("/datasets/labels", content="code,n\n" + "\n".join(rows) + "\n").json()
    assert sent["columns"][0]["labels"] == [f"{n:03d}x" for n in range(1, 300, 3)]
    assert sent["columns"][0]["label_counts"] == [2] * 100
    assert sent["columns"][0]["distinct"] == 300
    assert api.ann.get("/datasets/labels").json()["columns"] == sent["columns"]
    first = api.ann.get("/datasets/labels/columns", params={"limit": 1}).json()
    assert first["items"][0]["labels"] == [f"{n:03d}x" for n in range(300)]
    rest = api.ann.get("/datasets/labels/columns", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert (rest["items"], rest["next_cursor"]) == (sent["columns"][1:], None)
    assert api.ann.get("/datasets/labels/columns", params={"name": "n"}).json()["items"] == rest["items"]
    refused = api.ann.get("/datasets/labels/columns", params={"name": ["n", "m"]})
    assert (refused.status_code, refused.json()["errors"][0]["expected"]) == (404, "code, n")
    many = DatasetDetail.model_validate({**sent, "columns": 2000 * first["items"]})
    assert {len(column.labels or ()) for column in with_frequent_labels(many).columns} == {8}
