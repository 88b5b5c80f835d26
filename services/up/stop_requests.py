"""How often someone has asked for the end: by Ctrl-C, by `fitserve down`, by a service manager."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

_SAME_REQUEST = 0.5  # seconds: a wrapper may pass a Ctrl-C on that has reached us already


@dataclass
class StopRequests:
    """How often someone has asked for the end."""

    count: int = 0
    at: float = 0.0
    event: threading.Event = field(default_factory=threading.Event)

    def add(self) -> None:
        """Count one. Safe in a signal handler."""
        now = time.monotonic()
        if now - self.at > _SAME_REQUEST:
            self.count += 1
            self.at = now
        self.event.set()
