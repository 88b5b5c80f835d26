"""Structured logs: one JSON object per line, which escapes control characters."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

_BOUND: ContextVar[dict[str, Any]] = ContextVar("bound", default={})  # noqa: B039 (never changed in place)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """Format a record as one line: time, level, logger, message, the members of `extra`, and the traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _BOUND.get()
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Add these values to every line that this task or thread logs within the block."""
    token = _BOUND.set({**_BOUND.get(), **{key: value for key, value in values.items() if value is not None}})
    try:
        yield
    finally:
        _BOUND.reset(token)


def bound_value(name: str) -> Any:
    """Return the value that is bound under a name, or None."""
    return _BOUND.get().get(name)


def configure(process: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logs of this process to stderr, or another stream, as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn and Celery tell of each step of their start and of each message; we log what becomes of runs ourselves.
    for chatty in ("httpx", "httpcore", "botocore", "alembic", "uvicorn", "celery"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
