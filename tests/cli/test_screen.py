"""What the command line prints."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fitserve.cli import screen


@given(st.lists(st.floats(), max_size=100), st.integers(1, 60))
def test_a_sparkline_is_never_wider_than_asked_and_ends_with_the_newest(values: list[float], width: int) -> None:
    line = screen.sparkline(values, width)
    finite = [value for value in values if math.isfinite(value)]
    assert len(line) <= width
    if finite and values and math.isfinite(values[-1]) and values[-1] == max(finite) > min(finite):
        assert len(values) > width or line[-1] == "█"


def test_a_sparkline_falls_with_the_loss() -> None:
    assert screen.sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert screen.sparkline([1.0, math.nan, 0.0]) == "█ ▁"
    assert screen.sparkline([1e4, 1e3, 1e2, 1e1, 1]) == "█▆▅▃▁"  # by their logarithms
    assert screen.sparkline([math.nan]) == ""
    assert screen.sparkline([5.0, 5.0]) == "▁▁"


def test_numbers_for_people() -> None:
    assert [screen.number(value) for value in (0.123456, 1234.5678, 1e9, math.nan)] == [
        "0.1235",
        "1235",
        "1.000e+09",
        "nan",
    ]
    assert [screen.size(value) for value in (999, 1_500, 2_300_000_000)] == ["999 B", "1.5 kB", "2.3 GB"]
    assert [screen.duration(value) for value in (0.5, 42, 187, 7387)] == ["0.50 s", "42 s", "3:07", "2:03:07"]
    now = datetime.now(UTC)
    assert screen.ago(now - timedelta(hours=3)) == "3 h ago"
    assert screen.ago(now + timedelta(days=90, minutes=1)) == "in 90 d"


def test_tables_fit_the_terminal_and_carry_no_control_characters() -> None:
    table = screen.table(("name", "value"), [("a\x1b[31mred\nline" + "x" * 200, 12345)])
    console = Console(width=40, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 40
    assert "\x1b" not in capture.get()
    assert "12,345" in lines[1]
    assert len(lines) == 2
