"""Imports as runs: read a source into one dataset version; several workers fetch and read many objects.

The run's holder lists the source once, and its checkpoint names that plan. Whoever has a part fetches and reads its
objects into blobs; the holder joins all of them as an import in the API does. The version is committed in the
transaction that ends the run, so under its lease and never twice.
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
from fitserve.datasets.destinations import StoredPart
from fitserve.datasets.sources import Importer
from fitserve.datasets.sources.fetched import ATTEMPTS, Fetched, SourceChanged, Stopped, Unchanged
from fitserve.datasets.sources.import_plan import ImportPlan, StoredTables, find_tables, load_tables, store_tables
from fitserve.datasets.sources.objects import Listing
from fitserve.datasets.sources.part_files import check_expanded
from fitserve.errors import Conflict, NotFound, Unavailable
from fitserve.runs.blob_references import BlobVanished
from fitserve.runs.lease import Claim, StoredCheckpoint
from fitserve.settings import Settings
from fitserve.states import TERMINAL, FailureCause, RunKind, RunState
from fitserve.tables import Dataset, Run
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.sources import Source
from workers.attempt.trial_division import delete_blob
from workers.batch.division import DividedAttempt, PartDivision
from workers.batch.prediction import PartAttempt
from workers.side_attempt import DeterministicFailure, Interrupted, SideAttempt


class _ImportingAttempt(SideAttempt):
    """The part of an attempt that imports and their parts share."""

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

    def _read_part(self, plan: ImportPlan, number: int, folder: Path) -> StoredTables:
        """Fetch, read and store a part. Raises BadInput, SourceAway, TooLarge, Interrupted."""
        objects = plan.objects_of(number)
        assert objects is not None
        try:
            with store.scratch_folder(folder) as own:
                tables = self._importer().read_objects(self._source, own, self._options, objects)
                return store_tables(self.blobs, tables)
        except Stopped:
            raise Interrupted from None

    def _known_part(self, blob: str | None) -> StoredTables | None:
        """Return a part that any worker stored before, if it is complete."""
        return None if blob is None else find_tables(self.blobs, blob)


def _as_part(number: int, stored: StoredTables) -> StoredPart:
    return StoredPart(number, 0, stored.listed.sha256, stored.expanded)


class ImportAttempt(_ImportingAttempt, DividedAttempt):
    """One attempt at one import. An unreachable source spends an attempt."""

    _version: store.NewVersion | None = None
    _plan: ImportPlan | None = None
    _plan_blob: StoredBlob | None = None

    def run(self) -> RunState | None:
        self._done: dict[int, StoredPart] = {}
        state = super().run()
        if state in TERMINAL:
            self._delete_parts()
        return state

    def _delete_parts(self) -> None:
        """Delete the blobs of all parts, by any worker: together they may be as large as the source."""
        for part in self._done.values():
            if self.stopping.is_set():
                return  # a stopping worker is not waited for: garbage collection deletes the rest
            try:
                tables = json.loads(self.blobs.read(part.blob))
            except (NotFound, Corrupt, Unavailable):
                continue
            for sha256 in (*(table["blob"] for table in tables), part.blob):
                delete_blob(self.engine, self.blobs, sha256)

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        self._folder, name = folder, str(self.claim.run.resolved["name"])
        self._check_name(name)
        importer = self._importer()
        self._unchanged: Dataset | None = self._known_version()
        known = None if self._unchanged is None else importer.imported_from(self._unchanged)[2]
        try:
            fetched = self._fetch(importer, known)
            self._unchanged = None
            self._check_wanted()
            self._report_progress("Joined and read as one table" if self._plan else "Read as a table", {})
            self._version = importer.parse(name, self._source, self._options, fetched, folder)
            self._check_wanted()
        except Unchanged:
            return {}, {}
        except Stopped:
            raise Interrupted from None
        crash_point("import.after_blobs")
        return {"rows": self._version.table.rows}, {"dataset": self._version.blob}

    def _check_name(self, name: str) -> None:
        """Raise Conflict, before any work is done, if another owner has taken the name meanwhile."""
        with db.reading(self.engine) as session:
            newest = store.latest_version(session, name)
            store.check_name_is_free(name, newest, self.claim.run.owner, as_version=True)

    def _known_version(self) -> Dataset | None:
        """Return the version that this refresh started from, if it still exists."""
        known = self.claim.run.resolved.get("known")
        with db.reading(self.engine) as session:
            return None if known is None else session.get(Dataset, known)

    def _fetch(self, importer: Importer, known: dict[str, Any] | None) -> Fetched:
        """Return the table as one file. Raises BadInput, SourceAway, TooLarge, Unchanged."""
        division = self._divide()
        self._read_checkpoint()
        if self._plan is None:
            with importer.counted(self._source):
                listing = importer.listing(self._source)
                if listing is not None and listing.is_known(known):
                    raise Unchanged
            if listing is None or len(listing.objects) == 1:
                return importer.fetch(self._source, self._folder, self._options, known)
            self._begin(division, listing)
        with importer.counted(self._source):
            fetched = self._fetch_parts(importer, division)
        if fetched is None:
            return importer.fetch(self._source, self._folder, self._options, None)
        importer.count_fetched(self._source, fetched.bytes)
        return fetched

    def _fetch_parts(self, importer: Importer, division: PartDivision) -> Fetched | None:
        """Have all parts read, and join them. If an object has changed since the listing, list again and start over.

        None if a single object is left: it is the whole table, not a part.
        """
        is_lost = False
        for attempt in range(1, ATTEMPTS + 1):
            assert self._plan is not None
            try:
                self._do_all(division, self._plan.numbers, self._done)
                return self._join(importer, self._plan, verify=is_lost)
            except SourceChanged:
                if attempt == ATTEMPTS:
                    raise
            # Such as another import's blob of the same objects; that import has ended.
            except (NotFound, Corrupt) as error:
                if attempt == ATTEMPTS:
                    raise BlobVanished("The parts of the import keep being deleted.") from error
                is_lost = True
                continue
            listing = importer.listing(self._source)
            assert listing is not None
            self._report_progress("The source has changed: it is listed again", {}, "warn")
            if len(listing.objects) == 1:
                return None
            self._begin(division, listing)
        raise AssertionError("unreachable")

    def _begin(self, division: PartDivision, listing: Listing) -> None:
        """Record a plan before any of its parts is offered. Part numbers are never reused, even if a plan was lost."""
        division.end()
        unused = 0 if self._plan is None else self._plan.numbers.stop
        self._plan, self._done = ImportPlan.of(listing, max(unused, division.next_number())), {}
        self._plan_blob = self.blobs.put_bytes(self._plan.to_json())
        self._record()
        crash_point("import.after_plan")

    def _do_part(self, number: int, blob: str | None) -> StoredPart:
        stored = self._known_part(blob)
        if stored is None:
            assert self._plan is not None
            stored = self._read_part(self._plan, number, self._folder)
            crash_point("import.after_part")
        return _as_part(number, stored)

    def _join(self, importer: Importer, plan: ImportPlan, verify: bool) -> Fetched:
        cache, tables = self.settings.scratch / "blobs", []
        for number in plan.numbers:
            loaded = load_tables(self.blobs, self._done[number].blob, cache, verify=verify)
            if loaded is None:  # collected since, as garbage
                self._done[number] = _as_part(number, self._read_part(plan, number, self._folder))
                loaded = load_tables(self.blobs, self._done[number].blob, cache)
            if loaded is None:
                raise NotFound("A part that was stored just now is gone.")
            tables += loaded
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
        check_expanded(sum(part.bytes for part in self._done.values()), self.settings.limits)

    def _report_progress(self, message: str, data: dict[str, Any], level: Any = "info") -> None:
        self._write((self._report(level, message, data),))

    def _read_checkpoint(self) -> None:
        """Continue with an earlier attempt's plan and parts, if they still exist."""
        sha256 = self.claim.run.checkpoint
        if sha256 is None:
            return
        try:
            body = json.loads(self.blobs.read(sha256))
            plan = ImportPlan.from_json(self.blobs.read(body["plan"]))
        except (NotFound, Corrupt):
            return
        # Storing it again makes it new for garbage collection, which spares it during this attempt.
        self._plan, self._plan_blob = plan, self.blobs.put_bytes(plan.to_json())
        parts = (StoredPart(**one) for one in body["done"])
        self._done = {part.number: part for part in parts if self._known_part(part.blob)}

    def _succeed(self, result: Mapping[str, Any], stored: Mapping[str, StoredBlob]) -> RunState:
        for _ in range(store.COMMIT_ATTEMPTS):
            try:
                return super()._succeed(result, stored)
            except (IntegrityError, Conflict) as error:
                # An upload has taken the next version number meanwhile, or the newest version was deleted: try again.
                # Any other Conflict is final: another owner has taken the name.
                if isinstance(error, Conflict) and not isinstance(error.__cause__, IntegrityError):
                    raise
        return super()._succeed(result, stored)

    def _register(self, session: Session) -> dict[str, Any]:
        """Add the version, in the transaction that ends the run."""
        made, created = self._unchanged, False
        if self._version is not None:
            made, created = store.add_version(session, self._version)
        elif made is None or session.get(Dataset, made.id) is None:
            raise Conflict("The version that is refreshed was deleted meanwhile.", fix="Import it again.")
        return {"dataset": f"{made.name}@{made.version}", "dataset_id": made.id, "created": created, "rows": made.rows}


class ImportPartAttempt(_ImportingAttempt):
    """One attempt at one part of another worker's import.

    A part that fails is left to that worker, which does it again itself and reports why it fails.
    """

    def _work(self, folder: Path) -> tuple[dict[str, Any], dict[str, StoredBlob]]:
        run, number = self.claim.run, int(self.claim.run.spec[RunKind.part])
        part = self._known_part(run.checkpoint)
        if part is None:
            plan = self._plan()
            if plan is None or number not in plan.numbers:
                raise DeterministicFailure(FailureCause.source_away, "The import has another plan by now", {})
            try:
                part = self._read_part(plan, number, folder)
            except SourceChanged as error:
                raise DeterministicFailure(FailureCause.source_away, error.detail, {}) from error
            self._write((), StoredCheckpoint(part.listed, 1))
        crash_point("import.after_part")
        stored = {"part": part.listed} | {f"part {index}": file for index, file in enumerate(part.files)}
        objects = [file.sha256 for file in part.files]
        return {"rows": 0, "blob": part.listed.sha256, "bytes": part.expanded, "objects": objects}, stored

    def _plan(self) -> ImportPlan | None:
        """Return the plan that the import's checkpoint names; None if it no longer exists."""
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
