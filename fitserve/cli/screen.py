"""Output of the command line: tables that fit the terminal, short numbers, sparklines; or JSON."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import humanize
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_NEVER_CUT = frozenset({"id", "run", "dataset", "model"})  # columns whose values people copy
_GAP = 2  # characters between two columns
_SHORT = 10  # characters: a column that is no wider is never cut
_PIPE_WIDTH = 200  # width without a terminal
STATE_STYLES = {"queued": "yellow", "running": "cyan", "succeeded": "green", "failed": "red", "cancelled": "magenta"}


def make_console(stderr: bool = False) -> Console:
    """Return a console on standard output or standard error; wide if that is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def json_text(value: Any, indent: int | None = 2) -> str:
    """Return models, or lists and mappings that contain them, as one JSON document."""
    return json.dumps(_json_values(value), ensure_ascii=False, indent=indent, default=str)


def _json_values(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)  # only what the server sent
    if isinstance(value, Mapping):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Iterable):
        return [_json_values(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


@dataclass(frozen=True)
class FittedTable:
    """A table that fits the terminal: drops the columns `droppable`, in their order; then cuts long text."""

    columns: Sequence[str]
    cells: Sequence[Sequence[Text]]
    title: str | None
    droppable: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self.columns)))
        for name in self.droppable:
            if sum(self._width(index) + _GAP for index in shown) - _GAP <= options.max_width:
                break
            shown.remove(self.columns.index(name))
        grid = Table(title=self.title, title_justify="left", box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        grid.header_style = "bold"
        for index in shown:
            name = self.columns[index]
            numbers = bool(self.cells) and all(_is_number(row[index]) for row in self.cells)
            longest = max((row[index].cell_len for row in self.cells), default=0)
            # If the width is short, Rich shrinks columns that may wrap; cutting their cells keeps the others whole.
            whole = numbers or name in _NEVER_CUT or longest <= _SHORT
            grid.add_column(name, justify="right" if numbers else "left", overflow="ellipsis", no_wrap=whole)
        for row in self.cells:
            grid.add_row(*(row[index] for index in shown))
        yield grid

    def _width(self, index: int) -> int:
        return max(len(self.columns[index]), *(row[index].cell_len for row in self.cells), 0)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, droppable: Sequence[str] = ()
) -> FittedTable:
    """Return a table with numbers aligned right. A narrow terminal drops the columns `droppable`, in order."""
    cells = [[_cell(value) for value in row] for row in rows]
    for cell in (cell for row in cells for cell in row):
        cell.no_wrap, cell.overflow = True, "ellipsis"
    return FittedTable(columns, cells, title, droppable)


def pairs(values: Mapping[str, Any], title: str | None = None) -> Table:
    """Return names and values, one per line, without those that are None or empty."""
    grid = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        if value is not None and value != "":
            grid.add_row(name, _cell(value))
    return grid


def state(name: str) -> Text:
    """Return a run's state in its colour."""
    return Text(name, STATE_STYLES.get(name, ""))


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(number(value))
    if isinstance(value, int):
        return Text(humanize.intcomma(value) if abs(value) >= 10_000 else str(value))
    if isinstance(value, datetime):
        return Text(age(value))
    if isinstance(value, list | tuple):
        return Text(", ".join(str(item) for item in value))
    # Control characters must not reach a terminal from a file or a server.
    return Text("".join(char if char.isprintable() else " " for char in str(value)) if value is not None else "")


def _is_number(cell: Text) -> bool:
    plain = cell.plain.replace(",", "").rstrip("%")
    try:
        float(plain or "0")
    except ValueError:
        return False
    return True


def number(value: float | None) -> str:
    """Return a number with four significant digits."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"


def size(count: float | None) -> str:
    """Return bytes with a decimal unit: `999 Bytes`, `1.5 kB`."""
    return "" if count is None else humanize.naturalsize(count)


def duration(seconds: float | None) -> str:
    """Return a duration: `0.42 s`, `12 s`, `3:07`, `2:03:07`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")


def age(when: datetime | None) -> str:
    """Return how long ago a time is, or how far ahead: `3 hours ago`, `2 months from now`."""
    return "" if when is None else humanize.naturaltime(when.astimezone(UTC), when=datetime.now(UTC))


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Return a figure's curve in one line, the newest value at the right, a gap where a value is not finite.

    Positive figures that fall by more than a hundredfold are drawn on a logarithmic scale.
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
    if math.isinf(high - low):  # the ends are finite, but their distance is not
        return sparkline([value / 4 for value in values], width)
    span = (high - low) or 1.0
    return "".join(
        _BARS[round((value - low) / span * (len(_BARS) - 1))] if math.isfinite(value) else " " for value in values
    )
