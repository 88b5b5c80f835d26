"""Decide whether a CSV table's first records name its columns: one record, two records, numeric names."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from fitserve.parsing.missing import may_be_missing
from fitserve.parsing.words import TYPES, UNITS

FEW_NUMBERS = 3  # most numbers that can be names if the values below are of another kind
MANY_NUMBERS = 10  # least numbers that are names because they ascend and no row does
MAX_COMPARED = 100  # most rows compared with a header
FEW_COMPARED = 5  # least texts whose shapes are compared
FEW_SHAPES = 3
LINE_SIGNS = "-=_─═"  # of which lines are drawn
MOST_REPEATED = 0.2  # share of a column's texts that may be its name
WORDS = ("a", "A", "Aa", "Aa a", "Aa Aa", "a a")
MAX_UNIT = 20  # characters
ANSWERS = ("response", "open-ended response")  # what SurveyMonkey writes below a question that has no choices
QUESTION_ID = '{"ImportId":'  # marks Qualtrics files, which have three lines before their rows
_NUMBER = re.compile(r"\s*+[+-]?(\d++[.,]?\d*+|[.,]\d++)([eE][+-]?\d++)?\s*+")
_DIGITS = re.compile(r"\d++")
_LOWER = re.compile(r"[a-z]++")
_UPPER = re.compile(r"[A-Z]++")
_BRACKETED = re.compile(r"\(.*\)|\[.*\]|\{.*\}|<.*>")


def is_number(text: str) -> bool:
    """Return whether a field is a number in any of the plain spellings."""
    return _NUMBER.fullmatch(text) is not None


def begins_as_number(text: str) -> bool:
    """Return whether a field is a number, an amount of money, a share or a date."""
    plain = text.strip().lstrip("+-($€£¥").rstrip("%)€£¥ ")
    return plain[:1].isdigit() and sum(character.isdigit() for character in plain) * 2 >= len(plain)


def is_header(first: list[str], body: list[list[str]], *, surely: bool = False) -> bool:
    """Return whether a record names the columns: its fields are unlike those below them.

    `surely`: there is a column of numbers (or dates) whose name is not a number.
    """
    if not surely and names_are_numbers(first, body):
        return True
    if all(is_number(text) or not text.strip() for text in first):
        return False
    if not body:
        return not surely and not any(map(begins_as_number, first))
    votes = 0
    rows = [fields for fields in body if fields != first]  # files that were put together repeat their header
    for index, name in enumerate(first):
        below = _below(rows, index)
        if index and not name.strip():
            continue  # a name is left out, or a value; of the first column, rather the name
        if below and sum(map(begins_as_number, below)) > 0.8 * len(below):
            # Above plain numbers, what is no plain number is a name: MNIST's 28x28.
            begins = is_number(name) if all(map(is_number, below)) else begins_as_number(name)
            is_name = not begins or (_is_year(name) and not all(map(_is_year, below)))
            votes += 1 if is_name else -1
    if votes or surely:
        return votes > 0
    if votes := sum(_vote_by_shape(name, _below(body, index)) for index, name in enumerate(first)):
        return votes > 0
    if any(is_number(text) for text in first):
        return False
    repeated = sum(
        name in {fields[index] for fields in body if index < len(fields)} for index, name in enumerate(first)
    )
    return repeated * 2 < len(first) and not any(
        _below(rows, index).count(name) > MOST_REPEATED * len(rows) for index, name in enumerate(first)
    )


def has_a_number_above_numbers(first: list[str], body: list[list[str]]) -> bool:
    """Return whether the first record is certainly a row."""
    below = [_below(body, index) if is_number(text) else [""] for index, text in enumerate(first)]
    return any(texts and sum(map(is_number, texts)) >= 0.8 * len(texts) for texts in below)


def _below(rows: list[list[str]], index: int) -> list[str]:
    return [fields[index] for fields in rows if index < len(fields) and fields[index].strip()]


def _vote_by_shape(name: str, below: list[str]) -> int:
    """Return 1 for a text that is written unlike those below it (`2018` above `R+27`), -1 for one like them, or 0."""
    if len(below) < FEW_COMPARED:
        return 0
    shapes = Counter(map(_shape, below))
    if sum(count for _, count in shapes.most_common(FEW_SHAPES)) < 0.98 * len(below):
        return 0
    if _shape(name) not in shapes:
        return 1
    return 0 if _shape(name) in WORDS else -1  # any name is a word


def _shape(text: str) -> str:
    """Return how a text is written: `R+27` is `A+9`, `2018-01-31` is `9-9-9`."""
    return _DIGITS.sub("9", _LOWER.sub("a", _UPPER.sub("A", text.strip())))


def _is_year(text: str) -> bool:
    plain = text.strip()
    return len(plain) == 4 and plain[:2] in ("18", "19", "20", "21") and plain.isdigit()


# --- names that are numbers ----------------------------------------------------------------------------------------


def names_are_numbers(first: list[str], body: list[list[str]]) -> bool:
    """Return whether numbers name columns: pandas' 0, 1, 2, the years of a wide table, the wavelengths of a spectrum.

    They ascend (or descend) as no row does. Few of them count by one besides, above what is not whole numbers, or
    after the empty name of a column that counts rows.
    """
    columns = [index for index, text in enumerate(first) if is_number(text)]
    rows = [fields for fields in body[:MAX_COMPARED] if len(fields) >= len(first)]
    if len(columns) < FEW_NUMBERS or not rows:
        return False
    names = _steps([first[index] for index in columns])
    if not _one_way(names):
        return False
    below = [_steps([fields[index] for index in columns]) for fields in rows]
    are_many = len(columns) >= MANY_NUMBERS and len(rows) >= FEW_NUMBERS
    if are_many and (not any(map(_one_way, below)) or (_are_alike(names) and not any(map(_are_alike, below)))):
        return True
    are_whole = all(first[index].strip().isdecimal() for index in columns)
    if not are_whole or {abs(step) for step in names} != {1} or any(steps == names for steps in below):
        return False
    if not first[0].strip() and [fields[0].strip() for fields in rows] == [str(index) for index in range(len(rows))]:
        return True
    unlike = sum(_are_unlike_whole([fields[index] for fields in rows]) for index in columns)
    return unlike * 2 > len(columns)


def _steps(texts: list[str]) -> list[float]:
    """Return the differences between neighbouring numbers; an empty list if a text is not a number."""
    try:
        values = [float(text.replace(",", ".")) for text in texts]
    except ValueError:
        return []
    return [after - before for before, after in pairwise(values)]


def _one_way(steps: list[float]) -> bool:
    return bool(steps) and (min(steps) > 0 or max(steps) < 0)


def _are_alike(steps: list[float]) -> bool:
    return bool(steps) and max(steps) - min(steps) <= 1e-6 * abs(steps[0])


def _are_unlike_whole(below: list[str]) -> bool:
    present = [text.strip() for text in below if text.strip()]
    return bool(present) and sum(not text.lstrip("+-").isdecimal() for text in present) * 2 > len(present)


# --- a header over two records -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SecondHeader:
    """A second header: records below the names that describe the columns, or only rule them off."""

    records: int  # records that are not rows: one, or two with pandas' index names
    names: list[str]
    code: Literal["units_skipped", "names_joined", "rule_skipped"]
    shown: str  # an excerpt of their content, for the notice


def find_second_header(names: list[str], body: list[list[str]]) -> SecondHeader | None:
    """Find units, types, the second part of the names or a drawn line below a header.

    Such a line has no numbers above columns of numbers, and its texts do not occur again.
    """
    if len(body) > 1 and len(body[0]) == len(names) and _is_rule(body[0], body[1:MAX_COMPARED]):
        return SecondHeader(1, names, "rule_skipped", ", ".join(body[0])[:80])
    if len(body) <= FEW_NUMBERS or any(len(fields) != len(names) for fields in body[:2]):
        return None
    if all(text.strip().startswith(QUESTION_ID) for text in body[1]):  # below the questions of a survey
        return SecondHeader(2, names, "units_skipped", ", ".join(body[0])[:80])
    second, rows = [text.strip() for text in body[0]], body[1:MAX_COMPARED]
    if any(
        begins_as_number(text) and _is_numeric(rows, index) and not _is_answer(names, rows, index, text)
        for index, text in enumerate(second)
    ):
        return None  # as in almost all tables
    numeric = [index for index in range(len(names)) if _is_numeric(rows, index)]
    above = [second[index] for index in numeric]
    if not any(above) or any(map(_is_missing, above)):
        return None
    if any(
        text
        and not _is_choice(names, index)
        and any(fields[index].strip() == text for fields in rows if index < len(fields))
        for index, text in enumerate(second)
    ):
        return None
    shown = ", ".join(text for text in second if text)[:80]
    others = [second[index] for index in range(len(names)) if index not in numeric]
    if (joined := _joined([name.strip() for name in names], second)) is not None and not any(
        text and not _is_unit(text) and not _repeats(names, index) and not _is_choice(names, index)
        for index, text in enumerate(second)
        if index not in numeric
    ):
        of_index = [text.strip() for text in body[1]]
        if of_index[0] and not any(of_index[1:]) and not joined[0]:
            return SecondHeader(2, [of_index[0], *joined[1:]], "names_joined", shown)
        return SecondHeader(1, joined, "names_joined", shown)
    if not all(not text or _is_unit(text) for text in others):
        return None
    if len([text for text in above if text]) < 2 and not all(map(_is_unit, filter(None, above))):
        return None
    if any(len(text) > MAX_UNIT for text in above):
        return None
    return SecondHeader(1, names, "units_skipped", shown)


def _is_drawn(text: str) -> bool:
    """Return whether a text is one sign of a line, repeated; Markdown has colons around it."""
    signs = set(text.strip(":"))
    return len(signs) == 1 and signs <= set(LINE_SIGNS)


def _is_rule(fields: list[str], rows: list[list[str]]) -> bool:
    """Return whether a record only draws a line below the names: `---,-----`, where no row has such a field."""
    texts = [text.strip() for text in fields]
    if not all(map(_is_drawn, texts)) or max(map(len, texts)) < 2:
        return False
    return not any(
        len(text) > 1 and text in (row[index].strip() for row in rows if index < len(row))
        for index, text in enumerate(texts)
    )


def _is_numeric(rows: list[list[str]], index: int) -> bool:
    present = [fields[index] for fields in rows if index < len(fields) and fields[index].strip()]
    return len(present) >= FEW_NUMBERS and all(map(begins_as_number, present))


def _is_missing(text: str) -> bool:
    return text not in ("", "-", "–", "—") and may_be_missing(text)


def _is_unit(text: str) -> bool:
    lower = text.strip().lower()
    return (
        lower in ("-", "–", "—", *ANSWERS)
        or lower in TYPES
        or lower in UNITS
        or _BRACKETED.fullmatch(lower) is not None
    )


def _repeats(names: list[str], index: int) -> bool:
    return not names[index].strip() or names.count(names[index]) > 1


def _is_choice(names: list[str], index: int) -> bool:
    """Return whether a name stands above several columns: a question with an answer in each of them."""
    return not names[index].strip() or (index + 1 < len(names) and not names[index + 1].strip())


def _is_answer(names: list[str], rows: list[list[str]], index: int, text: str) -> bool:
    """Return whether a text stands below a question with several answers, and is all that its column holds."""
    return _is_choice(names, index) and set(_below(rows, index)) <= {text}


def _joined(names: list[str], second: list[str]) -> list[str] | None:
    """Return names of two parts, as where a name stands above several columns; None if the first parts suffice."""
    named = [name for name in names if name]
    if len(set(named)) == len(named) and all(names[1:]):
        return None
    parts: list[str] = []
    for index, name in enumerate(names):
        parts.append(name or (parts[-1] if index and second[index] else ""))
    joined = [f"{name} {part}".strip() for name, part in zip(parts, second, strict=True)]
    return joined if len(set(joined)) == len(joined) else None
