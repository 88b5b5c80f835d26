"""ARCHITECTURE.md's table of changes: its files exist and are few, and the changes work in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the product's packages, to be changed."""
    for package in ("fitserve", "migrations", "services", "workers"):
        ignored = shutil.ignore_patterns("__pycache__", "dashboard", "node_modules")
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name}: {old!r}"
    path.write_text(text.replace(old, new))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def run(tree: Path, *arguments: str) -> str:
    """Run Python on the copy and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


HERE = "import fitserve, pathlib\nassert pathlib.Path(fitserve.__file__).is_relative_to(pathlib.Path.cwd())\n"


@pytest.mark.tensorflow
def test_adding_an_optimizer(tree: Path) -> None:
    optimizers = tree / "fitserve" / "spec" / "optimizers.py"
    listed = "OPTIMIZERS: Family[Optimizer]"
    cls = "class Halving(Optimizer):\n    state_arrays = 0\n    patience: Positive = 3\n\n\n"
    edit(optimizers, listed, cls + listed)
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
        tree / "fitserve" / "cli" / "keys.py",
        '\n\n@command(group, "count", "fitserve keys count")\ndef count(session: Session) -> None:\n'
        '    """Say how many keys there are."""\n    typer.echo("none")\n',
    )
    assert "Say how many keys there are" in run(tree, "-m", "fitserve.cli", "keys", "count", "--help")
    assert run(tree, "-m", "fitserve.cli", "keys", "count").strip() == "none"


def test_blob_stores_are_chosen_in_one_place() -> None:
    sources = [path for top in ("fitserve", "services", "workers") for path in (PROJECT / top).rglob("*.py")]
    using = {path.name for path in sources if re.search(r"\b(FolderStore|RemoteStore)\b", path.read_text())}
    assert using == {"blobs.py"}
