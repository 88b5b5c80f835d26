"""What a key can create, change and read through any route, judged by the effects rather than the status codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from fitserve import api_keys, db, monitoring
from fitserve.api_keys import Scope
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import (
    Alarm,
    Audit,
    Automation,
    AutomationFiring,
    Base,
    Blob,
    BrowserSession,
    Dataset,
    DecisionChange,
    Delivery,
    Event,
    Feedback,
    Key,
    Label,
    Leader,
    Model,
    ModelFault,
    OutboxEvent,
    Rollout,
    RolloutStep,
    Run,
    Sample,
    StagedRows,
    StoredPrediction,
    TrafficSample,
    Upload,
    UploadedWeights,
    Version,
    Webhook,
    Worker,
)
from services.control.app import create_app
from services.http.app import make_server
from tests.control.test_access_matrix import Scenario, operations
from tests.predict.toy_registry import ToyRegistry, numeric

pytestmark = pytest.mark.xdist_group("access")
# What the scope may add to or change in, of its own owner; reads write nothing but the audit log and `last_used_at`
MAY_WRITE: dict[str, set[type[Base]]] = {
    "read": set(),
    "predict": {Feedback},
    "upload": {Dataset, Upload, StagedRows, UploadedWeights},
    "train": {
        *(Run, Event, Model, Version, Label, DecisionChange, Rollout, RolloutStep),
        *(Webhook, Delivery, Automation, AutomationFiring),
    },
    "keys": {Key},
}
# Every table, also of features to come, but what the server writes of itself, a key's own sign-in, and bytes by digest
OF_THE_SERVER = {Audit, Blob, BrowserSession, Leader, OutboxEvent, Sample, TrafficSample, ModelFault, Alarm, Worker}
WATCHED = tuple({mapper.class_ for mapper in Base.registry.mappers} - OF_THE_SERVER)
# Columns of bookkeeping, which any request may move
BOOKKEEPING = {"last_used_at"}


@dataclass
class Server:
    """A running API with resources of ada's."""

    scenario: Scenario
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def engine(self) -> Any:
        return self.scenario.toys.engine

    def key(self, *scopes: str, owner: str = "ada", **options: Any) -> str:
        """Return the token of a key with these scopes."""
        return self.scenario.toys.create_key(list(scopes), owner=owner, **options)

    def ask(self, method: str, path: str, token: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}", **body.pop("headers", {})}
        return self.scenario.client.request(method, f"/api/v1{path}", headers=headers, **body)


@pytest.fixture
def server(scenario: Scenario) -> Server:
    return Server(scenario)


def rows_of(server: Server) -> dict[type[Base], set[tuple[Any, ...]]]:
    """Return every row that a request could change, without bookkeeping."""
    found: dict[type[Base], set[tuple[Any, ...]]] = {}
    with db.reading(server.engine) as session:
        for table in WATCHED:
            columns = [column for column in table.__table__.columns if column.name not in BOOKKEEPING]
            found[table] = {tuple(map(repr, row)) for row in session.execute(select(*columns))}
    return found


# --- effects by scope ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope != "admin"])
def test_a_scope_changes_only_what_it_is_for(server: Server, scope: str) -> None:
    """Every operation of the document with a key of one scope: only the rows of that scope may have changed."""
    token = server.key(scope)
    before = rows_of(server)
    for operation in operations():
        server.scenario.request(operation, token)
    after = rows_of(server)
    changed = {table for table in WATCHED if before[table] != after[table]}
    assert changed <= MAY_WRITE[scope], {table.__name__: after[table] ^ before[table] for table in changed}


@pytest.mark.parametrize("scopes", [("upload",), ("train",), ("predict",), ("keys",)])
def test_what_a_key_may_not_read_it_cannot_share(server: Server, scopes: tuple[str, ...]) -> None:
    token = server.key(*scopes)
    for path in ("/datasets/{ref}", "/runs/{run_id}", "/models/{name}"):
        answer = server.ask("PATCH", server.scenario.url(path), token, json={"shared": True})
        assert answer.status_code == 403, (path, answer.text)
    with db.reading(server.engine) as session:
        for table in (Dataset, Run, Model):
            assert session.scalar(select(func.count()).select_from(table).where(table.shared)) == 0


def test_another_owners_key_of_every_scope_changes_nothing(server: Server) -> None:
    """Shared as far as anything can be, and tried with all scopes but admin: only rows of its own are new."""
    ada = server.key("read", "upload", "train")
    for path, body in (
        ("/datasets/{ref}", {"shared": True}),
        ("/runs/{run_id}", {"shared": True}),
        ("/models/{name}", {"sharing": "download"}),
    ):
        server.ask("PATCH", server.scenario.url(path), ada, json=body).raise_for_status()
    bob = server.key("read", "upload", "train", "predict", "keys", owner="bob")
    before = rows_of(server)
    for operation in operations():
        server.scenario.request(operation, bob)
    after = rows_of(server)
    with db.reading(server.engine) as session:
        own = [repr(run) for run in session.scalars(select(Run.id).where(Run.owner == "bob"))]
    before[Event] = {row for row in before[Event] if row[1] not in own}  # events name a run, not an owner
    after[Event] = {row for row in after[Event] if row[1] not in own}
    for table in WATCHED:
        lost = before[table] - after[table]
        assert not {row for row in lost if "'bob'" not in row}, table.__name__
        assert all("'bob'" in row for row in after[table] - before[table]), table.__name__


def test_many_runs_are_checked_and_audited_one_by_one(server: Server) -> None:
    ada, bob = server.key("read", "train"), server.key("read", "train", owner="bob")
    run = server.scenario.resources["run_id"]

    def refusals(action: str, token: str) -> dict[str, int]:
        body = {"action": action, "runs": [run, "run_none"], "tag": "t"}
        answer = server.ask("POST", "/runs/bulk", token, json=body).raise_for_status().json()
        assert sorted([*answer["done"], *(one["run"] for one in answer["refused"])]) == sorted(body["runs"])
        return {one["run"]: one["status"] for one in answer["refused"]}

    for action in ("cancel", "delete", "tag", "untag"):
        assert refusals(action, bob) == {run: 404, "run_none": 404}
    assert server.ask("GET", "/run-ids", bob).json() == {"items": [], "next_cursor": None}
    server.ask("PATCH", f"/runs/{run}", ada, json={"shared": True}).raise_for_status()
    for action in ("cancel", "delete", "tag", "untag"):
        assert refusals(action, bob) == {run: 403, "run_none": 404}
    assert server.ask("GET", "/run-ids", bob).json()["items"] == [run]
    for action in ("tag", "cancel", "cancel", "delete"):
        assert refusals(action, ada) == {"run_none": 404}
    assert refusals("delete", ada) == {run: 404, "run_none": 404}
    with db.reading(server.engine) as session:
        changes = select(Audit.owner, Audit.action, Audit.target, Audit.status).where(Audit.target.contains(run))
        rows = [
            (owner, action, target.removeprefix(f"/api/v1/runs/{run}"), status)
            for owner, action, target, status in session.execute(changes.order_by(Audit.id))
        ]
        of_requests = session.scalar(select(func.count()).where(Audit.action == "POST /api/v1/runs/bulk"))
    one = "/api/v1/runs/{run_id}"
    cancelled = ("ada", f"POST {one}/cancel", "/cancel", 200)
    assert rows == [*2 * [("ada", f"PATCH {one}", "", 200)], cancelled, cancelled, ("ada", f"DELETE {one}", "", 204)]
    assert of_requests == 13


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["read", "upload", "train", "predict"])
def test_a_key_without_the_scope_sees_and_revokes_no_key(server: Server, scope: str) -> None:
    token = server.key(scope)
    assert server.ask("GET", "/keys", token).status_code == 403
    assert server.ask("POST", "/keys", token, json={"name": "x", "scopes": [scope]}).status_code == 403
    with db.reading(server.engine) as session:
        ids = list(session.scalars(select(Key.id)))
    for id in ids:
        assert server.ask("DELETE", f"/keys/{id}", token).status_code == 403
    with db.reading(server.engine) as session:
        assert session.scalar(select(func.count()).select_from(Key).where(Key.revoked_at.is_not(None))) == 0


def test_a_keys_key_manages_no_key_above_itself(server: Server) -> None:
    server.key("admin")
    server.key("read", "train")
    token = server.key("keys", "read")
    listed = server.ask("GET", "/keys", token).json()
    assert listed
    assert all(set(key["scopes"]) <= {"keys", "read"} for key in listed)
    with db.reading(server.engine) as session:
        above = [key.id for key in session.scalars(select(Key)) if not set(key.scopes) <= {"keys", "read"}]
    assert len(above) >= 2
    for id in above:
        assert server.ask("DELETE", f"/keys/{id}", token).status_code == 404
    made = server.ask("POST", "/keys", token, json={"name": "own", "scopes": ["read"]})
    assert (made.status_code, made.json()["owner"]) == (201, "ada")
    assert server.ask("DELETE", f"/keys/{made.json()['id']}", token).status_code == 200


@pytest.mark.parametrize(
    "body", [{"scopes": ["admin"]}, {"scopes": ["read", "train"]}, {"scopes": ["read"], "owner": "bob"}]
)
def test_a_keys_key_creates_no_key_above_itself(server: Server, body: dict[str, Any]) -> None:
    answer = server.ask("POST", "/keys", server.key("keys", "read"), json={"name": "own", **body})
    assert answer.status_code == 403, answer.text


def test_a_limited_key_creates_keys_of_the_same_limits(server: Server) -> None:
    with db.transaction(server.engine) as session:
        until = db.now(session) + timedelta(hours=1)
        limits: dict[str, Any] = {"owner": "ada", "scopes": ["keys", "predict"], "models": ["served"]}
        _, token = api_keys.create(session, name="until", expires_at=until, **limits)
        quotas = api_keys.Quotas(queued_runs=1)
        _, with_quotas = api_keys.create(session, name="quota", quotas=quotas, **limits)
    made = server.ask("POST", "/keys", token, json={"name": "own", "scopes": ["predict"]}).json()
    assert made["models"] == ["served"]
    assert made["expires_at"] is not None
    late = (until + timedelta(days=1)).isoformat()
    for more in ({"models": ["other"]}, {"expires_at": late}):
        answer = server.ask("POST", "/keys", token, json={"name": "own", "scopes": ["predict"], **more})
        assert answer.status_code == 403, answer.text
    assert server.ask("POST", "/keys", with_quotas, json={"name": "o", "scopes": ["predict"]}).status_code == 403


# --- batch predictions -----------------------------------------------------------------------------------------------


def test_a_predict_key_makes_no_dataset(server: Server) -> None:
    for name in (None, "table", "new"):
        body = {"dataset": "table", **({"name": name} if name else {})}
        answer = server.ask("POST", "/models/served/predictions", server.key("predict"), json=body)
        assert answer.status_code == 403, answer.text
    both = server.ask("POST", "/models/served/predictions", server.key("predict", "upload"), json={"dataset": "table"})
    assert both.status_code == 202, both.text
    # Nor by running such a run again.
    server.ask("POST", f"/runs/{both.json()['id']}/cancel", server.key("train")).raise_for_status()
    again = f"/runs/{both.json()['id']}/retry"
    assert server.ask("POST", again, server.key("train")).status_code == 403
    assert server.ask("POST", again, server.key("train", "predict")).status_code == 403
    assert server.ask("POST", again, server.key("train", "predict", "upload")).status_code == 202


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_a_model_is_shared_for_what_its_owner_says(server: Server) -> None:
    ada, bob = server.key("read", "train"), server.key("read", "predict", owner="bob")
    reads = {
        "/models/served": "ask",
        "/models/served/versions/1": "ask",
        "/models/served/labels": "ask",
        "/models/served/drift": "inspect",
        "/models/served/versions/1/manifest": "inspect",
        "/models/served/versions/1/files/onnx": "download",
    }
    levels = ("ask", "inspect", "download")

    def visible() -> set[str]:
        return {path for path in reads if server.ask("GET", path, bob).status_code == 200}

    assert visible() == set()
    shared = server.ask("PATCH", "/models/served", ada, json={"shared": True}).json()
    assert (shared["shared"], shared["sharing"]) == (True, "ask"), "what is shared by default"
    for level in levels:
        answer = server.ask("PATCH", "/models/served", ada, json={"sharing": level}).json()
        assert answer["sharing"] == level
        allowed = levels[: levels.index(level) + 1]
        assert visible() == {path for path, needs in reads.items() if needs in allowed}, level
    answer = server.ask("PATCH", "/models/served", ada, json={"shared": False}).json()
    assert (answer["shared"], answer["sharing"], visible()) == (False, None, set())
    assert server.ask("PATCH", "/models/served", ada, json={"shared": False, "sharing": "ask"}).status_code == 422


def test_a_model_that_an_earlier_release_shared_is_shared_to_ask(server: Server) -> None:
    with db.transaction(server.engine) as session:
        session.execute(update(Model).values(shared=True, sharing=None))
    bob = server.key("read", owner="bob")
    assert server.ask("GET", "/models/served", bob).json()["sharing"] == "ask"
    assert server.ask("GET", "/models/served/versions/1/files/onnx", bob).status_code == 403


@pytest.mark.parametrize(
    ("action", "state"),
    [("reproduce", "succeeded"), ("retry", "failed"), ("findings/1/apply", "succeeded"), ("fork", "succeeded")],
)
def test_unsharing_a_dataset_ends_training_on_it(server: Server, action: str, state: str) -> None:
    ada, bob = server.key("read", "upload"), server.key("read", "train", owner="bob")
    server.ask("PATCH", "/datasets/table", ada, json={"shared": True}).raise_for_status()
    spec = {"dataset": "table", "target": "y", "network": [{"Dense": 2}]}
    run = server.ask("POST", "/runs", bob, json=spec).json()["id"]
    with db.transaction(server.engine) as session:
        session.execute(
            update(Run).where(Run.id == run).values(state=RunState(state), result={}, error={"cause": "diverged"})
        )
    server.ask("PATCH", "/datasets/table", ada, json={"shared": False}).raise_for_status()
    count = len(rows_of(server)[Run])
    body = {"json": {"epoch": 1, "learning_rate": 0.1}} if action == "fork" else {}
    answer = server.ask("POST", f"/runs/{run}/{action}", bob, **body)
    assert answer.status_code == 404, answer.text
    assert "no longer shared" in answer.text
    assert len(rows_of(server)[Run]) == count
    if action in ("reproduce", "retry"):
        server.ask("PATCH", "/datasets/table", ada, json={"shared": True}).raise_for_status()
        assert server.ask("POST", f"/runs/{run}/{action}", bob).status_code == 202


# --- ground truth ----------------------------------------------------------------------------------------------------


def store_prediction(server: Server, token: str, owner: str, id: str) -> None:
    """Store a prediction as the prediction service does."""
    row = {"model": "served", "owner": owner, "id": id, "version": 2, "outputs": {"y": [[1.0, 2.0]]}}
    monitoring.store_predictions(server.engine, [{**row, "key_id": token.split(".")[0]}], most=100)


def test_only_its_own_predictions_truth_is_believed(server: Server) -> None:
    predicting, other = server.key("predict"), server.key("predict")
    store_prediction(server, predicting, "ada", "p1")
    item = {"id": "p1", "truth": [1.0, 2.0]}

    def post(token: str, item: dict[str, Any]) -> Any:
        return server.ask("POST", "/models/served/feedback", token, json={"items": [item]})

    assert post(other, item).json()["unknown"] == ["p1"], "another key's prediction"
    claimed = {"id": "p2", "truth": [0.0, 0.0], "predicted": [9.0, 9.0], "version": 2}
    assert post(predicting, claimed).status_code == 403, "what it claims to have been predicted"
    assert post(predicting, item).json()["stored"] == 1
    assert post(server.key("predict", "train"), claimed).json()["stored"] == 1, "who may change the model"
    with db.reading(server.engine) as session:
        sources = {row.prediction_id: row.key_id for row in session.scalars(select(Feedback))}
    assert sources["p1"] == predicting.split(".")[0]


def test_another_owner_moves_no_live_figure(server: Server) -> None:
    ada, bob = server.key("read", "train", "predict"), server.key("read", "predict", owner="bob")
    server.ask("PATCH", "/models/served", ada, json={"shared": True}).raise_for_status()
    for id in ("p1", "p2"):
        store_prediction(server, bob, "bob", id)

    def post(id: str) -> Any:
        items = [{"id": id, "truth": [100.0, 100.0]}]
        return server.ask("POST", "/models/served/feedback", bob, json={"items": items}).json()

    answer = post("p1")
    assert (answer["stored"], answer["live"]) == (1, []), "shared to ask only: no figures either"
    assert server.ask("GET", "/models/served/drift?version=2", ada).json()["live"] == []
    claimed = {"id": "p3", "truth": [0.0, 0.0], "predicted": [9.0, 9.0], "version": 2}
    assert server.ask("POST", "/models/served/feedback", bob, json={"items": [claimed]}).status_code == 403
    server.ask("PATCH", "/models/served", ada, json={"open_feedback": True}).raise_for_status()
    assert post("p2")["stored"] == 1
    assert server.ask("GET", "/models/served/drift?version=2", ada).json()["live"][0]["rows"] == 1


def test_ground_truth_is_rate_limited_by_rows(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    toys = ToyRegistry(tmp_path, url=sqlite_url)
    toys.register("served", numeric(hidden=(2,)))
    settings = Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url, rate_feedback_per_hour=5)
    headers = {"Authorization": f"Bearer {toys.token}"}
    with TestClient(create_app(settings)) as client:
        items = [{"id": f"p{n}", "truth": [1.0, 2.0]} for n in range(4)]
        answers = [client.post("/api/v1/models/served/feedback", json={"items": items}, headers=headers) for _ in "12"]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert int(answers[1].headers["retry-after"]) >= 1


def test_an_owner_stores_so_many_predictions(server: Server) -> None:
    row = {"model": "served", "version": 2, "outputs": {}, "key_id": "k"}
    for start in (0, 2, 4):
        rows = [{**row, "owner": "bob", "id": f"p{n}"} for n in range(start, start + 2)]
        surplus = monitoring.store_predictions(server.engine, [*rows, {**row, "owner": "ada", "id": f"a{start}"}], 3)
    assert surplus == 2
    with db.reading(server.engine) as session:
        counts = dict(
            session.execute(select(StoredPrediction.owner, func.count()).group_by(StoredPrediction.owner)).all()
        )
    assert counts == {"bob": 3, "ada": 3}


# --- where a request comes from --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "peer", "stated", "recorded"),
    [
        ("", "127.0.0.1", "6.6.6.6", "127.0.0.1"),
        ("", "9.9.9.9", "6.6.6.6", "9.9.9.9"),
        ("10.0.0.0/8", "10.1.2.3", "6.6.6.6, 9.9.9.9", "9.9.9.9"),
        ("10.0.0.0/8", "10.1.2.3", "6.6.6.6, 9.9.9.9, 10.7.7.7", "9.9.9.9"),
        ("10.0.0.0/8", "9.9.9.9", "6.6.6.6", "9.9.9.9"),
    ],
)
def test_the_audit_log_believes_trusted_hops_only(
    sqlite_url: str, redis_url: str, tmp_path: Path, trusted: str, peer: str, stated: str, recorded: str
) -> None:
    toys = ToyRegistry(tmp_path, url=sqlite_url)
    settings = Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url, trusted_proxies=trusted)
    config = make_server(create_app(settings), settings, port=0).config
    config.load()
    headers = {"Authorization": f"Bearer {toys.token}", "X-Forwarded-For": stated}
    with TestClient(config.loaded_app, client=(peer, 5)) as client:
        client.post("/api/v1/runs/nothing/cancel", headers=headers)
    with db.reading(toys.engine) as session:
        assert list(session.scalars(select(Audit.address))) == [recorded]


@pytest.mark.parametrize(("peer", "secure"), [("10.1.2.3", True), ("9.9.9.9", False)])
def test_a_trusted_proxy_states_that_the_client_used_tls(
    sqlite_url: str, redis_url: str, tmp_path: Path, peer: str, secure: bool
) -> None:
    toys = ToyRegistry(tmp_path, url=sqlite_url)
    settings = Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url, trusted_proxies="10.0.0.0/8")
    config = make_server(create_app(settings), settings, port=0).config
    config.load()
    with TestClient(config.loaded_app, client=(peer, 5)) as client:
        headers = {"X-Forwarded-Proto": "https"}
        cookie = client.post("/api/v1/session", json={"token": toys.token}, headers=headers).headers["set-cookie"]
    assert ("secure" in cookie.lower()) == secure


@pytest.fixture
def without_keys(sqlite_url: str, redis_url: str, tmp_path: Path) -> FastAPI:
    return create_app(Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url, auth=False))


FOREIGN_PAGES: list[dict[str, str]] = [
    {"Host": "rebound.example"},
    {"Host": "rebound.example:8000", "Origin": "http://rebound.example:8000"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "user@evil.example"},
    {"Host": "192.168.1.7"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://localhost"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
]


@pytest.mark.parametrize("headers", FOREIGN_PAGES, ids=str)
def test_without_keys_foreign_pages_get_and_change_nothing(without_keys: FastAPI, headers: dict[str, str]) -> None:
    with TestClient(without_keys, base_url="http://127.0.0.1:8000") as client:
        assert client.get("/api/v1/datasets", headers=headers).status_code == 403
        refused = client.put("/api/v1/datasets/planted", content="a,y\n1,2\n", headers=headers)
        assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
        assert client.get("/api/v1/datasets").json()["items"] == []


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1"])
def test_without_keys_this_machine_gets_through(without_keys: FastAPI, host: str) -> None:
    own = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    with TestClient(without_keys, base_url="http://127.0.0.1:8000", headers={"Host": host}) as client:
        assert client.get("/api/v1/datasets").status_code == 200
        assert client.put("/api/v1/datasets/own", content="a,y\n1,2\n3,4\n", headers=own).status_code == 201
        assert client.get("/livez", headers=link).status_code == 200
