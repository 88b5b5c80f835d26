"""Messages from the broker: accept wake-up messages; acknowledge, count and drop everything else.

A message is only a hint, so dropping a bad one costs nothing; an exception would end the worker, and then the next one,
since the broker redelivers an unacknowledged message. Messages are therefore checked before Celery interprets them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer
from kombu.connection import Connection
from kombu.transport import redis
from redis.exceptions import RedisError, ResponseError

from fitserve import telemetry
from fitserve.queue import WAKE

log = logging.getLogger(__name__)

# Headers that would make Celery wait, repeat, or send other tasks: we never set them.
_UNSET_HEADERS = ("eta", "expires", "group", "chord", "compression", "retries")
_UNSET_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")


def drop(reason: str) -> None:
    """Count and log a message that is dropped."""
    telemetry.MESSAGES_DROPPED.inc()
    log.warning("dropped a message that is no wake-up", extra={"reason": reason[:200]})


def fault_of(message: Any) -> str | None:
    """Return why a message is not one that `queue.Publisher` sends; None if it is."""
    headers = message.headers
    if not isinstance(headers, dict) or headers.get("task") != WAKE:
        return "not the task fitserve.wake"
    id = headers.get("id")
    if not isinstance(id, str) or not 0 < len(id) <= 64:
        return "no id"
    unset = all(headers.get(name) in (None, 0) for name in _UNSET_HEADERS) and not headers.get("stamps")
    if not unset or headers.get("timelimit") not in (None, [None, None]):
        return "headers that a wake-up does not have"
    if message.content_type != "application/json":
        return "not JSON"
    try:
        args, kwargs, embedded = message.decode()
    except Exception as error:  # decoding another program's bytes may raise anything
        return type(error).__name__
    if not (isinstance(args, list) and len(args) == 1 and isinstance(args[0], str)) or kwargs != {}:
        return "not a run's id alone"
    if not isinstance(embedded, dict) or any(embedded.get(name) is not None for name in _UNSET_EMBEDDED):
        return "other tasks in it"
    return None


class HintConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery consumer that passes on wake-up messages only."""

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        handle = super().create_task_handler(*arguments, **options)

        def receive(message: Any) -> Any:
            fault = fault_of(message)
            if fault is None:
                try:
                    return handle(message)
                except (OSError, RedisError):
                    raise
                except Exception as error:
                    fault = type(error).__name__
            drop(fault)
            message.ack_log_error(log, self.connection_errors)
            return None

        return receive

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        drop(type(exc).__name__)
        message.ack_log_error(log, self.connection_errors)


class HintChannel(redis.Channel):  # type: ignore[misc]
    """Channel that drops bytes from which no message can be built. They have left the queue by then."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._set_aside_foreign_keys()
            return True
        except (Empty, OSError, RedisError):  # kombu treats KeyError and others as errors of the broker's connection
            raise
        except Exception as error:  # not JSON, not an object, fields that kombu needs are missing, ...
            drop(type(error).__name__)
            return True

    def _set_aside_foreign_keys(self) -> None:
        """Rename our keys that another program has created with another type: no message would ever arrive."""
        types = dict.fromkeys(self.active_queues, b"list")
        types |= {self.unacked_key: b"hash", self.unacked_index_key: b"zset"}
        with self.conn_or_acquire() as client:
            for key, wanted in types.items():
                if client.type(key) not in (wanted, b"none"):
                    client.rename(key, f"{key}.foreign")
                    drop(f"the key {key} was not a {wanted.decode()}; it is now {key}.foreign")
            # These may be half written; losing a hint does no harm.
            client.delete(self.unacked_key, self.unacked_index_key)


class HintApp(Celery):  # type: ignore[misc]
    """The Celery app of a worker."""

    def connection_for_read(self, *arguments: Any, **options: Any) -> Connection:
        connection = super().connection_for_read(*arguments, **options)
        transport = connection.get_transport_cls()
        if issubclass(transport, redis.Transport):
            connection.transport_cls = type("HintTransport", (transport,), {"Channel": HintChannel})
        return connection
