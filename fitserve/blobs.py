"""Content-addressed blob storage, in a local folder or any store that fsspec supports (S3, Azure, Google Cloud).

A blob's name is its SHA-256, so its content never changes: it is written under a temporary name, made durable, then
renamed. Only afterwards does the caller write its row in `blobs`, in the transaction that references it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fitserve.errors import FitserveError, NotFound, StorageFull, Unavailable
from fitserve.settings import MB

CHUNK = MB
# size of one cache folder of remote blobs; beyond it, the least recently used copies are deleted
CACHE_BYTES = 20 * 1024**3
CACHE_SECONDS = 3600.0  # a copy used more recently is kept: another process may be about to open it


class Corrupt(FitserveError):
    """A blob's bytes do not have the SHA-256 that names it."""

    slug = "corrupt-blob"
    title = "Corrupt blob"


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A durable blob."""

    sha256: str
    bytes: int


class BlobStore(ABC):
    """Base class of blob stores."""

    @abstractmethod
    def prepare(self) -> None:
        """Create the folder or the bucket if it is missing."""

    @abstractmethod
    def put_file(self, path: Path) -> StoredBlob:
        """Store a local file's bytes; durable on return. The file may be deleted then."""

    @abstractmethod
    def put_bytes(self, data: bytes) -> StoredBlob:
        """Store a few bytes; durable on return."""

    @abstractmethod
    def local(self, sha256: str, cache: Path) -> Path:
        """Return a local path with the blob's verified bytes; `cache` is a folder for copies.

        Raises NotFound, Corrupt.
        """

    def read(self, sha256: str) -> bytes:
        """Return the verified bytes of a small blob. Raises NotFound, Corrupt."""
        data = self._read(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _corrupt(sha256)
        return data

    @abstractmethod
    def _read(self, sha256: str) -> bytes: ...

    @abstractmethod
    def exists(self, sha256: str) -> bool:
        """Return whether the bytes are stored; they are not verified."""

    @abstractmethod
    def written_at(self, sha256: str) -> float:
        """Return when the bytes were last stored (seconds since 1970); 0 if they are not."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Delete the bytes, if they are stored."""

    @abstractmethod
    def listing(self) -> Iterator[tuple[str, float]]:
        """Yield every blob's SHA-256 and when it was written (seconds since 1970)."""


def open_store(url: str) -> BlobStore:
    """Return the store behind `file:///folder` or an fsspec URL such as `s3://bucket/prefix`."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return FolderStore(Path(parts.path))
    return RemoteStore(url)


class FolderStore(BlobStore):
    """Blobs in a folder: `ab/abcdef...`, spread over 256 sub-folders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        with disk_full_is_507():
            self.root.mkdir(parents=True, exist_ok=True)

    def _path(self, sha256: str) -> Path:
        return self.root / _relative_path(sha256)

    def put_file(self, path: Path) -> StoredBlob:
        with path.open("rb") as source:
            return self._put(iter(lambda: source.read(CHUNK), b""))

    def put_bytes(self, data: bytes) -> StoredBlob:
        return self._put([data])

    def _put(self, chunks: Iterable[bytes]) -> StoredBlob:
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
                    _fsync_folder(self.root)
                os.replace(temporary, target)
                _fsync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return StoredBlob(digest.hexdigest(), count)

    def local(self, sha256: str, cache: Path) -> Path:
        path = self._path(sha256)
        if not path.is_file():
            raise NotFound(f"No blob {sha256}.")
        if sha256_of(path) != sha256:
            raise _corrupt(sha256)
        return path

    def _read(self, sha256: str) -> bytes:
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"No blob {sha256}.") from None

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
                with suppress(FileNotFoundError):  # deleted since the folder was read
                    yield path.name, path.stat().st_mtime


class RemoteStore(BlobStore):
    """Blobs in a store reached through fsspec. Object stores such as S3 show an object only when it is complete."""

    def __init__(self, url: str) -> None:
        import fsspec  # part of the `server` extra

        self.fs: Any
        # A cached listing would hide what other processes have stored or deleted since.
        self.fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.root = str(root).rstrip("/")

    def _path(self, sha256: str) -> str:
        return f"{self.root}/{_relative_path(sha256)}"

    def prepare(self) -> None:
        bucket = self.root.partition("/")[0]
        with _translated():
            if not self.fs.exists(bucket):
                self.fs.mkdir(bucket)

    def put_file(self, path: Path) -> StoredBlob:
        sha256 = sha256_of(path)
        with _translated():
            self.fs.put_file(str(path), self._path(sha256))
        return StoredBlob(sha256, path.stat().st_size)

    def put_bytes(self, data: bytes) -> StoredBlob:
        sha256 = hashlib.sha256(data).hexdigest()
        with _translated():
            self.fs.pipe_file(self._path(sha256), data)
        return StoredBlob(sha256, len(data))

    def local(self, sha256: str, cache: Path) -> Path:
        target = cache / _relative_path(sha256).name
        if target.is_file() and sha256_of(target) == sha256:
            with suppress(FileNotFoundError):
                os.utime(target)
            return target
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".{secrets.token_hex(8)}.part"
        try:
            with _translated(sha256), disk_full_is_507():
                self.fs.get_file(self._path(sha256), str(temporary))
            if sha256_of(temporary) != sha256:
                raise _corrupt(sha256)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _trim(cache)
        return target

    def _read(self, sha256: str) -> bytes:
        with _translated(sha256):
            data: bytes = self.fs.cat_file(self._path(sha256))
        return data

    def exists(self, sha256: str) -> bool:
        with _translated():
            return bool(self.fs.exists(self._path(sha256)))

    def written_at(self, sha256: str) -> float:
        try:
            with _translated(sha256):
                return _seconds_since_1970(self.fs.info(self._path(sha256)))
        except NotFound:
            return 0.0

    def delete(self, sha256: str) -> None:
        with suppress(NotFound), _translated(sha256):
            self.fs.rm_file(self._path(sha256))

    def listing(self) -> Iterator[tuple[str, float]]:
        with _translated():
            objects = self.fs.find(self.root, detail=True)
        for path, info in objects.items():
            name = path.rsplit("/", 1)[-1]
            if len(name) == 64:
                yield name, _seconds_since_1970(info)


@contextmanager
def _translated(sha256: str | None = None) -> Iterator[None]:
    """Translate the store's errors: NotFound if that blob is missing, Unavailable (503) for all others."""
    try:
        yield
    except FitserveError:
        raise
    except FileNotFoundError as error:
        if sha256 is not None:
            raise NotFound(f"No blob {sha256}.") from None
        raise Unavailable("The blob store has no such bucket.", retry_after=60) from error
    except Exception as error:  # each store has exceptions of its own, and most are not an OSError
        raise Unavailable("The blob store is not reachable right now.", retry_after=5) from error


def _trim(cache: Path) -> None:
    """Delete the least recently used copies until the folder is within CACHE_BYTES."""
    copies = []
    for path in cache.iterdir():
        with suppress(FileNotFoundError):  # another process trims too
            stat = path.stat()
            copies.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in copies)
    for used, size, path in sorted(copies):
        if total <= CACHE_BYTES or used > time.time() - CACHE_SECONDS:
            return
        path.unlink(missing_ok=True)
        total -= size


def _relative_path(sha256: str) -> Path:
    """Return `ab/abcdef...`. Raises NotFound unless it is a SHA-256, so that no name can escape the store."""
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise NotFound("That is not a SHA-256.")
    return Path(sha256[:2], sha256)


def _seconds_since_1970(info: Any) -> float:
    names = ("LastModified", "last_modified", "mtime", "updated", "created")  # each store has its own: S3, Azure, ...
    written = next(info[name] for name in names if info.get(name))
    return float(written.timestamp() if hasattr(written, "timestamp") else written)


def _corrupt(sha256: str) -> Corrupt:
    return Corrupt(f"Blob {sha256} is corrupt.")


@contextmanager
def disk_full_is_507() -> Iterator[None]:
    """Raise StorageFull (507) where the disk has no space left (ENOSPC, EDQUOT)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The disk is full.", fix="Free some space, then send it again.") from error
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync_folder(folder: Path) -> None:
    """Make renames within a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
