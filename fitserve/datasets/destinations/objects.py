"""A folder in an object store: one object for each part, named after the run, then a manifest.

The manifest is written when all parts are there, so its readers never see half of the predictions. `_SUCCESS`, for
readers that wait for it, comes last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from fitserve.datasets.destinations.target import ATTEMPTS, DestinationAway, StoredPart, refused
from fitserve.datasets.sources.connections import NamedConnection, SourceRefused
from fitserve.datasets.sources.fetched import SourceAway, try_again
from fitserve.datasets.sources.objects import open_store, translated
from fitserve.wire.destinations import ObjectDestination

T = TypeVar("T")
SUCCESS = "_SUCCESS"
_OURS = re.compile(r"part-run_\w+-\d{5}\.parquet|_manifest-run_\w+\.json|_SUCCESS")


class ObjectTarget:
    """A run's objects in one folder."""

    def __init__(self, kind: str, stated: ObjectDestination, connection: NamedConnection, run_id: str) -> None:
        self._kind, self._stated, self._connection, self._run = kind, stated, connection, run_id
        self._address = connection.below(stated.path, f"/destination/{kind}/path")
        self._manifest = f"_manifest-{run_id}.json"
        # the open store: opening takes a third of a second, and is repeated after a failure
        self._opened: tuple[Any, str] | None = None

    def prepare(self, schema: pa.Schema) -> None:
        """Refuse a folder that contains anything that must not be changed."""
        self._retry(self._check_folder)

    def write(self, part: StoredPart, path: Path) -> None:
        """Write the part's object; a repeated call writes the same bytes under the same name."""
        self._retry(lambda store, folder: store.put_file(str(path), f"{folder}/{self._name(part.number)}"))

    def finish(self, parts: Sequence[StoredPart], about: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest, once all parts are there; then remove what it replaces."""
        entries = [part.as_entry(self._name(part.number)) for part in parts]
        self._retry(lambda store, folder: self._publish(store, folder, parts, {**about, "parts": entries}))
        where = {"connection": self._stated.connection, "path": self._stated.path.rstrip("/")}
        return {"destination": {self._kind: where}, "manifest": self._manifest, "parts": entries}

    def discard(self) -> list[str]:
        """Remove this run's objects, unless its manifest is there."""
        return self._retry(self._remove_parts)

    @property
    def leftovers(self) -> str:
        """The parts' objects."""
        return f"objects {self._stated.path.rstrip('/')}/part-{self._run}-* of {self._stated.connection}"

    def _name(self, number: int) -> str:
        return f"part-{self._run}-{number:05}.parquet"

    def _check_folder(self, store: Any, folder: str) -> None:
        names = _names(store, folder)
        if self._manifest in names or self._stated.if_exists == "append":
            return
        others = [name for name in names if self._run not in name]
        if others and self._stated.if_exists == "fail":
            what = f"The folder {self._stated.path!r} is not empty."
            fix = "Choose another path, or if_exists: append or replace."
            raise refused(self._kind, what, key="path", fix=fix, received=others[0][:120])
        foreign = next((name for name in others if not _OURS.fullmatch(name)), None)
        if foreign is not None:
            what = f"The folder {self._stated.path!r} holds objects that no batch prediction wrote: none is replaced."
            raise refused(self._kind, what, key="path", received=foreign[:120], fix="Choose another path.")

    def _publish(self, store: Any, folder: str, parts: Sequence[StoredPart], manifest: dict[str, Any]) -> None:
        sizes = _names(store, folder)
        if self._manifest in sizes:  # an earlier attempt has already published
            manifest = json.loads(store.cat_file(f"{folder}/{self._manifest}"))
        else:
            lost = [self._name(part.number) for part in parts if sizes.get(self._name(part.number)) != part.bytes]
            if lost:
                raise refused(self._kind, f"{lost[0]} was removed or changed by somebody else meanwhile.", key="path")
            replacing = self._stated.if_exists == "replace"
            manifest["replaces"] = [name for name in sizes if replacing and self._run not in name and name != SUCCESS]
            store.pipe_file(f"{folder}/{self._manifest}", json.dumps(manifest, indent=1).encode())
        if gone := [f"{folder}/{name}" for name in manifest["replaces"] if name in sizes]:
            store.rm(gone)
        store.pipe_file(f"{folder}/{SUCCESS}", b"")

    def _remove_parts(self, store: Any, folder: str) -> list[str]:
        names = _names(store, folder)
        if self._manifest in names:
            return [f"all parts and {self._manifest} in {self._stated.path}, written before the run was ended"]
        if ours := [f"{folder}/{name}" for name in names if name.startswith(f"part-{self._run}-")]:
            store.rm(ours)
        return []

    def _retry(self, work: Callable[[Any, str], T]) -> T:
        """Call `work` with the store and the folder; retry while the store is unavailable."""

        def once() -> T:
            with translated(self._kind, self._connection, f"/destination/{self._kind}/path", self._stated.path):
                store, folder = self._opened or open_store(self._kind, self._connection, self._address)
                self._opened = None
                try:
                    answer = work(store, folder)
                    self._opened = store, folder
                    return answer
                except FileNotFoundError:
                    what = "There is no such bucket, or it was removed."
                    raise refused(self._kind, what, key="connection", received=self._stated.connection) from None

        try:
            return try_again(once, ATTEMPTS)
        except SourceAway as error:
            raise DestinationAway(error.detail, retry_after=error.retry_after) from None
        except SourceRefused as error:
            fix = error.fix or "Ask the operator to correct the connection."
            raise refused(self._kind, error.detail, key="connection", fix=fix) from None


def _names(store: Any, folder: str) -> dict[str, int]:
    """Return the sizes of the objects below a folder, keyed by their names within it."""
    entries = store.find(folder, detail=True)
    return {str(name)[len(folder) :].lstrip("/") or str(name): int(info["size"] or 0) for name, info in entries.items()}
