"""A trainer's output, as forwarded by the worker: levels, long lines, bytes of every kind, successive runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from fitserve.settings import Settings
from workers import trainer_output
from workers.trainer_output import MAX_LINE, TrainerOutput
from workers.trainer_process import TrainerSlot

INFO = b"I1129 15:00:00.000000 12 a.cc:1] "


def passed_on(written: bytes, between: Callable[[TrainerOutput], Any] = lambda output: None) -> list[str]:
    """Return the last lines of what is written, read to its end."""
    reading, writing = os.pipe()
    output = TrainerOutput(os.fdopen(reading, "rb"), 1)  # its thread closes it
    os.write(writing, written)
    os.close(writing)
    output.last_lines()
    between(output)
    return output.last_lines()


def test_the_pieces_of_a_long_line_have_one_level_and_whole_characters(caplog: pytest.LogCaptureFixture) -> None:
    long = "é" * MAX_LINE
    assert passed_on(INFO + long.encode() + b"\n") == [], "the rest of a notice is none of its own"
    assert "".join(passed_on(b"x" + long.encode() + b"\nlast\n")) == f"x{long}last"
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_bytes_of_every_kind_are_one_text_without_control_characters() -> None:
    assert passed_on(b"a\0b\x1b[31m\xff\tc\r\n\n \nno end") == ["a b [31m\ufffd\tc", "no end"]


def test_a_traceback_that_nothing_ends_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    frames = b'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\n'
    assert passed_on(frames + b"MemoryError\n") == ["MemoryError"]
    assert passed_on(frames) == ["    f()"]
    assert [record.__dict__["traceback"].count("\n") for record in caplog.records] == [3, 2]
    long = b"Traceback (most recent call last):\n  " + b"x" * 300 * MAX_LINE
    assert len(passed_on(long + b"\n")) == 2, "pieces of an endless line are kept up to a limit"


def test_a_trainer_that_writes_without_end_fills_no_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_output, "MAX_LINES", 3)
    written = b"".join(b"line %d\n" % number for number in range(10))
    assert passed_on(written)[-1] == "line 9", "a failure names the last lines, logged or not"
    assert [record.message for record in caplog.records] == ["line 0", "line 1", "line 2", "trainer's lines left out"]
    assert caplog.records[-1].__dict__["lines"] == 7
    caplog.clear()
    monkeypatch.setattr(trainer_output, "LINES_SECONDS", -1.0)  # each line begins a new time
    passed_on(written)
    assert len(caplog.records) == 10


def test_a_warm_trainers_next_run_has_no_line_of_the_one_before() -> None:
    """It may be another owner's."""

    def take_warm(output: TrainerOutput) -> None:
        with ThreadPoolExecutor(1) as spawner:
            slot = TrainerSlot(Settings(), spawner, "worker-0")
            warm = {"alive": True, "in_gang": False, "wait_ready": lambda seconds: True, "runs": 1, "peak": 7}
            taken: Any = SimpleNamespace(output=output, **warm)
            slot._trainer = taken
            assert slot.trainer(lambda: None) is taken

    assert passed_on(b"of the first\n") == ["of the first"]
    assert passed_on(b"of the first\n", take_warm) == []
