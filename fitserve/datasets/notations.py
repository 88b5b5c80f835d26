"""Notations of numbers that are not parsed, such as 0x1F, 3/4 and 08:30: a column of them stays text, with a notice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from fitserve.wire.notices import Notice

LEAST_SHARE = 0.95  # share of a column's texts
_PLAIN = r"[+-]?\d{1,15}(?:[.,]\d{1,15})?"
_MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_SHORT = r"(?:0|[1-9]\d{0,3})(?:[.,]\d{1,4})?"
# Number notations that are not parsed; a group's name is the notation's, with underscores for blanks. Compiled on first
# use: it takes a twentieth of a process's start, and few processes look at texts.
_QUANTITY = (
    r"(?P<hexadecimal_numbers>[+-]?0[xX][0-9a-fA-F]{1,16})"
    r"|(?P<fractions>[+-]?(?:\d{1,3} )?\d{1,3} ?[/\u2044] ?\d{1,3}|\d{0,9} ?[½¼¾⅓⅔⅛⅜⅝⅞])"
    r"|(?P<clock_times>-?\d{1,5}:[0-5]\d(?::[0-5]\d)?(?:[.,]\d{1,9})?(?: ?[AaPp][Mm])?)"
    r"|(?P<durations>-?P[0-9YMWDTHS.]{2,30}|\d{1,5} ?h(?: ?\d{1,2} ?m(?:in)?)?|\d{1,5} ?m(?:in)? \d{1,2} ?s"
    r"|-?\d{1,9} days?,? [+-]?\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)"
    r"|(?P<numbers_with_footnote_marks>[+-]?\d{1,3}(?:[ ,.]?\d{3}){0,4}(?:[.,]\d{1,9})? ?"
    r"(?:\[[A-Za-z\d]{1,3}\]|[*\u2020\u2021\u00a7\u00b6#]{1,3}|[\u00b9\u00b2\u00b3\u2070-\u2079]{1,2}|\([a-z]\)))"
    r"|(?P<ratios>\d{1,5} ?: ?\d{1,5}|\d{1,3}(?:[ .]\d{3}){1,4}:\d{2})"
    r"|(?P<feet_and_inches>\d{1,3} ?['\u2032](?: ?\d{1,2}(?:\.\d{1,3})? ?(?:\"|\u2033|''|\u201d)?)?)"
    r"|(?P<degrees>[NSEW]? ?[+-]?\d{1,3}(?:\.\d{1,9})? ?°[0-9.'\"\u2032\u2033\u2019\u201d ]{0,20}[NSEWO]?"
    r"|\d{2,3}[0-5]\d\.\d{2,9} ?,? ?[NSEWO]|\d{1,3}(?:\.\d{1,9})? ?[NSEWO]"
    r"|[NSEW]? ?\d{1,3} \d{1,2}(?: \d{1,2})?(?:\.\d{1,9})? ?[NSEWO]|[NSEW] ?\d{1,3}(?:\.\d{1,9})?)"
    r"|(?P<amounts_in_thousands_or_millions>[+-]?[A-Z]{0,3}[$€£¥₹] ?\d{1,12}(?:[.,]\d{1,9}){0,3}"
    r" ?(?:[KkMmBbT]|[bmt]n|[Mm]illion|[Bb]illion|[Tt]housand|Mio\.?|Mrd\.?|lakh|crore)?)"
    rf"|(?P<powers_of_ten>{_PLAIN}(?: ?[x×*·] ?10(?:(?:\^|\*\*)[+-]?\d{{1,3}}|[⁺⁻⁰¹²³⁴-⁹]{{1,4}})|[dD][+-]?\d{{1,3}}))"
    rf"|(?P<numbers_marked_as_text>'{_PLAIN}|=\"{_PLAIN}\")"
    r"|(?P<quarters>\d{4}[-/ ]?Q[1-4]|Q[1-4][-/ ]?\d{4}|[1-4]Q\d{2,4})"
    r"|(?P<months>(?:19|20)\d{2}(?:-?M0?|-)(?:[1-9]|1[0-2]))"
    r"|(?P<weeks>(?:KW|CW|WK|Wk|wk|Week|week|Semaine|Sem\.?) ?\d{1,2}(?:[ /.-]{1,3}(?:19|20)?\d{2})?"
    r"|(?:19|20)\d{2}[ /.-]{0,3}(?:KW|CW|WK|Wk|wk|Week|week) ?\d{1,2}|(?:19|20)\d{2}年第?\d{1,2}[周週])"
    r"|(?P<days_of_a_year>(?:19|20)\d{2}-(?:[0-2]\d{2}|3[0-6]\d))"
    r"|(?P<times_in_brackets>/Date\(-?\d{1,15}(?:[+-]\d{4})?\)/)"
    rf"|(?P<ranges>{_SHORT} ?(?:-|–|—|\.\.\.?|to|bis|à|a|até|~|～) ?{_SHORT}(?: [a-z]{{1,10}})?|{_SHORT} ?[+-]"
    rf"|(?:under|over|below|above|up to|unter|über|ab|bis|moins de|plus de) ?{_SHORT}"
    rf"|{_SHORT} (?:and|or|und|oder|et|ou) (?:over|older|above|more|less|under|younger|mehr|älter|plus|mais))"
    rf"|(?P<approximate_numbers>(?:[~≈≤≥<>]=?|ca?\.|about|approx\.?) ?{_PLAIN}|{_PLAIN} ?(?:±|\+/-) ?{_PLAIN}"
    rf"|{_PLAIN} ?\({_PLAIN} ?%?\))"
    rf"|(?P<numbers_after_a_name>[^\W\d]\w{{0,20}} ?[=+] ?{_PLAIN}(?: ?[A-Za-z%]{{1,5}})?)"
    rf"|(?P<complex_numbers>\(?{_PLAIN}[+-]\d{{1,15}}(?:\.\d{{1,15}})?[ij]\)?)"
    rf"|(?P<lists_of_numbers>[\[({{] ?{_PLAIN}(?:(?: ?[,;] ?| ){_PLAIN}){{2,200}} ?[\])}}])"
    r"|(?P<amounts_with_a_sign_between_their_digits>\d{1,9}[$€£¥]\d{2}|£?\d{1,9} ?\d{1,2}s\.? ?\d{1,2}d\.?)"
    r"|(?P<numbers_with_characters_for_ten_thousands>(?=.*[万萬億亿兆千만억])[\d.,万萬億亿兆千百十만억천]{2,20}[円元원]?)"
    r"|(?P<ordinal_numbers>\d{1,9}(?:st|nd|rd|th|er|re|ème|º|ª|\.º|\.ª))"
    rf"|(?P<several_numbers>[(\[]?{_PLAIN}(?:(?: ?[,;x×] ?| ){_PLAIN}){{1,3}}[)\]]?|POINT ?\({_PLAIN} {_PLAIN}\))"
    rf"|(?P<days_without_a_year>{_MONTH} \d{{1,2}}|\d{{1,2}}[. -] ?{_MONTH})"
    rf"|(?P<dates_in_a_notation_of_their_own>(?!.{{61}})\D{{0,30}}(?:\d{{4}}[-/.年]+\d{{1,2}}[-/.月]+\d{{1,2}}"
    rf"|\d{{1,2}}[-/.]+(?:\d{{1,2}}|{_MONTH})[-/.]+\d{{4}}|1\d{{2}}[-/.](?:0?[1-9]|1[0-2])[-/.]\d{{1,2}}|民國\d{{1,3}}年\d{{1,2}}月\d{{1,2}}日"
    rf"|(?:令和|平成|昭和|大正|明治)[\d元]{{1,2}}年\d{{1,2}}月\d{{1,2}}日|[RHSTM]\d{{1,2}}[./-]\d{{1,2}}[./-]\d{{1,2}})"
    rf"(?:\D.*)?)"
)
_NUMBER = re.compile(_PLAIN)
_LETTER_AND_NUMBER = re.compile(r"[A-Z]? ?\d{1,3} ?[A-Z]?")


def note_quantities(name: str, texts: Sequence[str]) -> Notice | None:
    """Note a text column of numbers in a notation that is not parsed: 0x1F, 3/4, 08:30, 5'11"."""
    present = [text.strip() for text in texts[:1000] if text.strip()]
    counts = Counter(match.lastgroup for text in present if (match := re.fullmatch(_QUANTITY, text)))
    what, count = counts.most_common(1)[0] if counts else (None, 0)
    plain = sum(_NUMBER.fullmatch(text) is not None for text in present)
    # Other notations may occur beside the main one: "60+" below "10-20".
    if (
        what is None
        or counts.total() < 2
        or count * (5 if what == "numbers_with_footnote_marks" else 2) < len(present)
        or counts.total() + plain < LEAST_SHARE * len(present)
    ):
        return None
    if (
        what == "degrees"
        and len({*"".join(present)} & {*"NSEWO"}) < 2
        and all(_LETTER_AND_NUMBER.fullmatch(text) for text in present)
    ):
        return None  # S1, S2, S3 are names
    example = next(text for text in present if re.fullmatch(_QUANTITY, text))
    return Notice(
        code="number_like_text",
        message=f"{name!r} is left as text: its values are {what.replace('_', ' ')}, which are not read as numbers or"
        " times.",
        column=name,
        evidence=f"such as {example}; written as plain numbers, their size can be learned from",
        option=f"kinds.{name}=categorical",
    )
