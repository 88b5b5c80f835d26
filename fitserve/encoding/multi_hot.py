"""`multi_hot`: the tokens that a text has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from fitserve.encoding.encoding import Row
from fitserve.encoding.text import Text, TextColumn


class MultiHotColumn(TextColumn):
    """1 at the place of each token."""

    def write_tokens(self, places: list[int], out: np.ndarray) -> None:
        out[places] = 1

    def places_writer(self) -> Callable[[list[int], Row], object]:
        offset = self.offset

        def write(places: list[int], row: Row) -> None:
            for place in places:
                row[offset + place] = 1.0

        return write

    def write_texts(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        out[rows, places] = 1


class MultiHot(Text):
    """1 for each token that the text has; place 0 is for tokens outside the vocabulary (as TextVectorization)."""

    column_class = MultiHotColumn
    type: Literal["multi_hot"] = "multi_hot"
