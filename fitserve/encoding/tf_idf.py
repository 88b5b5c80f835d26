"""`tf_idf`: how often a text has each token, weighted by how rare the token is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import numpy as np

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.coercion import Column, texts_of
from fitserve.encoding.encoding import Row
from fitserve.encoding.text import Text, TextColumn, tokenize


class TfIdfColumn(TextColumn):
    """`fitted` also holds the tokens' weights, and `idf_unknown`, their mean, for tokens outside the vocabulary."""

    @cached_property
    def _weights(self) -> np.ndarray:
        weights = np.zeros(self.width, np.float32)
        weights[0] = self.fitted["idf_unknown"]
        weights[1 : 1 + len(self.fitted["idf"])] = self.fitted["idf"]
        return weights

    def write_tokens(self, places: list[int], out: np.ndarray) -> None:
        out += self.counts(places) * self._weights

    def places_writer(self) -> Callable[[list[int], Row], object]:
        offset, weights = self.offset, self._weights.tolist()

        def write(places: list[int], row: Row) -> None:
            for place, count in Counter(places).items():
                row[offset + place] = count * weights[place]  # exact in float64, so rounded once, as in float32

        return write

    def write_texts(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        np.add.at(out, (rows, places), 1)
        out *= self._weights


class TfIdf(Text):
    """Counts times log(1 + documents / (1 + documents with the token)) (as TextVectorization)."""

    column_class = TfIdfColumn
    type: Literal["tf_idf"] = "tf_idf"

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        totals: Counter[str] = Counter()
        documents: Counter[str] = Counter()
        for text in texts_of(values):
            tokens = tokenize(text or "", self.tokens or "whitespace")
            totals.update(tokens)
            documents.update(set(tokens))
        vocabulary = self.vocabulary(totals)
        with_token = np.array([documents[token] for token in vocabulary], np.float64)
        weights = np.log(1 + len(values) / (1 + with_token)).astype(np.float32)  # as `TextVectorization.adapt`
        mean = float(weights.mean(dtype=np.float32)) if len(weights) else 0.0
        return {"vocabulary": vocabulary, "idf": [float(weight) for weight in weights], "idf_unknown": mean}
