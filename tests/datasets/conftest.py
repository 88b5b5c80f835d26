"""Files to ingest, and the control API over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn

from fitserve import api_keys, db
from fitserve.datasets.ingest import IngestedTable, ingest
from fitserve.settings import Limits, Settings
from fitserve.wire.datasets import UploadOptions
from services.control.app import create_app
from tests.live_files import files_under
from tests.needs import need
from tests.waiting import PATIENCE

PROJECT = Path(__file__).resolve().parent.parent.parent


@dataclass
class ReadTable:
    """An ingested file and its table."""

    ingested: IngestedTable
    table: pa.Table

    @property
    def kinds(self) -> dict[str, str]:
        return {column["name"]: column["kind"] for column in self.ingested.columns}

    def column(self, name: str) -> dict[str, Any]:
        return next(column for column in self.ingested.columns if column["name"] == name)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ReadTable]:
    """Return a function that ingests bytes: `read(b"a,b\\n1,2\\n", lenient=True)`."""
    count = 0

    def run(data: bytes | Path, limits: Limits | None = None, **options: Any) -> ReadTable:
        nonlocal count
        count += 1
        folder = tmp_path / f"ingest-{count}"
        folder.mkdir()
        path = data if isinstance(data, Path) else tmp_path / f"upload-{count}"
        if isinstance(data, bytes):
            path.write_bytes(data)
        found = ingest(path, UploadOptions(**options), limits or Limits(), folder)
        return ReadTable(found, pq.read_table(found.parquet))

    return run


@pytest.fixture(scope="session")
def shared_tables() -> Path:
    """Return the folder of real tables: FITSERVE_TEST_DATA, or one beside the project."""
    return Path(need("the real tables"))


@dataclass
class Api:
    """A running control API, with a client for each of two owners and an admin."""

    settings: Settings
    url: str
    ann: httpx.Client
    bob: httpx.Client
    admin: httpx.Client
    token: str

    def leftovers(self) -> list[str]:
        """Return the files in the scratch folder, without resumable uploads and verified copies."""
        files = files_under(self.settings.scratch)
        return [path.name for path in files if path.parent.name not in ("uploads", "blobs")]

    def connect(self, **connections: dict[str, Any]) -> None:
        """Name connections, as the operator does in a file; others stay as they are."""
        path = self.settings.connections_file
        assert path is not None
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **connections}))

    def blobs(self) -> set[str]:
        """Return the names of all blobs."""
        return {path.name for path in files_under(self.settings.home / "blobs")}


def _serve(settings: Settings) -> tuple[uvicorn.Server, threading.Thread]:
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    return server, thread


@pytest.fixture(scope="module")
def api(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Run the API over SQLite, with limits small enough to reach."""
    home = tmp_path_factory.mktemp("api")
    (home / "fitserve.db").write_bytes(sqlite_template.read_bytes())
    limits = Limits(upload_bytes=8 << 20, columns=500, field_bytes=64 * 1024)
    connections = home / "connections.json"
    connections.write_text("{}")
    settings = Settings(
        home=home,
        limits=limits,
        redis_url="redis://127.0.0.1:1/0",
        connections_file=connections,
        outgoing_networks="127.0.0.0/30",
    )
    engine = db.make_engine(settings.resolved_database_url)
    tokens = {}
    with db.transaction(engine) as session:
        for owner, scopes in (("ann", ["read", "upload"]), ("bob", ["read", "upload"]), ("root", ["admin"])):
            _, tokens[owner] = api_keys.create(session, owner=owner, name=owner, scopes=scopes)
    engine.dispose()
    server, thread = _serve(settings)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"

    def client(owner: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {tokens[owner]}"}
        return httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=PATIENCE)

    with client("ann") as ann, client("bob") as bob, client("root") as admin:
        yield Api(settings, url, ann, bob, admin, tokens["ann"])
    server.should_exit = True
    thread.join(PATIENCE)
