"""Rows written as in the uploaded file: every protocol reads them as training did."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc as triton_grpc

from fitserve.artifacts import onnx_session
from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.datasets.ingest import ingest
from fitserve.encoder import Encoder
from fitserve.runs import create, lease
from fitserve.settings import Limits, Settings
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.states import RunState
from fitserve.wire.datasets import UploadOptions
from services.predict.protocols.csv_body import read_csv
from tests.predict.toy_registry import RunningService, ToyRegistry, run_service
from tests.trainer.requests import RecordingReporter
from tests.waiting import PATIENCE
from workers.attempt.outcome import make_durable
from workers.trainer.export.export import serve
from workers.trainer.interface import TrainingRequest
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
ASKED = 9  # rows of the file that are sent
HEADER = ["customer id", "Umsatz", "seit", "Stadt", "note", "Kauf"]


def the_file(rows: int = 80) -> str:
    """A table as a German spreadsheet writes it: decimal comma, day first, blanks for missing, an identifier."""
    rng = np.random.default_rng(4)
    out = io.StringIO()
    writer = csv.writer(out, delimiter=";", lineterminator="\n")
    writer.writerow(HEADER)
    for row in range(rows):
        sales = rng.lognormal(7, 1)
        written = f"{sales:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")
        writer.writerow(
            [
                f"K-{row:05d}-{rng.integers(10**6)}",
                "n/a" if row % 8 == 5 else written,
                f"{1 + row % 28:02d}.{1 + row % 12:02d}.20{10 + row % 9}",
                ("Köln", "Ulm", "")[row % 3],
                f"{rng.integers(10**9)}x",
                "ja" if sales > 1100 else "nein",
            ]
        )
    return out.getvalue()


@dataclass
class Case:
    """The served model of a file, the file's own rows, and what training makes of them."""

    served: RunningService
    lines: list[list[str]]
    text: str
    names: list[str]
    expected: np.ndarray

    def post(self, path: str, body: Any, status: int = 200, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, str) else json.dumps(body)
        answer = httpx2.post(
            f"{self.served.url}{path}",
            content=content.encode(),
            headers={**self.served.headers, **headers},
            timeout=PATIENCE,
        )
        assert answer.status_code == status, answer.text
        return answer

    @property
    def rows(self) -> list[dict[str, str]]:
        return [dict(zip(HEADER, line, strict=True)) for line in self.lines]

    def check(self, predictions: Any) -> None:
        assert np.abs(np.array(predictions, np.float64).reshape(self.expected.shape) - self.expected).max() < 1e-6


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("raw")
    text = the_file()
    (folder / "file.csv").write_text(text)
    table = ingest(folder / "file.csv", UploadOptions(), Limits(), folder)
    columns = tuple(ColumnFacts.from_stored(column) for column in table.columns)
    facts = DatasetFacts(name="data", version=1, sha256="0" * 64, rows=table.rows, columns=columns)
    network = [{"Dense": {"units": 4, "activation": "relu"}}]
    spec = {"dataset": "data", "target": "Kauf", "network": network, "training": {"epochs": 5}}
    resolved = resolve(parse(spec), facts).spec
    request = TrainingRequest("run", 1, resolved.to_json(), facts.model_dump(mode="json"), table.parquet, folder)
    result = train(request, RecordingReporter())
    toys = ToyRegistry(folder / "toys")
    create.create_run(toys.engine, create.NewRun("ada", "ds", {}, {}, {}, model="raw"), Settings().limits)
    claim = lease.claim(toys.engine, "w", lease_seconds=60, running_limit=99, kinds=("training",))
    assert claim is not None
    durable = make_durable(toys.blobs, claim.run, result)
    encoder = Encoder.from_json(result.manifest["encoder"])
    asked = pq.read_table(table.parquet).slice(0, ASKED)
    expected = serve(onnx_session(result.files["onnx"]), encoder, asked)["Kauf"]
    assert durable.commit(toys.engine, claim.lease, toys.blobs, ()) == RunState.succeeded
    lines = list(csv.reader(io.StringIO(text), delimiter=";"))[1 : ASKED + 1]
    with run_service(toys) as served:
        yield Case(served, lines, "".join(text.splitlines(keepends=True)[: ASKED + 1]), list(encoder.names), expected)


def left_out(answer: httpx2.Response) -> list[str]:
    warnings = json.loads(answer.headers["x-model-warnings"])
    (one,) = [warning for warning in warnings if warning["code"] == "column_left_out"]
    assert one["values"] == ASKED * len(one["columns"])
    return list(one["columns"])


def test_the_table_is_read_as_meant(case: Case) -> None:
    assert case.names == ["Umsatz", "seit", "Stadt"]
    assert np.ptp(case.expected) > 0.01


def test_rows_by_name(case: Case) -> None:
    answer = case.post("/v1/models/raw:predict", {"instances": case.rows})
    case.check(answer.json()["predictions"])
    assert left_out(answer) == ["Kauf", "customer id", "note"]


def test_whole_rows_by_position(case: Case) -> None:
    case.check(case.post("/v1/models/raw:predict", {"instances": case.lines}).json()["predictions"])


def test_columns(case: Case) -> None:
    columns = {name: [row[name] for row in case.rows] for name in HEADER}
    answer = case.post("/v1/models/raw:predict", {"inputs": columns})
    case.check(answer.json()["outputs"])
    assert left_out(answer) == ["Kauf", "customer id", "note"]


def test_tensors_of_columns(case: Case) -> None:
    """Clients of the Open Inference Protocol see parameters, not headers."""
    inputs = [
        {"name": name, "shape": [ASKED], "datatype": "BYTES", "data": [str(row[name]) for row in case.rows]}
        for name in HEADER
    ]
    answer = case.post("/v2/models/raw/infer", {"inputs": inputs})
    assert left_out(answer) == ["Kauf", "customer id", "note"]
    said = json.loads(answer.json()["parameters"]["warnings"])
    assert said[0] == json.loads(answer.headers["x-model-warnings"])[0]


def test_the_files_own_lines_as_csv(case: Case) -> None:
    answer = case.post("/v1/models/raw:predict", case.text, **{"Content-Type": "text/csv"})
    case.check(answer.json()["predictions"])
    assert left_out(answer) == ["Kauf", "customer id", "note"]
    results = case.post("/v1/models/raw:classify", case.text, **{"Content-Type": "text/csv"}).json()["results"]
    case.check([row[1][1] for row in results])
    assert [label for label, _ in results[0]] == ["nein", "ja"]
    quoted = case.text.replace(f";{case.lines[0][4]};", ';"a "b" c";').replace(f";{case.lines[1][4]};", ';"a"b;')
    case.check(case.post("/v1/models/raw:predict", quoted, **{"Content-Type": "text/csv"}).json()["predictions"])
    out = io.StringIO()
    csv.writer(out, delimiter="\t").writerows([HEADER, *case.lines])
    case.check(
        case.post("/v1/models/raw:predict", out.getvalue(), **{"Content-Type": "text/csv"}).json()["predictions"]
    )


@pytest.mark.parametrize(
    ("signs", "text"),
    [
        ({"delimiter": ";", "quote": "'"}, "a;'b'\n1;'x; ''y'''\n"),
        ({"delimiter": ";", "quote": "'"}, "a,b\n1,\"x; 'y'\"\n"),
        ({"delimiter": "\t", "quote": "none"}, "a\tb\n1\tx; 'y'\n"),
        ({"delimiter": ",", "escape": "\\"}, "a,b\n1,\"x; 'y'\"\n"),
        ({"delimiter": "::"}, "a::b\n1::x; 'y'\n"),
        ({"delimiter": "  "}, "a    b\n1    x; 'y'\n"),
        ({"delimiter": "^"}, "a^b\n1^x; 'y'\n"),
        ({"delimiter": " "}, "a   b\n1  \"x; 'y'\"\n"),
        ({"delimiter": ","}, ",a,b\n7,1,x; 'y'\n"),
        ({"delimiter": ","}, "a,b,\n1,x; 'y',\n"),
        ({"delimiter": ","}, "a,b\nr1,1,x; 'y'\n"),
    ],
)
def test_a_csv_body_has_the_signs_of_the_tables_file(signs: dict[str, str], text: str) -> None:
    has_index = text.startswith(",") or "r1" in text
    columns = SimpleNamespace(
        names=("a", "b"), others=frozenset(("index", "", "row")), csv=signs, fitted=(), table=("a", "b"),
        input_named=lambda name: name if name in ("a", "b") else None,
    )  # fmt: skip
    columns.table = ("index", "a", "b") if has_index else ("a", "b")
    rows = read_csv(SimpleNamespace(columns=columns), text.encode())  # type: ignore[arg-type]
    assert [list(column) for column in rows.columns or ()] == [["1"], ["x; 'y'"]]


def test_examples(case: Case) -> None:
    results = case.post("/v1/models/raw:classify", {"examples": case.rows}).json()["results"]
    case.check([row[1][1] for row in results])


def test_open_inference_texts(case: Case) -> None:
    inputs = [
        {"name": name, "shape": [ASKED], "datatype": "BYTES", "data": [row[name] for row in case.rows]}
        for name in HEADER
    ]
    case.check(case.post("/v2/models/raw/infer", {"inputs": inputs}).json()["outputs"][0]["data"])
    tensors = []
    for name in HEADER:
        tensors.append(triton_grpc.InferInput(name, [ASKED, 1], "BYTES"))
        tensors[-1].set_data_from_numpy(np.array([[row[name]] for row in case.rows], object))
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{case.served.grpc_port}")
    headers = {"authorization": case.served.headers["Authorization"]}
    case.check(client.infer("raw", tensors, headers=headers).as_numpy("Kauf"))


def test_what_is_refused_names_row_column_received_and_expected(case: Case) -> None:
    wrong = [dict(row) for row in case.rows]
    wrong[4]["Umsatz"] = "viel"
    message = case.post("/v1/models/raw:predict", {"instances": wrong}, 400).json()["error"]
    for part in ("row 5", "Umsatz", "viel", "a number"):
        assert part in message
    unknown = case.post("/v1/models/raw:predict", {"instances": [{"umsatz": "1,5"}]}, 400).json()["error"]
    assert "umsatz" in unknown
    assert "Row 1" in unknown
