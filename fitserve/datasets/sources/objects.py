"""Objects in a store of files (S3, Google Cloud Storage, Azure), through fsspec: one, or the parts of a pattern."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from fitserve.blobs import CHUNK, disk_full_is_507
from fitserve.datasets.sources.connections import NamedConnection, SourceRefused
from fitserve.datasets.sources.fetched import (
    Fetched,
    Place,
    SourceAway,
    SourceChanged,
    Stopped,
    Unchanged,
    look_up,
)
from fitserve.datasets.sources.part_files import PartFile, PartTable, join, read_parts
from fitserve.datasets.sources.part_folders import has_columns
from fitserve.errors import FitserveError, Problem, TooLarge, Unavailable
from fitserve.settings import Limits
from fitserve.wire.sources import ObjectSource

MAX_PARTS = 10_000
SIDE_BY_SIDE = 8  # parts fetched at once, because a store's latency exceeds a small part's transfer time
SIGNS = "*?["  # characters that make a path a pattern
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


class ListedObject(NamedTuple):
    """An object as a store lists it."""

    name: str
    bytes: int
    mark: str  # ETag or the like, which changes with the content; "" if the store has none


@dataclass(frozen=True)
class Listing:
    """The objects that a source's path matched when it was listed, sorted by name."""

    objects: Sequence[ListedObject]

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.objects)

    @property
    def snapshot(self) -> dict[str, Any]:
        return {"parts": [one._asdict() for one in self.objects]}

    def is_known(self, snapshot: dict[str, Any] | None) -> bool:
        """Return whether the objects are certainly those of that snapshot."""
        return snapshot == self.snapshot and all(one.mark for one in self.objects)


def list_objects(kind: str, source: ObjectSource, connection: NamedConnection, limits: Limits) -> Listing:
    """List the object, or all parts. Raises SourceRefused, SourceAway, TooLarge."""
    with _opened(kind, source, connection) as (store, path, pointer):
        listing = Listing(_find(store, path, pointer, source.path))
    if listing.bytes > limits.upload_bytes:
        expected = f"at most {limits.upload_bytes} bytes"
        raise TooLarge("The source is larger than the limit.", received=listing.bytes, expected=expected)
    return listing


def fetch(kind: str, source: ObjectSource, connection: NamedConnection, place: Place) -> Fetched:
    """Fetch the object, or all parts. Raises SourceRefused, SourceAway, TooLarge, Unchanged."""
    listing = list_objects(kind, source, connection, place.limits)
    if listing.is_known(place.known):
        raise Unchanged
    if len(listing.objects) == 1 and not (is_pattern(source.path) and has_columns(listing.objects[0].name)):
        (only,) = _download_all(kind, source, connection, place, listing.objects)
        return Fetched(only.path, only.sha256, only.bytes, listing.snapshot, stem=only.name)
    tables = read_objects(kind, source, connection, place, listing.objects)
    return join(tables, place, listing.snapshot)


def read_objects(
    kind: str, source: ObjectSource, connection: NamedConnection, place: Place, objects: Sequence[ListedObject]
) -> list[PartTable]:
    """Fetch objects that were listed, some or all of a source's, and read each by itself.

    Raises BadInput and its subclasses, SourceAway, SourceChanged.
    """
    return read_parts(_download_all(kind, source, connection, place, objects), place)


def _download_all(
    kind: str, source: ObjectSource, connection: NamedConnection, place: Place, objects: Sequence[ListedObject]
) -> list[PartFile]:
    paths = [place.folder / f"part-{index}" for index in range(len(objects))]
    with (
        _opened(kind, source, connection) as (store, _, _),
        # `map` cancels downloads that have not started once one has failed
        ThreadPoolExecutor(SIDE_BY_SIDE, "part") as pool,
    ):
        return list(pool.map(partial(_download, store, place.raise_if_stopped), objects, paths))


@contextmanager
def _opened(kind: str, source: ObjectSource, connection: NamedConnection) -> Iterator[tuple[Any, str, str]]:
    """Yield the store, the source's path in it, and the pointer at it; the store's errors are translated."""
    pointer = f"/source/{kind}/path"
    address = connection.below(source.path, pointer)
    with translated(kind, connection, pointer, source.path):
        yield *open_store(kind, connection, address), pointer


def open_store(kind: str, connection: NamedConnection, address: str) -> tuple[Any, str]:
    """Return fsspec's file system, and the address's path in it."""
    import fsspec

    look_up(connection)
    options = connection.options
    try:
        if kind == "s3":
            options = {"session": _s3_session(options.get("profile")), **_S3_DEFAULTS, **options}
        store, path = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError:
        extra = EXTRAS[kind]
        raise Unavailable(f"{kind} needs a package: pip install 'fitserve[{extra}]'.") from None
    return store, str(path)


def _s3_session(profile: str | None) -> Any:
    """Return a new session, for which botocore's descriptions of S3 are not read again: 0.1 s each time."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=profile)
    session.register_component("data_loader", _s3_descriptions(session.get_config_variable("data_path")))
    return session


@cache
def _s3_descriptions(data_path: str | None) -> Any:
    from botocore.loaders import create_loader

    return create_loader(data_path)


def _find(store: Any, path: str, pointer: str, stated: str) -> list[ListedObject]:
    """Return the object, or all parts, in the order of names."""
    if is_pattern(stated) and not _is_object(store, path):
        infos = _matching(store, path, pointer, stated)
        # Marks of jobs, hidden files, and the objects without bytes by which some tools mark a folder.
        infos = [
            info
            for info in infos
            if not info["name"].rsplit("/", 1)[-1].startswith(("_", ".")) and info["name"][-1] != "/"
        ]
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
    return sorted(ListedObject(str(info["name"]), int(info["size"]), _mark(info)) for info in infos)


def is_pattern(path: str) -> bool:
    """Return whether a path may stand for several objects."""
    return any(sign in path for sign in SIGNS)


def _is_object(store: Any, path: str) -> bool:
    """Return whether a path with the signs of a pattern is the name of an object: `sales [1].csv`."""
    try:
        return "*" not in path and bool(store.info(path)["type"] == "file")
    except FileNotFoundError:
        return False


def _matching(store: Any, path: str, pointer: str, stated: str) -> list[dict[str, Any]]:
    """Return what a store knows of the files that a pattern matches.

    fsspec's own `glob` takes a time that grows with the power of a pattern's stars, and holds up the whole process.
    """
    pattern = path.split("/")
    if any("**" in part and part != "**" for part in pattern):
        what = "In a pattern, `**` stands for folders: alone between two slashes."
        raise SourceRefused(what, problems=[Problem(what, pointer, received=stated[:120], expected="2026/**/*.csv")])
    fixed = next(index for index, part in enumerate(pattern) if any(sign in part for sign in SIGNS))
    depth = None if "**" in pattern else len(pattern) - fixed
    listed = store.find("/".join(pattern[:fixed]), maxdepth=depth, withdirs=True, detail=True)
    matches = Pattern(pattern[fixed:])
    return [info for name, info in listed.items() if info["type"] == "file" and matches(str(name).split("/")[fixed:])]


class Pattern:
    """Matches a name's parts: `**` any number of them, `*` characters of one, `?` one character, `[ab]` one of some.

    The time grows with the name's length times the pattern's, as in `fnmatch`, and no faster.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts

    def __call__(self, names: Sequence[str]) -> bool:
        """Return whether all parts match."""
        reached = {0}  # numbers of names that the parts before this one may have taken
        for part in self._parts:
            if part == "**":
                reached = set(range(min(reached), len(names) + 1))
            else:
                reached = {
                    index + 1 for index in reached if index < len(names) and fnmatch.fnmatchcase(names[index], part)
                }
            if not reached:
                return False
        return len(names) in reached


def _mark(info: dict[str, Any]) -> str:
    return next((str(info[name]).strip('"') for name in _MARKS if info.get(name)), "")


def _download(store: Any, raise_if_stopped: Callable[[], None], listed: ListedObject, path: Path) -> PartFile:
    """Copy an object to local disk. Raises SourceChanged."""
    name, size, mark = listed
    digest, count = hashlib.sha256(), 0
    try:
        with store.open(name, "rb", block_size=4 * CHUNK, cache_type="readahead") as remote, path.open("wb") as local:
            while chunk := remote.read(2 * CHUNK):
                raise_if_stopped()
                digest.update(chunk)
                count += len(chunk)
                with disk_full_is_507():
                    local.write(chunk)
        is_same = count == size and _mark(store.info(name)) == mark
    except FileNotFoundError:
        is_same = False
    if not is_same:
        what = f"{name.rsplit('/', 1)[-1]} changed while it was read."
        raise SourceChanged(what, fix="Import it once it is complete.")
    return PartFile(name.rsplit("/", 1)[-1], path, digest.hexdigest(), count)


@contextmanager
def translated(kind: str, connection: NamedConnection, pointer: str, path: str) -> Iterator[None]:
    """Translate a store's own errors, which have no common class."""
    try:
        yield
    except (FitserveError, Unchanged, Stopped):
        raise
    except FileNotFoundError:
        what = f"There is no object {path!r}."
        raise SourceRefused(what, problems=[Problem(what, pointer, received=path[:120])]) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno and error.filename and str(error.filename).startswith("/"):
            raise  # an error of the local disk
        detail = connection.redact(f"{type(error).__name__}: {error}")
        if isinstance(error, PermissionError) or any(word in detail.lower() for word in _REFUSALS):
            fix = "Ask the operator to correct the connection's credentials."
            raise SourceRefused(f"The store refuses: {detail}", fix=fix) from None
        if type(error).__name__ == "FileExpired" or any(word in str(error) for word in _CHANGED):
            what, fix = "An object changed while it was read.", "Import it once it is complete."
            raise SourceChanged(what, fix=fix) from None
        raise SourceAway(f"The store of {kind} does not answer: {detail}") from None
