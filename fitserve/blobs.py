"""Content-addressed bytes: a local folder, or any store that fsspec reaches (S3).

A blob's name is its SHA-256, so it is never changed: written under a temporary name, made durable,
renamed. The row in `blobs` is written by the caller after that, in the transaction that refers to it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from fitserve.errors import FitserveError, NotFound, StorageFull, Unavailable

CHUNK = 1024 * 1024
CACHE_BYTES = 20 * 1024**3  # copies of remote blobs in one cache folder; beyond, the longest unused go
CACHE_SECONDS = 3600.0  # a copy used more recently than this stays: somebody may be about to open it


class Corrupt(FitserveError):
    """A blob's bytes do not have the SHA-256 that names it."""

    slug = "corrupt-blob"
    title = "Corrupt blob"


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is durable."""

    sha256: str
    bytes: int


class BlobStore(Protocol):
    """Where blobs live."""

    def prepare(self) -> None:
        """Makes the folder or the bucket where it is missing."""
        ...

    def put_file(self, path: Path) -> Stored:
        """Stores a local file's bytes; durable when it returns. The file may be moved away."""
        ...

    def put_bytes(self, data: bytes) -> Stored:
        """Stores a few bytes; durable when it returns."""
        ...

    def local(self, sha256: str, cache: Path) -> Path:
        """A local path with the blob's bytes, verified; `cache` is a folder for copies. Raises NotFound, Corrupt."""
        ...

    def read(self, sha256: str) -> bytes:
        """A small blob, verified. Raises NotFound, Corrupt."""
        ...

    def exists(self, sha256: str) -> bool:
        """Whether the bytes are there (not whether they are sound)."""
        ...

    def written_at(self, sha256: str) -> float:
        """When the bytes were last stored (seconds since 1970); 0 where there are none."""
        ...

    def delete(self, sha256: str) -> None:
        """Removes the bytes; nothing happens where there are none."""
        ...

    def listing(self) -> Iterator[tuple[str, float]]:
        """Every blob's SHA-256 with the time it was written (seconds since 1970)."""
        ...


def open_store(url: str) -> BlobStore:
    """The store behind `file:///folder` or an fsspec URL such as `s3://bucket/prefix`."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return FolderStore(Path(parts.path))
    return RemoteStore(url)


@contextmanager
def disk_full_is_507() -> Iterator[None]:
    """Raises StorageFull where the disk has no room (ENOSPC, EDQUOT)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The disk is full.", fix="Free some space, then send it again.") from error
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Makes renames within a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderStore:
    """Blobs in a folder: `ab/abcdef...`, spread over 256 sub-folders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        with disk_full_is_507():
            self.root.mkdir(parents=True, exist_ok=True)

    def _path(self, sha256: str) -> Path:
        return self.root / _place(sha256)

    def put_file(self, path: Path) -> Stored:
        with path.open("rb") as source:
            return self._put(iter(lambda: source.read(CHUNK), b""))

    def put_bytes(self, data: bytes) -> Stored:
        return self._put([data])

    def _put(self, chunks: Iterable[bytes]) -> Stored:
        digest, count = hashlib.sha256(), 0
        with disk_full_is_507():
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = self.root / f".{secrets.token_hex(8)}.part"
            try:
                with temporary.open("xb") as file:
                    for chunk in chunks:
                        digest.update(chunk)
                        count += len(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                target = self._path(digest.hexdigest())
                if not target.parent.exists():
                    target.parent.mkdir(exist_ok=True)
                    fsync_folder(self.root)
                os.replace(temporary, target)
                fsync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return Stored(digest.hexdigest(), count)

    def local(self, sha256: str, cache: Path) -> Path:
        path = self._path(sha256)
        if not path.is_file():
            raise NotFound(f"No blob {sha256}.")
        if sha256_of(path) != sha256:
            raise Corrupt(f"Blob {sha256} is corrupt.")
        return path

    def read(self, sha256: str) -> bytes:
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"No blob {sha256}.") from None
        return _verified(sha256, data)

    def exists(self, sha256: str) -> bool:
        return self._path(sha256).is_file()

    def written_at(self, sha256: str) -> float:
        try:
            return self._path(sha256).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def delete(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)

    def listing(self) -> Iterator[tuple[str, float]]:
        for path in self.root.glob("??/*"):
            if len(path.name) == 64:
                yield path.name, path.stat().st_mtime


class RemoteStore:
    """Blobs behind fsspec. A store like S3 shows an object only when it is whole."""

    def __init__(self, url: str) -> None:
        import fsspec  # the server's extra; the client never comes here

        self.fs: Any
        # A listing that is remembered would hide what other processes stored and removed since.
        self.fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.root = str(root).rstrip("/")

    def _path(self, sha256: str) -> str:
        return f"{self.root}/{_place(sha256)}"

    def prepare(self) -> None:
        with _reachable():
            if not self.fs.exists(self.root.partition("/")[0]):
                self.fs.mkdir(self.root.partition("/")[0])

    def put_file(self, path: Path) -> Stored:
        sha256 = sha256_of(path)
        with _reachable():
            self.fs.put_file(str(path), self._path(sha256))
        return Stored(sha256, path.stat().st_size)

    def put_bytes(self, data: bytes) -> Stored:
        sha256 = hashlib.sha256(data).hexdigest()
        with _reachable():
            self.fs.pipe_file(self._path(sha256), data)
        return Stored(sha256, len(data))

    def local(self, sha256: str, cache: Path) -> Path:
        target = cache / _place(sha256).name
        if target.is_file() and sha256_of(target) == sha256:
            with suppress(FileNotFoundError):
                os.utime(target)
            return target
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".{secrets.token_hex(8)}.part"
        try:
            with _reachable(sha256), disk_full_is_507():
                self.fs.get_file(self._path(sha256), str(temporary))
            if sha256_of(temporary) != sha256:
                raise Corrupt(f"Blob {sha256} is corrupt.")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _trim(cache)
        return target

    def read(self, sha256: str) -> bytes:
        with _reachable(sha256):
            data = self.fs.cat_file(self._path(sha256))
        return _verified(sha256, data)

    def exists(self, sha256: str) -> bool:
        with _reachable():
            return bool(self.fs.exists(self._path(sha256)))

    def written_at(self, sha256: str) -> float:
        try:
            with _reachable(sha256):
                return _written(self.fs.info(self._path(sha256)))
        except NotFound:
            return 0.0

    def delete(self, sha256: str) -> None:
        try:
            with _reachable(sha256):
                self.fs.rm_file(self._path(sha256))
        except NotFound:
            return

    def listing(self) -> Iterator[tuple[str, float]]:
        with _reachable():
            found = self.fs.find(self.root, detail=True)
        for path, info in found.items():
            name = path.rsplit("/", 1)[-1]
            if len(name) == 64:
                yield name, _written(info)


@contextmanager
def _reachable(sha256: str | None = None) -> Iterator[None]:
    """Raises NotFound where that blob is missing, Unavailable (503) for whatever else a store may say."""
    try:
        yield
    except FitserveError:
        raise
    except FileNotFoundError as error:
        if sha256 is not None:
            raise NotFound(f"No blob {sha256}.") from None
        raise Unavailable("The blob store has no such bucket.", retry_after=60) from error
    except Exception as error:  # each store has exceptions of its own, and most are no OSError
        raise Unavailable("The blob store is not reachable right now.", retry_after=5) from error


def _trim(cache: Path) -> None:
    """Removes the copies that were unused for longest, until the folder is within CACHE_BYTES."""
    copies = []
    for path in cache.iterdir():
        with suppress(FileNotFoundError):  # another process trims as well
            found = path.stat()
            copies.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in copies)
    for used, size, path in sorted(copies):
        if total <= CACHE_BYTES or used > time.time() - CACHE_SECONDS:
            return
        path.unlink(missing_ok=True)
        total -= size


def _place(sha256: str) -> Path:
    """`ab/abcdef...`. Raises NotFound for what is no SHA-256, so that no name leaves the store."""
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise NotFound("That is not a SHA-256.")
    return Path(sha256[:2], sha256)


def _written(info: Any) -> float:
    when = info.get("LastModified") or info.get("mtime") or info.get("created")
    return float(when.timestamp() if hasattr(when, "timestamp") else when)


def _verified(sha256: str, data: bytes) -> bytes:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Corrupt(f"Blob {sha256} is corrupt.")
    return data
