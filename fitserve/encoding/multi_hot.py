"""`multi_hot`: the tokens that a text has."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fitserve.encoding.text import Text, TextColumn


class MultiHotColumn(TextColumn):
    """1 at the place of each token."""

    def write_tokens(self, places: list[int], out: np.ndarray) -> None:
        out[places] = 1

    def write_texts(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        out[rows, places] = 1


class MultiHot(Text):
    """1 for each token that the text has; place 0 is for tokens outside the vocabulary (as TextVectorization)."""

    column_class = MultiHotColumn
    type: Literal["multi_hot"] = "multi_hot"
