"""Datasets from databases: read-only, typed, whole or not at all, and without a password anywhere."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg
import pytest
import sqlalchemy as sa

from benchmarks.sql_import import database
from tests.datasets.conftest import PROJECT, Api
from tests.waiting import wait_until

PASSWORD = "s3kret/pass word"


@pytest.fixture(scope="module")
def warehouse(postgres: str, api: Api) -> Iterator[psycopg.Connection[Any]]:
    """PostgreSQL's maintenance database, which the operator has named `warehouse`."""
    url = postgres.replace("postgresql+psycopg://", "postgresql://", 1)
    api.connect(warehouse={"url": postgres}, private={"url": postgres, "owners": ["bob"]})
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA sources")
        yield connection
        connection.execute("DROP SCHEMA sources CASCADE")


def ask(api: Api, name: str, query: str, connection: str = "warehouse", **more: Any) -> httpx.Response:
    body = {"name": name, "source": {"sql": {"connection": connection, "query": query}}, **more}
    return api.ann.post("/datasets", json=body)


def test_a_query_keeps_its_types_and_new_rows_are_the_next_version(api: Api, warehouse: Any) -> None:
    warehouse.execute(
        "CREATE TABLE sources.sales AS SELECT i AS id, i % 2 = 0 AS paid, i * 1.5::float8 AS size,"
        " (CASE WHEN i = 2 THEN 'NaN' ELSE i * 1.25 END)::numeric(10, 2) AS price, '0' || i AS code,"
        " date '2026-01-01' + i AS day,"
        " timestamptz '2026-01-01 00:00+00' + i * interval '1 s' AS moment, gen_random_uuid() AS tag,"
        " CASE WHEN i > 3 THEN i::numeric END AS loose, '{\"a\": 1}'::jsonb AS extra FROM generate_series(1, 3000) i"
    )
    query = "SELECT * FROM sources.sales ORDER BY id; -- all of them"
    first = ask(api, "sales", query)
    assert first.status_code == 201, first.text
    body = first.json()
    assert body["rows"] == 3000
    assert {column["name"]: column["storage"] for column in body["columns"]} == {
        **dict.fromkeys(("size", "price", "loose"), "float64"),
        **dict.fromkeys(("code", "tag", "extra"), "string"),
        **dict.fromkeys(("day", "moment"), "timestamp"),
        "id": "int64",
        "paid": "bool",
    }
    assert body["source"]["types"]["price"] == "decimal128(10, 2)"
    assert body["source"]["imported"]["from"] == {"sql": {"connection": "warehouse", "query": query}}
    assert body["source"]["imported"]["snapshot"]["transactions"]
    assert ("digits_rounded", "loose") in [(one["code"], one["column"]) for one in body["notices"]]
    rows = api.ann.get(f"/datasets/{body['id']}/rows", params={"limit": 4}).json()["rows"]
    assert rows[2][:5] == [3, False, 4.5, 3.75, "03"]
    assert rows[1][3] is None  # NaN
    assert [row[8] for row in rows] == [None, None, None, 4.0]

    unchanged = api.ann.post("/datasets/sales/refresh")
    assert (unchanged.status_code, unchanged.json()["id"]) == (200, body["id"])
    warehouse.execute("INSERT INTO sources.sales (id, paid) VALUES (3001, true)")
    changed = api.ann.post("/datasets/sales/refresh")
    assert changed.status_code == 201, changed.text
    after = changed.json()
    assert (after["version"], after["parent_id"], after["rows"]) == (2, body["id"], 3001)
    warehouse.execute("DELETE FROM sources.sales WHERE id = 3001")
    again = api.ann.post("/datasets/sales/refresh").json()
    assert (again["version"], again["sha256"]) == (3, body["sha256"])
    assert api.bob.post("/datasets/sales/refresh").status_code == 404


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("DELETE FROM sources.kept", "only reads"),
        ("WITH gone AS (DELETE FROM sources.kept RETURNING *) SELECT * FROM gone", "writes"),
        ("SELECT 1 AS a; DELETE FROM sources.kept", "multiple commands"),
        ("COPY sources.kept TO PROGRAM 'true'", "only reads"),
        ("/* SELECT */ COMMIT", "only reads"),
        ("SELECT set_config('transaction_read_only', 'off', true)", "refuses the query"),
        ("SELECT nextval('sources.numbers')", "writes"),
        ("SELECT nope FROM sources.kept", '"nope" does not exist'),
        ("SELECT a / 0 FROM sources.kept", "division by zero"),
        ("SELECT inet '10.0.0.1' AS address", '"address"::text'),
        ("SELECT array[1, 2] AS many", "not a plain value"),
        ("SELECT a, a FROM sources.kept", "stands for several columns"),
        ("SELECT row(1, 2) AS pair", "Cast its column"),
        ("SELECT date 'infinity' AS until", "NULLIF"),
        ("SELECT timestamptz '-infinity' AS since", "NULLIF"),
        ("SELECT 1) TO PROGRAM 'true'; COPY (SELECT 2", "syntax error"),
        ("SELECT a FROM sources.kept WHERE false", "no rows"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_changes_nothing(
    api: Api, warehouse: Any, query: str, says: str
) -> None:
    warehouse.execute("CREATE TABLE IF NOT EXISTS sources.kept AS SELECT 1 AS a")
    warehouse.execute("CREATE SEQUENCE IF NOT EXISTS sources.numbers")
    before = api.blobs()
    answer = ask(api, "refused", query)
    assert answer.status_code in (400, 422), answer.text
    assert says in json.dumps(answer.json()).replace('\\"', '"')
    assert warehouse.execute("SELECT count(*) FROM sources.kept").fetchone() == (1,)
    assert (api.blobs(), api.leftovers()) == (before, [])


def test_connections_are_named_and_never_shown(api: Api, warehouse: Any) -> None:
    assert [one["name"] for one in api.ann.get("/connections").json()["items"]] == ["warehouse"]
    assert {one["name"] for one in api.bob.get("/connections").json()["items"]} == {"warehouse", "private"}
    for name in ("private", "wharehouse"):
        error = ask(api, "x", "SELECT 1 AS a", name).json()["errors"][0]
        assert (error["pointer"], error["expected"]) == ("/source/sql/connection", "one of warehouse")
    (hba,) = warehouse.execute("SHOW hba_file").fetchone()
    warehouse.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
    lines = [line for (line,) in warehouse.execute("SELECT regexp_split_to_table(pg_read_file(%s), '\n')", (hba,))]
    try:
        _write_server_file(
            warehouse, hba, ["local all reader scram-sha-256", "host all reader all scram-sha-256", *lines]
        )
        socket = warehouse.info.host
        url = f"postgresql://reader@/postgres?host={socket}&port={warehouse.info.port}"
        api.connect(right={"url": url, "password": PASSWORD}, wrong={"url": url, "password": "wr0ng%secret"})
        assert ask(api, "by-reader", "SELECT 1 AS a, 'x' AS b", "right").status_code == 201
        refused = ask(api, "by-reader", "SELECT 1 AS a", "wrong")
        assert refused.status_code == 422, refused.text
        assert "password authentication failed" in refused.json()["detail"]
        assert "wr0ng" not in refused.text
        unreachable = "postgresql://reader:t0ps3cret%2Fw0rd@127.0.0.1:1/x"
        api.connect(away={"url": unreachable})
        away = ask(api, "by-reader", "SELECT 1 AS a", "away")
        assert (away.status_code, away.headers["retry-after"]) == (503, "30")
        assert "t0ps3cret" not in away.text
    finally:
        _write_server_file(warehouse, hba, lines)
        warehouse.execute("DROP ROLE reader")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql"])
@pytest.mark.parametrize("password", ["hush/ab", "hush@ab", "hush#ab", "hush?ab", "hu:sh[ab"])
def test_a_password_that_breaks_its_url_is_not_echoed(api: Api, scheme: str, password: str) -> None:
    api.connect(broken={"url": f"{scheme}://reader:{password}@127.0.0.1:1/x"})
    try:
        answer = ask(api, "broken", "SELECT 1 AS a", "broken")
        assert answer.status_code in (500, 503), answer.text
        assert answer.json()["type"].endswith(("bad-connections", "source-away"))
        assert "hu" not in answer.text.replace("hush:", "")
    finally:
        api.connect(broken={"url": "sqlite:///none"})


def test_a_url_that_a_driver_cannot_read_is_the_operators_fault(api: Api) -> None:
    for url in ("postgresql://ann@127.0.0.1:1/x?pasword=hush", "mysql+pymysql://ann@127.0.0.1:1/x?hush=1"):
        api.connect(broken={"url": url})
        answer = ask(api, "broken", "SELECT 1 AS a", "broken")
        assert answer.json()["type"].endswith("bad-connections"), answer.text
        assert "hush" not in answer.text


def _write_server_file(connection: Any, path: str, lines: list[str]) -> None:
    values = psycopg.sql.Literal([line for line in lines if line.strip()])
    target = psycopg.sql.Literal(path)
    connection.execute(psycopg.sql.SQL("COPY (SELECT unnest({}::text[])) TO {}").format(values, target))
    connection.execute("SELECT pg_reload_conf()")


def test_a_connection_that_is_killed_midway_is_tried_again_and_nothing_is_half_stored(api: Api, warehouse: Any) -> None:
    warehouse.execute("CREATE TABLE sources.pauses AS SELECT 600 AS seconds")
    query = (
        "SELECT i, repeat('x', 200) AS filler, CASE WHEN i = 15000 THEN"
        " length(pg_sleep((SELECT seconds FROM sources.pauses))::text) END AS pause FROM generate_series(1, 20000) i"
    )
    own = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%%sources.pauses%%' AND wait_event = 'PgSleep'"
    answers: list[httpx.Response] = []

    def start() -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.append(ask(api, "killed", query)))
        thread.start()
        return thread

    def kill() -> set[int]:
        return {pid for pid, _ in warehouse.execute(f"SELECT pid, pg_terminate_backend(pid) FROM ({own}) s").fetchall()}

    before, killed = api.blobs(), set[int]()

    def kill_until_answered() -> bool:
        killed.update(kill())
        return bool(answers)

    thread = start()
    wait_until(kill_until_answered, "the import gives up")
    thread.join()
    assert answers[0].status_code == 503, answers[0].text
    assert answers[0].headers["retry-after"]
    assert len(killed) == 3  # every attempt
    assert (api.blobs(), api.leftovers()) == (before, [])
    thread = start()
    wait_until(lambda: warehouse.execute(own).fetchone() is not None, "the query is in the middle")
    warehouse.execute("UPDATE sources.pauses SET seconds = 0")
    kill()
    thread.join()
    assert answers[1].status_code == 201, answers[1].text
    assert answers[1].json()["rows"] == 20_000


def test_a_query_that_takes_too_long_is_ended(api: Api, warehouse: Any, postgres: str, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "slow.db").close()
    api.connect(
        hasty={"url": postgres, "statement_seconds": 0.3},
        slow={"url": f"sqlite:///{tmp_path}/slow.db", "statement_seconds": 0.3},
    )
    counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS c FROM n"
    for name, query in (("hasty", "SELECT 1 AS a, length(pg_sleep(600)::text) AS b"), ("slow", counted)):
        answer = ask(api, "hasty", query, name)
        assert answer.status_code == 422, answer.text
        assert "longer than 0.3 seconds" in answer.json()["detail"]


def test_other_databases_are_read_through_sqlalchemy(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE visits (id INTEGER, price REAL, code TEXT, mixed, blank)")
        rows = [(i, i / 4, f"{i:05}", i if i < 15_000 else f"n{i}", None) for i in range(20_000)]
        database.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", rows)
    database.close()
    api.connect(shop={"url": f"sqlite:///{path}"})
    answer = ask(api, "visits", "SELECT * FROM visits ORDER BY id", "shop", options={"kinds": {"code": "categorical"}})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    storages = {column["name"]: column["storage"] for column in body["columns"]}
    assert [storages[name] for name in ("id", "price", "code", "mixed")] == ["int64", "float64", "string", "string"]
    assert ask(api, "visits", "SELECT * FROM visits ORDER BY id", "shop").json()["version"] == 2  # read otherwise
    assert api.ann.post("/datasets/visits@1/refresh").status_code == 200  # the newest one's source
    for query in (
        f"ATTACH '{tmp_path}/other.db' AS other",
        "WITH a AS (SELECT 1) DELETE FROM visits",
        "WITH a AS (SELECT 1) INSERT INTO visits SELECT 1, 2, 3, 4, 5",
        "SELECT load_extension('x')",
        "SELECT writefile('x', 'y')",
        "SELECT id, code AS id FROM visits",
        "SELECT hex(zeroblob(20000000)) AS large",
    ):
        assert ask(api, "visits", query, "shop").status_code == 422, query
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, hex(zeroblob(9999)) FROM n"
    assert ask(api, "visits", endless, "shop").status_code == 413  # long before the query's time is over
    assert not (tmp_path / "other.db").exists()
    api.connect(gone={"url": f"sqlite:///{tmp_path}/gone.db"}, odd={"url": "nosuch://x"})
    assert ask(api, "visits", "SELECT 1 AS a", "gone").status_code == 503
    assert not (tmp_path / "gone.db").exists()
    assert ask(api, "visits", "SELECT 1 AS a", "odd").json()["type"].endswith("bad-connections")


@pytest.mark.long
def test_mariadb_is_read_and_never_written(api: Api, mariadb: str) -> None:
    engine = sa.create_engine(mariadb, isolation_level="AUTOCOMMIT")
    wrong = mariadb.replace("root@", "nobody:wr0ng%25secret@")
    host, name = mariadb.partition("@")[2], "mysql://ann@127.0.0.1:1/x"
    api.connect(
        hasty={"url": mariadb, "statement_seconds": 1},
        maria={"url": mariadb},
        wrong={"url": wrong},
        plain={"url": name},
    )
    api.connect(maria2={"url": f"mariadb+pymysql://root@{host}"}, dead={"url": "mysql+pymysql://ann@127.0.0.1:1/x"})
    with engine.connect() as shop:
        for statement in (
            "CREATE TABLE sales (id int, paid bool, price decimal(10, 2), size double, code varchar(9), day date,"
            " moment datetime(6), clock time, extra json, many bigint unsigned, raw blob)",
            "INSERT INTO sales SELECT seq, mod(seq, 2), seq * 1.25, seq / 3, lpad(seq, 6, '0'), '2026-01-01',"
            " '2026-01-01 10:00:00.5', '10:30', '{\"a\": 1}', 18446744073709551615, NULL FROM seq_1_to_25000",
            "INSERT INTO sales (id, code) VALUES (0, NULL)",
            "SET SESSION sql_mode = ''",  # as MySQL was by default for long
            "CREATE TABLE odd (id int, day date, moment datetime)",
            "INSERT INTO odd VALUES (1, '0000-00-00', '0000-00-00'), (2, '2026-02-03', '2026-02-03 04:05')",
            "CREATE FUNCTION sneak() RETURNS int BEGIN INSERT INTO sales (id) VALUES (1); RETURN 1; END",
        ):
            shop.exec_driver_sql(statement)
    made = ask(api, "maria", "SELECT * FROM sales ORDER BY id", "maria")
    assert made.status_code == 201, made.text
    assert made.json()["rows"] == 25001
    kinds = {column["name"]: column["storage"] for column in made.json()["columns"]}
    assert kinds["id"] == "int64"
    assert (kinds["price"], kinds["size"], kinds["code"]) == ("float64", "float64", "string")
    assert kinds["day"] == kinds["moment"] == "timestamp"
    rows = api.ann.get(f"/datasets/{made.json()['id']}/rows", params={"limit": 4}).json()
    third = dict(zip(rows["columns"], rows["rows"][3], strict=True))
    assert (third["price"], third["code"]) == ("3.75", "000003")  # its decimals come without a precision
    assert ask(api, "maria-2", "SELECT id, code FROM sales", "maria2").status_code == 201
    odd = ask(api, "maria-odd", "SELECT * FROM odd ORDER BY id", "maria").json()
    assert [column["storage"] for column in odd["columns"]] == ["int64", "timestamp", "timestamp"]
    assert [column["missing"] for column in odd["columns"]] == [0, 1, 1]
    (said,) = [one for one in odd["notices"] if one["code"] == "read_as_missing"]
    assert (said["message"][:7], said["evidence"]) == ("2 dates", "such as 0000-00-00")
    for connection, query, says in (
        ("maria", "DELETE FROM sales", "only reads"),
        ("maria", "DROP TABLE sales", "only reads"),
        ("maria", "SELECT sneak()", "READ ONLY"),
        ("maria", "SELECT 1 AS a; DELETE FROM sales", "SQL syntax"),
        ("maria", "SELECT nope FROM sales WHERE id % 2 = 0", "nope"),
        ("hasty", "SELECT sleep(30) AS a", "longer than 1 seconds"),
        ("wrong", "SELECT 1 AS a", "denied"),
        ("dead", "SELECT 1 AS a", "does not answer"),
        ("plain", "SELECT 1 AS a", "pip install pymysql"),
    ):
        refused = ask(api, "maria-refused", query, connection)
        assert refused.status_code in (422, 503), refused.text
        assert says in refused.text
        assert "wr0ng" not in refused.text
    with engine.connect() as shop:
        assert shop.exec_driver_sql("SELECT count(*) FROM sales").scalar() == 25001
    assert api.leftovers() == []


@pytest.mark.long
def test_memory_does_not_grow_with_the_rows() -> None:
    code = (
        "import sys, pathlib; from benchmarks.sql_import import as_dataset;"
        "as_dataset(sys.argv[1], pathlib.Path('/tmp'));"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    peaks = []
    for rows in (500_000, 5_000_000):
        with database(rows) as url:
            done = subprocess.run([sys.executable, "-c", code, url], cwd=PROJECT, capture_output=True, check=True)
            peaks.append(int(done.stdout))
    assert peaks[1] < 1.25 * peaks[0], f"{peaks} kB"
