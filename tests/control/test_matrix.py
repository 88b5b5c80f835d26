"""The access matrix: every operation of the OpenAPI document x {no key, expired, revoked, wrong scope, other owner,
right}. Made from the document, so an operation without a rule here fails, and so does a path whose noun has no owner.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

from fitserve import api_keys, db, registry
from fitserve.settings import Settings
from services.control.app import create_app
from services.control.openapi import METHODS
from tests.predict.toy_registry import ToyRegistry, numeric

OPEN = "open"  # no key is asked for
ANY = "any"  # a valid key is enough: everybody sees their own

# The scope of every operation.
RULES: dict[str, str] = {
    **dict.fromkeys(("GET /metrics", "GET /livez", "GET /readyz", "GET /api/v1/schemas/spec"), OPEN),
    **dict.fromkeys(("POST /api/v1/session", "DELETE /api/v1/session", "OPTIONS /api/v1/uploads"), OPEN),
    **dict.fromkeys(("GET /api/v1/session", "GET /api/v1/keys", "DELETE /api/v1/keys/{key_id}"), ANY),
    **dict.fromkeys(("POST /api/v1/keys", "GET /api/v1/audit", "GET /api/v1/system"), "admin"),
    "POST /api/v1/models/{name}/predictions": "predict",
    "POST /api/v1/models/{name}/feedback": "predict",
}
# All others go by their noun and method.
READS = ("GET", "HEAD", "OPTIONS")
CHANGES = {"datasets": "upload", "runs": "train", "models": "train"}
BY_NOUN_ALONE = {"uploads": "upload"}  # reading one's own upload is part of uploading
READ_BY_POST = {"POST /api/v1/runs/{run_id}/explain"}

# Whose is what a path parameter names? Every one must stand here.
OWNED = {"ref", "run_id", "upload_id", "name", "key_id"}
PART_OF = {"n", "number", "label", "kind", "form"}  # of something owned
NEW_NAME = {"PUT /api/v1/datasets/{ref}"}  # a taken name is a conflict (409), not a secret

# The same parameter means something else here.
INSTEAD = {"GET /api/v1/runs/{run_id}/plots/{kind}.{form}": {"kind": "complexity"}}
AWAY = {"GET /api/v1/models/{name}/traffic"}  # asks the prediction service, which is not there: 503

BODIES: dict[str, dict[str, Any]] = {
    "PATCH /api/v1/datasets/{ref}": {"json": {"kinds": {"a": "categorical"}}},
    "PUT /api/v1/datasets/{ref}": {"content": b"a,y\n1,0\n2,1\n3,0\n"},
    "POST /api/v1/datasets/{ref}/rows": {"content": b"a,y\n5,0\n6,1\n"},
    "GET /api/v1/datasets/{ref}/relations": {"params": {"target": "y"}},
    "PATCH /api/v1/runs/{run_id}": {"json": {"shared": False}},
    "POST /api/v1/runs/{run_id}/explain": {"json": {"row": {"a": 1}}},
    "PATCH /api/v1/models/{name}": {"json": {"loaded": True}},
    "PUT /api/v1/models/{name}/labels/{label}": {"json": {"version": 1}},
    "POST /api/v1/models/{name}/predictions": {"json": {"dataset": "table"}},
    "POST /api/v1/models/{name}/feedback": {"json": {"items": [{"id": "p1", "truth": 1.0}]}},
    "PATCH /api/v1/uploads/{upload_id}": {
        "content": b"a",
        "headers": {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"},
    },
    "POST /api/v1/uploads": {"headers": {"Upload-Length": "5"}},
}
# What is not there may be answered with 404 to the right key too: parts that only a trained run has.
MAY_BE_MISSING = {"n", "kind"}


@dataclass
class World:
    """A server with one of everything, which is ada's; and keys."""

    app: FastAPI
    client: TestClient
    toys: ToyRegistry
    things: dict[str, str] = field(default_factory=dict)
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    def token(self, owner: str, scope: str) -> str:
        if (owner, scope) not in self.tokens:
            self.tokens[owner, scope] = self.toys.create_key([scope], owner=owner)
        return self.tokens[owner, scope]

    def ask(self, operation: str, token: str | None, address: str | None = None) -> Any:
        method, path = operation.split(" ", 1)
        body = dict(BODIES.get(operation, {}))
        headers = {**body.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        found = address or self.address(path, INSTEAD.get(operation, {}))
        return self.client.request(method, found, headers=headers, **body)

    def address(self, path: str, instead: Mapping[str, str] = MappingProxyType({})) -> str:
        for name, value in {**self.things, **instead}.items():
            path = path.replace(f"{{{name}}}", value)
        assert "{" not in path, f"{path}: say in OWNED or PART_OF whose this is"
        return path


@pytest.fixture
def world(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[World]:
    toys = ToyRegistry(tmp_path, url=sqlite_url)
    app = create_app(Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url))
    with TestClient(app, raise_server_exceptions=False) as client:
        made = World(app, client, toys)
        furnish(made)
        yield made


def furnish(world: World) -> None:
    """ada's dataset, run, model, upload and key."""
    toys, client = world.toys, world.client
    table = "a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40))

    def made(method: str, path: str, scope: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {world.token('ada', scope)}", **body.pop("headers", {})}
        return client.request(method, f"/api/v1{path}", headers=headers, **body).raise_for_status()

    made("PUT", "/datasets/table", "upload", content=table)
    run = made("POST", "/runs", "train", json={"dataset": "table", "target": "y", "network": [{"Dense": 2}]})
    upload = made("POST", "/uploads", "upload", headers={"Upload-Length": "5"})
    toys.register("served", numeric(hidden=(2,)))
    toys.register("served", numeric(hidden=(2,), seed=1))
    toys.change(registry.set_label, "served", "champion", version_number=1)
    toys.change(registry.set_label, "served", "champion", version_number=2)
    with db.transaction(toys.engine) as session:
        spare, _ = api_keys.create(session, owner="ada", name="spare", scopes=["read"])
        spare_id = spare.id
    world.things = {
        "ref": "table",
        "run_id": run.json()["id"],
        "name": "served",
        "key_id": spare_id,
        "upload_id": upload.headers["location"].rpartition("/")[2],
        "number": "1",
        "label": "champion",
        "n": "1",
        "kind": "onnx",
        "form": "png",
    }


def operations(app: FastAPI) -> list[str]:
    """Every operation of the document; those that destroy come last."""
    document = app.openapi()
    found = [
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in METHODS if method in item
    ]
    assert len(found) > 60
    # The document writes a path once, under its first parameter names.
    return sorted(found, key=lambda one: (one.startswith("DELETE"), one.count("/") * -1, one))


def scope_of(operation: str) -> str:
    """The rule of an operation. Fails where there is none."""
    if operation in RULES:
        return RULES[operation]
    method, path = operation.split(" ", 1)
    noun = path.removeprefix("/api/v1/").split("/")[0]
    if noun in BY_NOUN_ALONE:
        return BY_NOUN_ALONE[noun]
    if noun in ("findings", "limits") and method == "GET":
        return "read"
    assert noun in CHANGES, f"{operation} has no rule: put it into RULES"
    return "read" if method in READS or operation in READ_BY_POST else CHANGES[noun]


def parameters(operation: str) -> set[str]:
    return {part.partition("}")[0] for part in operation.split("{")[1:]}


def is_owned(operation: str) -> bool:
    found = parameters(operation)
    assert found <= OWNED | PART_OF, f"{operation}: whose is {found - OWNED - PART_OF}?"
    return bool(found & OWNED) and operation not in NEW_NAME


def test_what_is_not_in_the_document_is_named_here(world: World) -> None:
    documented = {operation.split(" ", 1)[1] for operation in operations(world.app)}
    hidden = {
        str(route.path)
        for route in iter_route_contexts(world.app.routes)
        if isinstance(route.original_route, APIRoute) and str(route.path) not in documented
    }
    by_other_names = {"/api/v1/datasets/{name}"}  # the document writes {ref}
    pages = {"/", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"}
    forwarded = {"/v1/{path:path}", "/v2/{path:path}", "/v2"}  # the prediction service asks for the key itself
    assert hidden - by_other_names - pages - forwarded == set()


def test_no_key_expired_revoked(world: World) -> None:
    with db.transaction(world.toys.engine) as session:
        old, expired = api_keys.create(session, owner="ada", name="old", scopes=["admin"])
        old.expires_at = db.now(session) - timedelta(seconds=1)
        dead, revoked = api_keys.create(session, owner="ada", name="gone", scopes=["admin"])
        api_keys.revoke(session, dead.id)
    bad = {"none": None, "expired": expired, "revoked": revoked, "made up": "key_x.secret"}
    for operation, (kind, token) in itertools.product(operations(world.app), bad.items()):
        answer = world.ask(operation, token)
        if scope_of(operation) == OPEN:
            continue
        assert answer.status_code == 401, (operation, kind, answer.text[:200])
        if not operation.startswith("HEAD"):
            assert answer.headers["content-type"] == "application/problem+json"


def test_wrong_scope(world: World) -> None:
    for operation in operations(world.app):
        wanted = scope_of(operation)
        for scope in () if wanted in (OPEN, ANY) else api_keys.Scope:
            if scope not in (wanted, "admin"):
                answer = world.ask(operation, world.token("ada", scope))
                assert answer.status_code == 403, (operation, scope, answer.status_code, answer.text[:200])


def test_other_owner(world: World) -> None:
    """Not shared: as if it were not there. Shared: to be read, and not to be changed."""
    owned = [operation for operation in operations(world.app) if is_owned(operation)]
    assert len(owned) > 35
    for operation in owned:
        scope = scope_of(operation)
        answer = world.ask(operation, world.token("bob", "read" if scope == ANY else scope))
        assert answer.status_code == 404, (operation, answer.status_code, answer.text[:300])
        assert world.things["run_id"] not in answer.text or "{run_id}" in operation
    ada = {scope: {"Authorization": f"Bearer {world.token('ada', scope)}"} for scope in ("upload", "train")}
    for path, scope in (("datasets/{ref}", "upload"), ("runs/{run_id}", "train"), ("models/{name}", "train")):
        told = world.client.patch(world.address(f"/api/v1/{path}"), json={"shared": True}, headers=ada[scope])
        assert told.json()["shared"], told.text
    for operation in owned:
        scope = scope_of(operation)
        answer = world.ask(operation, world.token("bob", "read" if scope == ANY else scope))
        if parameters(operation) & {"upload_id", "key_id"}:  # never shared
            assert answer.status_code == 404, (operation, answer.text[:300])
        elif scope == "read":
            assert answer.status_code not in (401, 403), (operation, answer.text[:300])
            assert answer.status_code != 404 or parameters(operation) & MAY_BE_MISSING, (operation, answer.text[:300])
        elif scope == "predict":  # the model is shared, and the dataset too
            assert answer.status_code in (200, 202), (operation, answer.text[:300])
        else:
            assert answer.status_code == 403, (operation, answer.status_code, answer.text[:300])


def test_lists_show_ones_own_and_what_is_shared(world: World) -> None:
    def seen(path: str) -> int:
        token = world.token("bob", "read")
        answer = world.client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {token}"}).raise_for_status()
        return len(answer.json()["items"])

    assert (seen("datasets"), seen("runs"), seen("models")) == (0, 0, 0)
    ada = {"Authorization": f"Bearer {world.token('ada', 'admin')}"}
    for path in ("datasets/{ref}", "runs/{run_id}", "models/{name}"):
        world.client.patch(world.address(f"/api/v1/{path}"), json={"shared": True}, headers=ada).raise_for_status()
    assert (seen("datasets"), seen("runs"), seen("models")) == (1, 1, 1)


def test_a_name_that_is_taken_is_a_conflict_and_stays_its_owners(world: World) -> None:
    assert world.ask("PUT /api/v1/datasets/{ref}", world.token("bob", "upload")).status_code == 409


def test_a_predict_key_may_be_limited_to_models(world: World) -> None:
    only = world.toys.create_key(["predict"], models=["other"])
    assert world.ask("POST /api/v1/models/{name}/predictions", only).status_code == 403
    right = world.toys.create_key(["predict"], models=["served"])
    assert world.ask("POST /api/v1/models/{name}/predictions", right).status_code == 202


def test_right(world: World) -> None:
    """The owner's key with the scope gets through to an answer about the thing itself, and so does an admin's."""
    for operation in operations(world.app):
        scope = scope_of(operation)
        answer = world.ask(operation, world.token("ada", {OPEN: "read", ANY: "read"}.get(scope, scope)))
        place = (operation, answer.status_code, answer.text[:300])
        assert answer.status_code < 500 or operation in AWAY, place
        if operation == "POST /api/v1/session":
            continue  # its body is a key
        assert answer.status_code not in (401, 403), place
        assert answer.status_code != 404 or parameters(operation) & MAY_BE_MISSING, place
        admin = world.ask(operation, world.token("root", "admin"))
        assert admin.status_code not in (401, 403), (operation, "admin", admin.text[:300])
