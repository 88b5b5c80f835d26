"""Watching a run: a live picture on a terminal, plain lines elsewhere, JSON Lines for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fitserve.cli import screen
from fitserve.cli.exit_codes import Exit
from fitserve.cli.session import Session
from fitserve.errors import FitserveError

if TYPE_CHECKING:
    from fitserve.client.runs import Run
    from fitserve.wire.runs import EventInfo

_EVERY = 1.0  # seconds between two lines of epochs where there is no terminal
_RECENT = 10  # arrivals that the rate is taken from; a worker reports several epochs at once
_CURVE = 30  # characters


@dataclass(frozen=True)
class Best:
    """The lowest (validation) loss so far."""

    value: float
    trial: int
    epoch: int


@dataclass
class Picture:
    """What is known of a run while it trains. Trials may come one after the other, or all of them epoch by epoch."""

    run_id: str
    model: str | None
    epochs: int  # at most so many, in each trial
    trials: int = 1
    state: str = "queued"
    note: str = ""
    lost: str = ""
    curves: dict[int, dict[str, list[float]]] = field(default_factory=dict)  # by trial and figure
    latest: tuple[int, int] = (0, 0)  # trial from 0, epoch from 1
    best: Best | None = None
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # when, and how many epochs there were then

    def take(self, event: EventInfo) -> None:
        """Learns from an event."""
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
            self.best = Best(loss, trial, epoch)
        arrived = event.created_at.timestamp()
        before = self.arrivals[:-1] if self.arrivals and self.arrivals[-1][0] == arrived else self.arrivals
        self.arrivals = [*before[-_RECENT:], (arrived, self.done)]

    @property
    def done(self) -> int:
        """Epochs seen, of all trials."""
        return sum(len(figures.get("loss", ())) for figures in self.curves.values())

    @property
    def rate(self) -> float | None:
        """Epochs a second, of late."""
        if len(self.arrivals) < 2:
            return None
        (began, before), (ended, done) = self.arrivals[0], self.arrivals[-1]
        return (done - before) / (ended - began) if ended > began else None

    @property
    def seconds_left(self) -> float | None:
        """At most, as early stopping may end it sooner."""
        return None if not self.rate else max(0, self.epochs * self.trials - self.done) / self.rate

    @property
    def place(self) -> str:
        """The newest epoch."""
        trial, epoch = self.latest
        return (
            f"trial {trial + 1}/{self.trials}  epoch {epoch}/{self.epochs}"
            if self.trials > 1
            else (f"epoch {epoch}/{self.epochs}")
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines: list[RenderableType] = [self._headline()]
        if self.state == "running" and self.curves:
            lines += [self._bar(options.max_width), self._figures(options.max_width)]
        if self.note:
            lines.append(Text(self.note, style="dim"))
        if self.lost:
            lines.append(Text(self.lost, style="yellow"))
        yield Group(*lines)

    def _headline(self) -> Text:
        name = f"  {self.model}" if self.model else ""
        return Text.assemble((self.run_id, "bold"), name, "  ", screen.state(self.state))

    def _bar(self, width: int) -> Table:
        """How far it is, in one line: what does not fit is left out."""
        said = [
            self.place,
            f"{self.rate:,.3g} epochs/s" if self.rate else "",
            f"at most {screen.duration(self.seconds_left)} left" if self.seconds_left is not None else "",
        ]
        bar = max(10, min(_CURVE, width - sum(len(text) + 2 for text in said)))
        row = Table.grid(padding=(0, 2, 0, 0))
        texts = [Text(text, no_wrap=True) for text in said]
        row.add_row(ProgressBar(self.epochs * self.trials, self.done, width=bar), *texts)
        return row

    def _figures(self, width: int) -> Table:
        """The curves of the newest trial, and the best figure so far."""
        curves = self.curves[self.latest[0]]
        names = sorted(curves, key=_losses_first)
        rows = [(name, screen.number(curves[name][-1]), self._best_of(name)) for name in names]
        taken = sum(max(len(row[index]) for row in rows) + 2 for index in range(3))
        made = Table.grid(padding=(0, 2, 0, 0))
        for name, value, best in rows:
            curve = screen.sparkline(curves[name], max(10, min(_CURVE, width - taken)))
            made.add_row(name, curve, value, Text(best, no_wrap=True))
        return made

    def _best_of(self, name: str) -> str:
        if self.best is None or name != ("val_loss" if "val_loss" in self.curves[self.latest[0]] else "loss"):
            return ""
        trial = f", trial {self.best.trial + 1}" if self.trials > 1 else ""
        return f"best {screen.number(self.best.value)}: epoch {self.best.epoch}{trial}"

    def line(self) -> str:
        """The newest epoch in one line."""
        curves = self.curves[self.latest[0]]
        names = sorted(curves, key=_losses_first)
        return "  ".join([self.place, *(f"{name} {screen.number(curves[name][-1])}" for name in names)])


def _losses_first(name: str) -> tuple[bool, bool, str]:
    return (name == "learning_rate", "loss" not in name, name.removeprefix("val_") + name)


def watch(session: Session, run: Run) -> None:
    """Follows a run to its end, through lost connections. Raises typer.Exit unless it succeeded.

    Ctrl-C leaves the run going and says how to come back to it.
    """
    try:
        follow(session, run)
    except KeyboardInterrupt:
        lines = (
            "The run goes on.",
            f"Come back to it:  fitserve runs watch {run.id}",
            f"Stop it:          fitserve runs cancel {run.id}",
        )
        for line in lines:
            session.err.print(line, markup=False, soft_wrap=True)
        raise typer.Exit(Exit.interrupted) from None
    end(session, run)


def follow(session: Session, run: Run) -> None:
    """Shows a run until its end."""
    picture = picture_of(run)
    with _shown(session, picture) as show:
        for event in run.events(on_lost=lambda error: _lost(session, picture, error)):
            picture.take(event)
            show(event)
    run.wait(check=False)


def end(session: Session, run: Run) -> None:
    """Says how a run ended and what can be done next. Raises typer.Exit unless it succeeded."""
    if session.json:
        typer.echo(screen.json_text({"run": run}, indent=None))
    else:
        session.out.print(summary(run))
    if run.state == "succeeded":
        if run.model:
            session.say(f"Ask it: fitserve models predict {run.model} rows.csv")
        return
    if run.state == "failed":
        session.say(f"See what it did: fitserve runs findings {run.id}    Try again: fitserve runs retry {run.id}")
    raise typer.Exit(Exit.run_cancelled if run.state == "cancelled" else Exit.run_failed)


def summary(run: Run) -> RenderableType:
    """How a run ended, in a few lines."""
    lines: list[RenderableType] = [Text.assemble((run.id, "bold"), "  ", screen.state(run.state))]
    if run.error:
        lines.append(Text(str(run.error.get("detail", "")), style="red"))
    parts = [part for part in ("train", "validation", "test") if run.scores(part)]
    if parts:
        names = list(run.scores(parts[0]))
        lines.append(screen.table(("rows", *names), [(part, *map(run.scores(part).get, names)) for part in parts]))
    return Group(*lines)


def picture_of(run: Run) -> Picture:
    """What is known before the first event."""
    training = (run.resolved or {}).get("training", {})
    return Picture(
        run.id,
        run.model,
        int(training.get("epochs") or 1),
        int(training.get("restarts") or 1),
        state=run.state,
    )


def _lost(session: Session, picture: Picture, error: FitserveError) -> None:
    picture.lost = f"{error.detail} Trying again; the run goes on."
    if not session.out.is_terminal:
        session.say(picture.lost)


@contextmanager
def _shown(session: Session, picture: Picture) -> Iterator[Any]:
    """A function that shows each event, in the way that suits where it goes."""
    if session.json:
        yield lambda event: typer.echo(screen.json_text(event, indent=None))
    elif session.out.is_terminal:
        with Live(picture, console=session.out, refresh_per_second=8, transient=True):
            yield lambda event: None
    else:
        yield _Lines(session, picture)


class _Lines:
    """Messages, and epochs once a second; the last one before anything else is said."""

    def __init__(self, session: Session, picture: Picture) -> None:
        self.session = session
        self.picture = picture
        self.shown_at = 0.0
        self.waiting = False

    def __call__(self, event: EventInfo) -> None:
        if event.type == "metrics":
            self.waiting = True
            if time.monotonic() - self.shown_at >= _EVERY:
                self._epoch()
            return
        if self.waiting:
            self._epoch()
        self.session.out.print(event.message, markup=False, soft_wrap=True)

    def _epoch(self) -> None:
        self.session.out.print(self.picture.line(), markup=False, soft_wrap=True)
        self.shown_at, self.waiting = time.monotonic(), False
