"""Start all parts, watch over them, stop them in order."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from sqlalchemy import Engine, make_url
from sqlalchemy.orm import Session

import migrations
from fitserve import __version__, db, local_server, logs
from fitserve.embedded_redis import EmbeddedRedis
from fitserve.errors import FitserveError, Unavailable
from fitserve.local_server import LocalServer, ServerPart
from fitserve.runs import queries
from fitserve.settings import Settings
from fitserve.tables import Run
from services.up import first_key, ports
from services.up.children import Child, make_children, stop_all
from services.up.display import Display, Greeting, Screen
from services.up.log_files import LogFiles
from services.up.stop_requests import StopRequests

log = logging.getLogger("fitserve.up")

_MAX_DEATHS = 3  # after this many exits of a part that was never ready, show the failure instead of retrying
_SETTLE_SECONDS = 5  # additional time, after the trainer's, for a worker to release its runs


class StartFailed(FitserveError):
    """A part would not start."""

    slug = "start-failed"
    title = "Start failed"


class Up:
    """The parts of one server."""

    def __init__(self, settings: Settings, requests: StopRequests, display: Display) -> None:
        self.settings = settings
        self.requests = requests
        self.display = display
        self.began = time.monotonic()
        self.logs = LogFiles(settings.home / local_server.LOGS)
        self.broker = None if settings.redis_url else EmbeddedRedis(settings.home / "redis")
        url = self.broker.url if self.broker else str(settings.redis_url)
        self.children = make_children(settings, url, own_group=isinstance(display, Screen))
        urls = ports.readiness_urls(settings)
        names = ["broker", "database", *(child.name for child in self.children)]
        self.parts = {name: ServerPart(name, ready_url=urls.get(name)) for name in names}
        self.state = LocalServer(
            pid=os.getpid(),
            home=str(settings.home.resolve()),
            base_url=ports.web_url(settings, settings.port),
            predict_url=ports.web_url(settings, settings.predict_port),
            started_at=time.time(),
            version=__version__,
            log=str(self.logs.folder.resolve()),
            process_start=local_server.process_start(os.getpid()),
            parts=list(self.parts.values()),
        )
        self._started: dict[str, float] = {}
        self._was_ready: set[str] = set()
        self._written = ""

    def run(self) -> None:
        with self.logs.opened("up") as sink, _logging_to(sink, self.settings.log_level):
            self.display.begin(list(self.parts))
            self._write_state()
            engine: Engine | None = None
            try:
                self._start_database()
                engine = db.make_engine(self.settings.resolved_database_url)
                key = first_key.prepare(self.settings)
                self._start_broker()
                for child in self.children:
                    self._start(child)
                self._watch(key)
            finally:
                self._stop(engine)

    # --- starting ---

    def _start_database(self) -> None:
        url = make_url(self.settings.resolved_database_url)
        place = "SQLite" if url.get_backend_name() == "sqlite" else f"{url.get_backend_name()} at {url.host}"
        with self._step("database", place):
            migrations.upgrade(self.settings.resolved_database_url)

    def _start_broker(self) -> None:
        if self.broker is None:
            self._check_broker()
            return
        with self._step("broker"):
            self.broker.start()
        self.logs.bound_too(self.broker.folder / "redis.log")
        self.parts["broker"].pid = self.broker.process.pid if self.broker.process else None

    def _check_broker(self) -> None:
        """Note whether the Redis of FITSERVE_REDIS_URL answers. Everything works without it, only more slowly."""
        import redis

        part, url = self.parts["broker"], str(self.settings.redis_url)
        parsed = urlsplit(url)
        if part.ready:
            return
        if "broker" not in self._started:
            self._begin_part("broker")
        try:
            with contextlib.closing(
                redis.Redis.from_url(
                    url.replace("redis+socket://", "unix://"), socket_timeout=1, socket_connect_timeout=1
                )
            ) as client:
                client.ping()
        except (redis.RedisError, ValueError, OSError) as error:
            self.display.failed(
                "broker", f"no Redis answers at {parsed.hostname or parsed.path}: {error}", "Check FITSERVE_REDIS_URL."
            )
        else:
            self._ready("broker", f"Redis at {parsed.hostname or parsed.path}")

    @contextmanager
    def _step(self, name: str, detail: str = "") -> Iterator[None]:
        """Do what makes a part ready; show why it could not be done."""
        self._begin_part(name)
        try:
            yield
        except FitserveError as error:
            self.display.failed(name, error.detail, error.fix or "")
            raise
        except Exception as error:
            log.exception("%s would not start", name)
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
            fix = f"Read {self.logs.path('up')}, or run: fitserve doctor"
            self.display.failed(name, reason, fix)
            raise StartFailed(f"The {name} would not start: {reason}.", fix=fix) from error
        self._ready(name, detail)

    def _begin_part(self, name: str) -> None:
        self._started[name] = time.monotonic()
        self.parts[name].ready = False
        self.display.starting(name)

    def _ready(self, name: str, detail: str = "") -> None:
        self.parts[name].ready = True
        self._was_ready.add(name)
        seconds = time.monotonic() - self._started[name]
        log.info("%s is ready", name, extra={"seconds": round(seconds, 2)})
        self.display.ready(name, seconds, detail)

    def _start(self, child: Child) -> None:
        self._begin_part(child.name)
        child.start(self.logs)
        self.parts[child.name].pid = child.pid

    # --- watching ---

    def _watch(self, key: first_key.FirstKey | None) -> None:
        stopping = self.requests.event
        while not stopping.wait(0.25 if self.state.ready else 0.05):
            self._print_logs()
            self._restart_dead()
            for name, part in self.parts.items():
                if not part.ready and part.pid and part.ready_url and ports.is_ready(part.ready_url):
                    self._ready(name)
            if not self.state.ready and all(part.ready for name, part in self.parts.items() if name != "broker"):
                if self.broker is None:
                    self._check_broker()
                self.state.ready = True
                self._greet(key)
            self._write_state()

    def _restart_dead(self) -> None:
        if self.broker and self.broker.process and self.broker.process.poll() is not None:
            code = self.broker.process.returncode
            log.error("broker ended; restarting it", extra={"code": code})
            self.display.failed("broker", f"ended with code {code}; starting it again")
            self._start_broker()
        for child in self.children:
            if child.has_died():
                self._report_death(child)
            if child.due:
                self._start(child)

    def _report_death(self, child: Child) -> None:
        self.parts[child.name].ready, self.parts[child.name].pid = False, None
        self._print_logs()
        fix = f"Its log: fitserve logs {child.name}"
        reason = f"ended with code {child.exit_code}"
        if isinstance(self.display, Screen):
            reason = self.display.reason(child.name, child.exit_code)
            if child.name not in self._was_ready and child.deaths >= _MAX_DEATHS:
                self.display.failed(child.name, reason, fix)
                raise StartFailed(f"The part {child.name} would not start: it {reason}.", fix=fix)
        self.display.failed(child.name, f"{reason}; starting it again", fix)

    def _print_logs(self) -> None:
        for name, line in self.logs.new_lines():
            self.display.log_line(name, line)

    def _greet(self, key: first_key.FirstKey | None) -> None:
        pages, signs_in = f"{self.state.base_url}/", False
        if key is not None and isinstance(self.display, Screen):
            try:
                pages, signs_in = f"{pages}#key={first_key.one_time_token(self.settings, key)}", True
            except FitserveError as error:
                log.warning("no one-time link", extra={"error": error.detail})
        seconds = time.monotonic() - self.began
        self._print_logs()
        self.display.greet(
            Greeting(
                seconds=seconds,
                pages=pages,
                base_url=self.state.base_url,
                predict_url=self.state.predict_url,
                home=self.settings.home,
                key=key.token if key and key.unused else None,
                key_path=key.path if key else None,
                signs_in=signs_in,
                auth=self.settings.auth,
            )
        )
        log.info("ready", extra={"seconds": round(seconds, 2)})

    def _write_state(self) -> None:
        """Write the state file where something has changed."""
        now = repr(self.state)
        if now == self._written:
            return
        try:
            local_server.write(self.settings.home, self.state)
            self._written = now
        except OSError as error:
            log.warning("cannot write the state file", extra={"error": error.strerror})

    # --- stopping ---

    def _stop(self, engine: Engine | None) -> None:
        """Stop everything; the broker last, because workers hand their runs back through it."""
        self.state.stopping, self.state.ready = True, False
        seconds = self.settings.graceful_seconds + _SETTLE_SECONDS
        tick = self._ticker(engine, seconds)
        try:
            tick()
            stop_all(self.children, seconds, lambda: self.requests.count, tick)
        finally:
            if self.broker:
                self.broker.stop()
            self._print_logs()
            left = _left(engine)
            if engine is not None:
                engine.dispose()
            self.display.stopped(left)

    def _ticker(self, engine: Engine | None, seconds: float) -> Callable[[], None]:
        """Return a function that shows what is waited for, about once a second."""
        began, shown_at, hurried = time.monotonic(), 0.0, False

        def tick() -> None:
            nonlocal shown_at, hurried
            self._print_logs()
            if self.requests.count > 1 and not hurried:
                hurried = True
                self.display.hurrying()
            if time.monotonic() - shown_at < 1.0:
                return
            shown_at = time.monotonic()
            self.state.waits_for = _running(engine) if any(child.running for child in self.children) else ""
            self.display.stopping(self.state.waits_for, max(0.0, seconds - (time.monotonic() - began)))
            self._write_state()

        return tick


@contextmanager
def _logging_to(sink: int, level: str) -> Iterator[None]:
    """Send what this process logs to its file."""
    with ExitStack() as stack, os.fdopen(os.dup(sink), "w", buffering=1) as stream:
        stack.callback(logging.getLogger().handlers.clear)
        logs.configure("up", level, stream)
        yield


def _running(engine: Engine | None) -> str:
    """Return the runs that train, in words."""
    try:
        if engine is None:
            return ""
        with db.reading(engine) as session:
            texts = [_position(session, run) for run in queries.running(session, limit=20)]
    except (FitserveError, Unavailable):
        return ""
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return f"{texts[0]}{more} to finish an epoch" if texts else ""


def _position(session: Session, run: Run) -> str:
    epoch = queries.latest_epoch(session, run.id)
    words = [run.model or "", f"epoch {epoch.epoch}" if epoch else "starting"]
    return f"{run.id} ({', '.join(word for word in words if word)})"


def _left(engine: Engine | None) -> str:
    """Return what continues at the next start, in words."""
    try:
        if engine is None:
            return ""
        with db.reading(engine) as session:
            count = sum(queries.count_by_state(session).get(state, 0) for state in ("queued", "running"))
    except FitserveError:
        return ""
    if not count:
        return ""
    return "1 run continues at the next start." if count == 1 else f"{count} runs continue at the next start."
