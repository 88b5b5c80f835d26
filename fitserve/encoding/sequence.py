"""`sequence`: a text's tokens in order, for an Embedding layer and a recurrent one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.encoding import Row
from fitserve.encoding.text import Text, TextColumn

MAX_TOKENS = 256  # tokens of a text if `length` is left out


class SequenceColumn(TextColumn):
    """Tokens count from 2; 1 is unknown, 0 pads at the end."""

    unknown_place, first = 1, 2

    def tokens_of(self, text: str) -> list[bytes]:
        return super().tokens_of(text)[: self.width]

    def write_tokens(self, places: list[int], out: np.ndarray) -> None:
        out[: len(places)] = places

    def places_writer(self) -> Callable[[list[int], Row], object]:
        offset = self.offset

        def write(places: list[int], row: Row) -> None:
            for index, place in enumerate(places, offset):
                row[index] = place

        return write

    def write_texts(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        starts = np.searchsorted(rows, rows, side="left")  # each text's first token
        out[rows, np.arange(len(rows)) - starts] = places


class TokenSequence(Text):
    """The tokens' integers in order, an input of its own: 0 pads at the end, 1 is unknown; longer texts are cut."""

    column_class = SequenceColumn

    type: Literal["sequence"] = "sequence"
    length: int | None = Field(default=None, ge=1, le=100_000, description="Left out: the longest text's, at most 256")

    def defaults(self, facts: ColumnFacts) -> dict[str, Any]:
        length = max(1, min(facts.max_tokens or MAX_TOKENS, MAX_TOKENS))
        return super().defaults(facts) | ({"length": length} if self.length is None else {})

    def width(self, facts: ColumnFacts) -> int:
        return self.length or MAX_TOKENS

    def cardinality(self, facts: ColumnFacts) -> int:
        return self.max_tokens
