"""Untrusted weight files are refused before the sizes that they claim are allocated."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitserve import weights_file
from fitserve.errors import BadInput

KERNEL = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
BIAS = {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}
ARRAYS = {"dense/0": KERNEL, "dense/1": BIAS}
HUGE = 10 * 1024**3
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(header: Any, numbers: bytes = bytes(24), length: int | None = None) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / "weights"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + numbers)
        return path

    return write_file


def test_what_was_written_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    arrays = {"dense/0": np.arange(6.0).reshape(2, 3), "dense/1": np.zeros(3), "a b [é]/0": np.zeros((0, 4))}
    weights_file.write(path, arrays)
    assert {name: one.shape for name, one in weights_file.check(path).items()} == {
        name: array.shape for name, array in arrays.items()
    }
    for name, array in weights_file.read(path).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_numbers_of_16_and_64_bits_are_read_as_32(write: Write) -> None:
    header = {
        "dense/0": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
        "dense/1": {"dtype": "F64", "shape": [1], "data_offsets": [4, 12]},
        "__metadata__": {"made": "elsewhere"},
    }
    path = write(header, np.array([1, 2], np.float16).tobytes() + np.array([0.1], np.float64).tobytes())
    assert list(weights_file.check(path)) == ["dense/0", "dense/1"]
    assert weights_file.read(path)["dense/1"] == np.float32(0.1)


def changed(**change: Any) -> dict[str, Any]:
    return {**ARRAYS, "dense/1": {**BIAS, **change}}


@pytest.mark.parametrize(
    ("header", "numbers", "length", "words"),
    [
        (b"", b"", None, "as long as it says"),
        (ARRAYS, bytes(24), HUGE, "as long as it says"),
        (ARRAYS, bytes(24), 2**64 - 1, "as long as it says"),
        (b"{" * 5000, b"", None, "not JSON"),
        (b"\xff\xfe{}", b"", None, "not JSON"),
        (b"[]", b"", None, "not an object"),
        ({}, b"", None, "no arrays"),
        (b'{"dense/0": 1, "dense/0": 2}', b"", None, "twice"),
        ({"kernel": KERNEL}, bytes(16), None, "does not name a layer"),
        ({"dense/kernel": KERNEL}, bytes(16), None, "does not name a layer"),
        (b'{"\\ud800/0": {"dtype": "F32"}}', b"", None, "does not name a layer"),
        (b'{"dense/0": {"dtype": "\\ud800"}}', b"", None, "has the dtype"),
        (changed(dtype="I64"), bytes(24), None, "dtype 'I64'"),
        (changed(dtype="BF16"), bytes(24), None, "dtype 'BF16'"),
        (changed(dtype=["F32"]), bytes(24), None, "has the dtype"),
        (changed(shape=[HUGE]), bytes(24), None, "needs"),
        (changed(shape=[2**40, 2**40]), bytes(24), None, "needs"),
        (changed(shape=[-2]), bytes(24), None, "cannot be read"),
        (changed(shape=[True]), bytes(24), None, "cannot be read"),
        (changed(shape=[1] * 9), bytes(24), None, "cannot be read"),
        (changed(data_offsets=[8, 16]), bytes(24), None, "overlaps"),
        (changed(data_offsets=[20, 28]), bytes(28), None, "leaves a gap"),
        (changed(data_offsets=[24, 16]), bytes(24), None, "needs"),
        ({"dense/0": 1}, bytes(16), None, "dtype None"),
        (ARRAYS, bytes(20), None, "do not end"),
        (ARRAYS, bytes(30), None, "do not end"),
        (ARRAYS, bytes(16) + np.array([1, np.nan], np.float32).tobytes(), None, "dense/1 is nan at [1]"),
        (ARRAYS, np.array([1, 2, np.inf, 4, 5, 6], np.float32).tobytes(), None, "dense/0 is inf at [1, 0]"),
        (
            {"dense/0": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}},
            np.array([1e300]).tobytes(),
            None,
            "1e+300",
        ),
    ],
)
def test_a_hostile_file_is_refused_in_flat_memory(
    header: Any, numbers: bytes, length: int | None, words: str, write: Write
) -> None:
    path = write(header, numbers, length)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput) as refused:
            weights_file.check(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert words in str(refused.value)
    json.dumps(refused.value.as_problem(), ensure_ascii=False).encode()  # what it quotes can be sent
