"""Intervals by the spec: widths by row and by group, the same in every protocol, and the default level."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import httpx2
import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from sklearn.metrics import brier_score_loss, log_loss

from fitserve import db, live_coverage, registry
from fitserve.conformal import kept_scores, rows_needed
from fitserve.settings import Settings
from services.control.app import create_app
from services.predict.protocols.proto import inference_pb2 as oip
from services.predict.protocols.proto import tensorflow_serving_pb2 as tfs
from tests.predict.toy_registry import RunningService, ToyModel, ToyRegistry, eventually, mixed, run_service
from tests.waiting import PATIENCE
from workers.batch.model import ArtifactModel

PRICE = [{"name": "price", "task": "regression", "labels": None, "units": 1}]
ROWS = [
    {"gre": gre, "gpa": gpa, "rank": rank, "city": city}
    for gre, gpa, rank, city in (
        (400, 3.0, 1, "Rom"),
        (560, 3.4, 2, "Bern"),
        (640, 3.2, 3, "Ürzig"),
        (700, 3.9, 4, "Rom"),
        (790, 2.95, 1, "Bern"),
    )
]
SCORES = np.sort(np.random.default_rng(3).normal(size=(3, 400)), axis=1)
KINDS = {"gre": "INT64", "gpa": "FP64", "rank": "INT64", "city": "BYTES"}


def _spread(width: int) -> dict[str, Any]:
    linear = np.random.default_rng(4).normal(0, 0.3, width + 1)
    ends = [[-50.0] * (width + 1), [50.0] * (width + 1)]
    return {
        "kind": "inputs",
        "inputs": ["features"],
        "bias": 0.2,
        "linear": linear.tolist(),
        "hinges": {"input": [0, width], "knot": [0.1, 0.2], "weight": [0.5, 0.3]},
        "clipped": ends,
        "range": [-3.0, 3.0],
    }


def _toy() -> ToyModel:
    toy = mixed(PRICE)
    few = np.arange(5.0)
    kept = {
        **kept_scores(SCORES[0]),
        "by_row": {"spread": _spread(toy.encoder.inputs[0].shape[0]), **kept_scores(SCORES[1])},
        "groups": {
            "Rom": {**kept_scores(SCORES[2]), "by_row": kept_scores(SCORES[2] * 2)},
            "Bern": {**kept_scores(few), "by_row": kept_scores(few)},
        },
    }
    interval = {"levels": [0.8, 0.5], "coverage_by": "city", "adaptive": None}
    return replace(toy, more={"conformal": {"price": kept}, "interval": interval})


def wanted(level: float) -> dict[str, np.ndarray]:
    """The bounds of ROWS: of Rom by its own scores; Bern has too few, and Ürzig has none."""
    toy = _toy()
    own = toy.answer(ROWS)["price"][:, 0].astype(np.float64)
    encoded, _ = toy.encoder.encode_rows(ROWS)
    x = np.column_stack([encoded["features"].astype(np.float64), own])
    spread = _spread(x.shape[1] - 1)
    bent = 0.5 * np.maximum(x[:, 0] - 0.1, 0) + 0.3 * np.maximum(x[:, -1] - 0.2, 0)
    width = np.exp(np.clip(0.2 + x @ np.array(spread["linear"]) + bent, -3, 3))
    rank = int(np.floor((400 + 1) * (1 - level) / 2 + 1e-9))
    scores = [SCORES[2] * 2 if row["city"] == "Rom" else SCORES[1] for row in ROWS]
    low, high = (np.array([one[at] for one in scores]) for at in (rank - 1, 400 - rank))
    return {"price": own, "price_low": own + width * low, "price_high": own + width * high}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    toys = ToyRegistry(tmp_path_factory.mktemp("intervals"))
    toys.register("price", _toy())
    toys.register("moved", _adaptive())
    with run_service(toys) as running:
        yield running


def _adaptive() -> ToyModel:
    """A model whose level ground truth moves, and a classification beside it that is covered by city."""
    outputs = [*PRICE, {"name": "admit", "task": "binary", "labels": ["no", "yes"], "units": 1}]
    kept = {"price": kept_scores(SCORES[0]), "admit": kept_scores(np.linspace(0, 1, 200))}
    interval = {"levels": [0.8], "coverage_by": "city", "adaptive": {"gamma": 0.01}}
    return replace(mixed(outputs), more={"conformal": kept, "interval": interval})


def same(found: dict[str, Any], level: float = 0.8) -> None:
    for name, values in wanted(level).items():
        np.testing.assert_allclose(np.asarray(found[name], np.float64).ravel(), values, rtol=1e-5, atol=1e-6)


def by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_every_protocol_answers_the_level_of_the_spec_by_row_and_group(service: RunningService) -> None:
    def post(path: str, body: Any = None, **options: Any) -> Any:
        headers = {**service.headers, **options.pop("headers", {})}
        answer = httpx2.post(f"{service.url}{path}", json=body, headers=headers, timeout=PATIENCE, **options)
        assert answer.status_code == 200, answer.text
        return answer

    for _ in range(3):  # the fast lane, which learns a head from its first request, answers the same
        same(by_name(post("/v1/models/price:predict", {"instances": ROWS}).json()["predictions"]))
    same(
        by_name(
            post("/v1/models/price:predict", {"instances": [list(row.values()) for row in ROWS]}).json()["predictions"]
        )
    )
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    same(post("/v1/models/price:predict", {"inputs": columns}).json()["outputs"])
    answer = post("/v1/models/price:regress", {"examples": ROWS}).json()
    same({**answer, "price": answer["results"]})
    text = "\n".join([",".join(columns), *(",".join(map(str, row.values())) for row in ROWS)])
    csv_types = {"content-type": "text/csv", "accept": "text/csv"}
    answer = post("/v1/models/price:predict", content=text.encode(), headers=csv_types).text
    same(by_name(list(csv.DictReader(io.StringIO(answer)))))
    inputs = [{"name": n, "shape": [5, 1], "datatype": KINDS[n], "data": v} for n, v in columns.items()]
    same({one["name"]: one["data"] for one in post("/v2/models/price/infer", {"inputs": inputs}).json()["outputs"]})
    named = {"inputs": inputs, "outputs": [{"name": "price_low"}]}
    same({one["name"]: one["data"] for one in post("/v2/models/price/infer", named).json()["outputs"]})
    metadata = httpx2.get(f"{service.url}/v2/models/price", headers=service.headers, timeout=PATIENCE).json()
    assert [one["name"] for one in metadata["outputs"]] == ["price", "price_low", "price_high"]

    # A request may name another level, or none.
    same(by_name(post("/v1/models/price:predict", {"instances": ROWS, "interval": 0.7}).json()["predictions"]), 0.7)
    plain = {"instances": ROWS, "interval": False}
    assert post("/v1/models/price:predict", plain).json()["predictions"] == _toy().answer(ROWS)["price"].tolist()
    answer = post("/v1/models/price:regress", {"examples": ROWS}, headers={"x-interval": "none"}).json()
    assert [*answer] == ["results"]

    with db.reading(service.toys.engine) as session:
        artifact = registry.version(session, "price", 1).artifact
    batch = ArtifactModel(service.toys.blobs, artifact).predict(pa.Table.from_pylist(ROWS)).to_pydict()
    same({name.removeprefix("predicted_"): values for name, values in batch.items()})
    assert [*ArtifactModel(service.toys.blobs, artifact, 0).predict(pa.Table.from_pylist(ROWS)).column_names] == [
        "predicted_price"
    ]

    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:

        def call(method: str, message: Any, answer: Any) -> Any:
            stub = channel.unary_unary(
                method, request_serializer=type(message).SerializeToString, response_deserializer=answer.FromString
            )
            return stub(message, metadata=[("authorization", f"Bearer {service.toys.token}")])

        fields = {"INT64": "int64_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}
        message = oip.ModelInferRequest(model_name="price")
        asked = tfs.PredictRequest()
        asked.model_spec.name = "price"
        types = {"INT64": (9, "int64_val"), "FP64": (2, "double_val"), "BYTES": (7, "string_val")}
        for name, values in columns.items():
            data = [value.encode() if isinstance(value, str) else value for value in values]
            tensor = message.inputs.add(name=name, shape=[5, 1], datatype=KINDS[name])
            getattr(tensor.contents, fields[KINDS[name]]).extend(data)
            dtype, field = types[KINDS[name]]
            asked.inputs[name].dtype = dtype
            for size in (5, 1):
                asked.inputs[name].tensor_shape.dim.add(size=size)
            getattr(asked.inputs[name], field).extend(data)
        answer = call("/inference.GRPCInferenceService/ModelInfer", message, oip.ModelInferResponse)
        contents = [(one.name, one.contents) for one in answer.outputs]
        same({name: list(one.fp64_contents) or list(one.fp32_contents) for name, one in contents})
        answer = call("/tensorflow.serving.PredictionService/Predict", asked, tfs.PredictResponse)
        same({name: list(one.double_val) or list(one.float_val) for name, one in answer.outputs.items()})


def test_ground_truth_moves_the_level_and_names_the_slice_that_goes_bad(service: RunningService) -> None:
    toys, answers = service.toys, {}
    rows = [ROWS[place % 2] for place in range(60)]  # of Rom and Bern

    def predict(id: str | None = None) -> list[dict[str, Any]]:
        headers = {**service.headers, **({"X-Prediction-ID": id} if id else {})}
        body = {"instances": rows, "interval": 0.5}  # what is stored is the level of the spec all the same
        if id is None:
            del body["interval"]
        answer = httpx2.post(f"{service.url}/v1/models/moved:predict", json=body, headers=headers, timeout=PATIENCE)
        found: list[dict[str, Any]] = answer.json()["predictions"]
        return found

    before = predict()
    predict("p")
    truths = []
    for at, row in enumerate(before):  # of Bern, every price is outside, and every label the unlikely one
        wrong = rows[at]["city"] == "Bern"
        label = "yes" if (row["admit"][0] >= 0.5) != wrong else "no"
        truths.append(
            {"id": "p", "row": at, "output": "price", "truth": row["price_high"] + 1 if wrong else row["price"][0]}
        )
        truths.append({"id": "p", "row": at, "output": "admit", "truth": label})
    app = create_app(Settings(home=toys.home, database_url=toys.url, redis_url="redis://127.0.0.1:1"))
    with TestClient(app, headers=service.headers) as api:

        def post() -> Any:
            return api.post("/api/v1/models/moved/feedback", json={"items": truths}).json()

        eventually(lambda: answers.update(post()) or not answers["unknown"])
        assert (answers["stored"], post()["repeated"]) == (120, 120)
        report = api.get("/api/v1/models/moved/drift").json()
    live = {one["output"]: one for one in report["live"]}
    assert (live["price"]["covered_rows"], live["price"]["coverage"]) == (60, 0.5)
    assert live["price"]["level"] == pytest.approx(0.8)
    shares = np.array([row["admit"][0] for row in before])
    truth = np.array([one["truth"] == "yes" for one in truths[1::2]])
    assert live["admit"]["calibration_rows"] == 60
    assert live["admit"]["brier"] == pytest.approx(brier_score_loss(truth, shares))
    assert live["admit"]["log_loss"] == pytest.approx(log_loss(truth, shares))
    confidence, right = np.maximum(shares, 1 - shares), (shares >= 0.5) == truth
    bins = np.minimum((confidence * 10).astype(int), 9)
    error = sum(abs(confidence[bins == one].sum() - right[bins == one].sum()) for one in {*bins.tolist()}) / 60
    assert live["admit"]["calibration_error"] == pytest.approx(error)
    bad = {(one["output"], one["slice"]): one["why"] for one in report["slices"] if one["bad"]}
    assert bad[("price", "Bern")] == ["coverage"]
    assert "accuracy" in bad[("admit", "Bern")]
    assert {city for _, city in bad} == {"Bern"} == {*report["bad_slices"]}

    level = 1 - (0.2 + 0.01 * (0.2 * 60 - 30))  # Gibbs and Candes, after 30 truths inside and 30 outside
    assert report["levels_in_force"]["price"] == pytest.approx(level)
    eventually(lambda: predict()[0]["price_high"] > before[0]["price_high"])
    asked = {"instances": rows, "interval": level}
    answer = httpx2.post(
        f"{service.url}/v1/models/moved:predict", json=asked, headers=service.headers, timeout=20
    ).json()
    assert predict()[0]["price_low"] == answer["predictions"][0]["price_low"]


def test_the_error_rate_stays_where_a_level_can_be_answered() -> None:
    assert live_coverage.moved(0.1, 0.1, 0.5, 0, 100) == 0.0
    assert live_coverage.moved(0.1, 0.1, 0.5, 1000, 0) == 1.0
    assert live_coverage.level_at(0.0, "regression", 39) == pytest.approx(0.95)
    assert live_coverage.level_at(1.0, "binary", 100) == live_coverage.LOWEST_LEVEL
    assert rows_needed("regression", live_coverage.level_at(0.0, "regression", 57)) <= 57
    rate, random, missed = 0.1, np.random.default_rng(0), 0
    for _ in range(4000):  # errors are half as large again: 10% of the truths are outside in the long run all the same
        limit = np.quantile(np.abs(np.random.default_rng(1).normal(size=2000)), min(0.9995, 1 - rate))
        outside = abs(random.normal() * 1.5) > limit
        missed += outside
        rate = live_coverage.moved(rate, 0.1, 0.01, int(not outside), int(outside))
    assert missed / 4000 == pytest.approx(0.1, abs=0.02)
