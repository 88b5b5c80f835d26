"""The errors of all processes. Each says where, what was received, what was expected and how to fix it.

    FitserveError (500)
    ├── BadInput (422)        one or several problems in what a client sent
    │   └── Malformed (400)   the bytes cannot be read at all
    ├── Unauthenticated (401)
    ├── Forbidden (403)
    ├── NotFound (404)
    ├── Conflict (409)
    ├── TooLarge (413)
    ├── UnsupportedMedia (415)
    ├── TooMany (429)         a quota or a rate limit; retry later
    ├── Unavailable (503)     something that we depend on is down; retry later
    ├── DeadlineExceeded (504)
    └── StorageFull (507)

`status` is a plain integer, so that no error imports a web framework; `services.http` turns each into RFC 9457
problem details (`application/problem+json`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where.

    `pointer` is a JSON Pointer (RFC 6901) into a JSON body. `row` (from 1, the header not counted) and `column` locate
    it in a table, `line` (from 1) in the file.
    """

    detail: str
    pointer: str | None = None
    row: int | None = None
    line: int | None = None
    column: str | None = None
    received: Any = None
    expected: str | None = None
    fix: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the members that are not None, as JSON values."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def json_pointer(keys: Iterable[str | int]) -> str:
    """Return the JSON Pointer (RFC 6901) of a path of keys and indices."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


class FitserveError(Exception):
    """Something went wrong on our side."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        pointer: str | None = None,
        received: Any = None,
        expected: str | None = None,
        fix: str | None = None,
        problems: Sequence[Problem] = (),
        retry_after: float | None = None,
        **extra: Any,
    ) -> None:
        self.detail = detail or (self.__doc__ or self.title).splitlines()[0]
        self.pointer = pointer
        self.received = received
        self.expected = expected
        self.fix = fix
        self.problems = tuple(problems)
        self.retry_after = retry_after  # seconds; becomes the Retry-After header
        self.extra = extra
        super().__init__(self.detail)

    def as_problem(self) -> dict[str, Any]:
        """Return RFC 9457 problem details, without `instance` and request id, which the shell adds."""
        body: dict[str, Any] = {
            "type": f"urn:fitserve:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        for key in ("pointer", "received", "expected", "fix"):
            if (value := getattr(self, key)) is not None:
                body[key] = value
        if self.problems:
            body["errors"] = [problem.as_dict() for problem in self.problems]
        body.update(self.extra)
        return body


class BadInput(FitserveError):
    """The input was understood but is not valid."""

    status = 422
    slug = "bad-input"
    title = "Bad input"


class Malformed(BadInput):
    """The input cannot be read."""

    status = 400
    slug = "malformed"
    title = "Malformed request"


class Unauthenticated(FitserveError):
    """A valid API key is needed."""

    status = 401
    slug = "unauthenticated"
    title = "Not authenticated"


class Forbidden(FitserveError):
    """This API key may not do that."""

    status = 403
    slug = "forbidden"
    title = "Forbidden"


class NotFound(FitserveError):
    """There is nothing at this address."""

    status = 404
    slug = "not-found"
    title = "Not found"


class Conflict(FitserveError):
    """This conflicts with the current state."""

    status = 409
    slug = "conflict"
    title = "Conflict"


class TooLarge(FitserveError):
    """The input is larger than the limit."""

    status = 413
    slug = "too-large"
    title = "Too large"


class UnsupportedMedia(FitserveError):
    """This content type is not supported here."""

    status = 415
    slug = "unsupported-media-type"
    title = "Unsupported media type"


class TooMany(FitserveError):
    """A quota or a rate limit is used up."""

    status = 429
    slug = "too-many"
    title = "Too many requests"


class Unavailable(FitserveError):
    """Something that we depend on is down; try again."""

    status = 503
    slug = "unavailable"
    title = "Unavailable"


class DeadlineExceeded(FitserveError):
    """No answer was ready by the deadline."""

    status = 504
    slug = "deadline-exceeded"
    title = "Deadline exceeded"


class StorageFull(FitserveError):
    """There is no space left to store this."""

    status = 507
    slug = "storage-full"
    title = "Storage full"
