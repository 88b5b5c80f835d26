"""Log lines for people: what `fitserve.logs` has written as JSON, in one readable line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_KNOWN = frozenset({"time", "level", "process", "logger", "message", "traceback"})
# Redis and Valkey: `1234:M 28 Nov 2026 11:31:08.853 * Ready to accept connections`.
_BROKER = re.compile(r"\d+:[A-Z] (\d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2}\.\d{3}) ([.\-*#]) (.*)")
_BROKER_LEVELS = {".": "DEBUG", "-": "INFO", "*": "INFO", "#": "WARNING"}


@dataclass(frozen=True)
class LogLine:
    """One line of a log."""

    time: float  # seconds since 1970
    level: str
    message: str
    process: str = ""
    traceback: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The message, with what is known of its cause."""
        cause = self.traceback.strip().splitlines()[-1] if self.traceback.strip() else self.extra.get("error")
        return printable(f"{self.message}: {cause}" if cause else self.message)

    @property
    def text(self) -> str:
        """The message and its values; a traceback below."""
        values = "".join(f" {name}={_value(value)}" for name, value in self.extra.items())
        head = printable(f"{self.message}{values}")
        lines = [f"    {printable(line)}" for line in self.traceback.splitlines()]
        return "\n".join([head, *lines])


def parse(line: str) -> LogLine | None:
    """Return a JSON log line, or one of Redis; None for any other text."""
    if match := _BROKER.match(line):
        at = datetime.strptime(match[1], "%d %b %Y %H:%M:%S.%f").astimezone().timestamp()  # Redis writes local time
        return LogLine(at, _BROKER_LEVELS[match[2]], match[3], "broker")
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
        moment = datetime.fromisoformat(value["time"])
        extra = {name: item for name, item in value.items() if name not in _KNOWN}
        level, message, process, traceback = (
            str(value.get(name, "")) for name in ("level", "message", "process", "traceback")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return LogLine(moment.timestamp(), level, message, process, traceback, extra)


def clock(at: float) -> str:
    """Return the local time of day."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def printable(text: str) -> str:
    """Return text without control characters, which must not reach a terminal."""
    return "".join(char if char.isprintable() or char == "\t" else " " for char in text)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text, ensure_ascii=False) if " " in text and isinstance(value, str) else text
