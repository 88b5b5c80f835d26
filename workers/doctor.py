"""`python -m workers.doctor`, behind `fitserve doctor`: looks at everything that runs rest on.

Each check says what is wrong and how to mend it. Exit code 0: all is well; 1: something is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from fitserve.runs import queries
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Blob, Run, Version, Worker

Outcome = Literal["ok", "warning", "wrong"]
SAMPLE = 20  # artifacts whose bytes are read whole
LITTLE_SPACE = 1024**3  # bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    outcome: Outcome
    detail: str
    fix: str | None = None


class Wrong(Exception):
    """A check that failed: the detail, then the fix."""


def examine(settings: Settings) -> list[Finding]:
    """Every check, in an order in which the first failure explains the later ones."""
    findings: list[Finding] = []

    def note(check: str, outcome: Outcome, detail: str, fix: str | None = None) -> None:
        findings.append(Finding(check, outcome, detail, fix))

    sqlite = make_url(settings.resolved_database_url).get_backend_name() == "sqlite"
    note("sqlite", *_sqlite()) if sqlite else None
    with _engine(settings) as engine:
        with _noting(note, "database", "Start the database, or correct FITSERVE_DATABASE_URL.") as said:
            said(_database(engine, settings, sqlite))
        sound = findings[-1].outcome == "ok"
        with _noting(note, "blobs", "Make the folder writable, or correct FITSERVE_BLOB_URL.") as said:
            store = blobs.open_store(settings.resolved_blob_url)
            said(_blobs(store))
            findings.extend(_space(settings))
        with _noting(
            note, "broker", "Start Redis, or correct FITSERVE_REDIS_URL. Runs start later without it."
        ) as said:
            said(_broker(settings))
        if sound:
            with _noting(note, "artifacts", "Restore the blob store from a backup; train those runs again.") as said:
                said(_artifacts(engine, store))
            with _noting(note, "runs", "Start a worker: `fitserve up`, or `python -m workers`.") as said:
                said(_runs(engine, settings))
    return findings


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    engine = db.make_engine(settings.resolved_database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _noting(note: Callable[..., None], check: str, fix: str) -> Iterator[Callable[[str], None]]:
    """What a check says is noted as ok; what it raises as wrong, with the usual fix unless it brings its own."""
    try:
        yield lambda detail: note(check, "ok", detail)
    except Wrong as error:
        detail, *own = error.args
        note(check, "wrong", detail, own[0] if own else fix)
    except FitserveError as error:
        note(check, "wrong", error.detail, error.fix or fix)
    except Exception as error:
        note(check, "wrong", f"{type(error).__name__}: {error}"[:300], fix)


def _sqlite() -> tuple[Outcome, str, str | None]:
    version = sqlite3.sqlite_version
    if db.wal_is_sound():
        return "ok", f"SQLite {version}, journal in WAL mode", None
    detail = f"SQLite {version} can corrupt a database in WAL mode, so the slower TRUNCATE mode is used"
    return "warning", detail, "Use a Python that links SQLite 3.51.3, 3.50.7 or 3.44.6, or newer ones; or PostgreSQL."


def _database(engine: Engine, settings: Settings, sqlite: bool) -> str:
    with db.reading(engine) as session:
        session.execute(text("SELECT 1"))
        if sqlite and (said := session.scalar(text("PRAGMA quick_check"))) != "ok":
            raise Wrong(f"The database is damaged: {said}", "Restore it from a backup.")
    if migrations.pending(settings.resolved_database_url):
        raise Wrong("The database's schema is not the newest.", "Run `fitserve migrate`.")
    return f"{engine.dialect.name}, schema up to date"


def _blobs(store: BlobStore) -> str:
    probe = store.put_bytes(os.urandom(32))
    if not store.exists(probe.sha256):
        raise Wrong("A blob that was written is not there.")
    store.read(probe.sha256)
    store.delete(probe.sha256)
    return "written, read back and removed"


def _space(settings: Settings) -> Iterator[Finding]:
    parts = urlsplit(settings.resolved_blob_url)
    if parts.scheme not in ("", "file"):
        return
    folder = Path(parts.path)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1024**3:.1f} GB free"
    if free < LITTLE_SPACE:
        yield Finding("space", "wrong", detail, f"Make room on the disk of {folder}.")
    else:
        yield Finding("space", "ok", detail)


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
        raise Wrong(f"Redis may throw messages away: {policy}.", "Set `maxmemory-policy noeviction` in redis.conf.")
    return f"Redis {info.get('redis_version')}, {policy}"


def _artifacts(engine: Engine, store: BlobStore) -> str:
    """Every blob that the database knows is there; the newest artifacts' bytes are what they should be."""
    with db.reading(engine) as session:
        known = list(session.scalars(select(Blob.sha256)))
        newest = list(session.scalars(select(Version.artifact).order_by(Version.created_at.desc()).limit(SAMPLE)))
    missing = [sha256 for sha256 in known if not store.exists(sha256)]
    if missing:
        raise Wrong(f"{len(missing)} of {len(known)} blobs are missing, the first is {missing[0]}.")
    for sha256 in newest:
        artifact = artifacts.read(store, sha256)
        for kind in artifact.kinds:
            store.read(artifact.file(kind).sha256)
    return f"{len(known)} blobs there, {len(newest)} artifacts read and verified"


def _runs(engine: Engine, settings: Settings) -> str:
    with db.reading(engine) as session:
        at = db.now(session)
        alive = session.scalar(
            select(func.count()).where(Worker.heartbeat_at > at - timedelta(seconds=queries.WORKER_LIVES))
        )
        late = at - timedelta(seconds=settings.lease_seconds + 10 * settings.reap_seconds)
        lost = session.scalar(select(func.count()).where(Run.state == RunState.running, Run.lease_expires_at < late))
        counts = queries.counts(session)
        waiting = queries.oldest_queued_seconds(session)
    if lost:
        raise Wrong(
            f"{lost} runs were left by their workers and not taken up.", "Start a reaper: `python -m workers.reaper`."
        )
    if counts["queued"] and not alive:
        raise Wrong(f"{counts['queued']} runs are queued, the oldest for {waiting:.0f} s, and no worker lives.")
    return f"{alive} workers live, {counts['queued']} runs queued, {counts['running']} running"


def main() -> int:
    """Prints the findings as JSON with `--json`, else for people."""
    findings = examine(Settings())
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.outcome:8} {finding.check:10} {finding.detail}")
            if finding.fix:
                print(f"{'':19} {finding.fix}")
    return 1 if any(finding.outcome == "wrong" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
