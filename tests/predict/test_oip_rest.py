"""Open Inference Protocol v2 over REST: paths, datatypes, outputs, errors, the repository extension."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.predict.toy_registry import NUMBERS, THREE, mixed, numeric

ROW = [1.5, -2.0, 3.25, 4, 5, 6]
ADM = {"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}
TYPES = {"gre": "INT64", "gpa": "FP64", "rank": "INT32", "city": "BYTES"}


def column(name: str, *values: object, datatype: str | None = None, shape: list[int] | None = None) -> dict:
    return {
        "name": name,
        "shape": shape or [len(values), 1],
        "datatype": datatype or TYPES.get(name, "FP64"),
        "data": list(values),
    }


def infer(client: httpx2.Client, model: str, body: object, status: int = 200) -> dict:
    content = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(f"/v2/models/{model}/infer", content=content)
    assert answer.status_code == status, answer.text
    return json.loads(answer.text)


def test_columns(client) -> None:
    result = infer(client, "adm", {"id": "seven", "inputs": [column(n, v, v) for n, v in ADM.items()]})
    assert result == {
        "model_name": "adm",
        "model_version": "2",
        "id": "seven",
        "outputs": [
            {
                "name": "admit",
                "shape": [2, 1],
                "datatype": "FP32",
                "data": mixed(seed=1).answer([ADM, ADM])["admit"].ravel().tolist(),
            }
        ],
    }


def test_one_tensor_for_all_columns_nested_and_flat(client) -> None:
    wanted = numeric().answer([ROW, ROW[::-1]])["y"].ravel().tolist()
    for data in ([*ROW, *ROW[::-1]], [ROW, ROW[::-1]]):
        one = {"name": "instances", "shape": [2, 6], "datatype": "FP64", "data": data}
        result = infer(client, "m1", {"inputs": [one]})
        assert result["outputs"][0]["data"] == wanted
        assert "id" not in result


@pytest.mark.parametrize("datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT64", "FP16", "FP32", "FP64"])
def test_number_types(client, datatype) -> None:
    result = infer(client, "m1", {"inputs": [column(name, 3, datatype=datatype, shape=[1]) for name in NUMBERS]})
    assert result["outputs"][0]["data"] == numeric().answer([[3] * 6])["y"].ravel().tolist()


def test_outputs_select_and_order(client) -> None:
    inputs = [column(n, v) for n, v in ADM.items()]
    result = infer(client, "three", {"inputs": inputs, "outputs": [{"name": "score"}, {"name": "admit"}]})
    assert [one["name"] for one in result["outputs"]] == ["score", "admit"]
    result = infer(
        client, "three", {"inputs": inputs, "outputs": [{"name": "tier", "parameters": {"classification": 2}}]}
    )
    scores = mixed(THREE).answer([ADM])["tier"][0]
    best = sorted(range(3), key=lambda at: -scores[at])[:2]
    assert result["outputs"][0]["data"] == [f"{scores[at]:f}:{at}:{'abc'[at]}" for at in best]
    assert result["outputs"][0]["datatype"] == "BYTES"


def test_warnings_are_in_the_parameters(client) -> None:
    result = infer(client, "adm", {"inputs": [column(n, v) for n, v in {**ADM, "rank": 9}.items()]})
    (warning,) = json.loads(result["parameters"]["warnings"])
    assert warning["column"] == "rank"
    assert warning["code"] == "unknown_category"


def test_missing_columns_and_values(client) -> None:
    result = infer(client, "adm", {"inputs": [column("gre", None, 600), column("gpa", 3.5, 3.6)]})
    rows = [{"gpa": 3.5}, {"gre": 600, "gpa": 3.6}]
    assert result["outputs"][0]["data"] == mixed(seed=1).answer(rows)["admit"].ravel().tolist()


def test_server(client) -> None:
    for path in ("/v2", "/v2/"):
        assert client.get(path).json()["name"] == "fitserve"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models").json() == {"models": ["adm", "m1", "three"]}


def test_models(client) -> None:
    metadata = client.get("/v2/models/adm/versions/1").json()
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"][0] == {"name": "gre", "datatype": "FP64", "shape": [-1, 1]}
    assert metadata["outputs"] == [{"name": "admit", "datatype": "FP32", "shape": [-1, 1]}]
    for path in ("/v2/models/adm/ready", "/v2/models/adm/versions/1/ready"):
        assert client.get(path).json() == {"name": "adm", "ready": True}
    assert client.get("/v2/models/none/ready").status_code == 404
    assert client.get("/v2/models/adm/versions/7/ready").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("[]", 400),
        ({}, 400),
        ({"inputs": []}, 400),
        ({"inputs": [column("none", 1)]}, 400),
        ({"inputs": [column("gre", 1), column("gre", 1)]}, 400),
        ({"inputs": [column("gre", 1, 2), column("gpa", 1)]}, 400),
        ({"inputs": [column("gre", 1, shape=[2])]}, 400),
        ({"inputs": [column("gre", 1, shape=[-1])]}, 400),
        ({"inputs": [column("gre", 1, shape=[1, 1, 1])]}, 400),
        ({"inputs": [column("gre", 1, datatype="FP8")]}, 400),
        ({"inputs": [column("gre", 1.5, datatype="INT64")]}, 400),
        ({"inputs": [column("gre", 300, datatype="INT8")]}, 400),
        ({"inputs": [column("gre", "1", datatype="INT64")]}, 400),
        ({"inputs": [column("city", 1)]}, 400),
        ({"inputs": [{"name": "gre", "shape": [1], "datatype": "INT64"}]}, 400),
        ({"inputs": [column("gre", 1)], "parameters": {"a": []}}, 400),
        ({"inputs": [column("gre", 1)], "outputs": [{"name": "none"}]}, 400),
        ({"inputs": [{**column("gre", 1), "parameters": {"shared_memory_region": "x"}}]}, 400),
        ({"inputs": [{**column("gre", 1), "parameters": {"binary_data_size": 8}}]}, 400),
        ('{"inputs": [{"name": "gre", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', 200),
    ],
)
def test_errors(client, body, status) -> None:
    result = infer(client, "adm", body, status)
    assert status == 200 or list(result) == ["error"]


def test_binary_header_that_lies(client) -> None:
    for length in ("-1", "x", "999999"):
        headers = {"Inference-Header-Content-Length": length}
        assert client.post("/v2/models/adm/infer", content=b"{}", headers=headers).status_code == 400


def test_explain(client) -> None:
    body = {"inputs": [column(n, v) for n, v in ADM.items()]}
    result = client.post("/v2/models/adm/explain", json=body).json()
    assert list(result["explanations"][0]["admit"]) == list(ADM)
