"""The lines of a CSV file's table, counted in its bytes: on which a row begins, and how many delimiters each has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fitserve.datasets.readers.csv_region import Region, RegionReader
from fitserve.settings import MB


def lines_of_rows(path: Path, region: Region, columns: int, rows: Sequence[int]) -> list[int | None]:
    """Return the line (from 1) on which each data row (from 1) begins; a record may span several lines."""
    wanted = sorted({row for row in rows if row > 0})
    line_by_row: dict[int, int] = {}
    records, lines = 0, region.lines_before
    in_quotes = False
    at_start = True  # the last byte ended a record
    source = RegionReader(path, region)
    while len(line_by_row) < len(wanted) and (chunk := source.read(16 * MB)):
        data = np.frombuffer(chunk, np.uint8)
        parity = np.zeros(len(data), np.int64)
        if region.quote is not None:
            # Odd after an opening quote; a doubled quote inside a field changes it twice.
            parity = (np.cumsum(data == ord(region.quote)) + int(in_quotes)) & 1
        newline = data == ord("\n")
        begins = np.flatnonzero(newline & (parity == 0)) + 1
        if at_start:
            begins = np.concatenate([[0], begins])
        at_start = bool(newline[-1]) and not parity[-1]
        begins = begins[begins < len(data)]
        if columns > 1:  # then the parser ignores empty lines
            first, second = data[begins], data[np.minimum(begins + 1, len(data) - 1)]
            begins = begins[~((first == ord("\n")) | ((first == ord("\r")) & (second == ord("\n"))))]
        lines_before = np.cumsum(newline)
        for record in wanted:
            place = record - records - 1
            if 0 <= place < len(begins):
                begin = int(begins[place])
                line_by_row[record] = lines + 1 + int(lines_before[begin - 1] if begin else 0)
        records += len(begins)
        lines += int(lines_before[-1])
        in_quotes = bool(parity[-1])
    source.close()
    return [line_by_row.get(row) for row in rows]


def each_line_has(path: Path, region: Region, delimiter: str, wanted: int, most: int) -> bool:
    """Return whether every line that is not blank has this many delimiters; False where one is longer than `most`."""
    source = RegionReader(path, region)
    sign, pending = ord(delimiter), b""
    try:
        while data := source.read(MB):
            cut = data.rfind(b"\n") + 1
            if cut and not _lines_have(pending + data[:cut], sign, wanted):
                return False
            pending = data[cut:] if cut else pending + data
            if len(pending) > most:
                return False
        return not pending or _lines_have(pending, sign, wanted)
    finally:
        source.close()


def _lines_have(lines: bytes, delimiter: int, wanted: int) -> bool:
    """Return whether every line that is not blank has this many delimiters."""
    data = np.frombuffer(lines if lines.endswith(b"\n") else lines + b"\n", np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    counts = np.cumsum(data == delimiter)[ends]
    lengths = np.diff(ends, prepend=-1) - (data[np.maximum(ends - 1, 0)] == ord("\r"))
    return bool(((np.diff(counts, prepend=0) == wanted) | (lengths <= 1)).all())
