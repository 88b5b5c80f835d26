"""Imports as runs: a source in, one version of a dataset out; many objects are fetched and read by several workers.

The run's holder lists the source once, and its checkpoint names that plan. Each part's objects are fetched and read by
whoever has the part, into blobs; the holder joins all of them as an import in the API does, and the version is
committed in the transaction that ends the run: under its lease, and never twice.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.blobs import BlobStore, Corrupt, StoredBlob
from fitserve.crash_points import crash_point
from fitserve.datasets import store
from fitserve.datasets.destinations import Part
from fitserve.datasets.sources import Importer
from fitserve.datasets.sources.fetched import ATTEMPTS, Fetched, SourceChanged, Stopped, Unchanged
from fitserve.datasets.sources.import_plan import ImportPlan, load_tables, store_tables
from fitserve.errors import NotFound, Unavailable
from fitserve.runs.lease import Claim, StoredCheckpoint
from fitserve.settings import Settings
from fitserve.states import TERMINAL, FailureCause, RunKind, RunState
from fitserve.tables import Dataset, Run
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.sources import Source
from workers.attempt.trial_division import delete_blob
from workers.batch.divided import DividedAttempt
from workers.batch.prediction import PartAttempt
from workers.side_attempt import DeterministicFailure, Interrupted, SideAttempt


class _ImportingAttempt(SideAttempt):
    """What attempts at an import and at a part of one share."""

    def _importer(self) -> Importer:
        return Importer(self.settings, self.engine, self.blobs, self.claim.run.owner, self._check_wanted)

    def _check_wanted(self) -> None:
        if self._is_interrupted:
            raise Stopped

    @property
    def _source(self) -> Source:
        return Source.model_validate(self.claim.run.resolved["source"])

    @property
    def _options(self) -> UploadOptions:
        return UploadOptions.model_validate(self.claim.run.resolved["options"])

    def _read_part(self, plan: ImportPlan, number: int, folder: Path) -> tuple[Part, list[StoredBlob]]:
        """Fetch, read and store a part. Return it, and its objects' files. Raises BadInput, SourceAway, Interrupted."""
        objects = plan.objects_of(number)
        assert objects is not None
        try:
            with store.scratch_folder(folder) as own:
                tables = self._importer().read_objects(self._source, own, self._options, objects)
                listed, files = store_tables(self.blobs, tables)
        except Stopped:
            raise Interrupted from None
        return Part(number, 0, listed.sha256, listed.bytes), files

    def _known_part(self, number: int, blob: str | None) -> Part | None:
        """Return a part that another worker has stored, if all of it is there."""
        if blob is None:
            return None
        try:
            is_whole = load_tables(self.blobs, blob, self.settings.scratch / "blobs") is not None
        except (NotFound, Corrupt):
            return None
        return Part(number, 0, blob, 0) if is_whole else None


class ImportAttempt(_ImportingAttempt, DividedAttempt):
    """One attempt at one import. A source that is away costs an attempt."""

    _version: store.NewVersion | None = None
    _plan: ImportPlan | None = None
    _plan_blob: StoredBlob | None = None

    def run(self) -> RunState | None:
        self._done: dict[int, Part] = {}
        state = super().run()
        if state in TERMINAL:
            self._delete_parts()
        return state

    def _delete_parts(self) -> None:
        """Delete what other workers and this one have read: it may be as large as the source."""
        for part in self._done.values():
            try:
                tables = json.loads(self.blobs.read(part.blob))
            except (NotFound, Corrupt, Unavailable):
                continue
            for sha256 in (*(table["blob"] for table in tables), part.blob):
                delete_blob(self.engine, self.blobs, sha256)

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        self._folder, name = folder, str(self.claim.run.resolved["name"])
        importer = self._importer()
        self._unchanged: Dataset | None = self._known_version()
        known = None if self._unchanged is None else importer.imported_from(self._unchanged)[2]
        try:
            fetched = self._fetch(importer, known)
            self._unchanged = None
            self._check_wanted()
            self._report_progress("Joined and read as one table" if self._plan else "Read as a table", {})
            self._version = importer.parse(name, self._source, self._options, fetched)
            self._check_wanted()
        except Unchanged:
            return {}, {}
        except Stopped:
            raise Interrupted from None
        crash_point("import.after_blobs")
        return {"rows": self._version.table.rows}, {"dataset": self._version.blob}

    def _known_version(self) -> Dataset | None:
        """Return the version that a refresh has begun from, if it is still there."""
        known = self.claim.run.resolved.get("known")
        with db.reading(self.engine) as session:
            return None if known is None else session.get(Dataset, known)

    def _fetch(self, importer: Importer, known: dict[str, Any] | None) -> Fetched:
        """Return the table as one file. Raises BadInput, SourceAway, TooLarge, Unchanged."""
        self._read_checkpoint()
        if self._plan is None:
            with importer.counted(self._source):
                listing = importer.listing(self._source)
            if listing is None or len(listing.objects) == 1:
                return importer.fetch(self._source, self._folder, self._options, known)
            if listing.is_known(known):
                raise Unchanged
            self._begin(ImportPlan.of(listing))
        with importer.counted(self._source):
            fetched = self._fetch_parts(importer)
        importer.count_fetched(self._source, fetched.bytes)
        return fetched

    def _fetch_parts(self, importer: Importer) -> Fetched:
        """Have all parts read, and join them; where one has changed since, list the source again and begin anew."""
        division = self._divide()
        for attempt in range(1, ATTEMPTS + 1):
            assert self._plan is not None
            try:
                self._do_all(division, self._plan.numbers, self._done)
                return self._join(importer, self._plan)
            except SourceChanged:
                if attempt == ATTEMPTS:
                    raise
            except NotFound:  # another import of the same objects has ended, and its files were these
                if attempt == ATTEMPTS:
                    raise
                continue
            division.end()
            listing = importer.listing(self._source)
            assert listing is not None
            self._report_progress("The source has changed: it is listed again", {}, "warn")
            self._begin(ImportPlan.of(listing, self._plan.numbers.stop))
        raise AssertionError("unreachable")

    def _begin(self, plan: ImportPlan) -> None:
        """Record a plan before its first part is offered."""
        self._plan, self._done = plan, {}
        self._plan_blob = self.blobs.put_bytes(plan.to_json())
        self._record()
        crash_point("import.after_plan")

    def _do_part(self, number: int, blob: str | None) -> Part:
        part = self._known_part(number, blob)
        if part is None:
            assert self._plan is not None
            part, _ = self._read_part(self._plan, number, self._folder)
            crash_point("import.after_part")
        return part

    def _join(self, importer: Importer, plan: ImportPlan) -> Fetched:
        cache, tables = self.settings.scratch / "blobs", []
        for number in plan.numbers:
            loaded = load_tables(self.blobs, self._done[number].blob, cache)
            if loaded is None:  # collected since, as garbage
                self._done[number], _ = self._read_part(plan, number, self._folder)
                loaded = load_tables(self.blobs, self._done[number].blob, cache)
            tables += loaded or []
        return importer.join(tables, self._folder, self._options, plan.listing.snapshot)

    def _record(self) -> None:
        assert self._plan is not None
        assert self._plan_blob is not None
        body = {"plan": self._plan_blob.sha256, "done": [asdict(part) for part in self._done.values()]}
        checkpoint = StoredCheckpoint(self.blobs.put_bytes(json.dumps(body).encode()), len(self._done))
        parts, of = len(self._done), len(self._plan.parts)
        size, whole = sum(map(self._plan.bytes_of, self._done)), self._plan.listing.bytes
        facts = {"parts": parts, "of": of, "bytes": size, "bytes_of": whole}
        self._write((self._report("info", f"{parts} of {of} parts", facts),), checkpoint)

    def _report_progress(self, message: str, data: dict[str, Any], level: Any = "info") -> None:
        self._write((self._report(level, message, data),))

    def _read_checkpoint(self) -> None:
        """Go on with the plan and the parts of an earlier attempt, where they are still there."""
        sha256 = self.claim.run.checkpoint
        if sha256 is None:
            return
        try:
            body = json.loads(self.blobs.read(sha256))
            plan = ImportPlan.from_json(self.blobs.read(body["plan"]))
        except (NotFound, Corrupt):
            return
        self._plan, self._plan_blob = plan, self.blobs.put_bytes(plan.to_json())  # as old as this attempt again
        parts = (Part(**one) for one in body["done"])
        self._done = {part.number: part for part in parts if self._known_part(part.number, part.blob)}

    def _succeed(self, result: Mapping[str, Any], stored: Mapping[str, StoredBlob]) -> RunState:
        for _ in range(store.COMMIT_ATTEMPTS):
            try:
                return super()._succeed(result, stored)
            except IntegrityError:  # an upload has taken the name's next version meanwhile
                continue
        return super()._succeed(result, stored)

    def _register(self, session: Session) -> dict[str, Any]:
        """Add the version, in the transaction that ends the run."""
        made, created = self._unchanged, False
        if self._version is not None:
            made, created = store.add_version(session, self._version)
        assert made is not None
        return {"dataset": f"{made.name}@{made.version}", "dataset_id": made.id, "created": created, "rows": made.rows}


class ImportPartAttempt(_ImportingAttempt):
    """One attempt at one part of another worker's import. What it cannot do is left to that worker, which says why."""

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        run, number = self.claim.run, int(self.claim.run.spec[RunKind.part])
        part, files = self._known_part(number, run.checkpoint), list[StoredBlob]()
        if part is None:
            plan = self._plan()
            if plan is None or number not in plan.numbers:
                raise DeterministicFailure(FailureCause.source_away, "The import has another plan by now", {})
            try:
                part, files = self._read_part(plan, number, folder)
            except SourceChanged as error:
                raise DeterministicFailure(FailureCause.source_away, error.detail, {}) from error
            self._write((), StoredCheckpoint(StoredBlob(part.blob, part.bytes), 1))
        crash_point("import.after_part")
        stored = {"part": StoredBlob(part.blob, part.bytes)}
        stored |= {f"part {at}": file for at, file in enumerate(files)}
        objects = [file.sha256 for file in files]
        return {"rows": part.rows, "blob": part.blob, "bytes": part.bytes, "objects": objects}, stored

    def _plan(self) -> ImportPlan | None:
        """Return the plan that the import's checkpoint names; None where there is none any more."""
        with db.reading(self.engine) as session:
            whole = session.get(Run, self.claim.run.parent_id)
            sha256 = None if whole is None else whole.checkpoint
        try:
            body = None if sha256 is None else json.loads(self.blobs.read(sha256))
            return None if body is None else ImportPlan.from_json(self.blobs.read(body["plan"]))
        except (NotFound, Corrupt):
            return None


def part_attempt(
    settings: Settings, engine: Engine, blobs: BlobStore, claim: Claim, stopping: threading.Event
) -> SideAttempt:
    """Return an attempt at a part: of an import, or of a batch prediction."""
    kind = ImportPartAttempt if "source" in claim.run.resolved else PartAttempt
    return kind(settings, engine, blobs, claim, stopping)
