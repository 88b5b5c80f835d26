"""CSV files whose lines are written anew before they are parsed, because no one character separates their fields.

Fields between two signs (`1::Toy Story::5`, `a||b`), columns that blanks align (`Ann Lee   31`), and lines that are
quoted as a whole (`"1,2,x"`), as spreadsheets save what they took for one column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fitserve.settings import MB
from fitserve.wire.datasets import UploadOptions

SEPARATOR = "\x1f"  # the unit separator of ASCII, for which no delimiter is taken that fields may hold
MAX_LINES = 200  # that a file is judged by
FEW_LINES = 3
DOUBLED = ("::", "||", ";;", ",,", "~~", "^^", "##", "@@", "$$")
WITH_TABS = (",\t", ";\t", "|\t")
_SINGLE = (",", ";", "\t", "|")
_QUOTED = re.compile(rb'("[^"\n]*+")')
_BLANKS = re.compile(rb'"[^"\n]*+"|[ \t]{2,}+')


@dataclass(frozen=True)
class Rewrite:
    """What is changed in each line, and how that is said."""

    line: Callable[[bytes], bytes]
    delimiter: str | None  # of the new lines; None: to be found in them
    shown: str | None  # the delimiter of the old ones
    code: str
    message: str


def find_rewrite(head: str, options: UploadOptions) -> Rewrite | None:
    """Return how the lines of a file that begins with `head` are written anew; None: they are parsed as they are."""
    if options.delimiter is not None or options.quote is not None:
        return None
    lines = [line for line in head.splitlines()[:MAX_LINES] if line.strip()]
    if len(lines) < FEW_LINES:
        return None
    if all(len(line) > 2 and line[0] == '"' == line[-1] for line in lines):
        return _whole_lines(lines)
    for sign in WITH_TABS:
        if all(line.count("\t") == line.count(sign) == line.count(sign[0]) for line in lines) and sign in lines[0]:
            return _doubled(lines, (sign,))
    is_usual = any(_are_alike([line.count(one) for line in lines]) for one in _SINGLE if one * 2 not in lines[0])
    if is_usual and not (lines[0].count("::") > 1 and _are_alike([line.count("::") for line in lines])):
        return None
    return _doubled(lines) or _aligned(lines)


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


def _doubled(lines: list[str], signs: tuple[str, ...] = DOUBLED) -> Rewrite | None:
    for sign in signs:
        single = sum(sign[0] in line.replace(sign, "") for line in lines)
        # A colon stands in titles too; another sign that is single as well separates empty fields.
        if not _are_alike([line.count(sign) for line in lines]) or (single and sign != "::"):
            continue

        def separated(line: bytes, sign: bytes = sign.encode()) -> bytes:
            parts = _QUOTED.split(line)  # what is quoted stands at odd places
            return b"".join(part if at % 2 else part.replace(sign, SEPARATOR.encode()) for at, part in enumerate(parts))

        return Rewrite(separated, SEPARATOR, sign, "delimiter_of_two", f"Fields are separated by {sign!r}.")
    return None


def _aligned(lines: list[str]) -> Rewrite | None:
    """Find columns between two or more blanks, where single blanks give no columns."""
    counts = [len(re.split(r"[ \t]{2,}", line.strip())) - 1 for line in lines]
    if not _are_alike(counts) or _are_alike([len(line.split()) - 1 for line in lines]) or any('"' in x for x in lines):
        return None

    def separated(line: bytes) -> bytes:
        return _BLANKS.sub(SEPARATOR.encode(), line.strip())

    return Rewrite(separated, SEPARATOR, "  ", "aligned_columns", "Columns are separated by two or more blanks.")


def write_anew(path: Path, target: Path, rewrite: Rewrite) -> Path:
    """Write a file's lines anew; they keep their numbers."""
    with path.open("rb") as file, target.open("wb") as out:
        while lines := file.readlines(MB):
            out.write(b"".join(rewrite.line(line.rstrip(b"\r\n")) + b"\n" for line in lines))
    return target
