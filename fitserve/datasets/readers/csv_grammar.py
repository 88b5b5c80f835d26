"""Detect which characters separate and quote a CSV file's fields, from its beginning."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from itertools import islice

from fitserve.datasets.readers.csv_header import is_number
from fitserve.datasets.readers.csv_layout import (
    MAX_RECORDS,
    Grammar,
    Parsed,
    find_beginning,
    lines_of,
    parse,
)
from fitserve.wire.datasets import NO_CHARACTER

DELIMITERS = (",", ";", "\t", "|")
RARE_DELIMITERS = ("^", "~", "!", "&", ":", "\x01", "\x1f")
_CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d++)?)?( ?[AaPp][Mm])?(Z| ?[+-]\d{2}(:?\d{2})?)?"
_TIME = re.compile(
    rf"\s*+(\d{{4}}-\d{{2}}-\d{{2}}([T ]{_CLOCK})?|\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}},? {_CLOCK}|{_CLOCK})\s*+"
)
_AMOUNT = re.compile(r"\s*+[+-]?[$€£¥]? ?\d++(?>([,.' ]\d{3})*)([.,]\d++)?( ?[%€£])?\s*+")
_BLANKS = re.compile(r'"[^"\n]*+"|[ \t]++')
MORE_FIELDS = 3  # additional fields by which another delimiter beats a comma, which may be part of numbers or dates


def choose_grammar(text: str, delimiter: str | None, quote: str | None, comment: str | None, whole: bool) -> Parsed:
    """Return a file's beginning, parsed under the likeliest grammar; what is stated is kept."""
    if delimiter is None and quote is None and _is_one_column(text, comment, whole):
        unused = next((one for one in (*DELIMITERS, *RARE_DELIMITERS) if one not in text), "|")
        return parse(text, Grammar(unused, '"'), whole, comment)
    candidates = (delimiter,) if delimiter else DELIMITERS
    parsed = [_best_quote(text, one, quote, comment, whole) for one in candidates]
    best = max(parsed, key=_score)
    if best.grammar.delimiter == "," and best.width == 2:
        wider = [one for one in (_by_most_records(one) for one in parsed) if _is_wider(one, best)]
        if wider:
            return max(wider, key=_score)
    if delimiter is None and (best.width < 3 or best.share < 0.5):
        rare = [one for one in RARE_DELIMITERS if text.count(one) >= 3 and (one != ":" or best.width < 2)]
        tried = [_best_quote(text, one, quote, comment, whole) for one in rare]
        others = [one for one in tried if one.width > best.width and one.share >= 0.8 and _is_typed(one)]
        best = max((one for one in others if len(one.records) > 2), key=_score, default=best)
    if delimiter is None and (best.width < 2 or best.share < 0.5):
        best = _by_blanks(text, comment, whole) or best
    if best.width < 2 and delimiter is None:
        # In a single column of sentences, a comma is a comma: another delimiter, which is not there, keeps it.
        unused = next((one for one in DELIMITERS if one not in text), ",")
        best = parse(text, replace(best.grammar, delimiter=unused if _has_sentences(text) else ","), whole, comment)
    return best


def _is_one_column(text: str, comment: str | None, whole: bool) -> bool:
    """Return whether each line is one time, or, below a name without a delimiter, one amount such as 68,527.00."""
    lines = [
        line for line in lines_of(text)[:MAX_RECORDS] if line.strip() and not (comment and line.startswith(comment))
    ]
    first, *rest = (lines if whole else lines[:-1]) or [""]
    is_named = not _TIME.fullmatch(first)
    if is_named and any(one in first for one in DELIMITERS):
        return False
    values = rest if is_named else lines[: len(rest) + 1]
    if not values or not any(one in line for line in values for one in (*DELIMITERS, ":", " ")):
        return False
    firsts = [line.partition(",")[0].strip() for line in values]
    if any(firsts == [str(index) for index in range(start, start + len(firsts))] for start in (0, 1)):
        return False  # an index, and a column that the header names
    return all(_TIME.fullmatch(line) or (is_named and _AMOUNT.fullmatch(line)) for line in values)


def _has_sentences(text: str) -> bool:
    """Return whether each comma is followed by a blank, as in sentences."""
    return "," in text and text.count(",") == text.count(", ")


def _score(parsed: Parsed) -> tuple[float, ...]:
    """Rate a grammar: alike records from the first one on, clean fields, and many of them."""
    if parsed.width < 2:
        return (0.0, 0.0, 0.0, 0.0)
    others = set(DELIMITERS[1:]) - {parsed.grammar.delimiter}
    fields = [text for record in parsed.records[:100] for text in record.fields]
    clean = sum(not others.intersection(text) for text in fields) / max(1, len(fields))
    is_regular = len(parsed.records[0].fields) == parsed.width
    return (round(parsed.share, 1), float(is_regular), float(clean > 0.9), parsed.width)


def _is_wider(other: Parsed, best: Parsed) -> bool:
    """Return whether another delimiter finds far more fields in every record, although not as many in each.

    Then the one comma of each record is part of a number or a date, and some records lack fields.
    """
    is_even = other.share >= 0.5 and min(other.widths, default=0) * 2 > other.width
    return is_even and other.width >= best.width + MORE_FIELDS and other.grammar.delimiter != ","


def _by_most_records(parsed: Parsed) -> Parsed:
    """Return a file's beginning with the width that most of its records have, wherever they stand."""
    if not parsed.widths:
        return parsed
    width, records = parsed.widths.most_common(1)[0]
    return replace(parsed, width=width, share=records / parsed.widths.total())


def _best_quote(text: str, delimiter: str, quote: str | None, comment: str | None, whole: bool) -> Parsed:
    """Return the text parsed with the stated quote, or with the one that breaks the fewest records."""
    if quote is not None:
        return parse(text, Grammar(delimiter, None if quote == NO_CHARACTER else quote), whole, comment)
    plain = parse(text, Grammar(delimiter, '"'), whole, comment)
    bare = parse(text, Grammar(delimiter, None), whole, comment)
    if '"' not in text:
        return _with_single_quotes(text, plain, bare, whole, comment)
    if _is_well_quoted(text, delimiter, whole):
        return plain
    if f'{delimiter} "' in text:
        spaced = parse(text, Grammar(delimiter, '"', blank_before_quote=True), whole, comment)
        if spaced.width > 1 and spaced.share >= plain.share:
            return spaced
    if '\\"' in text and _has_escapes(text, delimiter):
        escaped = parse(text, Grammar(delimiter, '"', escape="\\"), whole, comment)
        if escaped.width > 1 and escaped.share >= plain.share and escaped.broken <= plain.broken:
            return escaped
    stray = _stray_quotes(bare)
    # One quote that is never closed is more likely an error, except between tabs, where quotes are rare.
    is_odd = (stray > 1 or (stray and delimiter == "\t")) and (plain.broken or plain.share <= bare.share)
    is_even = bare.width > 1 and bare.share == 1 and len(bare.records) > 2
    if is_odd and is_even and not _has_whole_quotes(bare):
        return bare
    return plain


def _is_well_quoted(text: str, delimiter: str, whole: bool) -> bool:
    """Return whether each quote that is opened is closed before a delimiter or at a line's end."""
    reader = csv.reader(lines_of(text.replace("\0", " ")), delimiter=delimiter, strict=True)
    try:
        for _ in islice(reader, MAX_RECORDS):
            pass
    except csv.Error as error:
        return not whole and "unexpected end" in str(error)
    return f'{delimiter} "' not in text


def _with_single_quotes(text: str, plain: Parsed, bare: Parsed, whole: bool, comment: str | None) -> Parsed:
    if "'" not in text:
        return plain
    begun = sum(any(text.lstrip()[:1] == "'" for text in record.fields) for record in bare.records)
    ended = sum(any(text[1:][-1:] == "'" for text in record.fields) for record in bare.records)
    is_spaced = f"{plain.grammar.delimiter} '" in text
    single = parse(text, replace(plain.grammar, quote="'", blank_before_quote=is_spaced), whole, comment)
    if single.width < 2 or not begun:
        return plain
    is_usual = min(begun, ended) * 2 >= len(bare.records) and single.share >= plain.share
    return single if is_usual or (single.share > plain.share and single.share >= 0.75) else plain


def _is_wrapped(text: str, quote: str) -> bool:
    return len(text) > 1 and text[0] == quote == text[-1]


def _stray_quotes(bare: Parsed) -> int:
    """Return how many fields begin with a quote that does not end them."""
    begun = [text for record in bare.records for text in record.fields if text[:1] == '"']
    return sum(not _is_wrapped(text, '"') or '"' in text[1:-1].replace('""', "") for text in begun)


def _has_whole_quotes(bare: Parsed) -> bool:
    """Return whether most fields that begin with a quote are properly quoted: then a stray one is an error."""
    begun = [text for record in bare.records for text in record.fields if text[:1] == '"']
    whole = sum(_is_wrapped(text, '"') and '"' not in text[1:-1].replace('""', "") for text in begun)
    return whole * 2 > len(begun)


def _has_escapes(text: str, delimiter: str) -> bool:
    """Return whether a backslash stands before a quote that does not end its field."""
    at = text.find('\\"')
    while at >= 0:
        if text[at + 2 : at + 3] not in (delimiter, "\n", "\r", "", '"'):
            return True
        at = text.find('\\"', at + 2)
    return False


def _is_typed(parsed: Parsed) -> bool:
    """Return whether a fair share of the fields are numbers: rare delimiters also occur in sentences."""
    body = parsed.records[find_beginning(parsed).first + 1 :]
    fields = [text for record in body for text in record.fields if text.strip()]
    return sum(map(is_number, fields)) >= 0.2 * len(fields) > 0


def _by_blanks(text: str, comment: str | None, whole: bool) -> Parsed | None:
    """Return the text as columns between blanks, if each line has as many and a good share are numbers."""
    if text.count('"') % 2:
        return None
    lines = _BLANKS.sub(lambda run: run[0] if run[0][:1] == '"' else " ", text).split("\n")
    joined = "\n".join(line.strip() for line in lines)
    parsed = parse(joined, Grammar(" ", '"', blank_runs=True), whole, comment)
    table = [record for record in parsed.records[find_beginning(parsed).first :] if not record.is_blank]
    if table and len(table[0].fields) == parsed.width - 1:  # the names, above rows that begin with a name of their own
        table = table[1:]
    alike = sum(len(record.fields) == parsed.width for record in table)
    are_numbers = len(table) == 2 and all(is_number(text) for record in table for text in record.fields)
    is_table = parsed.width > 1 and alike >= 0.95 * len(table) and (len(table) > 2 or are_numbers)
    return parsed if is_table and (are_numbers or _is_typed(parsed)) else None
