"""Watching a run: a live picture on a terminal, plain lines elsewhere, JSON Lines for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fitserve.cli import screen
from fitserve.cli.exits import Exit
from fitserve.cli.session import Session
from fitserve.errors import FitserveError

if TYPE_CHECKING:
    from fitserve.client.effects import Sync
    from fitserve.client.runs import Run
    from fitserve.wire.runs import EventInfo

_EVERY = 1.0  # seconds between two lines of epochs where there is no terminal
_RECENT = 20  # epochs that the rate is taken from


@dataclass
class Picture:
    """What is known of a run while it trains."""

    run_id: str
    model: str | None
    epochs: int  # at most so many, in each trial
    trials: int = 1
    state: str = "queued"
    note: str = ""
    lost: str = ""
    logs: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    done: int = 0
    trial: int = 0
    best: tuple[int, float] | None = None
    arrivals: list[float] = field(default_factory=list)

    def take(self, event: EventInfo) -> None:
        """Learns from an event."""
        self.lost = ""
        if event.type == "state":
            self.state = str(event.data.get("state", self.state))
        if event.type != "metrics":
            self.note = event.message
            return
        self.state, self.note = "running", ""
        if int(event.data.get("trial", 0)) != self.trial:
            self.trial, self.curves, self.best = int(event.data["trial"]), {}, None
        self.done = int(event.data.get("epoch", self.done + 1))
        self.logs = {name: value for name, value in event.data.get("logs", {}).items() if value is not None}
        for name, value in self.logs.items():
            self.curves.setdefault(name, []).append(float(value))
        loss = self.logs.get("val_loss", self.logs.get("loss"))
        if loss is not None and (self.best is None or loss < self.best[1]):
            self.best = (self.done, loss)
        self.arrivals = [*self.arrivals[-_RECENT:], event.created_at.timestamp()]

    @property
    def rate(self) -> float | None:
        """Epochs a second, of late."""
        if len(self.arrivals) < 3 or self.arrivals[-1] <= self.arrivals[0]:
            return None
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])

    @property
    def seconds_left(self) -> float | None:
        """At most, as early stopping may end it sooner."""
        left = self.epochs * self.trials - (self.trial * self.epochs + self.done)
        return None if not self.rate else left / self.rate

    def __rich__(self) -> RenderableType:
        lines: list[RenderableType] = [self._headline()]
        if self.state == "running" and self.done:
            lines += [self._bar(), self._figures()]
        if self.note:
            lines.append(Text(self.note, style="dim"))
        if self.lost:
            lines.append(Text(self.lost, style="yellow"))
        return Group(*lines)

    def _headline(self) -> Text:
        name = f"  {self.model}" if self.model else ""
        return Text.assemble((self.run_id, "bold"), name, "  ", screen.state(self.state))

    def _bar(self) -> Table:
        row = Table.grid(padding=(0, 2, 0, 0))
        where = f"epoch {self.done}/{self.epochs}"
        if self.trials > 1:
            where = f"trial {self.trial + 1}/{self.trials}  {where}"
        speed = f"{self.rate:.1f} epochs/s" if self.rate else ""
        left = f"at most {screen.duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        done = self.trial * self.epochs + self.done
        row.add_row(ProgressBar(self.epochs * self.trials, done, width=30), where, speed, left)
        return row

    def _figures(self) -> Table:
        made = Table.grid(padding=(0, 2, 0, 0))
        for name in sorted(self.logs, key=_losses_first):
            made.add_row(
                name, screen.sparkline(self.curves[name], 30), screen.number(self.logs[name]), self._best(name)
            )
        return made

    def _best(self, name: str) -> str:
        if self.best is None or name != ("val_loss" if "val_loss" in self.logs else "loss"):
            return ""
        return f"best {screen.number(self.best[1])} at epoch {self.best[0]}"

    def line(self) -> str:
        """The newest epoch in one line."""
        figures = "  ".join(f"{name} {screen.number(self.logs[name])}" for name in sorted(self.logs, key=_losses_first))
        trial = f"trial {self.trial + 1}/{self.trials}  " if self.trials > 1 else ""
        return f"{trial}epoch {self.done}/{self.epochs}  {figures}"


def _losses_first(name: str) -> tuple[bool, bool, str]:
    return (name == "learning_rate", "loss" not in name, name.removeprefix("val_") + name)


def watch(session: Session, run: Run[Sync]) -> None:
    """Follows a run to its end, through lost connections. Raises typer.Exit unless it succeeded.

    Ctrl-C leaves the run going and says how to come back to it.
    """
    try:
        follow(session, run)
    except KeyboardInterrupt:
        session.err.print(f"\nThe run {run.id} goes on. Come back to it: fitserve runs watch {run.id}", markup=False)
        session.err.print(f"Stop it: fitserve runs cancel {run.id}", markup=False)
        raise typer.Exit(Exit.interrupted) from None
    end(session, run)


def follow(session: Session, run: Run[Sync]) -> None:
    """Shows a run until its end."""
    picture = picture_of(run)
    with _shown(session, picture) as show:
        for event in run.events(on_lost=lambda error: _lost(session, picture, error)):
            picture.take(event)
            show(event)
    run.wait(check=False)


def end(session: Session, run: Run[Sync]) -> None:
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


def summary(run: Run[Sync]) -> RenderableType:
    """How a run ended, in a few lines."""
    lines: list[RenderableType] = [Text.assemble((run.id, "bold"), "  ", screen.state(run.state))]
    if run.error:
        lines.append(Text(str(run.error.get("detail", "")), style="red"))
    parts = [part for part in ("train", "validation", "test") if run.scores(part)]
    if parts:
        names = list(run.scores(parts[0]))
        lines.append(screen.table(("rows", *names), [(part, *map(run.scores(part).get, names)) for part in parts]))
    return Group(*lines)


def picture_of(run: Run[Sync]) -> Picture:
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
        shown_at = 0.0

        def line(event: EventInfo) -> None:
            nonlocal shown_at
            if event.type != "metrics":
                session.out.print(event.message, markup=False)
            elif time.monotonic() - shown_at >= _EVERY:
                shown_at = time.monotonic()
                session.out.print(picture.line(), markup=False)

        yield line
