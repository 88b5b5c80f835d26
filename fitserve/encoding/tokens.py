"""Text to tokens, exactly as Keras's `TextVectorization` does it without custom code.

`standardize="lower_and_strip_punctuation"` lowers ASCII letters and drops ASCII punctuation, nothing else;
`split="whitespace"` splits at ASCII whitespace, `split="character"` at every code point (blanks are tokens too).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fitserve.dataset_facts import Tokens

# keras/src/layers/preprocessing/text_vectorization.py: tf.strings.lower, then this class of characters is dropped
_PUNCTUATION = b"!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'"
_LOWER = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))
# Han, kana, Hangul and full-width forms: scripts that are written without blanks between words (Hangul has them).
_CJK = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FFFF))


def tokenize(text: str, how: Tokens) -> list[str]:
    """The tokens of one text, in order."""
    cleaned = text.encode("utf-8", "replace").translate(_LOWER, _PUNCTUATION)
    if how == "character":
        return list(cleaned.decode("utf-8"))
    return [token.decode("utf-8") for token in cleaned.split()]


def token_bytes(text: str, how: Tokens) -> list[bytes]:
    """The same tokens, as UTF-8 bytes."""
    cleaned = text.encode("utf-8", "replace").translate(_LOWER, _PUNCTUATION)
    if how == "character":
        return [character.encode("utf-8") for character in cleaned.decode("utf-8")]
    return cleaned.split()


def is_cjk(character: str) -> bool:
    """Whether a character belongs to a script without blanks between words."""
    code = ord(character)
    return any(low <= code <= high for low, high in _CJK)


def tokens_for(texts: Iterable[str]) -> Tokens:
    """`character` where at least a third of the letters are of a script without blanks, else `whitespace`."""
    letters = cjk = 0
    for text in texts:
        if text.isascii():
            letters += len(text)
            continue
        letters += len(text) - text.count(" ")
        cjk += sum(is_cjk(character) for character in text)
    return "character" if letters and cjk * 3 >= letters else "whitespace"


def idf(documents: int, with_token: np.ndarray) -> np.ndarray:
    """log(1 + documents / (1 + documents with the token)), float64: what `TextVectorization.adapt` computes."""
    weights: np.ndarray = np.log(1 + documents / (1 + with_token.astype(np.float64)))
    return weights
