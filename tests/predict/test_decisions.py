"""Decisions of a served version: every protocol applies them, and they change without training or a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper
from sqlalchemy import func, select

from fitserve import db, registry
from fitserve.conformal import kept_scores
from fitserve.decisions.held_out import HeldOut, HeldOutParts
from fitserve.settings import Settings
from fitserve.tables import Audit, DecisionChange
from services.control.admin import audit
from services.control.app import create_app
from services.predict.protocols.proto import inference_pb2 as oip
from services.predict.protocols.proto import tensorflow_serving_pb2 as tfs
from tests.predict.toy_registry import THREE, RunningService, ToyModel, ToyRegistry, eventually, mixed, run_service
from tests.waiting import PATIENCE
from workers.batch.model import ArtifactModel

ROWS = [
    {"gre": gre, "gpa": gpa, "rank": 3, "city": "Rom"} for gre, gpa in ((400, 3.0), (560, 3.4), (640, 3.2), (800, 4.0))
]
STRANGE = {"gre": 640, "gpa": 3.2, "rank": 3, "city": "Atlantis"}
TIER = {"output": "tier", "maximize": "f1"}
VERSION = "/api/v1/models/adm/versions/1/decision"


def _with_held_out(toy: ToyModel, folder: Path) -> ToyModel:
    """Add held-out rows, of which about as many are positive as the probabilities say."""
    random, truth, values = np.random.default_rng(5), {}, {}
    for output in toy.outputs:
        if output["task"] == "regression":
            continue
        shares = random.dirichlet(np.ones(len(output["labels"])), 300)
        shares[0] = np.eye(shares.shape[1])[-1]  # the surest row of the last label
        truth[output["name"]] = np.array([random.choice(len(row), p=row) for row in shares], np.int32)
        truth[output["name"]][0] = 0  # is another one: no threshold has a precision of 1
        values[output["name"]] = (shares[:, 1:] if output["units"] == 1 else shares).astype(np.float32)
    path = folder / "held_out"
    half = [
        {name: of[name][part] for name in of} for part in (slice(0, 200), slice(200, 300)) for of in (truth, values)
    ]
    parts = {"validation": HeldOut(np.arange(200), half[0], half[1]), "test": HeldOut(np.arange(100), half[2], half[3])}
    HeldOutParts(parts).write(path)
    return replace(toy, files={"held_out": path.read_bytes()})


@dataclass
class Served:
    """The prediction service and the API over one registry."""

    service: RunningService
    api: TestClient
    ask: httpx2.Client
    toys: ToyRegistry

    def put(self, body: Any, path: str = VERSION) -> Any:
        return self.api.put(path, json=body)

    def classify(self, rows: list[dict[str, Any]], model: str = "adm") -> Any:
        return self.ask.post(f"/v1/models/{model}:classify", json={"examples": rows}).json()

    def wait_for(self, labels: list[str | None]) -> None:
        eventually(lambda: [one["label"] for one in self.classify(ROWS).get("decisions", [])] == labels)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("decisions")
    toys = ToyRegistry(folder / "toys")
    toys.register("adm", _with_held_out(mixed(), folder))
    toys.register("three", _with_held_out(mixed(THREE), folder))
    toys.register("old", mixed(seed=2))
    toys.register("careful", _careful(folder))
    app = create_app(Settings(home=toys.home, database_url=toys.url, redis_url="redis://127.0.0.1:1"))
    headers = {"Authorization": f"Bearer {toys.token}"}
    with run_service(toys) as service, TestClient(app, headers=headers) as api:
        with httpx2.Client(base_url=service.url, headers=headers, timeout=PATIENCE) as ask:
            yield Served(service, api, ask, toys)


def _scores(served: Served) -> list[float]:
    return [float(row[0]) for row in mixed().answer(ROWS)["admit"]]


def test_every_protocol_answers_a_moved_decision(served: Served) -> None:
    before = served.classify(ROWS)
    assert "decisions" not in before
    assert [row[0][0] for row in before["results"]] == ["no"] * 4  # in the model's order
    scores = _scores(served)
    threshold = sorted(scores)[1]  # three of the four rows are at or above it
    labels = ["yes" if score >= threshold else "no" for score in scores]
    answer = served.put({"threshold": threshold})
    assert answer.status_code == 200, answer.text
    assert answer.json()["decisions"][0]["label"] == "yes"
    served.wait_for(labels)
    assert labels.count("yes") == 3

    body = served.classify(ROWS)
    assert [row[0][0] for row in body["results"]] == labels
    assert [dict(map(tuple, row)) for row in body["results"]] == [dict(map(tuple, row)) for row in before["results"]]
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    text = ",".join(columns) + "\n" + "\n".join(",".join(map(str, row.values())) for row in ROWS)
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    lines = served.ask.post("/v1/models/adm:predict", content=text, headers=headers).text.splitlines()
    assert lines[0].split(",")[:2] == ["admit", "admit_abstained"]
    assert [line.split(",")[0] for line in lines[1:]] == labels

    kinds = {"gre": "INT64", "gpa": "FP64", "rank": "INT64", "city": "BYTES"}
    inputs = [{"name": n, "shape": [4, 1], "datatype": kinds[n], "data": values} for n, values in columns.items()]
    outputs = [{"name": "admit_label"}, {"name": "admit", "parameters": {"classification": 1}}]
    inferred = served.ask.post("/v2/models/adm/infer", json={"inputs": inputs, "outputs": outputs}).json()["outputs"]
    assert [one["name"] for one in inferred] == ["admit_label", "admit"]
    assert inferred[0]["data"] == labels
    assert [one.split(":")[2] for one in inferred[1]["data"]] == labels
    assert "admit_label" in [one["name"] for one in served.ask.get("/v2/models/adm").json()["outputs"]]

    with grpc.insecure_channel(f"127.0.0.1:{served.service.grpc_port}") as channel:
        metadata = [("authorization", f"Bearer {served.toys.token}")]

        def call(method: str, message: Any, answer: Any) -> Any:
            stub = channel.unary_unary(
                method, request_serializer=type(message).SerializeToString, response_deserializer=answer.FromString
            )
            return stub(message, metadata=metadata)

        message = oip.ModelInferRequest(model_name="adm")
        for one in inputs:
            tensor = message.inputs.add(name=one["name"], shape=[4, 1], datatype=one["datatype"])
            field = {"INT64": "int64_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}[one["datatype"]]
            values = [v.encode() for v in one["data"]] if field == "bytes_contents" else one["data"]
            getattr(tensor.contents, field).extend(values)
        message.outputs.add(name="admit_label")
        inferred = call("/inference.GRPCInferenceService/ModelInfer", message, oip.ModelInferResponse)
        assert [text.decode() for text in inferred.outputs[0].contents.bytes_contents] == labels

        request = tfs.ClassificationRequest()
        request.model_spec.name = "adm"
        for row in ROWS:
            features = request.input.example_list.examples.add().features.feature
            features["gre"].int64_list.value.append(row["gre"])
            features["gpa"].float_list.value.append(row["gpa"])
            features["rank"].int64_list.value.append(row["rank"])
            features["city"].bytes_list.value.append(row["city"].encode())
        classified = call("/tensorflow.serving.PredictionService/Classify", request, tfs.ClassificationResponse)
        assert [row.classes[0].label for row in classified.result.classifications] == labels


def test_a_row_unlike_training_is_not_answered(served: Served) -> None:
    body = {"threshold": 0.0, "abstain": {"unlike_training": True, "distance": None}}
    assert served.put(body).status_code == 200
    served.wait_for(["yes"] * 4)
    answer = served.classify([ROWS[0], STRANGE])
    assert answer["decisions"] == [{"label": "yes"}, {"label": None, "abstained": "unlike_training"}]
    assert answer["results"][1] == []
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": kind, "data": [STRANGE[name]]}
        for name, kind in {"gre": "INT64", "gpa": "FP64", "rank": "INT64", "city": "BYTES"}.items()
    ]
    outputs = [{"name": "admit_label"}]
    inferred = served.ask.post("/v2/models/adm/infer", json={"inputs": inputs, "outputs": outputs}).json()
    assert inferred["outputs"][0]["data"] == [""]
    assert json.loads(inferred["parameters"]["abstained"])[0]["reason"] == "unlike_training"


CITIES = ["Rom", "Bern", "Rom", "Bern", "Rom", "Bern", "Bern"]
SPREAD = [{**row, "city": city} for row, city in zip([*ROWS, *ROWS[:3]], CITIES, strict=True)]


def _careful(folder: Path) -> ToyModel:
    """A model with prediction sets by city, and the distance of `gre` from its mean."""
    toy = _with_held_out(mixed(), folder)
    parts = HeldOutParts.read(toy.files["held_out"], toy.manifest).parts
    measured = {
        name: replace(part, distance=np.linspace(0, 1.5, len(part)), coverage_labels=["Rom"] * len(part))
        for name, part in parts.items()
    }
    HeldOutParts(measured).write(folder / "measured")
    (entry,) = toy.encoder.inputs
    shape = [None, entry.shape[0]]
    picked = np.zeros((entry.shape[0], 1), np.float32)
    picked[0] = 1.0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "picked"], ["distance"])],
        "distance",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(picked, "picked")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    files = {"held_out": (folder / "measured").read_bytes(), "distance": model.SerializeToString()}
    scores = np.linspace(0, 1, 200)
    kept = {**kept_scores(scores), "groups": {"Rom": kept_scores(scores * 0.4)}}
    more = {"conformal": {"admit": kept}, "interval": {"levels": [], "coverage_by": "city"}}
    return replace(toy, files=files, more=more)


def test_rows_are_not_answered_by_set_or_distance_in_a_batch_as_online(served: Served) -> None:
    path = "/api/v1/models/careful/versions/1/decision"
    abstain = {"unlike_training": False, "distance": 0.6, "prediction_set": 0.6}
    answer = served.put({"threshold": 0.5, "abstain": abstain}, path)
    assert answer.status_code == 200, answer.text
    (decision,) = answer.json()["decisions"]
    assert decision["abstain"]["prediction_set"] == 0.6
    eventually(lambda: "decisions" in served.classify(SPREAD, "careful"))
    online = served.classify(SPREAD, "careful")["decisions"]
    asked = {"instances": SPREAD, "interval": 0.6}
    sets = served.ask.post("/v1/models/careful:predict", json=asked).json()["predictions"]
    encoded, _ = mixed().encoder.encode_rows(SPREAD)
    far = np.abs(encoded["features"][:, 0]) > decision["abstain"]["distance"]
    wanted = [
        "distance" if away else "prediction_set" if len(row["admit_set"]) != 1 else None
        for away, row in zip(far.tolist(), sets, strict=True)
    ]
    assert {*wanted} == {"distance", "prediction_set", None}
    assert [one.get("abstained") for one in online] == wanted

    with db.reading(served.toys.engine) as session:
        artifact = registry.version(session, "careful", 1).artifact
    model = ArtifactModel(served.toys.blobs, artifact, decisions=[decision])
    batch = model.predict(pa.Table.from_pylist(SPREAD)).to_pydict()
    assert batch["predicted_admit_abstained"] == wanted
    assert batch["predicted_admit"] == [one["label"] for one in online]

    high = {"threshold": 0.5, "abstain": {"unlike_training": False, "distance": None, "prediction_set": 0.999}}
    refused = served.put(high, path)
    assert refused.status_code == 422
    assert (refused.json()["pointer"], refused.json()["received"]) == ("/abstain/prediction_set", 0.999)
    assert "needs 999 held-out rows" in refused.text


def test_a_key_that_may_not_read_moves_a_decision_without_seeing_what_it_does(served: Served) -> None:
    headers = {"Authorization": f"Bearer {served.toys.create_key(['train'])}"}
    answer = served.api.put("/api/v1/models/three/versions/1/decision", json=TIER, headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["outputs"], found["history"]) == ([], [])
    assert [(one["output"], "figures" in one) for one in found["decisions"]] == [("tier", False)]
    assert "figures" in served.put(TIER, "/api/v1/models/three/versions/1/decision").json()["decisions"][0]


def test_several_labels_and_targets(served: Served) -> None:
    path = "/api/v1/models/three/versions/1/decision"
    costs = {"a": {"b": 10, "c": 10}}
    assert served.put({"output": "tier", "cost": costs}, path).status_code == 200
    both = served.put({"output": "admit", "recall_at_least": 0.9}, path).json()
    assert [one["output"] for one in both["decisions"]] == ["tier", "admit"]
    admit = both["decisions"][1]
    assert admit["figures"]["validation"]["recall"] >= 0.9
    assert {curve["part"] for one in both["outputs"] for curve in one["curves"]} == {"validation", "test"}
    eventually(lambda: "decisions" in served.classify(ROWS, "three"))
    refused = served.put({"maximize": "f1"}, path)
    assert refused.status_code == 422
    assert "admit, tier" in json.dumps(refused.json())


@pytest.mark.parametrize(
    ("path", "body", "status", "pointer"),
    [
        ("adm", {"cost": {"false_positive": 0, "false_negative": 1}}, 422, "/cost/false_positive"),
        ("adm", {"cost": {"false_positive": 1, "false_negative": -2}}, 422, "/cost/false_negative"),
        ("adm", {"cost": {"no": {"maybe": 2}}}, 422, "/cost/no/maybe"),
        ("adm", {"recall_at_least": 1.5}, 422, "/recall_at_least"),
        ("adm", {"recall_at_least": 0.9, "label": "perhaps"}, 422, "/label"),
        ("adm", {"maximize": "f1", "threshold": 0.5}, 422, ""),
        ("adm", {"maximise": "f1"}, 422, "/maximise"),
        ("adm", {"output": "admitted", "maximize": "f1"}, 422, "/output"),
        ("adm", {"precision_at_least": 1.0}, 422, "/precision_at_least"),
        ("adm", {"threshold": 0.5, "abstain": True}, 409, "/abstain/distance"),
        ("three", {"output": "score", "maximize": "f1"}, 422, "/output"),
        ("three", {"output": "tier", "cost": {"false_positive": 1}}, 422, "/cost"),
        ("three", {"output": "tier", "recall_at_least": 0.9}, 422, "/recall_at_least"),
        ("old", {"maximize": "f1"}, 409, "/maximize"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    served: Served, path: str, body: dict[str, Any], status: int, pointer: str
) -> None:
    answer = served.put(body, f"/api/v1/models/{path}/versions/1/decision")
    problem = answer.json()
    assert answer.status_code == status, problem
    assert pointer in [problem.get("pointer"), *(one.get("pointer") for one in problem.get("errors", ()))], problem


def test_a_move_is_in_the_history_and_audited_with_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def counts() -> tuple[int, int]:
        with db.reading(served.toys.engine) as session:
            moved = session.scalar(select(func.count()).select_from(DecisionChange))
            audited = session.scalar(select(func.count()).select_from(Audit).where(Audit.action.like("%decision")))
        return moved or 0, audited or 0

    before = counts()
    detail = served.put({"maximize": "f1"}).json()
    assert detail["history"][0]["asked"] == {"output": "admit", "maximize": "f1"}
    assert detail["history"][0]["owner"] == "ada"
    assert counts() == (before[0] + 1, before[1] + 1)
    back = served.api.delete(VERSION).json()
    assert back["decisions"] == back["trained"] == []
    assert back["history"][0]["asked"] is None
    assert counts() == (before[0] + 2, before[1] + 2)
    eventually(lambda: "decisions" not in served.classify(ROWS))

    def fails(*_: Any) -> None:
        raise RuntimeError("no audit row")

    with monkeypatch.context() as patched:
        patched.setattr(audit, "_row", fails)
        with pytest.raises(RuntimeError):
            served.put({"maximize": "f1"})
    assert counts()[0] == before[0] + 2  # the change is undone with it
