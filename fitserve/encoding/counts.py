"""`counts`: how often a text has each token."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fitserve.encoding.text import Text, TextColumn


class CountsColumn(TextColumn):
    """The number of each token at its place."""

    def write_tokens(self, places: list[int], out: np.ndarray) -> None:
        out += self.counts(places)

    def write_texts(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        np.add.at(out, (rows, places), 1)


class Counts(Text):
    """How often the text has each token."""

    column_class = CountsColumn
    type: Literal["counts"] = "counts"
