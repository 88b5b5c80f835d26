"""Every operation of the prediction service over REST and gRPC x {no key, expired, revoked, wrong scope, other owner,
right}. The operations come from the OpenAPI document and the gRPC services, so a new one without a rule fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import text

from fitserve import api_keys, browser_sessions, db, registry
from services.predict.protocols import PROTOCOLS
from services.predict.protocols.proto import inference_pb2, tensorflow_serving_pb2
from tests.predict.toy_registry import RunningService, ToyRegistry, eventually, numeric, run_service
from tests.waiting import PATIENCE

OPEN, ANY = "open", "any"
# The scope that REST operations need, by the end of their path. Any key of an owner may read the owner's models.
VERBS = dict.fromkeys((":predict", ":classify", ":regress", ":explain", "/infer", "/explain"), "predict")
HIDDEN = {  # of the protocols, answered but not in the document
    "GET /v2": OPEN,
    "GET /v2/health/live": OPEN,
    "GET /v2/health/ready": OPEN,
    "GET /v2/models": ANY,
    "POST /v2/repository/index": ANY,
    "POST /v2/repository/models/{model}/unload": "train",
    "POST /v2/repository/models/{model}/load": "train",  # last: the others need it
}
GRPC = {
    **dict.fromkeys(("ServerLive", "ServerReady", "ServerMetadata"), OPEN),
    **dict.fromkeys(("ModelReady", "ModelMetadata", "RepositoryIndex", "GetModelMetadata", "GetModelStatus"), ANY),
    **dict.fromkeys(("ModelConfig", "ModelStatistics"), ANY),
    **dict.fromkeys(("ModelInfer", "Predict", "Classify", "Regress", "MultiInference"), "predict"),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), "train"),
    "HandleReloadConfigRequest": "admin",
}
LISTS = {"GET /v1/models", "GET /v2/models", "POST /v2/repository/index", "RepositoryIndex"}


@dataclass(frozen=True)
class Keys:
    bad: dict[str, str | None]
    owner: dict[str, str]
    other: dict[str, str]


@pytest.fixture(scope="module")
def tokens(served: RunningService) -> Iterator[Keys]:
    toys = served.toys
    with db.transaction(toys.engine) as session:
        old, expired = api_keys.create(session, owner="ada", name="old", scopes=["admin"])
        old.expires_at = db.now(session) - timedelta(seconds=1)
        dead, revoked = api_keys.create(session, owner="ada", name="gone", scopes=["admin"])
        api_keys.revoke(session, dead.id)
        registry.set_label(session, "adm", "stable", version_number=1)
    made = Keys(
        {"none": None, "expired": expired, "revoked": revoked, "made up": "key_x.secret", "nonsense": "x"},
        {scope: toys.create_key([scope]) for scope in ("read", "predict", "train", "admin")},
        {scope: toys.create_key([scope], owner="bob") for scope in ("read", "predict", "train")},
    )
    last = {"Authorization": f"Bearer {made.other['train']}"}
    eventually(lambda: httpx2.get(f"{served.url}/v1/models", headers=last, timeout=PATIENCE).status_code == 200)
    yield made
    toys.change(registry.remove_label, "adm", "stable")


# REST


def operations() -> list[str]:
    paths = [item for protocol in PROTOCOLS for item in protocol.openapi_paths.items()]
    described = [f"{method.upper()} {path}" for path, item in paths for method in item]
    assert len(described) > 20
    return [*described, *(one for one in HIDDEN if one not in described)]


def rule(operation: str) -> str:
    if operation in HIDDEN:
        return HIDDEN[operation]
    for ending, scope in VERBS.items():
        if operation.endswith(ending):
            return scope
    assert operation.startswith("GET "), f"{operation} has no rule"
    return ANY


def ask(client: httpx2.Client, operation: str, token: str | None, model: str = "adm") -> httpx2.Response:
    method, path = operation.split(" ", 1)
    for name, value in {"model": model, "version": "1", "label": "stable"}.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, path
    row = {"gre": 600, "gpa": 3.5, "rank": 2, "city": "Rom"}
    body: Any = {"instances": [row]}
    if path.startswith("/v2"):
        tensor = {"shape": [1], "datatype": "FP64", "data": [600.0]}
        body = {"inputs": [{"name": "gre", **tensor}]} if path.endswith(("infer", "explain")) else {}
    elif path.endswith((":classify", ":regress")):
        body = {"examples": [row]}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.request(method, path, headers=headers, json=body if method == "POST" else None)


@pytest.fixture
def anybody(served: RunningService) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=PATIENCE) as made:
        yield made


def test_without_a_live_key(anybody: httpx2.Client, tokens: Keys) -> None:
    for operation in operations():
        for kind, token in tokens.bad.items():
            if rule(operation) == OPEN:
                continue
            answer = ask(anybody, operation, token)
            assert answer.status_code == 401, (operation, kind, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer"), operation


def test_wrong_scope(anybody: httpx2.Client, tokens: Keys) -> None:
    for operation in operations():
        for scope, token in tokens.owner.items():
            wanted = rule(operation)
            if wanted in (OPEN, ANY, scope) or scope == "admin":
                continue
            answer = ask(anybody, operation, token)
            assert answer.status_code == 403, (operation, scope, answer.text)


def test_other_owner(served: RunningService, anybody: httpx2.Client, tokens: Keys) -> None:
    for operation in operations():
        wanted = rule(operation)
        token = tokens.other[wanted if wanted in tokens.other else "read"]
        answer = ask(anybody, operation, token)
        if operation in LISTS:
            assert "adm" not in answer.text, operation
        elif wanted != OPEN:
            assert answer.status_code == 404, (operation, answer.status_code, answer.text)
            assert "no " in answer.text.lower() or "not found" in answer.text.lower()
    read = {"Authorization": f"Bearer {tokens.other['read']}"}
    served.toys.change(registry.set_shared, "adm", True)
    try:
        eventually(lambda: "adm" in anybody.get("/v1/models", headers=read).text)
        for operation in operations():
            if operation.endswith("explain"):  # its baseline is of the training rows
                refused = ask(anybody, operation, tokens.other["predict"])
                assert refused.status_code == 403, ("shared to be asked only", operation, refused.text)
        served.toys.change(registry.set_shared, "adm", True, "inspect")
        explain = next(operation for operation in operations() if operation.endswith("explain"))
        eventually(lambda: ask(anybody, explain, tokens.other["predict"]).status_code != 403)
        for operation in operations():
            wanted = rule(operation)
            answer = ask(anybody, operation, tokens.other[wanted if wanted in tokens.other else "read"])
            if wanted == "train":
                assert answer.status_code == 403, (operation, answer.text)  # shared to be used, not to be changed
            else:
                assert answer.status_code not in (401, 403, 404), (operation, answer.text)
    finally:
        served.toys.change(registry.set_shared, "adm", False)
        eventually(lambda: "adm" not in anybody.get("/v1/models", headers=read).text)  # the next test must not see it


def test_right(anybody: httpx2.Client, tokens: Keys) -> None:
    for operation in operations():
        wanted = rule(operation)
        for token in (tokens.owner[wanted if wanted in tokens.owner else "read"], tokens.owner["admin"]):
            answer = ask(anybody, operation, token)
            assert answer.status_code not in (401, 403, 404), (operation, answer.text)
            assert answer.status_code < 500, (operation, answer.text)


def test_a_key_limited_to_models(served: RunningService, anybody: httpx2.Client) -> None:
    only = served.toys.create_key(["predict"], models=["m1"])
    headers = {"Authorization": f"Bearer {only}"}
    eventually(lambda: anybody.get("/v1/models", headers=headers).status_code == 200)
    for operation in operations():
        if operation in LISTS:
            answer = ask(anybody, operation, only)
            assert "m1" in answer.text, operation
            assert "adm" not in answer.text, operation
        elif rule(operation) in ("predict", ANY):
            assert ask(anybody, operation, only).status_code == 403, operation
    row = {"instances": [[1.0] * 6]}
    assert anybody.post("/v1/models/m1:predict", json=row, headers=headers).status_code == 200


@pytest.mark.parametrize("scope", ["upload", "keys"])
def test_a_key_of_another_purpose_sees_no_model(served: RunningService, anybody: httpx2.Client, scope: str) -> None:
    other = served.toys.create_key([scope])
    headers = {"Authorization": f"Bearer {other}"}
    eventually(lambda: anybody.get("/v1/models", headers=headers).status_code == 200)
    for operation in operations():
        answer = ask(anybody, operation, other)
        if operation in LISTS:
            assert "adm" not in answer.text, operation
        elif rule(operation) != OPEN:
            assert answer.status_code == 403, (operation, answer.text)


def test_a_session_is_known_and_ends(served: RunningService, anybody: httpx2.Client) -> None:
    key_id = served.toys.token.split(".")[0]
    with db.transaction(served.toys.engine) as session:
        token = browser_sessions.begin(session, key_id, 60)
    headers = {"Authorization": f"Bearer {token}"}
    eventually(lambda: anybody.get("/v1/models/adm", headers=headers).status_code == 200)
    with db.transaction(served.toys.engine) as session:
        browser_sessions.end(session, token)
    eventually(lambda: anybody.get("/v1/models/adm", headers=headers).status_code == 401)


def test_a_key_expires_while_the_database_is_away(tmp_path: Path) -> None:
    """Also in the fast lane, which knows its requests by their bytes."""
    toys = ToyRegistry(tmp_path)
    toys.register("m1", numeric())
    with run_service(toys) as running, httpx2.Client(base_url=running.url, timeout=PATIENCE) as client:
        with db.transaction(toys.engine) as session:
            until = db.now(session) + timedelta(seconds=6)
            _, token = api_keys.create(session, owner="ada", name="short", scopes=["predict"], expires_at=until)
        headers = {"Authorization": f"Bearer {token}"}

        def predict() -> int:
            return client.post("/v1/models/m1:predict", json={"instances": [[1.0] * 6]}, headers=headers).status_code

        eventually(lambda: predict() == 200)
        with db.transaction(toys.engine) as session:
            session.execute(text("ALTER TABLE keys RENAME TO away"))
        before = running.telemetry("fitserve_predict_poll_failures_total")
        eventually(lambda: running.telemetry("fitserve_predict_poll_failures_total") > before)
        while datetime.now(UTC) < until:
            predict()
        eventually(lambda: predict() == 401)


def test_no_valid_key_is_refused_before_the_keys_have_been_read(tmp_path: Path) -> None:
    toys = ToyRegistry(tmp_path)
    toys.register("m1", numeric())
    with db.transaction(toys.engine) as session:
        session.execute(text("ALTER TABLE models RENAME TO away"))
    with (
        run_service(toys, ready="/livez") as running,
        httpx2.Client(base_url=running.url, headers=running.headers, timeout=PATIENCE) as client,
    ):

        def predict() -> httpx2.Response:
            return client.post("/v1/models/m1:predict", json={"instances": [[1.0] * 6]})

        early = predict()
        assert (early.status_code, early.headers["Retry-After"]) == (503, "1"), early.text
        with db.transaction(toys.engine) as session:
            session.execute(text("ALTER TABLE away RENAME TO models"))
        eventually(lambda: predict().status_code == 200)


def test_without_keys_foreign_pages_are_refused(tmp_path: Path) -> None:
    toys = ToyRegistry(tmp_path)
    toys.register("m1", numeric())
    body = {"instances": [[1.0] * 6]}
    with (
        run_service(toys, FITSERVE_AUTH="false") as running,
        httpx2.Client(base_url=running.url, timeout=PATIENCE) as client,
    ):
        for headers in (
            {"Host": "rebound.example"},
            {"Host": f"rebound.example:{running.port}"},
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        ):
            for _ in range(3):  # a repeated request may take the fast lane
                assert client.post("/v1/models/m1:predict", json=body, headers=headers).status_code == 403, headers
            assert client.get("/v1/models", headers=headers).status_code == 403, headers
            assert client.get("/metrics", headers=headers).status_code == 403, headers
        for _ in range(3):
            answer = client.post("/v1/models/m1:predict", json=body)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")


def test_a_key_in_the_url_is_ignored(anybody: httpx2.Client, tokens: Keys) -> None:
    good = tokens.owner["admin"]
    for name in ("key", "api_key", "token", "access_token", "authorization"):
        assert anybody.get("/v1/models", params={name: good}).status_code == 401


# gRPC


def methods() -> list[MethodDescriptor]:
    files = (inference_pb2.DESCRIPTOR, tensorflow_serving_pb2.DESCRIPTOR)
    services: list[ServiceDescriptor] = [one for file in files for one in file.services_by_name.values()]
    # A stream answers each message as `ModelInfer` does; without a key it ends at once.
    methods = [method for service in services for method in service.methods if not method.server_streaming]
    assert len(methods) > 10
    last = ["RepositoryModelUnload", "RepositoryModelLoad"]  # the others need the model
    return sorted(methods, key=lambda method: last.index(method.name) + 1 if method.name in last else 0)


def call(channel: grpc.Channel, method: MethodDescriptor, token: str | None, model: str = "adm") -> grpc.StatusCode:
    request = GetMessageClass(method.input_type)()
    for field in ("name", "model_name"):
        if field in method.input_type.fields_by_name:
            setattr(request, field, model)
    if "model_spec" in method.input_type.fields_by_name:
        request.model_spec.name = model
    if method.name == "GetModelMetadata":
        request.metadata_field.append("signature_def")
    if method.name == "MultiInference":
        request.tasks.add().model_spec.name = model
    answer = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        answer(request, metadata=metadata, timeout=PATIENCE)
    except grpc.RpcError as error:
        return error.code()

    return grpc.StatusCode.OK


REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)


def test_grpc(served: RunningService, tokens: Keys) -> None:
    with grpc.insecure_channel(f"localhost:{served.grpc_port}") as channel:
        for method in methods():
            assert method.name in GRPC, f"{method.full_name} has no rule"
            wanted = GRPC[method.name]
            if wanted == OPEN:
                assert call(channel, method, None) == grpc.StatusCode.OK
                continue
            for kind, token in tokens.bad.items():
                code = call(channel, method, token)
                assert code == grpc.StatusCode.UNAUTHENTICATED, (method.name, kind, code)
            for scope, token in tokens.owner.items():
                code = call(channel, method, token)
                if wanted in (ANY, scope) or scope == "admin":
                    assert code not in REFUSED, (method.name, scope, code)
                    assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (method.name, scope, code)
                else:
                    assert code == grpc.StatusCode.PERMISSION_DENIED, (method.name, scope, code)
            if method.name not in LISTS and wanted != "admin":
                other = tokens.other[wanted if wanted in tokens.other else "read"]
                assert call(channel, method, other) == grpc.StatusCode.NOT_FOUND, method.name
