"""Structured logs: one JSON object a line, with control characters escaped by JSON itself."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_BOUND: ContextVar[dict[str, Any]] = ContextVar("bound", default={})  # noqa: B039 (never changed in place)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """A record as one line: time, level, logger, message, whatever `extra` brought, and the traceback."""

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
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Every line that is logged within this block, in this task or thread, carries these as well."""
    token = _BOUND.set({**_BOUND.get(), **{key: value for key, value in values.items() if value is not None}})
    try:
        yield
    finally:
        _BOUND.reset(token)


def bound_value(name: str) -> Any:
    """What is bound under a name now, or None."""
    return _BOUND.get().get(name)


def configure(process: str, level: str = "INFO") -> None:
    """Sends every logger of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "botocore", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
