"""The access matrix: every operation of the OpenAPI document, by no key, a dead key, a wrong scope, another owner.

It is generated from the document: an operation without a rule here fails, and so does a path parameter without one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient
from safetensors.numpy import save

from docs.make_api import documents
from fitserve import api_keys, db, registry
from fitserve.settings import Settings
from services.control.app import create_app
from services.control.openapi import METHODS
from tests.predict.toy_registry import ToyRegistry, numeric

pytestmark = pytest.mark.xdist_group("access")
OPEN = "open"  # needs no key
ANY = "any"  # needs a valid key of any scope: everybody sees their own

# Scopes of operations
RULES: dict[str, str] = {
    **dict.fromkeys(("GET /metrics", "GET /livez", "GET /readyz", "GET /api/v1/schemas/spec"), OPEN),
    **dict.fromkeys(("POST /api/v1/session", "DELETE /api/v1/session", "OPTIONS /api/v1/uploads"), OPEN),
    **dict.fromkeys(("GET /api/v1/session",), ANY),
    **dict.fromkeys(("GET /api/v1/audit", "GET /api/v1/system"), "admin"),
    **dict.fromkeys(("GET /api/v1/system/history", "GET /api/v1/system/alarms"), "admin"),
    "GET /api/v1/system/storage": "read",
    **dict.fromkeys(("GET /api/v1/keys", "POST /api/v1/keys"), "keys"),
    "GET /api/v1/connections": "read",
    "GET /api/v1/datasets/{ref}/batches": "upload",
    "DELETE /api/v1/keys/{key_id}": "keys+read",  # the key may only read
    "POST /api/v1/models/{name}/predictions": "predict+upload",
    "POST /api/v1/models/{name}/feedback": "predict",
    "POST /api/v1/webhooks": "train+read",
    "PATCH /api/v1/webhooks/{webhook_id}": "train+read",
    "POST /api/v1/automations": "train+read",
    "POST /api/v1/automations/rehearsal": "train+read",
}
NEEDS_BOTH = {
    *("POST /api/v1/models/{name}/predictions", "POST /api/v1/webhooks"),
    "PATCH /api/v1/webhooks/{webhook_id}",
    *("POST /api/v1/automations", "POST /api/v1/automations/rehearsal"),
}  # of its scopes; in other rules the second is of its effect
# of all others, by noun and method
READS = ("GET", "HEAD", "OPTIONS")
CHANGES = {
    "datasets": "upload",
    "runs": "train",
    "run-details": "train",
    "run-tags": "train",
    "run-ids": "train",
    "weights": "upload",
    "models": "train",
    "webhooks": "train",
    "automations": "train",
    "events": "train",
}

BY_NOUN = {"uploads": "upload"}  # reading one's own upload is part of uploading
READ_BY_POST = {"POST /api/v1/runs/{run_id}/explain"}

# Path parameters, each of which must be listed here: does it name something that has an owner?
OWNED = {"ref", "run_id", "upload_id", "name", "key_id", "webhook_id", "automation_id", "weights_id"}
PART_OF = {"n", "number", "label", "kind", "form", "trial", "rollout_id", "delivery_id"}  # of something owned
NEW_NAME = {"PUT /api/v1/datasets/{ref}"}  # a taken name is a conflict (409), not a secret

# Operations in which a parameter has another meaning
SPECIAL_PARAMETERS = {"GET /api/v1/runs/{run_id}/plots/{kind}.{form}": {"kind": "complexity"}}
UNAVAILABLE = {"GET /api/v1/models/{name}/traffic"}  # 503: there is no prediction service here


def weights_file() -> bytes:
    return save({"dense/0": np.ones((1, 2), np.float32)})


POLICY: dict[str, Any] = {
    "on": {"schedule": "0 3 * * *"},
    "do": {"spec": {"dataset": "table", "target": "y", "network": [{"Dense": 2}]}},
}
BODIES: dict[str, dict[str, Any]] = {
    "PATCH /api/v1/datasets/{ref}": {"json": {"kinds": {"a": "categorical"}}},
    "PUT /api/v1/datasets/{ref}": {"content": b"a,y\n1,0\n2,1\n3,0\n"},
    "POST /api/v1/datasets/{ref}/rows": {"content": b"a,y\n5,0\n6,1\n"},
    "POST /api/v1/datasets": {"json": {"name": "t", "source": {"sql": {"connection": "none", "query": "SELECT 1"}}}},
    "POST /api/v1/datasets/{ref}/batches": {"content": b"a,y\n5,0\n6,1\n"},
    "GET /api/v1/datasets/{ref}/relations": {"params": {"target": "y"}},
    "PATCH /api/v1/runs/{run_id}": {"json": {"shared": False}},
    "GET /api/v1/run-details": {"params": {"run": "run_none"}},
    "POST /api/v1/runs/bulk": {"json": {"action": "tag", "runs": ["run_none"], "tag": "t"}},
    "POST /api/v1/runs/{run_id}/explain": {"json": {"row": {"a": 1}}},
    "POST /api/v1/runs/{run_id}/fork": {"json": {"epoch": 1, "learning_rate": 0.1}},
    "PATCH /api/v1/models/{name}": {"json": {"loaded": True}},
    "PUT /api/v1/models/{name}/labels/{label}": {"json": {"version": 1}},
    "PUT /api/v1/models/{name}/versions/{number}/decision": {"json": {"threshold": 0.4}},
    "POST /api/v1/models/{name}/rollouts": {"json": {"to": 1}},
    "POST /api/v1/models/{name}/predictions": {"json": {"dataset": "table"}},
    "POST /api/v1/models/{name}/versions/{number}/exports": {"json": {"format": "saved-model"}},
    "POST /api/v1/models/{name}/feedback": {"json": {"items": [{"id": "p1", "truth": 1.0}]}},
    "PATCH /api/v1/uploads/{upload_id}": {
        "content": b"a",
        "headers": {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"},
    },
    "POST /api/v1/uploads": {"headers": {"Upload-Length": "5"}},
    "POST /api/v1/weights": {"content": weights_file()},
    "POST /api/v1/webhooks": {"json": {"url": "https://8.8.8.8/hook", "events": ["run.failed"]}},
    "PATCH /api/v1/webhooks/{webhook_id}": {"json": {"description": "x"}},
    "POST /api/v1/automations": {"json": {**POLICY, "name": "another"}},
    "POST /api/v1/automations/rehearsal": {"json": POLICY},
    "PATCH /api/v1/automations/{automation_id}": {"json": {"enabled": False}},
}
# What another owner may do only if the model is shared for more than predictions
BY_SHARING = (
    "GET /api/v1/models/{name}/rollouts",
    "GET /api/v1/models/{name}/rollouts/{rollout_id}",
    "GET /api/v1/models/{name}/drift",
    "GET /api/v1/models/{name}/traffic",
    "GET /api/v1/models/{name}/history",
    "GET /api/v1/models/{name}/versions/{number}/decision",
    "GET /api/v1/models/{name}/versions/{number}/fairness",
    "GET /api/v1/models/{name}/versions/{number}/manifest",
    "GET /api/v1/models/{name}/versions/{number}/files/{kind}",
    "GET /api/v1/models/{name}/versions/{number}/card",
    "GET /api/v1/models/{name}/versions/{number}/exports",
    "GET /api/v1/models/{name}/versions/{number}/exports/{kind}",
)
# Parts that only a trained run has: 404 also for the right key
MAY_BE_MISSING = {"n", "kind", "trial", "rollout_id"}


@dataclass
class Scenario:
    """A server with one resource of each kind, which belong to ada, and keys by owner and scope."""

    app: FastAPI
    client: TestClient
    toys: ToyRegistry
    resources: dict[str, str] = field(default_factory=dict)
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    def token(self, owner: str, scope: str) -> str:
        if (owner, scope) not in self.tokens:
            self.tokens[owner, scope] = self.toys.create_key(scope.split("+"), owner=owner)
        return self.tokens[owner, scope]

    def request(self, operation: str, token: str | None, url: str | None = None) -> Any:
        method, path = operation.split(" ", 1)
        body = dict(BODIES.get(operation, {}))
        headers = {**body.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        target = url or self.url(path, SPECIAL_PARAMETERS.get(operation, {}))
        return self.client.request(method, target, headers=headers, **body)

    def url(self, path: str, special: Mapping[str, str] = MappingProxyType({})) -> str:
        for name, value in {**self.resources, **special}.items():
            path = path.replace(f"{{{name}}}", value)
        assert "{" not in path, f"{path}: add the parameter to OWNED or PART_OF"
        return path


@contextmanager
def running(home: Path, redis_url: str) -> Iterator[Scenario]:
    """The API over a home."""
    toys = ToyRegistry(home)
    app = create_app(Settings(home=home, database_url=toys.url, redis_url=redis_url))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Scenario(app, client, toys)


def create_resources(scenario: Scenario) -> None:
    """Create a dataset, run, model, upload and key of ada."""
    toys, client = scenario.toys, scenario.client
    table = "a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40))

    def create(method: str, path: str, scope: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {scenario.token('ada', scope)}", **body.pop("headers", {})}
        return client.request(method, f"/api/v1{path}", headers=headers, **body).raise_for_status()

    create("PUT", "/datasets/table", "upload", content=table)
    run = create("POST", "/runs", "train", json={"dataset": "table", "target": "y", "network": [{"Dense": 2}]})
    upload = create("POST", "/uploads", "upload", headers={"Upload-Length": "5"})
    weights = create("POST", "/weights", "upload", content=weights_file()).json()["id"]
    toys.register("served", numeric(hidden=(2,)))
    toys.register("served", numeric(hidden=(2,), seed=1))
    toys.change(registry.set_label, "served", "champion", version_number=1)
    toys.change(registry.set_label, "served", "champion", version_number=2)
    hook = create("POST", "/webhooks", "train+read", json={"url": "https://8.8.8.8/hook", "events": ["*"]}).json()["id"]
    automation = create("POST", "/automations", "train+read", json={**POLICY, "name": "nightly"}).json()["id"]
    tested = create("POST", f"/webhooks/{hook}/test", "train").json()["id"]
    with db.transaction(toys.engine) as session:
        spare, _ = api_keys.create(session, owner="ada", name="spare", scopes=["read"])
        spare_id = spare.id
    scenario.resources = {
        "ref": "table",
        "run_id": run.json()["id"],
        "name": "served",
        "key_id": spare_id,
        "upload_id": upload.headers["location"].rpartition("/")[2],
        "number": "1",
        "label": "champion",
        "n": "1",
        "kind": "onnx",
        "trial": "1",
        "rollout_id": "rol_none",
        "webhook_id": hook,
        "delivery_id": tested,
        "automation_id": automation,
        "weights_id": weights,
        "form": "png",
    }


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document. Every API has the same, and it takes a second to make."""
    return documents()[0]


def operations() -> list[str]:
    """Return every operation of the document; those that delete come last."""
    paths = document()["paths"].items()
    names = [f"{method.upper()} {path}" for path, item in paths for method in METHODS if method in item]
    assert len(names) > 60
    # Deeper paths first, deletions last.
    return sorted(names, key=lambda name: (name.startswith("DELETE"), -name.count("/"), name))


def scope_of(operation: str) -> str:
    """Return the scope of an operation. Fails if there is no rule for it."""
    if operation in RULES:
        return RULES[operation]
    method, path = operation.split(" ", 1)
    noun = path.removeprefix("/api/v1/").split("/")[0]
    if noun in BY_NOUN:
        return BY_NOUN[noun]
    if noun in ("findings", "limits") and method == "GET":
        return "read"
    assert noun in CHANGES, f"{operation} has no rule: add it to RULES"
    return "read" if method in READS or operation in READ_BY_POST else CHANGES[noun]


def parameters(operation: str) -> set[str]:
    return {part.partition("}")[0] for part in operation.split("{")[1:]}


def is_owned(operation: str) -> bool:
    names = parameters(operation)
    assert names <= OWNED | PART_OF, f"{operation}: add {names - OWNED - PART_OF} to OWNED or PART_OF"
    return bool(names & OWNED) and operation not in NEW_NAME


def test_undocumented_routes_are_listed_here(scenario: Scenario) -> None:
    documented = {operation.split(" ", 1)[1] for operation in operations()}
    hidden = {
        str(route.path)
        for route in iter_route_contexts(scenario.app.routes)
        if isinstance(route.original_route, APIRoute) and str(route.path) not in documented
    }
    renamed = {"/api/v1/datasets/{name}"}  # {ref} in the document
    pages = {"/", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"}
    # The prediction service itself checks the key of these
    forwarded = {"/v{number:protocol}/{path:path}", "/v{number:protocol}"}
    assert hidden - renamed - pages - forwarded == set()


def test_missing_expired_and_revoked_keys_are_401(scenario: Scenario) -> None:
    with db.transaction(scenario.toys.engine) as session:
        old, expired = api_keys.create(session, owner="ada", name="old", scopes=["admin"])
        old.expires_at = db.now(session) - timedelta(seconds=1)
        dead, revoked = api_keys.create(session, owner="ada", name="gone", scopes=["admin"])
        api_keys.revoke(session, dead.id)
    bad = {"none": None, "expired": expired, "revoked": revoked, "made up": "key_x.secret"}
    for operation, (kind, token) in itertools.product(operations(), bad.items()):
        answer = scenario.request(operation, token)
        if scope_of(operation) == OPEN:
            continue
        assert answer.status_code == 401, (operation, kind, answer.text[:200])
        if not operation.startswith("HEAD"):
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_wrong_scope_is_403(scenario: Scenario) -> None:
    for operation in operations():
        wanted = scope_of(operation)
        for scope in () if wanted in (OPEN, ANY) else api_keys.Scope:
            if scope not in (wanted.split("+")[0], "admin") or (operation in NEEDS_BOTH and scope != "admin"):
                answer = scenario.request(operation, scenario.token("ada", scope))
                assert answer.status_code == 403, (operation, scope, answer.status_code, answer.text[:200])


def test_other_owners_see_only_what_is_shared_and_change_nothing(scenario: Scenario) -> None:
    """Not shared: 404 as if it did not exist. Shared: readable as far as it is shared, but not changeable."""
    owned = [operation for operation in operations() if is_owned(operation)]
    assert len(owned) > 35
    for operation in owned:
        scope = scope_of(operation)
        answer = scenario.request(operation, scenario.token("bob", "read" if scope == ANY else scope))
        assert answer.status_code == 404, (operation, answer.status_code, answer.text[:300])
        assert scenario.resources["run_id"] not in answer.text or "{run_id}" in operation
    ada = {
        scope: {"Authorization": f"Bearer {scenario.token('ada', f'{scope}+read')}"} for scope in ("upload", "train")
    }
    for path, scope in (("datasets/{ref}", "upload"), ("runs/{run_id}", "train"), ("models/{name}", "train")):
        answer = scenario.client.patch(scenario.url(f"/api/v1/{path}"), json={"shared": True}, headers=ada[scope])
        assert answer.json()["shared"], answer.text
    for operation in BY_SHARING:
        answer = scenario.request(operation, scenario.token("bob", scope_of(operation)))
        assert answer.status_code == 403, ("shared to be asked only", operation, answer.text[:300])
    share = {"json": {"sharing": "download"}, "headers": ada["train"]}
    scenario.client.patch(scenario.url("/api/v1/models/{name}"), **share).raise_for_status()
    for operation in owned:
        scope = scope_of(operation)
        answer = scenario.request(operation, scenario.token("bob", "read" if scope == ANY else scope))
        if parameters(operation) & {"upload_id", "key_id", "webhook_id", "automation_id", "weights_id"}:  # never shared
            assert answer.status_code == 404, (operation, answer.text[:300])
        elif scope == "read":
            assert answer.status_code not in (401, 403), (operation, answer.text[:300])
            assert answer.status_code != 404 or parameters(operation) & MAY_BE_MISSING, (operation, answer.text[:300])
        elif scope.startswith("predict"):  # the model is shared, and the dataset too
            assert answer.status_code in (200, 202), (operation, answer.text[:300])
        else:
            assert answer.status_code == 403, (operation, answer.status_code, answer.text[:300])


def test_lists_contain_own_and_shared_resources(scenario: Scenario) -> None:
    def count_items(path: str) -> int:
        token = scenario.token("bob", "read")
        answer = scenario.client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {token}"}).raise_for_status()
        return len(answer.json()["items"])

    assert (count_items("datasets"), count_items("runs"), count_items("models")) == (0, 0, 0)
    ada = {"Authorization": f"Bearer {scenario.token('ada', 'admin')}"}
    for path in ("datasets/{ref}", "runs/{run_id}", "models/{name}"):
        scenario.client.patch(scenario.url(f"/api/v1/{path}"), json={"shared": True}, headers=ada).raise_for_status()
    assert (count_items("datasets"), count_items("runs"), count_items("models")) == (1, 1, 1)


def test_a_name_of_another_owner_is_a_conflict(scenario: Scenario) -> None:
    assert scenario.request("PUT /api/v1/datasets/{ref}", scenario.token("bob", "upload")).status_code == 409


def test_a_predict_key_may_be_limited_to_models(scenario: Scenario) -> None:
    only = scenario.toys.create_key(["predict", "upload"], models=["other"])
    assert scenario.request("POST /api/v1/models/{name}/predictions", only).status_code == 403
    right = scenario.toys.create_key(["predict", "upload"], models=["served"])
    assert scenario.request("POST /api/v1/models/{name}/predictions", right).status_code == 202


def test_owners_and_admins_get_through(scenario: Scenario) -> None:
    """A key of the owner with the right scope gets an answer about the resource itself, and so does an admin's."""
    for operation in operations():
        scope = scope_of(operation)
        answer = scenario.request(operation, scenario.token("ada", {OPEN: "read", ANY: "read"}.get(scope, scope)))
        context = (operation, answer.status_code, answer.text[:300])
        assert answer.status_code < 500 or operation in UNAVAILABLE, context
        if operation == "POST /api/v1/session":
            continue  # its body is a key
        assert answer.status_code not in (401, 403), context
        assert answer.status_code != 404 or parameters(operation) & MAY_BE_MISSING, context
        admin = scenario.request(operation, scenario.token("root", "admin"))
        assert admin.status_code not in (401, 403), (operation, "admin", admin.text[:300])
