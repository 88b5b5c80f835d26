"""CSV files whose lines are rewritten before they are parsed, because no single character separates their fields.

Fields between two signs (`1::Toy Story::5`, `a||b`) or beyond ASCII (`1þ2`), columns that blanks align
(`Ann Lee   31`) or that stand at the same places, lines that are quoted as a whole (`"1,2,x"`), as spreadsheets save
what they took for one column, fields that name their column (`a=1, b=2`), and lines that end in another character than
usual.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from fitserve.datasets.readers.csv_header import begins_as_number
from fitserve.settings import MB
from fitserve.wire.datasets import UploadOptions

SEPARATOR = "\x1f"  # the unit separator of ASCII, for which no delimiter is taken that fields may hold
MAX_LINES = 200  # lines from which a rewrite is detected
FEW_LINES = 3
FEW_ALIGNED = 5  # least lines in which blanks at the same places separate columns
DOUBLED = ("::", "||", ";;", ",,", "~~", "^^", "##", "@@", "$$")
WITH_TABS = (",\t", ";\t", "|\t")
BEYOND_ASCII = ("þ", "¦", "¬", "¶", "§", "｜", "│", "，", "；")
MARKS_OF_SENTENCES = ("，", "；")  # punctuation, taken as a delimiter only where a column of numbers results
# A Concordance load file's fields are between thorns, and DC4 is between those.
_THORN, _BETWEEN_THORNS = "þ", "þ\x14þ"
# Next line, Unicode's ends of lines and of paragraphs, and ASCII's record separator.
LINE_ENDS = {"U+0085": "\x85", "U+2028": "\u2028", "U+2029": "\u2029", "U+001E": "\x1e"}
_SINGLE = (",", ";", "\t", "|")
_QUOTED = re.compile(rb'("[^"\n]*+")')
_WIDE_BLANKS = re.compile(r"\S {2,}+\S")
_FILLED = re.compile(r"x++(?>( x++)*)")  # places with a sign in some line; single blanks among them separate nothing
_BLANKS = re.compile(rb'"[^"\n]*+"|[ \t]{2,}+')


def _of_pairs(sign: bytes) -> bytes:
    """Return the pattern of `name=value` and the sign behind it; a value in quotes may hold the sign."""
    name, plain = rb"[^\s=,;|\"'<>!\d][^=,;|\"\t<>!]{0,60}?", rb'([^"' + re.escape(sign) + rb"]*+)"
    value = rb'(?:"((?:[^"]|"")*+)" *+|' + plain + rb")"
    return rb"\s*+(" + name + rb") ?= ?" + value + rb"(?:" + re.escape(sign) + rb"|\Z)"


_WITH_COMMA, _WITH_SEMICOLON, _WITH_TAB, _WITH_BAR = map(_of_pairs, (b",", b";", b"\t", b"|"))


class Pairs(NamedTuple):
    """How fields that name their column are found between two signs."""

    sign: str
    pattern: re.Pattern[bytes]


_PAIRS = (
    Pairs(",", pattern=re.compile(_WITH_COMMA)),
    Pairs(";", pattern=re.compile(_WITH_SEMICOLON)),
    Pairs("\t", pattern=re.compile(_WITH_TAB)),
    Pairs("|", pattern=re.compile(_WITH_BAR)),
    Pairs(
        " ",
        pattern=re.compile(
            rb"\s*+([^\s=,;|\"'<>!\d][^\s=,;|\"<>!]{0,60}+)=(?:\"((?:[^\"]|\"\")*+)\"|([^\s\"]*+))(?:\s++|\Z)"
        ),
    ),
)


@dataclass(frozen=True)
class Rewrite:
    """What is changed in each line, and the notice of it."""

    line: Callable[[bytes], bytes]
    delimiter: str | None  # delimiter of the new lines; None: detect it in them
    shown: str | None  # delimiter of the original lines, for messages
    code: str
    message: str
    names: tuple[bytes, ...] = ()  # column names that each line repeats; they become the header


def find_rewrite(head: str, options: UploadOptions) -> Rewrite | None:
    """Return how to rewrite the lines of a file that begins with `head`; None: they are parsed as they are."""
    if options.delimiter is not None or options.quote is not None:
        return None
    lines = [line for line in head.splitlines()[:MAX_LINES] if line.strip()]
    if len(lines) < FEW_LINES:
        return None
    if all(len(line) > 2 and line[0] == '"' == line[-1] for line in lines):
        return _whole_lines(lines)
    if (pairs := _named_fields(lines)) is not None:
        return pairs
    if all(line[:1] == _THORN == line[-1:] for line in lines) and _are_alike([x.count(_BETWEEN_THORNS) for x in lines]):
        return _between_thorns()
    for sign in WITH_TABS:
        if all(line.count("\t") == line.count(sign) == line.count(sign[0]) for line in lines) and sign in lines[0]:
            return _doubled(lines, (sign,))
    is_usual = any(_are_alike([line.count(one) for line in lines]) for one in _SINGLE if one * 2 not in lines[0])
    if is_usual and not (lines[0].count("::") > 1 and _are_alike([line.count("::") for line in lines])):
        return None
    return _doubled(lines) or _beyond_ascii(lines) or _aligned(lines) or _at_places(lines)


def _are_alike(counts: list[int]) -> bool:
    return counts[0] > 0 and counts.count(counts[0]) > 0.95 * len(counts)


def _whole_lines(lines: list[str]) -> Rewrite | None:
    if any('"' in line[1:-1].replace('""', "") for line in lines):
        return None
    inner = [line[1:-1].replace('""', '"') for line in lines]
    if not any(_are_alike([len(fields) - 1 for fields in csv.reader(inner, delimiter=one)]) for one in _SINGLE):
        return None
    if all(text[:1] == " " for line in inner for text in line.split(",")[1:]):
        return None  # sentences
    message = "Each line is quoted as a whole; what is within the quotes is read."

    def unquoted(line: bytes) -> bytes:
        bare = line.strip()
        return bare[1:-1].replace(b'""', b'"') if bare[:1] == b'"' == bare[-1:] and len(bare) > 1 else bare

    return Rewrite(unquoted, None, None, "lines_quoted", message)


def _named_fields(lines: list[str]) -> Rewrite | None:
    """Find fields that name their column, `a=1, b=2`, in the same or another order, some of them left out."""
    best: tuple[int, str, re.Pattern[bytes], tuple[bytes, ...]] | None = None
    for sign, pattern in _PAIRS:
        pairs = [_pairs(line.encode("utf-8", "surrogateescape"), pattern) for line in lines]
        if not all(pairs):
            continue
        count = sum(len(one or ()) for one in pairs)
        names = tuple(dict.fromkeys(name for one in pairs if one for name in one))
        if len(names) > 1 and count * 2 >= len(names) * len(lines) and (best is None or count > best[0]):
            best = count, sign, pattern, names
    if best is None:
        return None
    _, sign, pattern, names = best

    def separated(line: bytes) -> bytes:
        values = _pairs(line, pattern)
        if not values or not values.keys() <= {*names}:
            return _quoted(line)  # empty, or one field, which is refused
        return SEPARATOR.encode().join([_quoted(values.get(name, b"")) for name in names])

    message = "Each field names its column: what stands before = is the column's name."
    return Rewrite(separated, SEPARATOR, sign, "fields_name_columns", message, names)


def _pairs(line: bytes, pattern: re.Pattern[bytes]) -> dict[bytes, bytes] | None:
    """Return a line's values by the names before them; None where anything else is in it, or a name twice."""
    line, values, at = line.strip(), dict[bytes, bytes](), 0
    while at < len(line):
        match = pattern.match(line, at)
        if match is None or match[1] in values:
            return None
        values[match[1]] = match[3].strip() if match[2] is None else match[2].replace(b'""', b'"')
        at = match.end()
    return values


def _quoted(field: bytes) -> bytes:
    return b'"' + field.replace(b'"', b'""') + b'"' if b'"' in field else field


def _between_thorns() -> Rewrite:
    def separated(line: bytes) -> bytes:
        bare, thorn = line.strip(), _THORN.encode()
        if not (bare.startswith(thorn) and bare.endswith(thorn)):
            return line
        fields = bare.removeprefix(thorn).removesuffix(thorn).split(_BETWEEN_THORNS.encode())
        return SEPARATOR.encode().join(map(_quoted, fields))

    message = f"Fields are between {_THORN!r}, as in load files of Concordance."
    return Rewrite(separated, SEPARATOR, "\x14", "unusual_delimiter", message)


def _beyond_ascii(lines: list[str]) -> Rewrite | None:
    for sign in BEYOND_ASCII:
        if not _are_alike([line.count(sign) for line in lines]):
            continue
        if sign in MARKS_OF_SENTENCES and not any(
            all(map(begins_as_number, column))
            for column in zip(*(line.split(sign) for line in lines[1:]), strict=False)
        ):
            continue
        return replace(_at_each(sign), code="unusual_delimiter")
    return None


def _at_each(sign: str) -> Rewrite:
    def separated(line: bytes) -> bytes:
        parts = _QUOTED.split(line)  # quoted parts have odd indices
        found, new = sign.encode(), SEPARATOR.encode()
        return b"".join(part if index % 2 else part.replace(found, new) for index, part in enumerate(parts))

    return Rewrite(separated, SEPARATOR, sign, "delimiter_of_two", f"Fields are separated by {sign!r}.")


def _doubled(lines: list[str], signs: tuple[str, ...] = DOUBLED) -> Rewrite | None:
    for sign in signs:
        single = sum(sign[0] in line.replace(sign, "") for line in lines)
        # A colon stands in titles too; another sign that is single as well separates empty fields.
        if not _are_alike([line.count(sign) for line in lines]) or (single and sign != "::"):
            continue
        return _at_each(sign)
    return None


def _aligned(lines: list[str]) -> Rewrite | None:
    """Find columns between two or more blanks, where single blanks give no columns."""
    counts = [len(re.split(r"[ \t]{2,}", line.strip())) - 1 for line in lines]
    if not _are_alike(counts) or _are_alike([len(line.split()) - 1 for line in lines]) or any('"' in x for x in lines):
        return None

    def separated(line: bytes) -> bytes:
        return _BLANKS.sub(SEPARATOR.encode(), line.strip())

    return Rewrite(separated, SEPARATOR, "  ", "aligned_columns", "Columns are separated by two or more blanks.")


def _at_places(lines: list[str]) -> Rewrite | None:
    """Find columns that stand at the same places in all lines, two or more blanks apart: a field may be empty."""
    if len(lines) < FEW_ALIGNED or any("\t" in line or '"' in line for line in lines):
        return None
    width = max(map(len, lines))
    is_filled = "".join("x" if any(line[at : at + 1].strip() for line in lines) else " " for at in range(width))
    spans = [match.span() for match in _FILLED.finditer(is_filled)]
    if len(spans) < 2 or not all(lines[0][begin:end].strip() for begin, end in spans[1:]):
        return None  # text, or a header that is not above its columns
    if any(_WIDE_BLANKS.search(line[begin:end]) for line in lines for begin, end in spans):
        return None  # columns whose fields touch in some lines
    if all(line[begin:end].strip() for line in lines for begin, end in spans):
        return None  # no field is empty: what blanks separate is seen by itself
    begins = [0, *(begin for begin, _ in spans[1:])]
    ends = [*begins[1:], None]
    between = [(end, begin) for (_, end), (begin, _) in pairwise(spans)]

    def separated(line: bytes) -> bytes:
        text = line.decode("utf-8", "surrogateescape")
        if any(text[begin:end].strip() for begin, end in between):
            return line.strip() + SEPARATOR.encode() * len(begins)  # too many fields, which is refused
        fields = [text[begin:end].strip() for begin, end in zip(begins, ends, strict=True)]
        return SEPARATOR.join(fields).encode("utf-8", "surrogateescape") if any(fields) else b""

    message = "Columns stand at the same places in each line; blanks there are an empty field."
    return Rewrite(separated, SEPARATOR, "  ", "columns_at_places", message)


def write_anew(path: Path, target: Path, rewrite: Rewrite) -> Path:
    """Rewrite a file's lines. They keep their numbers, unless a line of names comes before them."""
    with path.open("rb") as file, target.open("wb") as out:
        if rewrite.names:
            out.write(SEPARATOR.encode().join(rewrite.names) + b"\n")
        while lines := file.readlines(MB):
            out.write(b"".join(rewrite.line(line.rstrip(b"\r\n")) + b"\n" for line in lines))
    return target


def unusual_line_end(head: str) -> str | None:
    """Return the character that ends the lines of a file that begins with `head`; None: they end as usual."""
    if "\n" in head or "\r" in head:
        return None
    return next((name for name, end in LINE_ENDS.items() if end in head), None)


def end_lines_as_usual(path: Path, target: Path, name: str) -> Path:
    """Write a file with usual ends of lines in place of `LINE_ENDS[name]`."""
    end, rest = LINE_ENDS[name].encode(), b""
    with path.open("rb") as file, target.open("wb") as out:
        while data := file.read(MB):
            data = (rest + data).replace(end, b"\n")
            cut = next((size for size in range(len(end) - 1, 0, -1) if data.endswith(end[:size])), 0)
            data, rest = data[: len(data) - cut], data[len(data) - cut :]
            out.write(data)
        out.write(rest)
    return target
