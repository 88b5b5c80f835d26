"""Character encodings by name: those that uploads and prediction bodies may declare."""

from __future__ import annotations

import codecs

# Besides the families iso8859-, cp (code pages), mac- and koi8-.
_NAMES = frozenset(
    {"ascii", "utf-7", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le"}
    | {"big5", "big5hkscs", "gb2312", "gbk", "gb18030", "hz", "euc_jp", "euc_jis_2004", "euc_jisx0213", "euc_kr"}
    | {"johab", "shift_jis", "shift_jis_2004", "shift_jisx0213", "iso2022_jp", "iso2022_jp_1", "iso2022_jp_2"}
    | {"iso2022_jp_3", "iso2022_jp_2004", "iso2022_jp_ext", "iso2022_kr", "tis-620", "hp-roman8", "kz1048", "ptcp154"}
)
_FAMILIES = ("iso8859-", "cp", "mac-", "koi8-")


def charset_named(stated: str) -> str:
    """Return a character encoding's name in Python. Raises LookupError, ValueError.

    Python's codecs include others: archives (zip, base64, uu), and some whose decoders take quadratic time (punycode).
    """
    name = codecs.lookup(stated).name
    if name not in _NAMES and not name.startswith(_FAMILIES):
        raise LookupError(stated)
    return name
