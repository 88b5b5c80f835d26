"""What `fitserve up` prints: on a terminal a line for each part and one card; elsewhere the parts' own log lines."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.status import Status
from rich.table import Table
from rich.text import Text

from fitserve.local_server import DEFAULT_HOME
from fitserve.log_lines import LogLine, clock, parse, printable

TITLES = {"api": "API", "predict": "predictions"}
_REPEAT_SECONDS = 30.0  # period in which the same error of the same part is printed only once
_MAX_RECENT = 20  # latest lines of each part, which may explain its end
_MARGIN = "  "


def title(name: str, names: Sequence[str]) -> str:
    """Return a part's name for people: the only worker has no number."""
    if name.startswith("worker-"):
        several = sum(other.startswith("worker-") for other in names) > 1
        return name.replace("-", " ") if several else "worker"
    return TITLES.get(name, name)


@dataclass(frozen=True)
class Greeting:
    """What the card says once everything is ready."""

    seconds: float
    pages: str  # link with a one-time token, if there is one
    base_url: str
    predict_url: str
    home: Path
    key: str | None  # key to print, as nobody may have seen it yet
    key_path: Path | None
    signs_in: bool  # the address holds a one-time token
    auth: bool


class Display:
    """Plain output for programs and log collectors: the parts' log lines, and a few of our own."""

    def hello(self, home: Path) -> None:
        """We have begun, and load what the start needs."""

    def begin(self, names: Sequence[str]) -> None:
        """The parts start now."""

    def starting(self, name: str) -> None:
        """A part starts, or starts again."""

    def ready(self, name: str, seconds: float, detail: str = "") -> None:
        """A part is ready after so long."""

    def failed(self, name: str, reason: str, fix: str = "") -> None:
        """A part has ended or would not start."""

    def log_line(self, name: str, line: str) -> None:
        """A part has logged a line."""
        _write(line)

    def greet(self, greeting: Greeting) -> None:
        """Everything is ready."""
        key = f"#key={greeting.key}" if greeting.key else ""
        lines = [f"fitserve is ready: {greeting.base_url}/{key}"]
        lines.append(f"  predictions  {greeting.predict_url}/v1/models   API  {greeting.base_url}/docs")
        if greeting.key:
            lines.append(f"  first key    {greeting.key}   (printed until it is used; saved in {greeting.key_path})")
        lines.append("  Ctrl-C stops everything.")
        _write("\n".join(lines))

    def stopping(self, waits_for: str, seconds: float) -> None:
        """Show that the end was requested; called again whenever `waits_for` changes."""

    def hurrying(self) -> None:
        """Someone has asked for the end a second time."""

    def stopped(self, left: str) -> None:
        """Everything has ended."""
        _write("fitserve has stopped.")

    def close(self) -> None:
        """Leave the terminal as it was."""


class _LossyStream:
    """A stream that may go away, such as a closed terminal: later writes are dropped without an error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _write(text: str) -> None:
    print(text, file=_LossyStream(sys.stderr), flush=True)


@dataclass
class _Row:
    title: str
    state: str = "waiting"
    detail: str = ""
    fix: str = ""
    since: float = field(default_factory=time.monotonic)


class Screen(Display):
    """Output for a person at a terminal."""

    def __init__(self) -> None:
        self.console = Console(file=cast(IO[str], _LossyStream(sys.stderr)), highlight=False)
        self.rows: dict[str, _Row] = {}
        self.recent: dict[str, deque[str]] = {}
        self.greeted = False
        self._utf8 = (self.console.encoding or "").lower().startswith("utf")
        self._live: Live | None = None
        self._status: Status | None = None
        self._printed: dict[tuple[str, str], float] = {}
        self._waits_for: str | None = None

    # --- starting ---

    def hello(self, home: Path) -> None:
        from fitserve import __version__

        self.console.print(Text.assemble(f"\n{_MARGIN}", ("fitserve", "bold"), f" {__version__}  ", (str(home), "dim")))
        self.console.print()

    def begin(self, names: Sequence[str]) -> None:
        self.rows = {name: _Row(title(name, names)) for name in names}
        if not self.console.is_dumb_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=10, transient=False)
            self._live.start()

    def starting(self, name: str) -> None:
        row = self.rows[name]
        if row.state != "failed" or self.greeted:
            row.state, row.detail = "starting", ""
        row.since = time.monotonic()

    def ready(self, name: str, seconds: float, detail: str = "") -> None:
        row = self.rows[name]
        row.state, row.fix = "ready", ""
        row.detail = f"ready after {seconds:.1f} s" + (f"  {detail}" if detail else "")
        if self.greeted:
            self._print(name, Text.assemble(("ready again", "green"), f" after {seconds:.1f} s"))
        elif self._live is None:
            self.console.print(f"{_MARGIN}{row.title}: {row.detail}", markup=False)

    def failed(self, name: str, reason: str, fix: str = "") -> None:
        row = self.rows[name]
        row.state, row.detail, row.fix = "failed", printable(reason), fix
        if self.greeted or self._live is None:
            self._print(name, Text(printable(reason), "red"))
            if fix:
                self.console.print(f"{_MARGIN}{fix}", markup=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=3, justify="right")
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for row in self.rows.values():
            mark, text = self._mark(row), Text(row.detail, "dim")
            if row.state == "starting":
                text = Text(f"starting, {time.monotonic() - row.since:.0f} s", "dim")
            elif row.state == "waiting":
                text = Text("waiting", "dim")
            elif row.state == "failed":
                text = Text(row.detail, "red")
                if row.fix:
                    text.append(f"\n{row.fix}", style="default")
            grid.add_row(mark, row.title, text)
        # Narrower than the terminal, which writes ^C behind the last line: it must not wrap.
        return Constrain(grid, max(20, self.console.width - len("^C^C")))

    def _mark(self, row: _Row) -> RenderableType:
        if row.state == "starting" and self._utf8:
            return _SPINNER
        marks = {"ready": ("✓", "ok"), "failed": ("✗", "x"), "starting": (".", "."), "waiting": ("·", " ")}
        style = {"ready": "green", "failed": "bold red"}.get(row.state, "dim")
        return Text(marks[row.state][0 if self._utf8 else 1], style)

    # --- running ---

    def greet(self, greeting: Greeting) -> None:
        self._end_live()
        self.greeted = True
        show = self.console.print
        show()
        show(Text.assemble(_MARGIN, ("fitserve is ready", "bold green"), f" after {greeting.seconds:.0f} s"))
        show()
        for name, value, remark in self._card(greeting):
            # Unbroken, so that it can be selected and opened.
            show(Text.assemble(f"{_MARGIN}{name:<13}", value), soft_wrap=True)
            if remark:
                show(Text(f"{_MARGIN}{'':<13}{remark}", "dim"), soft_wrap=True)
        show()
        show(f"{_MARGIN}Next, in another terminal in this folder:", style="dim")
        for line in self._next(greeting):
            show(f"{_MARGIN}{_MARGIN}{line}", markup=False, soft_wrap=True)
        show()
        show(f"{_MARGIN}Ctrl-C stops everything; nothing is lost.", style="dim")
        show()

    @staticmethod
    def _card(greeting: Greeting) -> list[tuple[str, Text, str]]:
        if greeting.signs_in:
            remark = "this link signs you in once, within 10 minutes"
        elif greeting.auth:
            remark = "sign in with an API key; a new one: fitserve keys create NAME --scope admin"
        else:
            remark = "without API keys (FITSERVE_AUTH is off)"
        rows = [("Pages", Text(greeting.pages, "bold cyan"), remark)]
        if greeting.key_path:
            rows.append(("API key", Text(_short(greeting.key_path)), "commands on this machine find it there"))
        rows.append(("Predictions", Text(greeting.predict_url), ""))
        rows.append(("Logs", Text(_short(greeting.home / "logs")), ""))
        return rows

    @staticmethod
    def _next(greeting: Greeting) -> list[str]:
        program = command_name()
        lines = [
            f"{program} demo",
            f"{program} train TABLE.csv --target COLUMN",
            f"{program} logs -f",
        ]
        here = greeting.home.resolve() == Path(DEFAULT_HOME).resolve()
        return lines if here else [f"export FITSERVE_HOME={_short(greeting.home)}", *lines]

    def log_line(self, name: str, line: str) -> None:
        parsed = parse(line)
        if parsed is None:
            if line.strip():
                self.recent.setdefault(name, deque(maxlen=_MAX_RECENT)).append(line)
            return
        if parsed.level in ("ERROR", "CRITICAL"):
            self.recent.setdefault(name, deque(maxlen=_MAX_RECENT)).append(parsed.summary)
            if name != "up":  # our own log lines are already on the screen
                self._print_error(name, parsed)

    def reason(self, name: str, code: int | None) -> str:
        """Return why a part has ended: its exit code, and its last words."""
        lines = self.recent.pop(name, ())
        ended = "stopped" if not code else f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{ended}: {printable(lines[-1].strip())}" if lines else ended

    def _print_error(self, name: str, line: LogLine) -> None:
        now = time.monotonic()
        if now - self._printed.get((name, line.summary), -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return
        self._printed[name, line.summary] = now
        if len(self._printed) > 1000:
            self._printed.clear()
        self._print(name, Text.assemble(("error: ", "bold red"), line.summary))

    def _print(self, name: str, text: Text) -> None:
        part = self.rows[name].title if name in self.rows else name
        self.console.print(Text.assemble(_MARGIN, (clock(time.time()), "dim"), f" {part}: ", text), soft_wrap=True)

    # --- stopping ---

    def stopping(self, waits_for: str, seconds: float) -> None:
        if self._waits_for == waits_for:
            return
        self._end_live()
        first = self._waits_for is None
        self._waits_for = waits_for
        if first and waits_for:
            self._say(f"Stopping: waiting for {waits_for}, {seconds:.0f} s at most.", above=1)
            self._say("Nothing is lost: it continues at the next start. Ctrl-C again hurries.")
        elif first:
            self._say("Stopping ...", above=1)
        self._spin(f"waiting for {waits_for}" if waits_for else "closing")

    def hurrying(self) -> None:
        self._say("Hurrying: runs go back to the queue, and continue from their last checkpoint.")

    def stopped(self, left: str) -> None:
        self.close()
        self._say(f"fitserve has stopped. {left}".rstrip())

    def _say(self, words: str, above: int = 0) -> None:
        self.console.print(Padding(Text(words), (above, 0, 0, len(_MARGIN))))

    def _spin(self, words: str) -> None:
        if self.console.is_dumb_terminal:
            return
        if self._status is None:
            self._status = self.console.status("", spinner="dots" if self._utf8 else "line")
            self._status.start()
        self._status.update(Text(words, "dim"))

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        self._end_live()
        if self._status is not None:
            self._status.stop()
            self._status = None


_SPINNER = Spinner("dots", style="cyan")


def _short(path: Path) -> str:
    """Return a path relative to this folder where it is in it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def command_name() -> str:
    """Return how the command line is called here: by its name where a shell finds it, else by its path."""
    ours = Path(sys.prefix) / "bin" / "fitserve"
    path = shutil.which("fitserve")
    if ours.exists() and (path is None or os.path.realpath(path) != os.path.realpath(ours)):
        return _short(ours) if ours.is_relative_to(Path.cwd()) else str(ours)
    return "fitserve"


def make_display(log_format: str) -> Display:
    """Return the display for where standard error leads."""
    return Screen() if log_format == "auto" and sys.stderr.isatty() else Display()
