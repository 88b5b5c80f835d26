"""Base classes of text encodings: tokens exactly as Keras's `TextVectorization` makes them, and the vocabulary.

`standardize="lower_and_strip_punctuation"` lowers ASCII letters and drops ASCII punctuation, nothing else;
`split="whitespace"` splits at ASCII whitespace, `split="character"` at every code point (blanks are tokens too).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts, Tokens
from fitserve.encoding.coercion import Column, as_label, bad_value, texts_of
from fitserve.encoding.distribution import Distribution, numeric_distribution
from fitserve.encoding.encoding import Encoding, FittedColumn, Row, Unusual, ValueWriter
from fitserve.parsing.column_format import PLAIN

# keras/src/layers/preprocessing/text_vectorization.py: tf.strings.lower, then this class of characters is dropped
_PUNCTUATION = b"!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'"
_LOWER = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))
# Han, kana, Hangul and full-width forms: scripts that are written without blanks between words (Hangul has them).
_CJK = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FFFF))
TWO_WORDS = "two words"  # a text that is never a single token, as it has several characters and a blank


def tokenize(text: str, how: Tokens) -> list[str]:
    """Return the tokens of one text, in order."""
    return [token.decode("utf-8") for token in token_bytes(text, how)]


def token_bytes(text: str, how: Tokens) -> list[bytes]:
    """Return the same tokens as UTF-8 bytes."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair; naming the handler each time costs more than encoding
        encoded = text.encode("utf-8", "replace")
    cleaned = encoded.translate(_LOWER, _PUNCTUATION)
    if how == "character":
        return [character.encode("utf-8") for character in cleaned.decode("utf-8")]
    return cleaned.split()


def tokens_for(texts: Iterable[str]) -> Tokens:
    """Return `character` where at least a third of the letters are of a script without blanks, else `whitespace`."""
    letters = cjk = 0
    for text in texts:
        if text.isascii():
            letters += len(text)
            continue
        letters += len(text) - text.count(" ")
        cjk += sum(any(low <= code <= high for low, high in _CJK) for code in map(ord, text))
    return "character" if letters and cjk * 3 >= letters else "whitespace"


class TextColumn(FittedColumn):
    """A column of texts. Each of the training rows' most frequent tokens (`fitted`: vocabulary) has a place.

    A missing text is encoded as an empty one.
    """

    encoding: Text
    suits_trees = False
    # place of unknown tokens; a subclass may reserve more places before the vocabulary
    unknown_place: ClassVar[int] = 0
    first: ClassVar[int] = 1

    def write_tokens(self, places: list[int], out: np.ndarray) -> None:
        """Write a text, given as its tokens' places in order, into zeros of shape (width,)."""
        raise NotImplementedError

    @property
    def keras_vocabulary(self) -> list[str]:
        """The vocabulary for `TextVectorization`, which refuses an empty one."""
        return list(self.fitted["vocabulary"]) or [TWO_WORDS]

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {token.encode(): place for place, token in enumerate(self.fitted["vocabulary"], self.first)}

    def tokens_of(self, text: str) -> list[bytes]:
        """Return the text's tokens in order, without those cut off by the encoding."""
        return token_bytes(text, self.encoding.tokens or "whitespace")

    def counts(self, places: list[int]) -> np.ndarray:
        """Count the tokens in each place: float32 (width,)."""
        return np.bincount(np.array(places, np.int64), minlength=self.width).astype(np.float32)

    def encode_value(self, value: Any, out: np.ndarray, row: int) -> None:
        try:
            text = as_label(value, self.format)
        except TypeError:
            raise bad_value(self.name, row, value, "a text") from None
        if text is None:
            self.refuse_missing(row)
        else:
            find, unknown = self._places.get, self.unknown_place
            self.write_tokens([find(token, unknown) for token in self.tokens_of(text)], out)

    def places_writer(self) -> Callable[[list[int], Row], object]:
        """Return a `write_tokens` that writes into a row of the whole network input."""
        write, part = self.write_tokens, self.part
        return lambda places, row: write(places, np.asarray(row)[part])

    def value_writer(self) -> ValueWriter:
        as_it_is, other, format = self.format is PLAIN, super().value_writer(), self.format
        find, unknown, write_places = self._places.get, self.unknown_place, self.places_writer()
        tokens_of, kept, missing = self.tokens_of, format.keeps_texts, format.missing_spellings

        def write(value: Any, row: Row) -> bool:
            text = None
            if type(value) is str:
                if as_it_is:
                    text = value or None
                elif kept:  # as `as_label`, which takes longer than all of the rest
                    text = None if value.strip() in missing else value
                else:
                    text = as_label(value, format)
            if text is None:
                return other(value, row)
            write_places([find(token, unknown) for token in tokens_of(text)], row)
            return True

        return write

    def write_texts(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Write texts, the row and the place of each token in order, into zeros of shape (rows, width)."""
        raise NotImplementedError

    def encode_values(self, values: Sequence[Any], out: np.ndarray) -> Unusual:
        find, unknown = self._places.get, self.unknown_place
        refuse_missing = self.encoding.missing == "refuse"
        texts: list[list[int]] = []
        known: dict[str, list[int]] = {}
        refused = []
        for index, value in enumerate(values):
            places = known.get(value) if type(value) is str else None
            if places is None:
                try:
                    text = as_label(value, self.format)
                except TypeError:
                    refused.append(index)
                    continue
                if text is None:
                    places = []
                    if refuse_missing:
                        refused.append(index)
                else:
                    places = [find(token, unknown) for token in self.tokens_of(text)]
                    if type(value) is str:
                        known[value] = places
            texts.append(places)
        if refused:
            return Unusual(refused=np.array(refused, np.int64))
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        flat = np.fromiter(itertools.chain.from_iterable(texts), np.int64, int(lengths.sum()))
        self.write_texts(np.repeat(np.arange(len(texts)), lengths), flat, out)
        return Unusual()

    def encode_column(self, column: Column, out: np.ndarray) -> None:
        texts = texts_of(column)
        refused = self.encode_values(texts, out).refused
        if refused is not None:
            at = int(refused[0])
            self.encode_value(texts[at], out[at], at + 1)

    def distribution(self, values: Column) -> Distribution:
        lengths = np.array([np.nan if text is None else len(text) for text in texts_of(values)], np.float64)
        return numeric_distribution(lengths, "text")


class Text(Encoding):
    """Base of the encodings of a text's tokens."""

    kinds = ("text", "categorical")
    column_class: ClassVar[type[TextColumn]] = TextColumn
    in_code = True

    max_tokens: int = Field(1000, ge=2, le=1_000_000, description="Places of the vocabulary, that of unknown included")
    tokens: Tokens | None = Field(None, description="Left out: character for Chinese and Japanese, else whitespace")
    missing: Literal["empty", "refuse"] = "empty"

    def defaults(self, facts: ColumnFacts) -> dict[str, Any]:
        return super().defaults(facts) | ({"tokens": facts.tokens} if self.tokens is None else {})

    def width(self, facts: ColumnFacts) -> int:
        return self.max_tokens

    def vocabulary(self, totals: Mapping[str, int]) -> list[str]:
        """Return the tokens that have a place, the most frequent first (ties by name)."""
        places = self.max_tokens - self.column_class.first
        return sorted(totals, key=lambda token: (-totals[token], token))[:places]

    def fit(self, values: Column, facts: ColumnFacts) -> dict[str, Any]:
        totals: Counter[str] = Counter()
        for text in texts_of(values):
            totals.update(tokenize(text or "", self.tokens or "whitespace"))
        return {"vocabulary": self.vocabulary(totals)}
