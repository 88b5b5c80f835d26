"""The threads of the gRPC server: a few that run, and more for as long as some of these are held up.

A call holds a thread while it waits: for its message, for the event loop, for the next message of a stream. Of the
threads that are not held up there are always a few, so that no caller waits for another one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from queue import SimpleQueue
from typing import Any

FREE = 8  # threads that are not held up
LOOK_SECONDS = 0.01  # a call that has run for longer holds up its thread
IDLE = math.inf  # when the call of a thread without one began
BUSY = sys.float_info.max  # the same of a call that has all it needs but a processor, for however long

log = logging.getLogger(__name__)
Task = tuple[Callable[..., Any], tuple[Any, ...]]


class _Submitted:
    """Stands for a submitted call where gRPC wants a `Future`. gRPC only adds a callback, to count calls down."""

    def add_done_callback(self, callback: Callable[..., Any]) -> None:
        """Ignore the callback: the number of calls is limited here."""


class _Worker(threading.Thread):
    began = IDLE  # when its call began; 0 while it is declared to be held up


class Wait:
    """A thread's wait for something other than a processor. Any thread may begin it and end it, once."""

    __slots__ = ("_threads", "has_ended", "is_counted", "thread")

    def __init__(self, threads: Threads, thread: threading.Thread) -> None:
        self._threads, self.thread = threads, thread
        self.is_counted = self.has_ended = False

    def begin(self) -> None:
        """Count the thread as waiting, and start another one if too few run. Does nothing once the wait has ended."""
        self._threads.begin_wait(self)

    def end(self) -> None:
        """Count the thread as running again. Does nothing the second time."""
        self._threads.end_wait(self)


class Threads(Executor):
    """An executor of up to `most` threads. `is_full` and `submit` are called by one thread, gRPC's own."""

    def __init__(self, most: int, most_waiting: int) -> None:
        self._most, self._most_waiting = most, most_waiting
        self._submitted = _Submitted()
        self._runs_next_here = False
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._held_up = 0  # threads that are within a `Wait`
        self._finished = 0  # calls; two that end at the same moment may count as one
        self._is_watched = False
        self._wake = threading.Event()
        self._stopped = False
        threading.Thread(target=self._watch, name="grpc-watch", daemon=True).start()
        self._start(FREE)

    @property
    def count(self) -> int:
        """How many threads there are."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return self._tasks.qsize()

    def is_full(self) -> bool:
        """Return whether too many calls wait for a thread. If so, the next one submitted may only be refused."""
        self._runs_next_here = self._tasks.qsize() >= self._most_waiting
        return self._runs_next_here

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Any:
        """Run a call in a thread; one that is only refused at once."""
        if self._runs_next_here:
            self._runs_next_here = False
            function(*arguments)
            return self._submitted
        self._tasks.put((function, arguments))
        if not self._is_watched:
            self._is_watched = True
            self._wake.set()
        return self._submitted

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Context in which the current thread waits for something other than a processor, so that another may run."""
        wait = self.wait()
        wait.begin()
        try:
            yield
        finally:
            wait.end()

    def wait(self) -> Wait:
        """Return a wait for the current thread, to be begun by any thread; until then this one counts as running."""
        wait = Wait(self, threading.current_thread())
        if isinstance(wait.thread, _Worker) and wait.thread.began:
            wait.thread.began = BUSY
        return wait

    def begin_wait(self, wait: Wait) -> None:
        """Count a wait, if it has not ended and its thread is not within another one."""
        worker = wait.thread
        with self._lock:
            if wait.has_ended or not isinstance(worker, _Worker) or not worker.began:
                return
            wait.is_counted, worker.began = True, 0.0
            self._held_up += 1
            lacking = FREE - (len(self._workers) - self._held_up)
        if lacking > 0:
            self._start(lacking)

    def end_wait(self, wait: Wait) -> None:
        """End a wait, whether or not it has begun or ended."""
        with self._lock:
            wait.has_ended = True
            if wait.is_counted:
                wait.is_counted = False
                self._held_up -= 1
                wait.thread.began = BUSY  # type: ignore[attr-defined]

    def stop(self) -> None:
        """End the threads once they have finished their calls, and start no more."""
        with self._lock:  # else one that is being started is not counted, and would wait for ever
            self._stopped = True
            for _ in self._workers:
                self._tasks.put(None)
        self._wake.set()

    def _start(self, count: int) -> None:
        with self._lock:
            if self._stopped:
                return
            for _ in range(min(count, self._most - len(self._workers))):
                worker = _Worker(target=self._work, name="grpc", daemon=True)
                try:
                    worker.start()
                except RuntimeError as error:  # the system allows no more
                    log.warning("%d threads serve gRPC, no more can be started: %s", len(self._workers), error)
                    return
                self._workers.add(worker)

    def trim(self) -> None:
        """End some threads that have nothing to do, if there are more than FREE; called about once a second."""
        with self._lock:
            surplus = sum(worker.began == IDLE for worker in self._workers) - FREE
        for _ in range(math.ceil(surplus / 8)):
            self._tasks.put(None)

    def _work(self) -> None:
        worker: Any = threading.current_thread()
        get, now = self._tasks.get, time.monotonic
        while True:
            if (task := get()) is None:
                with self._lock:
                    if self._stopped or len(self._workers) > FREE:
                        self._workers.discard(worker)
                        return
                continue
            function, arguments = task
            worker.began = now()
            try:
                function(*arguments)
            except Exception:  # gRPC's function answers errors itself
                log.exception("unexpected error of gRPC")
            worker.began = IDLE
            self._finished += 1
            del task, function, arguments  # they hold the call

    def _watch(self) -> None:
        """While calls wait for a thread, start as many threads as are held up; rest while none waits."""
        while not self._stopped:
            self._wake.wait()
            self._wake.clear()
            finished = self._finished
            time.sleep(LOOK_SECONDS)
            while not self._tasks.empty() and not self._stopped:
                self._replace_held_up(self._finished > finished)
                finished = self._finished
                time.sleep(LOOK_SECONDS)
            self._is_watched = False
            if not self._tasks.empty():  # submitted before this was written
                self._is_watched = True
                self._wake.set()

    def _replace_held_up(self, are_some_finished: bool) -> None:
        with self._lock:
            workers = list(self._workers)
        before = time.monotonic() - LOOK_SECONDS
        held_up = sum(worker.began < before for worker in workers)
        if len(workers) - held_up < FREE:
            # While calls end, the others may wait for a processor, of which more threads would take still more. Else
            # doubled, as those who come next may wait for as long: a thousand take a tenth of a second.
            self._start(min(1 if are_some_finished else max(FREE, held_up), self._tasks.qsize()))
