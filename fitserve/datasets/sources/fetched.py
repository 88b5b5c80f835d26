"""The result of a fetch, and how a fetch is repeated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from fitserve import name_resolution
from fitserve.datasets.sources.connections import NamedConnection
from fitserve.errors import Unavailable
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.notices import Notice

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 3
FIRST_PAUSE = 0.5  # seconds; twice as long before each further attempt


class SourceAway(Unavailable):
    """A source does not answer, or its connection broke."""

    slug = "source-away"
    title = "Source unavailable"


class SourceChanged(SourceAway):
    """A part of a source is not what it was when the source was listed."""


def look_up(connection: NamedConnection) -> None:
    """Look up the hosts of a connection, because drivers wait for their names without a limit. Raises SourceAway.

    A name without an address is the driver's to report.
    """
    for host in connection.hosts:
        try:
            name_resolution.addresses(host, None, name_resolution.SECONDS)
        except TimeoutError:
            raise SourceAway(f"Its host name was not resolved within {name_resolution.SECONDS:g} s.") from None
        except OSError:
            continue


class Stopped(Exception):
    """The request for the table was withdrawn."""


def never_stop() -> None:
    """Let the work go on: a `raise_if_stopped` that never raises."""


@dataclass(frozen=True)
class Place:
    """The folder into which a source is fetched, with limits and a `raise_if_stopped`.

    `raise_if_stopped` is called repeatedly while it is fetched, and raises `Stopped` to end the work.
    """

    folder: Path
    limits: Limits
    options: UploadOptions
    known: dict[str, Any] | None = (
        None  # snapshot of the previous version; if the source is still in it, the fetch ends with `Unchanged`
    )
    raise_if_stopped: Callable[[], None] = never_stop


@dataclass(frozen=True)
class Fetched:
    """A source's table as one local file, and the SHA-256 of its content."""

    path: Path
    sha256: str
    bytes: int
    snapshot: dict[str, Any]  # identifies this state of the source
    notices: list[Notice] = field(default_factory=list)
    stem: str | None = None
    reading: UploadOptions | None = None  # how the joined file is read, if not as its parts are
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class Unchanged(Exception):
    """The source is still in the known state."""


def try_again(work: Callable[[], T], attempts: int = ATTEMPTS, final: type[SourceAway] | None = None) -> T:
    """Call `work`, retrying while the source is unavailable. Raises SourceAway; errors of type `final` at once."""
    pause = FIRST_PAUSE
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except SourceAway as error:
            if attempt == attempts or (final is not None and isinstance(error, final)):
                error.retry_after = error.retry_after or 30
                error.fix = error.fix or "Try again later; nothing was stored."
                raise
            log.warning("source is away", extra={"error": error.detail, "attempt": attempt})
        time.sleep(pause)
        pause *= 2
    raise AssertionError("unreachable")
