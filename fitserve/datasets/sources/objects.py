"""Objects in a store of files (S3, Google Cloud Storage, Azure), through fsspec: one, or the parts of a pattern."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fitserve.blobs import CHUNK, disk_full_is_507
from fitserve.datasets.sources.connections import Connection, SourceRefused
from fitserve.datasets.sources.fetched import Fetched, Place, SourceAway, Unchanged
from fitserve.datasets.sources.part_files import PartFile, join
from fitserve.errors import FitserveError, Problem, TooLarge, Unavailable
from fitserve.wire.sources import ObjectSource

MAX_PARTS = 10_000
SIDE_BY_SIDE = 8  # parts that are fetched at once: a store takes longer to answer than a small part to arrive
EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
_REFUSALS = (
    "credential",
    "accessdenied",
    "access denied",
    "forbidden",
    "invalidaccesskey",
    "signature",
    "unauthorized",
)
_MARKS = ("ETag", "etag", "generation", "content_settings_etag", "VersionId", "last_modified", "LastModified", "mtime")
_CHANGED = ("PreconditionFailed", "ConditionNotMet", "changed")
# Do not wait long for an absent store, and leave the retries to us.
_S3_DEFAULTS = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}


def fetch(kind: str, source: ObjectSource, connection: Connection, place: Place) -> Fetched:
    """Fetch the object, or all parts. Raises SourceRefused, SourceAway, TooLarge, Unchanged."""
    pointer = f"/source/{kind}/path"
    address = connection.below(source.path, pointer)
    with translated(kind, connection, pointer, source.path):
        store, path = open_store(kind, connection, address)
        objects = _find(store, path, pointer, source.path)
        snapshot = {"parts": [{"name": name, "bytes": size, "mark": mark} for name, size, mark in objects]}
        if place.known == snapshot and all(mark for _, _, mark in objects):
            raise Unchanged
        total = sum(size for _, size, _ in objects)
        if total > place.limits.upload_bytes:
            expected = f"at most {place.limits.upload_bytes} bytes"
            raise TooLarge("The source is larger than the limit.", received=total, expected=expected)
        paths = [place.folder / f"part-{at}" for at in range(len(objects))]
        with ThreadPoolExecutor(SIDE_BY_SIDE, "part") as pool:  # which drops those not begun once one has failed
            parts = list(pool.map(partial(_download, store), objects, paths))
    return join(parts, place, snapshot)


def open_store(kind: str, connection: Connection, address: str) -> tuple[Any, str]:
    """Return fsspec's file system, and the address's path in it."""
    import fsspec

    options = {**(_S3_DEFAULTS if kind == "s3" else {}), **connection.options}
    try:
        store, path = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError:
        extra = EXTRAS[kind]
        raise Unavailable(f"{kind} needs a package: pip install 'fitserve[{extra}]'.") from None
    return store, str(path)


def _find(store: Any, path: str, pointer: str, stated: str) -> list[tuple[str, int, str]]:
    """Return each part's name, size and mark, which changes with the content, in the order of names."""
    if any(sign in stated for sign in "*?["):
        infos = [info for info in store.glob(path, detail=True).values() if info["type"] == "file"]
        infos = [info for info in infos if not info["name"].rsplit("/", 1)[-1].startswith(("_", "."))]
    else:
        info = store.info(path)
        if info["type"] != "file":
            what = f"{stated!r} is a folder."
            fix = f"Name its parts: {stated.rstrip('/')}/*.parquet"
            raise SourceRefused(what, problems=[Problem(what, pointer, received=stated[:120], fix=fix)])
        infos = [info]
    if not infos:
        raise FileNotFoundError(stated)
    if len(infos) > MAX_PARTS:
        raise TooLarge("The source has too many parts.", received=len(infos), expected=f"at most {MAX_PARTS}")
    return sorted((str(info["name"]), int(info["size"]), _mark(info)) for info in infos)


def _mark(info: dict[str, Any]) -> str:
    return next((str(info[name]).strip('"') for name in _MARKS if info.get(name)), "")


def _download(store: Any, entry: tuple[str, int, str], path: Path) -> PartFile:
    """Copy an object to local disk. Raises SourceAway if it changed meanwhile."""
    name, size, mark = entry
    digest, count = hashlib.sha256(), 0
    with store.open(name, "rb", block_size=4 * CHUNK, cache_type="readahead") as remote, path.open("wb") as local:
        while chunk := remote.read(2 * CHUNK):
            digest.update(chunk)
            count += len(chunk)
            with disk_full_is_507():
                local.write(chunk)
    if count != size or _mark(store.info(name)) != mark:
        raise SourceAway(f"{name.rsplit('/', 1)[-1]} changed while it was read.", fix="Import it once it is complete.")
    return PartFile(name.rsplit("/", 1)[-1], path, digest.hexdigest(), count)


@contextmanager
def translated(kind: str, connection: Connection, pointer: str, path: str) -> Iterator[None]:
    """Translate a store's own errors, which have no common class."""
    try:
        yield
    except (FitserveError, Unchanged):
        raise
    except FileNotFoundError:
        what = f"There is no object {path!r}."
        raise SourceRefused(what, problems=[Problem(what, pointer, received=path[:120])]) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno and error.filename and str(error.filename).startswith("/"):
            raise  # of the local disk
        detail = connection.redact(f"{type(error).__name__}: {error}")
        if isinstance(error, PermissionError) or any(word in detail.lower() for word in _REFUSALS):
            fix = "The operator mends the connection's credentials."
            raise SourceRefused(f"The store refuses: {detail}", fix=fix) from None
        if type(error).__name__ == "FileExpired" or any(word in str(error) for word in _CHANGED):
            what, fix = "An object changed while it was read.", "Import it once it is complete."
            raise SourceAway(what, fix=fix) from None
        raise SourceAway(f"The store of {kind} does not answer: {detail}") from None
