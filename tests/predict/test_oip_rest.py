"""Open Inference Protocol v2 over REST: paths, datatypes, outputs, errors, the repository extension."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.predict.toy_registry import NUMBERS, THREE, mixed, numeric
from tests.waiting import fastest

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
        ('{"id": "\\ud83d\\ude00", "inputs": [{"name": "gre", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', 200),
        ('{"id": "\\ud83d", "inputs": [{"name": "gre", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', 400),
        ('{"id": "\\ud83d", "inputs": [{"name": "gre", "shape": [1], "datatype": "FP64", "data": [1]}]}', 400),
    ],
)
def test_errors(client, body, status) -> None:
    result = infer(client, "adm", body, status)
    assert status == 200 or list(result) == ["error"]


def test_a_tensor_that_is_in_json_and_binary_is_refused_by_what_it_has(client) -> None:
    both = {**column("gre", 1), "parameters": {"binary_data_size": 8}}
    assert "both `data` and a `binary_data_size`" in infer(client, "adm", {"inputs": [both]}, 400)["error"]
    cut = {**both, "data": None}
    assert "Expected: at most 0" in infer(client, "adm", {"inputs": [cut]}, 400)["error"]


def test_an_integer_tensor_says_that_it_needs_whole_numbers(client) -> None:
    refused = infer(client, "adm", {"inputs": [column("gre", 1.0)]}, 400)
    assert refused["error"] == "Input 'gre' of datatype INT64 needs whole numbers."
    refused = infer(client, "adm", {"inputs": [column("gpa", "x")]}, 400)
    assert refused["error"] == "Input 'gpa' of datatype FP64 needs numbers."


def test_binary_header_that_lies(client) -> None:
    for length in ("-1", "x", "999999"):
        headers = {"Inference-Header-Content-Length": length}
        assert client.post("/v2/models/adm/infer", content=b"{}", headers=headers).status_code == 400


def test_binary_tensors_without_their_header(client) -> None:
    tensor = {"name": "gre", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    body = json.dumps({"inputs": [tensor]}).encode()
    for tail in (b"\0\0\x80?", b"1234"):
        answer = client.post("/v2/models/adm/infer", content=body + tail)
        assert (answer.status_code, "Inference-Header-Content-Length" in answer.json()["error"]) == (400, True)
    known = {"Inference-Header-Content-Length": str(len(body))}
    assert client.post("/v2/models/adm/infer", content=body + b"\0\0\x80?", headers=known).status_code == 200


def test_explain(client) -> None:
    body = {"inputs": [column(n, v) for n, v in ADM.items()]}
    result = client.post("/v2/models/adm/explain", json=body).json()
    assert list(result["explanations"][0]["admit"]) == list(ADM)


def test_a_single_tensor_of_fitting_width_under_any_name_and_shape(client) -> None:
    wanted = numeric().answer([ROW, ROW[::-1]])["y"].ravel().tolist()
    for name, shape in (("input-0", [2, 6]), ("x", [2, 2, 3]), ("instances", [2, 1, 6])):
        one = {"name": name, "shape": shape, "datatype": "FP64", "data": [*ROW, *ROW[::-1]]}
        assert infer(client, "m1", {"inputs": [one]})["outputs"][0]["data"] == wanted
    narrow = {"name": "x", "shape": [2, 5], "datatype": "FP64", "data": [0.0] * 10}
    assert "the shape [rows, 6]" in infer(client, "m1", {"inputs": [narrow]}, 400)["error"]
    nested = {"instances": [[ROW[:3], ROW[3:]]]}
    answer = client.post("/v1/models/m1:predict", content=json.dumps(nested))
    assert answer.json()["predictions"][0] == wanted[:2]


def test_one_unit_gives_both_classes(client) -> None:
    body = {"inputs": [column(n, v) for n, v in ADM.items()]}
    body["outputs"] = [{"name": "admit", "parameters": {"classification": 2}}]
    (output,) = infer(client, "adm", body)["outputs"]
    score = float(mixed(seed=1).answer([ADM])["admit"][0, 0])
    both = sorted([(score, "1:yes"), (1 - score, "0:no")], reverse=True)
    assert output["shape"] == [1, 2]
    assert [text.split(":", 1)[1] for text in output["data"]] == [label for _, label in both]
    assert [float(text.split(":")[0]) for text in output["data"]] == pytest.approx([p for p, _ in both], abs=1e-6)


def test_what_is_not_offered_is_refused(client) -> None:
    body = {"inputs": [column(n, v) for n, v in ADM.items()]}
    shared = {"name": "admit", "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 4}}
    assert "hared memory" in infer(client, "adm", {**body, "outputs": [shared]}, 400)["error"]
    assert "content type" in infer(client, "adm", {**body, "parameters": {"content_type": "hg_jpeg"}}, 400)["error"]
    for parameters in ({"config": "{}"}, {"file:1/model.onnx": "AAAA"}):
        answer = client.post("/v2/repository/models/adm/load", json={"parameters": parameters})
        assert answer.status_code == 400
        assert "configuration or files" in answer.json()["error"]


def test_base64_contents_are_decoded(client) -> None:
    inputs = [column(n, v) for n, v in ADM.items()]
    coded = {**inputs[-1], "data": ["Um9t"], "parameters": {"content_type": "base64"}}
    wanted = infer(client, "adm", {"inputs": inputs})["outputs"]
    assert infer(client, "adm", {"inputs": [*inputs[:-1], coded]})["outputs"] == wanted
    infer(client, "adm", {"inputs": [*inputs[:-1], {**coded, "data": ["%"]}]}, 400)


def test_configuration_statistics_and_liveness(client) -> None:
    config = client.get("/v2/models/m1/config").json()
    assert (config["name"], config["input"][0]) == ("m1", {"name": "x0", "data_type": "TYPE_FP64", "dims": [-1, 1]})
    body = json.dumps({"inputs": [{"name": "instances", "shape": [1, 6], "datatype": "FP64", "data": ROW}]})

    def count() -> int:
        stats = client.get("/v2/models/m1/versions/1/stats").json()["model_stats"]
        assert [one["version"] for one in stats] == ["1"]
        return int(stats[0]["inference_count"])

    before = count()
    infer(client, "m1", body)
    assert count() == before + 1
    assert {one["name"] for one in client.get("/v2/models/stats").json()["model_stats"]} >= {"m1", "adm"}
    assert client.get("/").json() == {"status": "alive"}
    assert client.head("/").status_code == 200
    state = client.get("/v1/models/m1").json()
    assert (state["name"], state["ready"]) == ("m1", True)


def test_repository_bodies_are_skipped_but_for_what_is_known_of_them(client, served) -> None:
    names = {one["name"] for one in client.post("/v2/repository/index").json()}
    assert names >= {"m1", "adm"}
    for body in ({}, {"ready": True}, {"ready": False, "other": [1]}, {"ready": "x"}):
        assert {one["name"] for one in client.post("/v2/repository/index", json=body).json()} == names
    for body in (b"[]", b"{", b"\xff"):
        assert client.post("/v2/repository/models/adm/load", content=body).status_code == 400
    large = json.dumps({"other": [{"a": 0.5, "b": 1}] * 1_000_000}).encode()

    def longest_share() -> float:
        """Return the longest wait for an answer about health, as a share of the time that reading the body takes."""
        started = time.perf_counter()
        json.loads(large)
        seconds, waits = time.perf_counter() - started, []
        with ThreadPoolExecutor() as pool:
            call = pool.submit(client.post, "/v2/repository/index", content=large)
            while not call.done():
                asked = time.perf_counter()
                served.get("/v2/health/live")
                waits.append(time.perf_counter() - asked)
        assert call.result().status_code == 200
        return max(waits) / seconds

    assert fastest(longest_share, 0.5) < 0.5


def test_bodies_as_clients_send_them(client) -> None:
    body = json.dumps({"instances": [ROW]}).encode()
    wanted = client.post("/v1/models/m1:predict", content=body).json()
    half = len(body) // 2
    members = gzip.compress(body[:half]) + gzip.compress(body[half:]) + b"\0" * 9
    for content, headers in (
        (b"\xef\xbb\xbf" + body, {}),
        (gzip.compress(body), {"Content-Encoding": "x-gzip"}),
        (members, {"Content-Encoding": "gzip"}),
        (gzip.compress(body + b" " * 400_000), {"Content-Encoding": "GZIP"}),
        (body, {"Content-Encoding": "Identity"}),
        (body, {"Content-Encoding": ""}),
    ):
        answer = client.post("/v1/models/m1:predict", content=content, headers=headers)
        assert answer.json() == wanted
    cut = client.post("/v1/models/m1:predict", content=members[:-20], headers={"Content-Encoding": "gzip"})
    assert cut.status_code == 400


def test_a_body_of_many_gzip_members_is_read_in_the_time_of_its_length(client) -> None:
    """They were copied with all that follows them: eight times the members took sixty times as long."""

    def seconds(members: int) -> float:
        content = gzip.compress(b"") * members + gzip.compress(json.dumps({"instances": [ROW]}).encode())
        started = time.perf_counter()
        answer = client.post("/v1/models/m1:predict", content=content, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 200
        return time.perf_counter() - started

    few = min(seconds(25_000) for _ in range(3))
    assert fastest(lambda: seconds(200_000), 25 * few) < 25 * few
