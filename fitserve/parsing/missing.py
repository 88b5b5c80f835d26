"""Missing values: the texts that represent one, in every column or in some, and which of a column's texts are missing.

A column's own spellings are in its `ColumnFormat`, which uploads write and predictions read, so that a spelling taken
for a missing value in an upload is one in every later prediction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from fitserve.parsing.words import FALSE_IN_ANY_LANGUAGE, TRUE_IN_ANY_LANGUAGE

if TYPE_CHECKING:  # the client reads the spellings without PyArrow
    import pyarrow as pa

# Texts that mean a missing value in every column, unless the upload's options name others.
MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN"),
    *("null", "NULL", "Null", "None", "?", "\\N"),
)
# Spellings that are labels in some columns: NA for Namibia or North America, "None" among "Mild" and "Severe".
DISPUTABLE = ("NA", "None", "?")
UNDISPUTED = tuple(word for word in MISSING if word not in DISPUTABLE)
# Texts, in lower case, that mean a missing value in a column where everything else is a number or a time.
SOFT_MISSING = frozenset(
    (
        *(sign * count for sign in "-.*?~:_" for count in range(1, 9)),  # SAS, NASA and others fill a field's width
        *(f".{letter}" for letter in "abcdefghijklmnopqrstuvwxyz_"),  # Stata and SAS
        *("na", "n.a.", "n.a", "n/a", "n/d", "nd", "nil", "none", "unk"),
        *("unknown", "missing", "not available", "not known", "no data", "null", "nan", "tbd", "inconnu"),
        *("(blank)", "(null)", "(none)", "(missing)", "<null>", "[null]", "1.#qnan", "1.#ind", "-1.#ind"),
        *("无", "缺失", "–", "—", "#value!", "#div/0!", "#ref!", "#null!", "#num!", "#name?", "#n/a"),
        *("nat", "not applicable", "not reported", "not recorded", "k.a.", "k. a.", "keine angabe", "s/d", "sin dato"),
        *("нет данных", "н/д", "nc", "n.c.", "n.d.", "b.d.", "brak", "brak danych", "sem dados", "sem informação"),
        *("não informado", "nao informado", "não disponível", "no disponible", "desconocido", "non disponibile"),
        *("nicht bekannt", "unbekannt", "non disponible", "non renseigné", "不明", "なし", "未記入", "該当なし"),
        *("未知", "不详", "暂无", "無", "없음", "해당없음", "undefined", "<none>", "<missing>", "<unset>", "－", "ー"),
        # Spreadsheets' formula errors in languages other than English.
        *("#wert!", "#bezug!", "#zahl!", "#nv", "#valeur!", "#nom?", "#nombre!", "#nul!", "#valor!", "#¡valor!"),
        *("#¡ref!", "#¡div/0!", "#¡num!", "#¿nombre?", "#n/d", "#nulo!", "#valore!", "#rif!", "#nome?", "#nullo!"),
        *("#waarde!", "#verw!", "#getal!", "#naam?", "#n/b", "#arg!", "#liczba!", "#adr!", "#nazwa?", "#знач!"),
        *("#ссылка!", "#дел/0!", "#число!", "#имя?", "#пусто!", "#н/д", "#spill!", "#calc!", "#überlauf!"),
        *("#getting_data", "#name!", "#error!", "#err!"),
        *("0000-00-00", "0000-00-00 00:00:00", "00.00.0000", "00/00/0000", "00000000", "000000"),
    )
)


def may_be_missing(text: str) -> bool:
    """Return whether a text stands for a missing value in every column, or among numbers and times."""
    return text in MISSING or text.lower() in SOFT_MISSING


def are_soft_missing(texts: Iterable[str]) -> bool:
    """Return whether all texts mean a missing value among numbers and times."""
    return all(text.strip().lower() in SOFT_MISSING for text in texts)


def find_missing(
    values: pa.Array, spellings: Collection[str], in_any_case: Collection[str] = (), *, trim: bool = True
) -> pa.Array:
    """Return which texts represent a missing value.

    Args:
        values: texts.
        spellings: texts that match exactly.
        in_any_case: texts that match in any case, with or without blanks around them.
        trim: whether to remove blanks around a text before comparing it with `spellings`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(values) if trim or in_any_case else values
    texts = trimmed if trim else values
    if not in_any_case:  # a look at the lengths takes a tenth of the time of a look at the texts
        shortest = pc.min(pc.binary_length(texts)).as_py()
        if shortest is None or shortest > max((len(text.encode()) for text in spellings), default=-1):
            return pa.array(np.zeros(len(values), bool))
    missing = pc.is_in(texts, pa.array(sorted(spellings), pa.string()))
    if in_any_case:
        lowered = pa.array(sorted({text.strip().lower() for text in in_any_case}), pa.string())
        missing = pc.or_(missing, pc.is_in(pc.utf8_lower(trimmed), lowered))
    return pc.and_(missing, values.is_valid())


def words_for_missing(odd: Mapping[str, int], others: int) -> tuple[str, ...]:
    """Return the odd texts of a column of numbers or times if they mean a missing value: BDL, not measured.

    That holds for at most three texts without digits, each repeated, beside many different values. If the values are
    few, they may be codes, one of which is a word.

    Args:
        odd: how often each text occurs that is neither a number nor a time.
        others: how many different values the column has.
    """
    words = {text.strip().lower(): count for text, count in odd.items()}
    if not 0 < len(odd) <= 3 or others < 30:
        return ()
    for word, count in words.items():
        is_word = any(c.isalpha() for c in word) and not any(c.isdigit() for c in word) and len(word) <= 20
        if not is_word or count < 3 or word in TRUE_IN_ANY_LANGUAGE | FALSE_IN_ANY_LANGUAGE:
            return ()
    return tuple(sorted(words))


def is_label(word: str, counts: Mapping[str, int]) -> bool:
    """Return whether a spelling of missing is a label: written like all others, and no rarer than the rarest."""
    others = {text.strip(): count for text, count in counts.items() if text.strip() and text.strip() not in MISSING}
    if not 2 <= len(others) <= 100 or count_of(counts, word) < min(others.values()):
        return False
    if word == "NA":
        return all(len(text) == 2 and text.isalpha() for text in others)
    if word == "None":
        return all(text[0].isupper() and text.replace(" ", "").replace("-", "").isalpha() for text in others)
    return not any(character.isalnum() for text in others for character in text)


def count_of(counts: Mapping[str, int], word: str) -> int:
    """Return how often a word occurs, with blanks around it or without."""
    return sum(count for text, count in counts.items() if text == word or text.strip() == word)
