"""`counts`: how often a text has each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from fitserve.encoding.encoding import Row
from fitserve.encoding.text import Text, TextColumn


class CountsColumn(TextColumn):
    """The number of each token at its place."""

    def write_tokens(self, places: list[int], out: np.ndarray) -> None:
        out += self.counts(places)

    def places_writer(self) -> Callable[[list[int], Row], object]:
        offset = self.offset

        def write(places: list[int], row: Row) -> None:
            for place in places:
                row[offset + place] += 1.0

        return write

    def write_texts(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        np.add.at(out, (rows, places), 1)


class Counts(Text):
    """How often the text has each token."""

    column_class = CountsColumn
    type: Literal["counts"] = "counts"
