"""Tables, numbers and the display of a run on a terminal."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fitserve.cli import screen
from fitserve.cli.search_tables import leaderboard, result_tables
from fitserve.cli.watch import RunDisplay
from fitserve.wire.runs import EventInfo, TrialInfo


@given(st.lists(st.floats(), max_size=100), st.integers(1, 60))
def test_a_sparkline_fits_the_width_and_ends_with_the_newest(values: list[float], width: int) -> None:
    line = screen.sparkline(values, width)
    finite = [value for value in values if math.isfinite(value)]
    assert len(line) <= width
    if finite and values and math.isfinite(values[-1]) and values[-1] == max(finite) > min(finite):
        assert len(values) > width or line[-1] == "█"


def test_a_sparkline_falls_with_the_loss() -> None:
    assert screen.sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert screen.sparkline([1.0, math.nan, 0.0]) == "█ ▁"
    assert screen.sparkline([1e4, 1e3, 1e2, 1e1, 1]) == "█▆▅▃▁"  # on a logarithmic scale
    assert screen.sparkline([math.nan]) == ""
    assert screen.sparkline([5.0, 5.0]) == "▁▁"


def test_numbers_for_people() -> None:
    assert [screen.number(value) for value in (0.123456, 1234.5678, 1e9, math.nan)] == [
        "0.1235",
        "1235",
        "1.000e+09",
        "nan",
    ]
    assert [screen.size(value) for value in (999, 1_500, 2_300_000_000)] == ["999 Bytes", "1.5 kB", "2.3 GB"]
    assert [screen.duration(value) for value in (0.5, 42, 187, 607, 7387)] == [
        "0.50 s",
        "42 s",
        "3:07",
        "10:07",
        "2:03:07",
    ]
    now = datetime.now(UTC)
    assert screen.age(now - timedelta(hours=3)) == "3 hours ago"
    assert screen.age(now + timedelta(days=92)) == "3 months from now"


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


def test_droppable_columns_make_room_and_ids_stay_whole() -> None:
    run = "run_01kb2c9mtf3q8v0x7s1w5y6z4a"
    table = screen.table(
        ("run", "state", "dataset", "score"),
        [(run, "succeeded", "ds_01kb2c9mtf3q8v0x7s1w5y6z4a", "accuracy 0.68 (test)")],
        droppable=("dataset",),
    )
    for width, shown in ((80, False), (120, True)):
        console = Console(width=width, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(table)
        assert run in capture.get()
        assert "accuracy 0.68 (test)" in capture.get()
        assert ("dataset" in capture.get()) is shown


def test_a_run_is_watched_in_80_columns() -> None:
    display = RunDisplay("run_01kb2c9mtf3q8v0x7s1w5y6z4a", "admissions", epochs=6000, trials=3, state="running")
    start = datetime.now(UTC)
    for epoch in range(1, 200):
        for trial in range(3):
            logs = {"loss": 1 / epoch, "val_loss": 0.5 + epoch / 1000, "val_accuracy": 0.5}
            data = {"trial": trial, "epoch": epoch, "logs": logs}
            moment = start + timedelta(seconds=epoch // 20)  # a worker reports several epochs at once
            event = {"id": epoch * 3 + trial, "type": "metrics", "message": "", "data": data, "created_at": moment}
            display.add(EventInfo(run_id=display.run_id, attempt=1, level="info", **event))
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(display)
    lines = capture.get().splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80
    assert "60 epochs/s  at most 4:50 left" in lines[1]
    assert "best 0.501: epoch 1, trial 1" in lines[3]
    assert "…" not in capture.get()


def test_a_search_shows_its_best_trials_and_what_was_found() -> None:
    def trial(number: int, state: str, value: float | None, **values: Any) -> TrialInfo:
        more = {"epochs": 9, "best_epoch": 9, "seconds": 1.0, "reason": None, "created_at": None, "finished_at": None}
        return TrialInfo(trial=number, state=state, values=values, value=value, **more)

    trials = [
        trial(0, "succeeded", 0.5, units=8, optimizer={"SGD": {"learning_rate": 0.1}}),
        trial(1, "succeeded", 0.25, units=32, optimizer="Adam"),
        trial(2, "pruned", 0.75, units=16, optimizer="Adam"),
        trial(3, "running", None, units=4, optimizer="Adam"),
    ]
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(leaderboard(trials, {"metric": "val_loss", "direction": "min"}, 5))
        effect = {"part": "dropout", "says": "no effect", "effect": -0.01, "low": -0.1, "high": 0.08, "pairs": 5}
        check = {
            "check": "first_loss",
            "passed": False,
            "says": "It begins with a loss of 9.",
            "fix": "standardize: true",
        }
        for part in result_tables({"ablation": {"metric": "val_loss", "parts": [effect]}, "sanity": [check]}):
            console.print(part)
    lines = capture.get().splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["2", "0.25", "32"], ["1", "0.5", "8"]]
    assert "{SGD: {learning_rate: 0…" in lines[2]
    assert "2 succeeded, 1 pruned, 1 running" in capture.get()
    assert "no effect" in capture.get()
    assert "finding  It begins with a loss of 9. (standardize: true)" in capture.get()
