"""Addresses of host names, found within a limit of time, which the system's resolver does not have."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future

SECONDS = 10.0  # for one name, where its request has more
AT_ONCE = 64  # look-ups; one that nobody awaits any more counts until the resolver gives up
_free = threading.BoundedSemaphore(AT_ONCE)


def addresses(host: str, port: int | None, seconds: float = SECONDS) -> list[str]:
    """Return every address of a name. Raises OSError for a name without one, TimeoutError after `seconds`."""
    ends_at = time.monotonic() + seconds
    free = _free
    if not free.acquire(timeout=seconds):
        raise TimeoutError("too many names are being looked up")
    found: Future[list[str]] = Future()
    # A thread of its own, because nothing ends a call of the resolver. A daemon, so that the process ends without it.
    threading.Thread(target=_look_up, args=(host, port, found, free), name="look-up", daemon=True).start()
    return found.result(max(0.0, ends_at - time.monotonic()))


def _look_up(host: str, port: int | None, found: Future[list[str]], free: threading.Semaphore) -> None:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        found.set_exception(socket.gaierror(socket.EAI_NONAME, str(error)))
    except Exception as error:
        found.set_exception(error)
    else:
        found.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))
    finally:
        free.release()
