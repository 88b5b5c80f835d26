"""A whole server between a database and a bucket: a table comes in, predictions go out, and in again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import fsspec
import httpx2
import psycopg
import pyarrow.parquet as pq
import pytest

from fitserve.client import Client
from fitserve.client.runs import Run
from fitserve.errors import BadInput, FitserveError
from fitserve.ids import new_id
from tests.client.conftest import circle
from tests.conftest import Server
from tests.live_files import files_under
from tests.waiting import PATIENCE

SECRET = "s3kret/never shown"


@pytest.fixture(scope="module")
def places(server: Server, postgres: str, s3_environment: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    """A schema of PostgreSQL and a bucket, which the operator has named `shop` and `lake`; and bad connections."""
    bucket = new_id("b").replace("_", "-")
    endpoint = {"client_kwargs": {"endpoint_url": s3_environment["AWS_ENDPOINT_URL"]}}
    options = {"key": "tester", "secret": SECRET, **endpoint}
    away = {"key": "k", "secret": SECRET, "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    known = {
        "shop": {"url": postgres, "writable": True},
        "lake": {"url": f"s3://{bucket}/out", "options": options, "writable": True},
        "reading": {"url": postgres},
        "gone": {"url": "postgresql://ann@127.0.0.1:1/x", "password": SECRET},
        "dry": {"url": f"s3://{bucket}-none", "options": options},
        "away": {"url": "s3://x", "options": away},
    }
    server.connections.write_text(json.dumps(known))
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **options)
    store.mkdir(bucket)
    with psycopg.connect(postgres.replace("+psycopg", "", 1), autocommit=True) as shop:
        shop.execute("DROP SCHEMA IF EXISTS inout CASCADE")
        shop.execute("CREATE SCHEMA inout")
        yield shop, (store, f"{bucket}/out")
        shop.execute("DROP SCHEMA inout CASCADE")


def test_predictions_go_to_a_table_and_a_bucket_and_come_in_again(
    client: Client, trained: Run, places: tuple[Any, Any]
) -> None:
    shop, (store, folder) = places
    expected = client.models.predict("client-circle", circle().head(3).to_dict("records"), version=1)
    targets = {"sql": {"connection": "shop", "table": "inout.scores"}}, {"s3": {"connection": "lake", "path": "scores"}}
    for destination in targets:
        asked = client.models.predict_dataset(
            "client-circle", trained.dataset, version=1, destination=destination, columns=["x"]
        )
        result = client.runs.get(asked.id).wait(PATIENCE).result
        assert (result["rows"], [part["rows"] for part in result["parts"]]) == (240, [240])
    written = shop.execute("SELECT x, predicted_side FROM inout.scores").fetchall()
    assert [row[0] for row in written] == circle()["x"].to_list()
    (manifest,) = (json.loads(store.cat_file(name)) for name in store.find(folder) if "_manifest" in name)
    objects = pq.read_table(io.BytesIO(store.cat_file(f"{folder}/scores/{manifest['parts'][0]['name']}")))
    assert objects["predicted_side"].to_pylist() == [row[1] for row in written]
    assert (objects.num_rows, manifest["dataset"]) == (240, "client-circle@1")

    source = {"sql": {"connection": "shop", "query": "SELECT * FROM inout.scores"}}
    again = client.datasets.import_from("in-and-out", source)
    files = {"s3": {"connection": "lake", "path": "scores/part-*.parquet"}}
    from_files = client.datasets.import_from("in-and-out-files", files)
    assert from_files.rows == again.rows == 240
    spec = {"dataset": from_files.ref, "target": "predicted_side", "features": ["x"], "network": [{"Dense": 2}]}
    client.runs.create(spec, training={"epochs": 1}, model="in-and-out").wait(PATIENCE)
    card = client.models.card("in-and-out", 1).replace("\\", "")
    assert "| imported from | s3 scores/part-*.parquet through lake, objects: 1, 20" in card
    client.models.delete("in-and-out")
    probabilities = [row["predicted_side_out"] for row in again.iter_rows(3)]
    assert probabilities == pytest.approx([row[0] for row in expected], abs=1e-6)
    with pytest.raises(FitserveError, match="exists already"):
        twice = client.models.predict_dataset("client-circle", trained.dataset, destination=targets[0])
        client.runs.get(twice.id).wait(PATIENCE)


def test_a_run_on_predictions_knows_whose_they_are(client: Client, trained: Run) -> None:
    asked = client.models.predict_dataset("client-circle", trained.dataset, version=1, name="in-and-out-predicted")
    client.runs.get(asked.id).wait(PATIENCE)
    spec = {"dataset": "in-and-out-predicted", "target": "predicted_side", "features": ["x"], "network": [{"Dense": 2}]}
    student = client.runs.create(spec, training={"epochs": 1}, model="in-and-out-student").wait(PATIENCE)
    own, source = student.lineage().data
    assert (own.dataset, own.made, own.model, own.version) == (
        "in-and-out-predicted@1",
        "predicted",
        "client-circle",
        1,
    )
    assert (own.run, own.trained_by, source.dataset, source.made) == (
        asked.id,
        trained.id,
        "client-circle@1",
        "uploaded",
    )
    card = client.models.card("in-and-out-student", 1)
    assert "| predicted by | client-circle, version 1, on client-circle@1 |" in card.replace("\\", "")
    client.models.delete("in-and-out-student")


def test_what_cannot_come_in_or_go_out_is_refused_without_a_secret(
    client: Client, trained: Run, places: tuple[Any, Any], server: Server
) -> None:
    shop, _ = places
    shop.execute("CREATE TABLE inout.kept AS SELECT 1 AS a")
    before = {one.ref for one in client.datasets.list()}
    sql = lambda connection, query: {"sql": {"connection": connection, "query": query}}  # noqa: E731
    files = lambda connection: {"s3": {"connection": connection, "path": "*.csv"}}  # noqa: E731
    for source, status, says in (
        (sql("shopp", "SELECT 1 AS a"), 422, "no connection 'shopp'"),
        (sql("shop", "DELETE FROM inout.kept"), 422, "only reads"),
        (sql("shop", "SELECT inet '10.0.0.1' AS address"), 422, "address"),
        (sql("gone", "SELECT 1 AS a"), 503, "does not answer"),
        (files("dry"), 422, "no object"),
        (files("away"), 503, "does not answer"),
    ):
        body = {"name": "refused", "source": source}
        # Not by the client, which would try again after the half minute that a 503 names.
        answer = httpx2.post(f"{server.base_url}/api/v1/datasets", json=body, headers=server.headers, timeout=PATIENCE)
        assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
        assert SECRET not in answer.text
    for connection, says in (("reading", "for reading alone"), ("shopp", "no connection")):
        target = {"sql": {"connection": connection, "table": "inout.kept"}}
        with pytest.raises(BadInput, match=says):
            client.models.predict_dataset("client-circle", trained.dataset, destination=target)
    assert {one.ref for one in client.datasets.list()} == before
    assert shop.execute("SELECT a FROM inout.kept").fetchall() == [(1,)]
    logs = [server.log, *files_under(server.home / "logs")]
    assert len(logs) > 2
    assert not any(SECRET in path.read_text(errors="replace") for path in logs)
