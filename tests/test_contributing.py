"""ARCHITECTURE.md's table of changes: its files exist and are few, and the changes work in a copy of the tree.

A change that is made here touches the files that its row names, those and no others (`check_files`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from filecmp import cmp
from pathlib import Path

import pytest

from tests.dashboard.sentences import templates_in
from tests.encoding.test_adding_an_encoding import KERAS_HALF, add_sign_encoding

PROJECT = Path(__file__).resolve().parent.parent
MAX_FILES = {
    "an optimizer, a schedule": 2,
    "an encoding": 2,
    "a column kind": 8,
    "a finding rule": 2,
    "a file format": 4,
    "a blob store": 1,
    "a wire protocol": 4,
    "a CLI command": 2,
    "a notification, such as a webhook when a run ends": 4,
}


def table() -> dict[str, tuple[list[str], list[str]]]:
    """The table's rows: what to add, the files to change, and all paths that the row names."""
    rows = {}
    for line in (PROJECT / "ARCHITECTURE.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "to add":
            paths = [re.findall(r"`([\w./<>-]*/[\w./<>-]*|pyproject\.toml)`", cell) for cell in cells]
            rows[cells[0].strip("| ")] = paths[1], [path for path in paths[1] + paths[2] if not path.startswith("/")]
    return rows


def test_the_files_that_the_table_names_exist() -> None:
    assert MAX_FILES.keys() <= table().keys()
    for added, (_, paths) in table().items():
        assert paths, added
        for path in paths:
            existing = PROJECT / path.partition("<")[0] if "<" in path else PROJECT / path
            assert existing.exists(), f"{added}: {path}"


@pytest.mark.parametrize("added", MAX_FILES)
def test_a_change_touches_few_files(added: str) -> None:
    files, _ = table()[added]
    assert 0 < len(files) <= MAX_FILES[added], files


COPIED = ("fitserve", "migrations", "services", "workers", "deploy")
I18N = Path("services/dashboard/src/i18n")
SENTENCES = I18N / "zh.sentences.json"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the product, without its pages but for their texts, to be changed."""
    for folder in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "dashboard", "node_modules")
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=ignored)
    shutil.copytree(PROJECT / I18N, tmp_path / I18N)
    return tmp_path


def changed_files(tree: Path) -> set[str]:
    """Return the files of a copy that are new or were changed."""
    paths = [path for folder in COPIED for path in (tree / folder).rglob("*") if path.is_file()]
    places = [path.relative_to(tree) for path in paths if "__pycache__" not in path.parts]
    same = [one for one in places if (PROJECT / one).exists() and cmp(PROJECT / one, tree / one, shallow=False)]
    return {place.as_posix() for place in {*places} - {*same}}


def check_files(tree: Path, *added: str) -> None:
    """Fail unless the changed files are those that the rows name, and each new sentence has its Chinese text."""
    named = {path for one in added for path in table()[one][0]}
    changed = changed_files(tree)
    patterns = {path: re.compile(re.escape(path).replace("<name>", "[a-z]+")) for path in named}
    assert {path for path in changed if not any(one.fullmatch(path) for one in patterns.values())} == set()
    assert {path for path, one in patterns.items() if not any(map(one.fullmatch, changed))} == set()
    book = json.loads((tree / SENTENCES).read_text())
    known = {**book["sentences"], **book["parts"], **book["problems"]}
    for path in changed:
        if path.endswith(".py"):
            assert templates_in(tree / path, tree) <= known.keys(), path


def add_sentences(tree: Path, *sentences: str) -> None:
    """Give sentences their Chinese text."""
    book = json.loads((tree / SENTENCES).read_text())
    book["sentences"] |= dict.fromkeys(sentences, "有。")
    (tree / SENTENCES).write_text(json.dumps(book, ensure_ascii=False))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name}: {old!r}"
    path.write_text(text.replace(old, new))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def run(tree: Path, *arguments: str) -> str:
    """Run Python on the copy and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{PROJECT}", "TF_CPP_MIN_LOG_LEVEL": "3", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


HERE = "import fitserve, pathlib\nassert pathlib.Path(fitserve.__file__).is_relative_to(pathlib.Path.cwd())\n"


POINT = '''"""`point`: the degrees of a place on the earth, as in "47.3,8.5"."""

import re
from typing import Literal

from fitserve.encoding.coercion import bad_value, texts_of
from fitserve.encoding.encoding import Encoding, FittedColumn

SPELLING = re.compile(r"(-?\\d+(?:\\.\\d+)?),(-?\\d+(?:\\.\\d+)?)")


class PointColumn(FittedColumn):
    """Latitude and longitude as shares of 90 and 180 degrees; zeros where missing."""

    def encode_value(self, value, out, row):
        if value is None or value == "":
            self.refuse_missing(row)
            return self.missing_warning()
        match = SPELLING.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise bad_value(self.name, row, value, "a latitude and a longitude, such as 47.3,8.5")
        out[:] = float(match[1]) / 90, float(match[2]) / 180

    def encode_column(self, column, out):
        for row, text in enumerate(texts_of(column)):
            self.encode_value(text, out[row], row + 1)


class Point(Encoding):
    """Latitude and longitude, each between -1 and 1."""

    kinds = ("categorical",)
    column_class = PointColumn

    type: Literal["point"] = "point"
    missing: Literal["zero", "refuse"] = "zero"

    def width(self, facts):
        return 2
'''
POINT_IN_KERAS = """

class _Degrees(layers.Layer):
    def call(self, raw):
        import tensorflow as tf

        texts = tf.where(raw[:, 0] == "", "0,0", raw[:, 0])
        numbers = tf.strings.to_number(tf.strings.split(texts, ","), tf.float64).to_tensor(shape=(None, 2))
        return numbers / [90.0, 180.0]


class Point(KerasEncoding, names=("point",)):
    @classmethod
    def compute(cls, column, raw):
        return _Degrees(dtype="float64")(raw)
"""


def add_point_encoding(tree: Path, *kinds: str) -> None:
    """Add an encoding for columns of these kinds."""
    (tree / "fitserve" / "encoding" / "point.py").write_text(POINT.replace('("categorical",)', str(kinds)))
    append(tree / "workers" / "trainer" / "export" / "keras_encoding.py", POINT_IN_KERAS)


@pytest.mark.tensorflow
def test_adding_an_optimizer_and_an_encoding(tree: Path) -> None:
    optimizers = tree / "fitserve" / "spec" / "optimizers.py"
    listed = "OPTIMIZERS: Family[Optimizer]"
    cls = "class Halving(Optimizer):\n    state_arrays = 0\n    patience: Positive = 3\n\n\n"
    edit(optimizers, listed, cls + listed)
    add_point_encoding(tree, "categorical")
    add_sign_encoding(tree)
    check_files(tree, "an optimizer, a schedule", "an encoding")
    check = """
import keras
from fitserve.spec.schema import json_schema
from fitserve.spec.spec import parse
from workers.trainer.engine.network import build_optimizer

class Halving(keras.optimizers.SGD):
    def __init__(self, patience, **rest):
        super().__init__(**rest)
        self.patience = patience

keras.optimizers.Halving = Halving  # as if Keras had it
spec = parse({"dataset": "d", "target": "y", "training": {"optimizer": {"Halving": {"patience": 5}}}})
assert "Halving" in str(json_schema())
optimizer = build_optimizer(spec)
assert (type(optimizer), optimizer.patience) == (Halving, 5)

import pyarrow as pa
import pytest
from fitserve import exports
from fitserve.encoder import Encoder
from fitserve.errors import BadInput
from fitserve.spec.feature import Feature
from tests.encoding import test_keras_encoding, test_plain_encoding, test_raw_graph

assert '"point"' in str(json_schema()).replace("'", '"')
table = pa.table({"c": ["47.3,8.5", None, "-33,151.2"]})
feature = Feature.model_validate({"c": "point"})
encoder = Encoder.fit([feature], table, test_keras_encoding.facts_for(table))
rows, _ = encoder.encode_rows([{"c": "-45,90"}])
assert rows["features"].tolist() == [[-0.5, 0.5]]
test_keras_encoding.compare(encoder, table)
test_keras_encoding.test_every_encoding_has_a_keras_half()
test_raw_graph.test_every_encoding_that_it_holds_has_an_onnx_half()
test_plain_encoding.test_every_encoding_that_it_holds_is_in_code()
for format in ("code", "onnx-raw"):  # which have no form of it
    with pytest.raises(BadInput, match=f"{format} cannot hold point, the encoding of the column 'c'"):
        exports.check(format, {"encoder": encoder.to_json(), "spec": None})
"""
    run(tree, "-c", HERE + check + KERAS_HALF)


def test_adding_a_column_kind(tree: Path) -> None:
    edit(tree / "fitserve" / "dataset_facts.py", '"datetime", "ignored"]', '"datetime", "place", "ignored"]')
    kinds = tree / "fitserve" / "datasets" / "kinds.py"
    edit(
        kinds, '("categorical", "text", "boolean", "ignored")', '("categorical", "text", "boolean", "place", "ignored")'
    )
    edit(kinds, "from fitserve.errors", "from fitserve.encoding.point import SPELLING\nfrom fitserve.errors")
    likely = '    if traits.texts and all(map(SPELLING.fullmatch, traits.texts)):\n        return "place", "degrees"\n'
    start = "    share = facts.distinct / present\n"
    edit(kinds, start, likely + start)
    add_point_encoding(tree, "place")
    edit(
        tree / "fitserve" / "spec" / "feature.py",
        '    "ignored": "one_hot",',
        '    "ignored": "one_hot",\n    "place": "point",',
    )
    for language in ("en", "zh"):
        edit(tree / I18N / f"{language}.ts", '  "kind.text":', '  "kind.place": "place",\n  "kind.text":')
    check_files(tree, "a column kind")
    check = """
from pathlib import Path
import pyarrow.parquet as pq
from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.datasets.ingest import ingest
from fitserve.encoder import Encoder
from fitserve.settings import Limits
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.wire.datasets import UploadOptions

def read(places, **options):  # the table's facts and its values
    Path("table.csv").write_text("where,y\\n" + "".join(f'"{place}",{i / 4}\\n' for i, place in enumerate(places)))
    table = ingest(Path("table.csv"), UploadOptions(**options), Limits(), Path.cwd())
    columns = tuple(ColumnFacts.from_stored(column) for column in table.columns)
    facts = DatasetFacts(name="d", version=1, sha256="0" * 64, rows=table.rows, columns=columns)
    return facts, pq.read_table(table.parquet)

facts, table = read([*(f"{i % 180 - 90}.5,{i // 8 - 90}.25" for i in range(1200)), ""])
assert (facts.columns[0].kind, facts.columns[0].missing, facts.columns[0].labels) == ("place", 1, None)
resolved = resolve(parse({"dataset": "d", "target": "y"}), facts)
encoder = Encoder.fit(resolved.spec.features, table, facts)
rows, _ = encoder.encode_rows([{"where": "-45,90"}])
assert rows["features"].tolist() == [[-0.5, 0.5]]

whole, table = read([f"{i % 80 + 10},{i + 100}" for i in range(200)], kinds={"where": "place"})  # 25,121
assert (whole.columns[0].kind, whole.columns[0].storage) == ("place", "string")
assert table["where"][15].as_py() == "25,115"
"""
    run(tree, "-c", HERE + check)


def test_adding_a_finding_rule(tree: Path) -> None:
    append(
        tree / "fitserve" / "findings" / "fit.py",
        '\n\n@rule("Many epochs", "info", threshold="over 100 epochs", source="a test", answer="fewer epochs")\n'
        "def many_epochs(record: RunRecord) -> Evidence | None:\n"
        '    """Always applies."""\n'
        '    return Evidence("There are many.")\n',
    )
    add_sentences(tree, "There are many.", "Many epochs", "over 100 epochs", "fewer epochs")
    check_files(tree, "a finding rule")
    check = "from fitserve.findings import RULES\nassert 'many_epochs' in {rule.name for rule in RULES}"
    run(tree, "-c", HERE + check)


def test_adding_a_file_format(tree: Path) -> None:
    (tree / "fitserve" / "datasets" / "readers" / "pairs_reader.py").write_text(
        '''"""Lines of a name and a value."""

import re

import numpy as np
import pyarrow as pa

from fitserve.datasets.plan_proposal import propose_plans
from fitserve.datasets.readers import TableReader


class PairsReader(TableReader):
    """PAIRS, then `name=value` lines."""

    format = "pairs"
    title = "pairs"
    signature = re.compile(rb"PAIRS\\n")
    is_text = True

    def __init__(self, path, options, limits, folder):
        super().__init__(path, options, limits, folder)
        self.names = ["name", "value"]
        rows = [line.split("=") for line in path.read_text().splitlines()[1:]]
        self.columns = [pa.array(column, pa.string()) for column in zip(*rows)]

    def plans(self):
        return propose_plans(dict(zip(self.names, self.columns)), self.options)

    def batches(self):
        batch = pa.RecordBatch.from_arrays(self.columns, self.names)
        yield np.arange(1, batch.num_rows + 1), batch
'''
    )
    bodies = tree / "fitserve" / "wire" / "datasets.py"
    edit(bodies, '"parquet", "arrow"]', '"parquet", "arrow", "pairs"]')
    edit(
        bodies,
        "SUFFIXES: dict[Format, dict[str, str]] = {\n",
        """SUFFIXES: dict[Format, dict[str, str]] = {
    "pairs": {"pairs": "text/plain"},\n""",
    )
    check_files(tree, "a file format")
    check = """
from pathlib import Path
from fitserve.client.upload_body import upload_of
from fitserve.datasets.ingest import ingest
from fitserve.datasets.sources import part_files
from fitserve.datasets.sources.fetched import Place
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions

def read(path):
    return ingest(path, UploadOptions(), Limits(), Path.cwd())

def write(name, rows):
    Path(name).write_text("PAIRS\\n" + "".join(f"n{i % 7}={i / 2}\\n" for i in rows))
    return Path(name)

whole = write("upload.pairs", range(100))
sent = upload_of(whole)
assert (sent.content_type, sent.stem) == ("text/plain", "upload")
table = read(whole)
assert (table.rows, table.source["format"]) == (100, "pairs")
assert [column["kind"] for column in table.columns] == ["categorical", "numeric"]

place = Place(Path.cwd(), Limits(), UploadOptions())
parts = [write(f"{start}.pairs", range(start, start + 50)) for start in (0, 50)]
files = [part_files.PartFile(part.name, part, part.stem, part.stat().st_size) for part in parts]
snapshot = {"parts": [{"name": part.name} for part in parts]}
joined = part_files.join(part_files.read_parts(files, place), place, snapshot)
assert read(joined.path).columns == table.columns
"""
    run(tree, "-c", HERE + check)


def test_adding_a_wire_protocol(tree: Path) -> None:
    protocols = tree / "services" / "predict" / "protocols"
    (protocols / "plain").mkdir()
    (protocols / "plain" / "__init__.py").write_text(
        '''"""One number a line."""

import re

from services.predict.protocols.transport import operation
from services.predict.protocols.transport import POST, HttpRequest, HttpResponse, Route, WireProtocol


async def count_lines(request: HttpRequest) -> HttpResponse:
    body = await request.body()
    return HttpResponse(str(len(body.splitlines())).encode(), media_type=b"text/plain")


PROTOCOL = WireProtocol(
    name="plain",
    paths=re.compile("/v3/"),
    find_route=lambda path: Route("count", POST, count_lines),
    grpc_services={},
    openapi_paths={"/v3/count": {"post": operation("count", "Count lines", "Metadata")}},
    openapi_schemas={},
)
'''
    )
    ingress = "{path: /v2, pathType: Prefix"
    edit(tree / "deploy" / "kubernetes" / "fitserve.yaml", ingress, ingress.replace("/v2", "/v3"))
    check_files(tree, "a wire protocol")
    check = """
from pathlib import Path
import httpx2
from fastapi.testclient import TestClient
import migrations
from fitserve.settings import Settings
from services.control import app as control
from services.predict import app as predict

settings = Settings(home=Path.cwd() / "home", auth=False, grpc_port=0, redis_url="redis://127.0.0.1:1/0")
settings.home.mkdir()
migrations.upgrade(settings.resolved_database_url)
served, api = predict.create_app(settings).state.protocol_app, control.create_app(settings)
body = b"1\\n2\\n3\\n"
with TestClient(served, base_url="http://localhost") as client:
    response = client.post("/v3/count", content=body)
    assert (response.status_code, response.text) == (200, "3"), response.text
    assert "/v3/count" in client.get("/openapi.json").json()["paths"]
    assert 'protocol="plain"' in client.get("/metrics").text
    with TestClient(api, base_url="http://localhost") as client:  # which forwards it
        transport = httpx2.ASGITransport(served)
        api.state.predict_client = httpx2.AsyncClient(base_url="http://localhost", transport=transport)
        response = client.post("/v3/count", content=body)
        assert (response.status_code, response.text) == (200, "3"), response.text
        assert response.headers["cache-control"] == "no-store"
"""
    run(tree, "-c", HERE + check)
    routes = (PROJECT / "deploy" / "nginx" / "routes.conf").read_text()
    forwarded = re.findall(r"location ~ (\S+) \{[^}]*_pass \w+://fitserve_(predict|grpc);", routes)
    assert [name for path, name in forwarded if re.match(path, "/v3/count")] == ["predict"]
    assert [name for path, name in forwarded if re.match(path, "/plain.v3.Counts/Count")] == ["grpc"]


def test_adding_a_cli_command(tree: Path) -> None:
    append(
        tree / "fitserve" / "cli" / "runs.py",
        '\n\n@command(group, "count", "fitserve runs count")\ndef count(session: Session) -> None:\n'
        '    """Say how many runs there are."""\n    typer.echo("none")\n',
    )
    check_files(tree, "a CLI command")
    assert "Say how many runs there are" in run(tree, "-m", "fitserve.cli", "runs", "count", "--help")
    assert run(tree, "-m", "fitserve.cli", "runs", "count").strip() == "none"


def test_adding_a_notification(tree: Path) -> None:
    known = "TYPES: Final[Mapping[str, EventType]] = {\n"
    edit(tree / "fitserve" / "events.py", known, known + '    "run.noted": EventType("A run was noted: run.", True),\n')
    recorded = '    events.record(session, f"run.{state}", owner=run.owner, data=data, at=at)\n'
    edit(tree / "fitserve" / "runs" / "finish.py", recorded, recorded + recorded.replace("{state}", "noted"))
    add_sentences(tree, "A run was noted: run.")
    check_files(tree, "a notification, such as a webhook when a run ends")
    check = """
from pathlib import Path
from types import SimpleNamespace
import migrations
from fitserve import db, events, webhooks
from fitserve.runs.finish import _record_end_event
from fitserve.settings import Settings
from fitserve.states import RunState

settings = Settings(home=Path.cwd() / "home", auth=False)
settings.home.mkdir()
migrations.upgrade(settings.resolved_database_url)
run = SimpleNamespace(id="run_1", kind="training", dataset_id="ds_1", model=None, owner="key_1")
engine = db.make_engine(settings.resolved_database_url)
with db.transaction(engine) as session:
    _record_end_event(session, run, RunState.succeeded, db.now(session), {})
    assert {event.type for event in events.latest(session, "key_1", limit=5)} == {"run.succeeded", "run.noted"}
webhooks.check_events(["run.noted"])
"""
    run(tree, "-c", HERE + check)


def test_blob_stores_are_chosen_in_one_place() -> None:
    sources = [path for top in ("fitserve", "services", "workers") for path in (PROJECT / top).rglob("*.py")]
    using = {path.name for path in sources if re.search(r"\b(FolderStore|RemoteStore)\b", path.read_text())}
    assert using == {"blobs.py"}
