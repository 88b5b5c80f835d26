"""`python -m workers.doctor`, behind `fitserve doctor`: check everything that runs depend on.

Each failed check says what is wrong and how to fix it. Exit code 0: all is well; 1: something is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import redis
from sqlalchemy import Engine, func, make_url, select, text

import migrations
from fitserve import artifacts, blobs, db
from fitserve.blobs import BlobStore
from fitserve.errors import FitserveError
from fitserve.queue import broker_url
from fitserve.runs import queries, worker_registry
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Blob, Run, Version, Worker

SAMPLE = 20  # newest artifacts whose bytes are read and verified
MIN_FREE_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    check: str
    outcome: Literal["ok", "warning", "wrong"]
    detail: str
    fix: str | None = None


class CheckFailed(Exception):
    """A check failed. `fix` replaces the check's usual advice where that would not help."""

    def __init__(self, detail: str, fix: str | None = None) -> None:
        super().__init__(detail)
        self.detail, self.fix = detail, fix


def run_checks(settings: Settings) -> list[CheckResult]:
    """Run every check, in an order in which the first failure explains the later ones."""
    results: list[CheckResult] = []

    def check(name: str, usual_fix: str, function: Callable[[], str]) -> bool:
        """Run one check, a function that returns a detail or raises, and record it. Returns whether it passed."""
        try:
            results.append(CheckResult(name, "ok", function()))
            return True
        except (CheckFailed, FitserveError) as error:
            results.append(CheckResult(name, "wrong", error.detail, error.fix or usual_fix))
        except Exception as error:
            results.append(CheckResult(name, "wrong", f"{type(error).__name__}: {error}"[:300], usual_fix))
        return False

    def open_store() -> BlobStore:
        return blobs.open_store(settings.resolved_blob_url)

    sqlite = make_url(settings.resolved_database_url).get_backend_name() == "sqlite"
    if sqlite:
        results.append(_sqlite())
    engine = db.make_engine(settings.resolved_database_url)
    try:
        fix = "Start the database, or correct FITSERVE_DATABASE_URL."
        has_database = check("database", fix, lambda: _database(engine, settings, sqlite))
        fix = "Make the folder writable, or correct FITSERVE_BLOB_URL."
        if check("blobs", fix, lambda: _blobs(open_store())) and (folder := _blob_folder(settings)) is not None:
            check("space", f"Make room on the disk of {folder}.", lambda: _space(folder))
        fix = "Start Redis, or correct FITSERVE_REDIS_URL. Runs start later without it."
        check("broker", fix, lambda: _broker(settings))
        if has_database:
            fix = "Restore the blob store from a backup; train those runs again."
            check("artifacts", fix, lambda: _artifacts(engine, open_store()))
            check("runs", "Start a worker: `fitserve up`, or `python -m workers`.", lambda: _runs(engine, settings))
    finally:
        engine.dispose()
    return results


def _sqlite() -> CheckResult:
    version = sqlite3.sqlite_version
    if db.wal_is_sound():
        return CheckResult("sqlite", "ok", f"SQLite {version}, journal in WAL mode")
    detail = f"SQLite {version} can corrupt a database in WAL mode, so the slower TRUNCATE mode is used"
    fix = "Use a Python that links SQLite 3.51.3, 3.50.7 or 3.44.6, or newer ones; or PostgreSQL."
    return CheckResult("sqlite", "warning", detail, fix)


def _database(engine: Engine, settings: Settings, sqlite: bool) -> str:
    with db.reading(engine) as session:
        session.execute(text("SELECT 1"))
        if sqlite and (answer := session.scalar(text("PRAGMA quick_check"))) != "ok":
            raise CheckFailed(f"The database is damaged: {answer}", "Restore it from a backup.")
    if migrations.pending(settings.resolved_database_url):
        raise CheckFailed("The database's schema is not the newest.", "Run `fitserve migrate`.")
    return f"{engine.dialect.name}, schema up to date"


def _blobs(store: BlobStore) -> str:
    probe = store.put_bytes(os.urandom(32))
    if not store.exists(probe.sha256):
        raise CheckFailed("A blob that was written does not exist.")
    store.read(probe.sha256)
    store.delete(probe.sha256)
    return "written, read back and removed"


def _blob_folder(settings: Settings) -> Path | None:
    """Return the blob store's folder, or its nearest existing parent; None if the store is not a folder."""
    parts = urlsplit(settings.resolved_blob_url)
    if parts.scheme not in ("", "file"):
        return None
    folder = Path(parts.path)
    while not folder.exists():
        folder = folder.parent
    return folder


def _space(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1024**3:.1f} GB free"
    if free < MIN_FREE_BYTES:
        raise CheckFailed(detail)
    return detail


def _broker(settings: Settings) -> str:
    url = broker_url(settings)
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        client = redis.Redis(unix_socket_path=parts.path, socket_timeout=2, socket_connect_timeout=2)
    else:
        client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
    try:
        client.ping()
        info = dict(client.info())  # type: ignore[arg-type]
        policy = str(info.get("maxmemory_policy", "noeviction"))
    finally:
        client.close()
    if policy != "noeviction":
        raise CheckFailed(f"Redis may evict messages: {policy}.", "Set `maxmemory-policy noeviction` in redis.conf.")
    return f"Redis {info.get('redis_version')}, {policy}"


def _artifacts(engine: Engine, store: BlobStore) -> str:
    """Check that every blob in the database exists, and verify the bytes of the newest artifacts."""
    with db.reading(engine) as session:
        known = list(session.scalars(select(Blob.sha256)))
        newest = list(session.scalars(select(Version.artifact).order_by(Version.created_at.desc()).limit(SAMPLE)))
    missing = [sha256 for sha256 in known if not store.exists(sha256)]
    if missing:
        raise CheckFailed(f"{len(missing)} of {len(known)} blobs are missing, the first is {missing[0]}.")
    for sha256 in newest:
        artifact = artifacts.read(store, sha256)
        for kind in artifact.kinds:
            store.read(artifact.file(kind).sha256)
    return f"{len(known)} blobs exist, {len(newest)} artifacts read and verified"


def _runs(engine: Engine, settings: Settings) -> str:
    with db.reading(engine) as session:
        at = db.now(session)
        alive = session.scalar(
            select(func.count()).where(Worker.heartbeat_at > at - timedelta(seconds=worker_registry.WORKER_TIMEOUT))
        )
        late = at - timedelta(seconds=settings.lease_seconds + 10 * settings.reap_seconds)
        lost = session.scalar(select(func.count()).where(Run.state == RunState.running, Run.lease_expires_at < late))
        counts = queries.count_by_state(session)
        waiting = queries.oldest_queued_seconds(session)
    if lost:
        fix = "Start a reaper: `python -m workers.reaper`."
        raise CheckFailed(f"{lost} runs were lost by their workers and not requeued.", fix)
    if counts["queued"] and not alive:
        raise CheckFailed(
            f"{counts['queued']} runs are queued, the oldest for {waiting:.0f} s, and no worker is alive."
        )
    return f"{alive} workers alive, {counts['queued']} runs queued, {counts['running']} running"


def main() -> int:
    """Print the results, as JSON with `--json`. Returns the exit code."""
    results = run_checks(Settings())
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(result) for result in results]))
    else:
        for result in results:
            print(f"{result.outcome:8} {result.check:10} {result.detail}")
            if result.fix:
                print(f"{'':19} {result.fix}")
    return 1 if any(result.outcome == "wrong" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
