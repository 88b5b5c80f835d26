"""Watch a run: a live display on a terminal, plain lines elsewhere, JSON Lines for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fitserve.cli import screen
from fitserve.cli.search_tables import leaderboard, result_tables
from fitserve.cli.session import Exit, Session
from fitserve.errors import FitserveError

if TYPE_CHECKING:
    from fitserve.client.runs import Run
    from fitserve.wire.runs import EventInfo

_LINE_SECONDS = 1.0  # seconds between two lines of epochs without a terminal
_RECENT = 10  # latest arrivals from which the rate is computed; a worker reports several epochs at once
_CURVE_WIDTH = 30  # characters
_BOARD_SECONDS = 1.0  # seconds between two requests for a search's trials
_LEADERS = 5  # trials shown while a search runs
_BEST = 10  # trials shown at its end


@dataclass(frozen=True)
class BestEpoch:
    """The lowest (validation) loss so far."""

    value: float
    trial: int
    epoch: int


@dataclass
class RunDisplay:
    """The display of a run in training. Its trials may come one after another, or all of them epoch by epoch."""

    run_id: str
    model: str | None
    epochs: int  # most epochs of each trial
    trials: int = 1
    state: str = "queued"
    note: str = ""
    lost: str = ""
    curves: dict[int, dict[str, list[float]]] = field(default_factory=dict)  # keyed by trial, then figure
    latest: tuple[int, int] = (0, 0)  # trial from 0, epoch from 1
    best: BestEpoch | None = None
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # (time, epochs received by then)
    board: RenderableType | None = None  # the best trials of a search so far

    def add(self, event: EventInfo) -> None:
        """Update the display with an event."""
        self.lost = ""
        if event.type == "state":
            self.state = str(event.data.get("state", self.state))
        if event.type != "metrics":
            self.note = event.message
            return
        self.state, self.note = "running", ""
        self.latest = trial, epoch = int(event.data.get("trial", 0)), int(event.data["epoch"])
        self.trials = max(self.trials, trial + 1)
        logs = {name: value for name, value in event.data.get("logs", {}).items() if value is not None}
        for name, value in logs.items():
            self.curves.setdefault(trial, {}).setdefault(name, []).append(float(value))
        loss = logs.get("val_loss", logs.get("loss"))
        if loss is not None and (self.best is None or loss < self.best.value):
            self.best = BestEpoch(loss, trial, epoch)
        arrived = event.created_at.timestamp()
        before = self.arrivals[:-1] if self.arrivals and self.arrivals[-1][0] == arrived else self.arrivals
        self.arrivals = [*before[-_RECENT:], (arrived, self.done)]

    @property
    def done(self) -> int:
        """Number of epochs received, over all trials."""
        return sum(len(figures.get("loss", ())) for figures in self.curves.values())

    @property
    def rate(self) -> float | None:
        """Epochs per second, recently."""
        if len(self.arrivals) < 2:
            return None
        (start, before), (end, done) = self.arrivals[0], self.arrivals[-1]
        return (done - before) / (end - start) if end > start else None

    @property
    def seconds_left(self) -> float | None:
        """The most seconds that it can still take; early stopping may end it sooner."""
        return None if not self.rate else max(0, self.epochs * self.trials - self.done) / self.rate

    @property
    def position(self) -> str:
        """The newest trial and epoch."""
        trial, epoch = self.latest
        return (f"trial {trial + 1}/{self.trials}  " if self.trials > 1 else "") + f"epoch {epoch}/{self.epochs}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines: list[RenderableType] = [self._headline()]
        if self.state == "running" and self.curves:
            lines += [self._bar(options.max_width), self._figures(options.max_width)]
        if self.board is not None:
            lines.append(self.board)
        if self.note:
            lines.append(Text(self.note, style="dim"))
        if self.lost:
            lines.append(Text(self.lost, style="yellow"))
        yield Group(*lines)

    def _headline(self) -> Text:
        name = f"  {self.model}" if self.model else ""
        return Text.assemble((self.run_id, "bold"), name, "  ", screen.state(self.state))

    def _bar(self, width: int) -> Table:
        """Return its progress in one line."""
        texts = [
            self.position,
            f"{self.rate:,.3g} epochs/s" if self.rate else "",
            f"at most {screen.duration(self.seconds_left)} left" if self.seconds_left is not None else "",
        ]
        bar = max(10, min(_CURVE_WIDTH, width - sum(len(text) + 2 for text in texts)))
        row = Table.grid(padding=(0, 2, 0, 0))
        cells = [Text(text, no_wrap=True) for text in texts]
        row.add_row(ProgressBar(self.epochs * self.trials, self.done, width=bar), *cells)
        return row

    def _figures(self, width: int) -> Table:
        """Return the curves of the newest trial, and the best figure so far."""
        curves = self.curves[self.latest[0]]
        names = sorted(curves, key=_losses_first)
        rows = [(name, screen.number(curves[name][-1]), self._best_of(name)) for name in names]
        taken = sum(max(len(row[index]) for row in rows) + 2 for index in range(3))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for name, value, best in rows:
            curve = screen.sparkline(curves[name], max(10, min(_CURVE_WIDTH, width - taken)))
            grid.add_row(name, curve, value, Text(best, no_wrap=True))
        return grid

    def _best_of(self, name: str) -> str:
        if self.best is None or name != ("val_loss" if "val_loss" in self.curves[self.latest[0]] else "loss"):
            return ""
        trial = f", trial {self.best.trial + 1}" if self.trials > 1 else ""
        return f"best {screen.number(self.best.value)}: epoch {self.best.epoch}{trial}"

    def line(self) -> str:
        """Return the newest epoch in one line."""
        curves = self.curves[self.latest[0]]
        names = sorted(curves, key=_losses_first)
        return "  ".join([self.position, *(f"{name} {screen.number(curves[name][-1])}" for name in names)])


def _losses_first(name: str) -> tuple[bool, bool, str]:
    return (name == "learning_rate", "loss" not in name, name.removeprefix("val_") + name)


def show_new(session: Session, run: Run, watched: bool) -> None:
    """Show a run that has just been submitted, or watch it."""
    if watched:
        watch(session, run)
        return
    session.show(run, screen.pairs({"run": run.id, "state": screen.state(run.state), "model": run.model}))
    session.hint(f"Watch it: fitserve runs watch {run.id}")


def watch(session: Session, run: Run, hints: bool = True) -> None:
    """Follow a run to its end, reconnecting as needed. Raises typer.Exit unless it succeeded.

    With `hints`, a success ends with what to do next. Ctrl-C leaves the run running and prints how to return to it.
    """
    try:
        follow(session, run)
    except KeyboardInterrupt:
        lines = (
            "The run continues.",
            f"Come back to it:  fitserve runs watch {run.id}",
            f"Stop it:          fitserve runs cancel {run.id}",
        )
        for line in lines:
            session.err.print(line, markup=False, soft_wrap=True)
        raise typer.Exit(Exit.interrupted) from None
    report_end(session, run, hints)


def follow(session: Session, run: Run) -> None:
    """Show a run until its end."""
    training = (run.resolved or {}).get("training", {})
    search = (run.resolved or {}).get("search") or {}
    epochs, trials = int(training.get("epochs") or 1), int(search.get("trials") or training.get("restarts") or 1)
    display = RunDisplay(run.id, run.model, epochs, trials, state=run.state)

    def report_loss(error: FitserveError) -> None:
        display.lost = f"{error.detail} Trying again; the run continues."
        if not session.out.is_terminal:
            session.hint(display.lost)

    with _printer(session, display) as show:
        looked_at = 0.0
        for event in run.events(on_lost=report_loss):
            display.add(event)
            if search and session.out.is_terminal and time.monotonic() - looked_at > _BOARD_SECONDS:
                display.board, looked_at = leaderboard(run.trials(), search, _LEADERS), time.monotonic()
            show(event)
    run.wait(check=False)


def report_end(session: Session, run: Run, hints: bool = True) -> None:
    """Print how a run ended and what to do next. Raises typer.Exit unless it succeeded."""
    if session.json:
        typer.echo(screen.json_text({"run": run}, indent=None))
    else:
        session.out.print(summary(run))
    if run.state == "succeeded":
        if run.model and hints:
            session.hint(f"Predict with it: fitserve models predict {run.model} rows.csv")
        return
    if run.state == "failed":
        session.hint(f"See what went wrong: fitserve runs findings {run.id}    Try again: fitserve runs retry {run.id}")
    raise typer.Exit(Exit.run_cancelled if run.state == "cancelled" else Exit.run_failed)


def summary(run: Run) -> RenderableType:
    """Return a run's state, error and scores, in a few lines."""
    lines: list[RenderableType] = [Text.assemble((run.id, "bold"), "  ", screen.state(run.state))]
    if run.error:
        lines.append(Text(str(run.error.get("detail", "")), style="red"))
    parts = [part for part in ("train", "validation", "test") if run.scores(part)]
    if parts:
        names = list(run.scores(parts[0]))
        lines.append(screen.table(("rows", *names), [(part, *map(run.scores(part).get, names)) for part in parts]))
    if (search := (run.resolved or {}).get("search")) and (board := leaderboard(run.trials(), search, _BEST)):
        lines.append(board)
    return Group(*lines, *result_tables(run.result or {}))


@contextmanager
def _printer(session: Session, display: RunDisplay) -> Iterator[Callable[[EventInfo], None]]:
    """Yield a function that shows an event: as JSON, on a live display, or as a line."""
    if session.json:
        yield lambda event: typer.echo(screen.json_text(event, indent=None))
    elif session.out.is_terminal:
        with Live(display, console=session.out, refresh_per_second=8, transient=True):
            yield lambda event: None
    else:
        yield _LinePrinter(session, display)


class _LinePrinter:
    """Prints messages, and the newest epoch once a second and before any message."""

    def __init__(self, session: Session, display: RunDisplay) -> None:
        self.session = session
        self.display = display
        self.printed_at = 0.0
        self.pending = False

    def __call__(self, event: EventInfo) -> None:
        if event.type == "metrics":
            self.pending = True
            if time.monotonic() - self.printed_at >= _LINE_SECONDS:
                self._print_epoch()
            return
        if self.pending:
            self._print_epoch()
        self.session.out.print(event.message, markup=False, soft_wrap=True)

    def _print_epoch(self) -> None:
        self.session.out.print(self.display.line(), markup=False, soft_wrap=True)
        self.printed_at, self.pending = time.monotonic(), False
