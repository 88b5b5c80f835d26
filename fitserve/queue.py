"""Wake-up messages for workers through Celery: a run's id and nothing else.

A message is only a hint; the database row is authoritative. Lost, late or repeated messages do no harm, because workers
also poll for queued runs and the reaper publishes again (T10).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import Full, Queue
from typing import Final

from celery import Celery

from fitserve.embedded_redis import EmbeddedRedis
from fitserve.settings import Settings

log = logging.getLogger(__name__)

QUEUE: Final = "fitserve"
WAKE: Final = "fitserve.wake"  # the only task: "claim a queued run"
PUBLISH_SECONDS: Final = 1.0


def broker_url(settings: Settings) -> str:
    """Return `redis_url`, or the socket of the embedded Redis in `home`."""
    return settings.redis_url or EmbeddedRedis(settings.home / "redis").url


def make_app(settings: Settings, app_class: type[Celery] = Celery) -> Celery:
    """Return the Celery app. Early acknowledgement, no results: a message only wakes a worker."""
    app = app_class("fitserve", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # a busy worker must not hold messages that an idle one could take
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_timeout=1.0,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_timeout": 5.0,
            "socket_connect_timeout": 1.0,
            "retry_on_timeout": False,
            "health_check_interval": 10,
            "visibility_timeout": 3600,
            "max_retries": 0,
        },
    )
    return app


class Publisher:
    """Publishes wake-up messages, each within PUBLISH_SECONDS even if the broker hangs."""

    def __init__(self, settings: Settings) -> None:
        self.app = make_app(settings)
        self._work: Queue[tuple[Callable[[], int], Future[int]] | None] = Queue(maxsize=100)
        threading.Thread(target=self._run, name="publisher", daemon=True).start()

    def publish(self, run_id: str) -> bool:
        """Return whether the broker accepted the message in time. If not, T10 publishes again."""
        return self._run_in_thread(lambda: self._send(run_id)) is not None

    def depth(self) -> int | None:
        """Return the number of messages in the broker; None if it does not respond in time."""
        return self._run_in_thread(self._depth)

    def _send(self, run_id: str) -> int:
        self.app.send_task(WAKE, args=(run_id,), retry=False)
        return 1

    def _depth(self) -> int:
        with self.app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=PUBLISH_SECONDS)
            with connection.channel() as channel:
                return int(channel._size(QUEUE))

    def _run_in_thread(self, work: Callable[[], int]) -> int | None:
        """Run a call on the broker's thread, which may hang (on DNS, for example) longer than the caller waits."""
        done: Future[int] = Future()
        try:
            self._work.put_nowait((work, done))
        except Full:
            return None
        try:
            return done.result(PUBLISH_SECONDS)
        except FutureTimeout:
            done.cancel()
            return None
        except Exception as error:
            log.warning("the broker did not accept a message", extra={"error": type(error).__name__})
            return None

    def _run(self) -> None:
        with contextlib.suppress(Exception):
            # Import now what would use up the first request's time.
            _ = (self.app.connection_for_write().transport, self.app.amqp.send_task_message)
        while (item := self._work.get()) is not None:
            work, done = item
            if not done.set_running_or_notify_cancel():
                continue  # its caller no longer waits
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

    def close(self) -> None:
        """Stop the thread and close the broker's connections."""
        with contextlib.suppress(Full):
            self._work.put_nowait(None)
        self.app.close()
