"""The file of held-out rows reads back as written, also if only one part was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fitserve.decisions.held_out import HeldOut, HeldOutParts


def rows_of(count: int, **measured: np.ndarray) -> HeldOut:
    values = np.linspace(0, 1, count, dtype=np.float32).reshape(-1, 1)
    return HeldOut(np.arange(count), {"y": np.zeros(count, np.int32)}, {"y": values}, **measured)


def test_parts_are_read_as_they_were(tmp_path: Path) -> None:
    warned, distance = np.array([True, False, True]), np.array([0.5, 2.0, 1.0])
    parts = {"validation": rows_of(5), "test": rows_of(3, warned=warned, distance=distance)}
    HeldOutParts(parts).write(tmp_path / "rows.parquet")
    read = HeldOutParts.read((tmp_path / "rows.parquet").read_bytes(), {"outputs": []})
    validation, test = read.get("validation"), read.get("test")
    assert validation is not None
    assert test is not None
    assert (len(validation), validation.warned, validation.distance) == (5, None, None)
    np.testing.assert_array_equal(test.warned, warned)
    np.testing.assert_array_equal(test.distance, distance)
    np.testing.assert_array_equal(test.values["y"], parts["test"].values["y"])
