"""What the command line shows: tables that fit the terminal, short numbers, sparklines; or JSON."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
WHOLE = frozenset({"id", "run", "dataset", "model"})  # columns that people copy from: never cut
_GAP = 2  # characters between two columns
_SHORT = 10  # characters: a column that is no wider is never cut
_PIPE_WIDTH = 200  # where no terminal sets a width
STATE_STYLES = {"queued": "yellow", "running": "cyan", "succeeded": "green", "failed": "red", "cancelled": "magenta"}


def make_console(stderr: bool = False) -> Console:
    """A console on standard output or standard error; wide where that is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def as_json(value: Any) -> Any:
    """Models and what holds them, as JSON values."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)  # what the server said, and nothing else
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Iterable):
        return [as_json(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


def json_text(value: Any, indent: int | None = 2) -> str:
    """One JSON document."""
    return json.dumps(as_json(value), ensure_ascii=False, indent=indent, default=str)


@dataclass(frozen=True)
class Rows:
    """A table that fits the terminal: columns that may go do so, in their order; then long text is cut."""

    columns: Sequence[str]
    cells: Sequence[Sequence[Text]]
    title: str | None
    may_go: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self.columns)))
        for name in self.may_go:
            if sum(self._width(index) + _GAP for index in shown) - _GAP <= options.max_width:
                break
            shown.remove(self.columns.index(name))
        yield self._made(shown)

    def _width(self, index: int) -> int:
        return max(len(self.columns[index]), *(row[index].cell_len for row in self.cells), 0)

    def _made(self, shown: Sequence[int]) -> Table:
        made = Table(title=self.title, title_justify="left", box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        made.header_style = "bold"
        for index in shown:
            name = self.columns[index]
            numbers = bool(self.cells) and all(_is_number(row[index]) for row in self.cells)
            side: Any = "right" if numbers else "left"
            # Rich takes the width that is missing from columns that may wrap; their cells are cut instead.
            whole = numbers or name in WHOLE or max((row[index].cell_len for row in self.cells), default=0) <= _SHORT
            made.add_column(name, justify=side, overflow="ellipsis", no_wrap=whole)
        for row in self.cells:
            made.add_row(*(row[index] for index in shown))
        return made


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, may_go: Sequence[str] = ()
) -> Rows:
    """A table: numbers to the right. Where the terminal is narrow the columns `may_go` are left out, the first first;
    then long text is cut.
    """
    return Rows(columns, [[_on_one_line(_cell(value)) for value in row] for row in rows], title, may_go)


def _on_one_line(cell: Text) -> Text:
    cell.no_wrap, cell.overflow = True, "ellipsis"
    return cell


def pairs(values: Mapping[str, Any], title: str | None = None) -> Table:
    """Names and values, one a line."""
    made = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in values.items():
        if value is not None and value != "":
            made.add_row(name, _cell(value))
    return made


def state(name: str) -> Text:
    """A run's state in its colour."""
    return Text(name, STATE_STYLES.get(name, ""))


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(number(value))
    if isinstance(value, int):
        return Text(f"{value:,}" if abs(value) >= 10_000 else str(value))
    if isinstance(value, datetime):
        return Text(ago(value))
    if isinstance(value, list | tuple):
        return Text(", ".join(str(item) for item in value))
    return Text("" if value is None else _one_line(str(value)))


def _is_number(cell: Text) -> bool:
    plain = cell.plain.replace(",", "").rstrip("%")
    try:
        float(plain or "0")
    except ValueError:
        return False
    return True


def _one_line(text: str) -> str:
    """Control characters must not reach a terminal from a file or a server."""
    return "".join(char if char.isprintable() else " " for char in text)


def number(value: float | None) -> str:
    """Four significant digits, short."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return ""
    units = ("B", "kB", "MB", "GB", "TB")
    index = 0
    while abs(count) >= 1000 and index < len(units) - 1:
        count, index = count / 1000, index + 1
    return f"{count:.0f} {units[index]}" if index == 0 else f"{count:.1f} {units[index]}"


def duration(seconds: float | None) -> str:
    """Seconds for people: `0.42 s`, `12 s`, `3:07`, `2:03:07`."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(when: datetime | None) -> str:
    """How long ago, for people."""
    if when is None:
        return ""
    seconds = (datetime.now(UTC) - when.astimezone(UTC)).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= length:
            count = f"{abs(seconds) / length:.0f} {unit}"
            return f"in {count}" if seconds < 0 else f"{count} ago"
    return f"in {-seconds:.0f} s" if seconds < -1 else f"{max(0, seconds):.0f} s ago"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The course of a figure in one line, the newest at the right; gaps are where it was no number.

    Positive figures that fall by more than a hundredfold are drawn by their logarithms.
    """
    if len(values) > width:
        step = len(values) / width
        values = [values[min(len(values) - 1, int((index + 1) * step) - 1)] for index in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    if low > 0 and high / low > 100:
        return sparkline([math.log(value) if math.isfinite(value) else math.nan for value in values], width)
    span = (high - low) or 1.0
    return "".join(
        _BARS[round((value - low) / span * (len(_BARS) - 1))] if math.isfinite(value) else " " for value in values
    )
