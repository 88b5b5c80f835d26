"""A file fetched over HTTPS: bounded in size and time, resumed after a broken connection, never a mix of two states."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fitserve.blobs import disk_full_is_507
from fitserve.datasets.sources.connections import NamedConnection, SourceRefused, leaves_its_folder
from fitserve.datasets.sources.fetched import Fetched, Place, SourceAway, Unchanged
from fitserve.errors import BadInput, Problem, TooLarge
from fitserve.outgoing import NoAnswer, Outgoing, Response
from fitserve.wire.sources import HttpsSource

SECONDS = 3_600.0  # longest time for the whole file
SILENCE = 120.0  # seconds without a byte after which the connection counts as broken
SLOWEST = 1_000  # least bytes per second after that time, because only few files are fetched at the same time
REDIRECTS = 5
MAX_STALLS = 3  # consecutive attempts without a byte
POINTER = "/source/https/url"
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
# Of the other encodings, gzip and zstd are unpacked as files of that kind are, and what some stores send changes no
# byte: aws-chunked, utf-8, none.
_FOREIGN_PACKINGS = frozenset({"br", "deflate", "compress", "x-compress"})
_TRY_LATER = (408, 425, 429, 500, 502, 503, 504)


def fetch(source: HttpsSource, connection: NamedConnection | None, outgoing: Outgoing, place: Place) -> Fetched:
    """Fetch the file. Raises ForbiddenAddress, SourceRefused, SourceAway, TooLarge, Unchanged."""
    download = _Download(source.url, _headers(source, connection), outgoing, place)
    path = place.folder / "body"
    download.run(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    name = unquote(urlsplit(source.url).path.rsplit("/", 1)[-1]) or None
    return Fetched(path, sha256, size, {**download.marks, "bytes": size}, stem=name)


def _headers(source: HttpsSource, connection: NamedConnection | None) -> dict[str, str]:
    """Return the headers of a named connection, for addresses below its own. Raises BadInput."""
    if connection is None:
        return {}
    base, own = urlsplit(connection.url.get_secret_value()), urlsplit(source.url)
    folder = base.path.rstrip("/") + "/"
    if (
        (own.scheme, own.netloc) != (base.scheme, base.netloc)
        or not own.path.startswith(folder)
        or leaves_its_folder(own.path)
    ):
        what = f"The connection {source.connection!r} is for other addresses."
        raise BadInput(what, problems=[Problem(what, POINTER, received=source.url[:200])])
    return {str(name): str(value) for name, value in connection.options.get("headers", {}).items()}


class _Download:
    """One file, over as many requests as it takes."""

    def __init__(self, url: str, headers: dict[str, str], outgoing: Outgoing, place: Place) -> None:
        self.url, self.headers, self.outgoing, self.place = url, headers, outgoing, place
        self.marks: dict[str, str] = {}  # validators (ETag or modification time) of this state of the file
        self._total: int | None = None  # size in bytes, if the server sends it
        self._ends_at = time.monotonic() + SECONDS
        self._done = False

    def run(self, path: Path) -> None:
        """Write the whole file."""
        stalls = 0
        path.write_bytes(b"")
        while not self._done:
            before, failure = path.stat().st_size, "it sends no further bytes."
            try:
                self._request(path, before)
            except NoAnswer as error:
                failure = error.detail
            if not self._done:
                stalls = 0 if path.stat().st_size > before else stalls + 1
                if stalls >= MAX_STALLS or time.monotonic() > self._ends_at:
                    raise SourceAway(f"The address does not answer: {failure}")
                if stalls:
                    time.sleep(0.2 * 2**stalls)

    def _request(self, path: Path, have: int) -> None:
        """Request the rest from byte `have` on, and write it. Raises NoAnswer if the connection breaks."""
        headers = dict(self.headers)
        mark = self.marks.get("etag") or self.marks.get("last_modified")
        if have and mark:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        elif known := (self.place.known or {}).get("etag"):
            headers["If-None-Match"] = known
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise SourceAway(f"The file did not come within {SECONDS:g} seconds.")
        request = self.outgoing.request(
            "GET", self.url, headers=headers, seconds=left, silence=SILENCE, redirects=REDIRECTS, pointer=POINTER
        )
        with request as response:
            self._check(response)
            start, end = self._place_of(response, have)
            self._write(response, path, start)
        self._done = end is None or path.stat().st_size >= end

    def _check(self, response: Response) -> None:
        status, packing = response.status, response.headers.get("Content-Encoding", "").strip().lower()
        if status == 304:
            raise Unchanged
        if status in (200, 206):
            if not _FOREIGN_PACKINGS.isdisjoint(one.strip() for one in packing.split(",")):
                what = f"The address sends the file packed as {packing[:40]}, which was not asked for."
                problem = Problem(what, POINTER, received=packing[:40], expected="the file as it is, gzip or zstd")
                raise SourceRefused(what, problems=[problem])
            return
        if status in _TRY_LATER:
            raise SourceAway(f"The address answers {status}.", retry_after=_pause(response))
        what = f"The address answers {status}."
        fix = "Name credentials: connection." if status in (401, 403) else None
        raise SourceRefused(what, problems=[Problem(what, POINTER, received=self.url[:200], fix=fix)])

    def _place_of(self, response: Response, have: int) -> tuple[int, int | None]:
        """Return the byte at which the body begins, and the whole file's size where more may have to be requested.

        Raises SourceAway if the body belongs to another state of the file.
        """
        marks = _marks(response)
        if response.status == 200:  # the whole file: it has changed meanwhile, or the server does not resume
            self.marks, self._total = marks, _number_in(response, "Content-Length")
            return 0, None
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(match[3]) if match and match[3] != "*" else None
        # A part must repeat the ETag; it may leave out the time of modification, which If-Range named.
        changed = marks != self.marks if marks or "etag" in self.marks else False
        changed |= None not in (total, self._total) and total != self._total
        if match is None or int(match[1]) > have or changed:
            raise SourceAway("The file changed while it was read.", fix="Import it once it is complete.")
        return int(match[1]), total  # a cache may respond with whole blocks, which begin before the requested byte

    def _write(self, response: Response, path: Path, start: int) -> None:
        most = self.place.limits.upload_bytes
        length = _number_in(response, "Content-Length")
        if length is not None and start + length > most:
            raise TooLarge("The file is larger than the limit.", received=length, expected=f"at most {most} bytes")
        began_at, first = time.monotonic(), start
        with disk_full_is_507(), path.open("r+b") as file:
            file.seek(start)
            file.truncate()
            for chunk in response:
                self.place.raise_if_stopped()
                start += len(chunk)
                if (seconds := time.monotonic() - began_at) > SILENCE and start - first < SLOWEST * seconds:
                    raise SourceAway(f"The address sends fewer than {SLOWEST} bytes a second.")
                if start > most:
                    raise TooLarge("The file is larger than the limit.", expected=f"at most {most} bytes")
                file.write(chunk)


def _marks(response: Response) -> dict[str, str]:
    """Return the strong ETag, or else the time of modification."""
    etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified")
    if etag.startswith('"'):
        return {"etag": etag}
    return {"last_modified": modified} if modified else {}


def _number_in(response: Response, name: str) -> int | None:
    """Return the number that a header states; None for what is none, such as `²`."""
    text = response.headers.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _pause(response: Response) -> float | None:
    """Return the seconds of Retry-After, of up to a day."""
    seconds = _number_in(response, "Retry-After")
    return None if seconds is None else float(min(seconds, 86_400))
