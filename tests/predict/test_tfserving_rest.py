"""TensorFlow Serving's REST protocol: every path, format and error, over a real socket."""

from __future__ import annotations

import base64
import json
import socket

import httpx2
import numpy as np
import pytest

from tests.predict.toy_registry import NUMBERS, THREE, mixed, numeric
from tests.waiting import PATIENCE

ROW = [1.5, -2.0, 3.25, 4, 5, 6]
ADM = {"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}


def post(client: httpx2.Client, path: str, body: object, status: int = 200):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = client.post(path, content=content)
    assert answer.status_code == status, answer.text
    return json.loads(answer.text)


def expected(toy, rows, name):
    return toy.answer(rows)[name].tolist()


@pytest.mark.parametrize(
    ("body", "rows", "key"),
    [
        ({"instances": [ROW]}, [ROW], "predictions"),
        ({"instances": [ROW, ROW[::-1]]}, [ROW, ROW[::-1]], "predictions"),
        ({"instances": [dict(zip(NUMBERS, ROW, strict=True))]}, [ROW], "predictions"),
        ({"signature_name": "serving_default", "instances": [ROW]}, [ROW], "predictions"),
        ({"inputs": [ROW, ROW]}, [ROW, ROW], "outputs"),
        ({"inputs": ROW}, [ROW], "outputs"),
        ({"inputs": {name: [v] for name, v in zip(NUMBERS, ROW, strict=True)}}, [ROW], "outputs"),
        ({"inputs": {name: [[v], [v]] for name, v in zip(NUMBERS, ROW, strict=True)}}, [ROW, ROW], "outputs"),
        ({"inputs": dict(zip(NUMBERS, ROW, strict=True))}, [ROW], "outputs"),
        ({"instances": [{"dense_input": ROW}, {"x": [ROW[:3], ROW[3:]]}]}, [ROW, ROW], "predictions"),
        ({"inputs": {"dense_input": [ROW, [ROW[:3], ROW[3:]]]}}, [ROW, ROW], "outputs"),
    ],
)
def test_predict_formats(client, body, rows, key) -> None:
    assert post(client, "/v1/models/m1:predict", body) == {key: expected(numeric(), rows, "y")}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"dense_input": ROW[1:]}]},
        {"instances": [{"dense_input": ROW, "x0": 1}]},
        {"instances": [{"x0": ROW}]},
        {"instances": [{"dense_input": 1}]},
        {"inputs": {"dense_input": [ROW, ROW[1:]]}},
        {"inputs": {"dense_input": []}},
        {"inputs": {"dense_input": [ROW], "x0": [1]}},
    ],
)
def test_a_tensor_under_another_name_must_have_all_columns(client, body) -> None:
    assert list(post(client, "/v1/models/m1:predict", body, 400)) == ["error"]


def test_a_signature_that_is_no_such_output_is_told_which_are(client) -> None:
    body = {"signature_name": "score", "examples": [ADM]}
    refused = post(client, "/v1/models/three:classify", body, 400)["error"]
    assert refused == "The signature 'score' is no output to classify. Expected: admit, tier."


def test_an_integer_of_too_many_digits_is_refused_in_words_of_ours(client) -> None:
    body = f'{{"instances": [[{"9" * 5000}, NaN]]}}'
    assert post(client, "/v1/models/m1:predict", body, 400)["error"] == (
        "The body is not JSON: an integer has too many digits."
    )


def test_named_rows_with_lists_of_one_and_b64(client) -> None:
    text = base64.b64encode(b"Rom").decode()
    rows = [{"gre": [700], "gpa": 3.5, "rank": 3, "city": {"b64": text}}]
    result = post(client, "/v1/models/adm:predict", {"instances": rows})
    assert result["predictions"] == expected(mixed(seed=1), [ADM], "admit")


def test_several_outputs_are_objects(client) -> None:
    toy = mixed(THREE)
    by_row = post(client, "/v1/models/three:predict", {"instances": [ADM, ADM]})["predictions"]
    answers = {name: value.tolist() for name, value in toy.answer([ADM, ADM]).items()}
    assert by_row == [{name: value[at] for name, value in answers.items()} for at in range(2)]
    by_column = post(client, "/v1/models/three:predict", {"inputs": {n: [v] for n, v in ADM.items()}})["outputs"]
    assert by_column == {name: value[:1] for name, value in answers.items()}


def test_bare_nan_is_read_and_missing(client) -> None:
    body = '{"instances": [{"gre": NaN, "gpa": 3.5, "rank": 3, "city": "Rom"}]}'
    result = post(client, "/v1/models/adm:predict", body)
    assert result["predictions"] == expected(mixed(seed=1), [{**ADM, "gre": None}], "admit")


def test_refused_rows_say_what_was_expected(client) -> None:
    short = post(client, "/v1/models/m1:predict", {"instances": [[1, 2, 3], [1, 2]]}, 400)
    assert short == {"error": "Row 1: it has 3 values. Expected: 6 values. Row 2: it has 2 values."}
    named = post(client, "/v1/models/adm:predict", {"instances": [{"example1": 1}]}, 400)
    assert named == {"error": "Row 1: there is no column 'example1'. Expected: gre, gpa, rank, city."}
    value = post(client, "/v1/models/adm:predict", {"instances": [{**ADM, "gre": "x"}]}, 400)
    assert value == {"error": "In column 'gre', row 1: 'x' is not a number."}


def test_classify(client) -> None:
    result = post(client, "/v1/models/adm:classify", {"context": {"rank": 3}, "examples": [ADM, {**ADM, "gre": [500]}]})
    scores = mixed(seed=1).answer([ADM, {**ADM, "gre": 500}])["admit"]
    assert [[label for label, _ in row] for row in result["results"]] == [["no", "yes"]] * 2
    np.testing.assert_allclose([[s for _, s in row] for row in result["results"]], np.hstack([1 - scores, scores]))
    three = post(client, "/v1/models/three:classify", {"signature_name": "tier", "examples": [ADM]})
    assert [label for label, _ in three["results"][0]] == ["a", "b", "c"]


def test_regress(client) -> None:
    result = post(client, "/v1/models/three:regress", {"examples": [ADM]})
    assert result == {"results": mixed(THREE).answer([ADM])["score"][:, 0].tolist()}
    assert "error" in post(client, "/v1/models/adm:regress", {"examples": [ADM]}, 400)


def test_versions_and_labels(client) -> None:
    first = post(client, "/v1/models/adm/versions/1:predict", {"instances": [ADM]})
    newest = client.post("/v1/models/adm:predict", json={"instances": [ADM]})
    assert first["predictions"] == expected(mixed(), [ADM], "admit")
    assert newest.headers["x-model-version"] == "2"
    assert newest.json()["predictions"] == expected(mixed(seed=1), [ADM], "admit")


def test_warnings_name_their_rows(client) -> None:
    rows = [ADM, {**ADM, "rank": 9}, {**ADM, "gpa": 99}]
    answer = client.post("/v1/models/adm:predict", json={"instances": rows})
    assert answer.headers["x-model-warnings-count"] == "2"
    warnings = json.loads(answer.headers["x-model-warnings"])
    assert [(w["row"], w["column"], w["code"]) for w in warnings] == [
        (1, "rank", "unknown_category"),
        (2, "gpa", "out_of_range"),
    ]
    assert answer.json()["predictions"] == expected(mixed(seed=1), rows, "admit")


def test_status(client) -> None:
    every = client.get("/v1/models/adm").json()["model_version_status"]
    assert {one["version"] for one in every} == {"1", "2"}
    one = client.get("/v1/models/adm/versions/2").json()
    status = {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert one == {"name": "adm", "ready": True, "model_version_status": [status]}


def test_metadata_has_the_doubled_key(client) -> None:
    metadata = client.get("/v1/models/adm/metadata").json()
    assert metadata["model_spec"] == {"name": "adm", "signature_name": "", "version": "2"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert list(signature["inputs"]) == ["gre", "gpa", "rank", "city"]
    assert signature["inputs"]["city"]["dtype"] == "DT_STRING"
    assert signature["outputs"]["admit"]["tensor_shape"]["dim"] == [
        {"size": "-1", "name": ""},
        {"size": "1", "name": ""},
    ]
    assert signature["method_name"] == "tensorflow/serving/predict"


def test_list(client) -> None:
    assert client.get("/v1/models").json() == {"models": ["adm", "m1", "three"]}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/models/m1:predict", "{", 400),
        ("/v1/models/m1:predict", "[]", 400),
        ("/v1/models/m1:predict", {"instances": []}, 400),
        ("/v1/models/m1:predict", {}, 400),
        ("/v1/models/m1:predict", {"instances": [ROW], "inputs": [ROW]}, 400),
        ("/v1/models/m1:predict", {"instances": [ROW], "extra": 1}, 400),
        ("/v1/models/m1:predict", {"signature_name": "other", "instances": [ROW]}, 400),
        ("/v1/models/m1:predict", {"instances": [[1, 2]]}, 400),
        ("/v1/models/m1:predict", {"instances": [[1, 2, 3, 4, 5, "six"]]}, 400),
        ("/v1/models/m1:predict", {"instances": [{"nope": 1}]}, 400),
        ("/v1/models/m1:predict", {"inputs": {"x0": [1], "x1": [1, 2]}}, 400),
        ("/v1/models/m1:predict", "[" * 100_000, 400),
        ("/v1/models/adm:predict", {"instances": [{**ADM, "city": {"b64": "!"}}]}, 400),
        ("/v1/models/adm:classify", {"examples": []}, 400),
        ("/v1/models/adm:classify", {"examples": [1]}, 400),
        ("/v1/models/none:predict", {"instances": [ROW]}, 404),
        ("/v1/models/m1/versions/9:predict", {"instances": [ROW]}, 404),
        ("/v1/models/m1/versions/x:predict", {"instances": [ROW]}, 400),
        ("/v1/models/m1/labels/none:predict", {"instances": [ROW]}, 400),
        ("/v1/models/m1:nonsense", {"instances": [ROW]}, 404),
        ("/v1/models/..%2f..%2fetc:predict", {"instances": [ROW]}, 404),
    ],
)
def test_errors(client, path, body, status) -> None:
    result = post(client, path, body, status)
    assert list(result) == ["error"]


def test_an_error_names_row_and_column(client) -> None:
    rows = [ADM, {**ADM, "gre": "abc"}]
    result = post(client, "/v1/models/adm:predict", {"instances": rows}, 400)
    assert "row 2" in result["error"]
    assert "'gre'" in result["error"]


def test_methods_and_sizes(client, served) -> None:
    assert client.get("/v1/models/m1:predict").status_code == 405
    assert client.request("DELETE", "/v1/models/m1").headers["allow"] == "GET, HEAD"
    for path, predicts in (("/v1/models/m1", ":predict"), ("/v2/models/m1", "/infer")):  # rows sent to the model itself
        assert f"POST to {path}{predicts}" in client.post(path, json={"instances": [ROW]}).json()["error"]
    too_many = '{"instances": [' + ",".join(["[1,2,3,4,5,6]"] * 100_001) + "]}"
    assert client.post("/v1/models/m1:predict", content=too_many).status_code == 413
    with socket.create_connection(("127.0.0.1", served.port)) as connection:  # refused before it is read
        head = f"POST /v1/models/m1:predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.toys.token}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 1000000000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_keys(client, served) -> None:
    body = {"instances": [ROW]}
    with httpx2.Client(base_url=served.url, timeout=PATIENCE) as nobody:
        answer = nobody.post("/v1/models/m1:predict", json=body)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="fitserve"'
    limited = served.toys.create_key(["predict"], models=["adm"])
    reader = served.toys.create_key(["read"])
    stranger = served.toys.create_key(["predict"], owner="eve")

    def status(token: str, model: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return client.post(f"/v1/models/{model}:predict", json={"instances": [ROW]}, headers=headers).status_code

    from tests.predict.toy_registry import eventually

    eventually(lambda: status(limited, "m1") == 403)
    assert status(limited, "adm") == 400  # it may ask; the row is wrong
    eventually(lambda: status(reader, "m1") == 403)
    eventually(lambda: status(stranger, "m1") == 404)


def test_large_requests_take_the_batching_queue(client, served) -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 6)).tolist()
    before = served.telemetry("fitserve_predict_batched_rows_total")
    result = post(client, "/v1/models/m1:predict", {"instances": rows})
    np.testing.assert_allclose(result["predictions"], numeric().answer(rows)["y"], rtol=1e-5, atol=1e-6)
    assert served.telemetry("fitserve_predict_batched_rows_total") - before == 5000


def test_gzip_bodies(client) -> None:
    import gzip

    body = gzip.compress(json.dumps({"instances": [ROW]}).encode())
    answer = client.post("/v1/models/m1:predict", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 200
    bomb = gzip.compress(b" " * 40_000_000)
    answer = client.post("/v1/models/m1:predict", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413


def test_csv_in_and_out(client) -> None:
    body = "gre,gpa,rank,city\n700,3.5,3,Rom\n,3.5,9,\n"
    rows = [ADM, {"gpa": 3.5, "rank": 9}]
    toy = mixed(seed=1)
    answer = client.post("/v1/models/adm:predict", content=body, headers={"Content-Type": "text/csv"})
    assert answer.json()["predictions"] == expected(toy, rows, "admit")
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    response = client.post("/v1/models/adm:predict", content=body, headers=headers)
    lines = response.text.splitlines()
    assert lines[0] == "admit,admit_yes,warnings"
    assert [float(line.split(",")[1]) for line in lines[1:]] == [row[0] for row in expected(toy, rows, "admit")]
    for wrong in ("", "gre\n", "nope\n1\n", "gre,gre\n1,2\n", "gre,gpa\n1\n", 'gre\n"1\n', "gre\nabc\n"):
        assert client.post("/v1/models/adm:predict", content=wrong, headers=headers).status_code == 400, wrong


def test_csv_of_numbers_and_labels(client) -> None:
    body = "gre,gpa,rank,city\n700,3.5,3,Rom\n,3.5,9,\n"
    rows = [ADM, {"gpa": 3.5, "rank": 9}]
    headers = {"Content-Type": "text/csv"}
    numbers = client.post("/v1/models/three:regress", content=body, headers=headers)
    assert numbers.json() == {"results": mixed(THREE).answer(rows)["score"][:, 0].tolist()}
    labels = client.post("/v1/models/adm:classify", content=body.replace(",", ";"), headers=headers).json()["results"]
    assert [row[1][1] for row in labels] == [row[0] for row in expected(mixed(seed=1), rows, "admit")]
    for verb in ("three:regress", "adm:classify"):
        refused = client.post(f"/v1/models/{verb}", content=body + "abc,1,1,Rom\n", headers=headers)
        assert refused.status_code == 400
        assert all(part in refused.json()["error"] for part in ("row 3", "gre", "abc", "a number"))
    assert client.post("/v1/models/adm:regress", content=body, headers=headers).status_code == 400


@pytest.mark.parametrize("model", ["adm", "three", "m1"])
def test_explanations_sum_to_the_change(client, model) -> None:
    row = ROW if model == "m1" else ADM
    result = post(client, f"/v1/models/{model}:explain", {"instances": [row]})
    predicted = post(
        client, f"/v1/models/{model}:predict", {"inputs": [row]} if model == "m1" else {"instances": [row]}
    )
    for name, by_column in result["explanations"][0].items():
        total = np.sum(list(by_column.values()), axis=0)
        answer = predicted.get("outputs") or predicted["predictions"]
        answer = answer[0][name] if isinstance(answer[0], dict) else answer[0]
        np.testing.assert_allclose(total, np.array(answer) - result["baseline"]["outputs"][name], atol=1e-5)


@pytest.mark.parametrize("row", [[], [1], [[[]]], [1, 2, 3, 4, 5], {"gre": 1, "unknown": 2}])
def test_a_row_of_other_columns_is_not_explained(client, row) -> None:
    refused = client.post("/v1/models/adm:explain", json={"instances": [ADM, row]})
    assert refused.status_code == 400
    assert "Row 2" in refused.json()["error"]


def test_bodies_beyond_the_control_apis_limit(client) -> None:
    row = ", ".join(["1.000000000000000000000000000000"] * 6)
    body = '{"instances": [' + ",".join([f"[{row}]"] * 60_000) + "]}"
    assert len(body) > 11_000_000
    assert client.post("/v1/models/m1:predict", content=body).status_code == 200
