"""The formats of tables, each read in batches by one module of this package.

Every module of this package is imported here, and a `TableReader` with a `format` registers itself: to add a format,
add a module, and its name to `fitserve.wire.datasets.Format`, which the API documents.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from fitserve.datasets import MAX_PROBLEMS, refuse, source_file, utf8
from fitserve.datasets.column_plan import ColumnPlan
from fitserve.errors import Problem, TooLarge
from fitserve.settings import Limits
from fitserve.wire.datasets import Format, UploadOptions
from fitserve.wire.notices import Notice


class ReadAgain(Exception):
    """The file must be read again from the start, under the same plans."""


Batches = Generator[tuple[np.ndarray, pa.RecordBatch], None, None]  # row numbers (int64, from 1) and rows
READERS: dict[Format, type[TableReader]] = {}


class TableReader(ABC):
    """A file in one format. Bad records are counted in `rejected`; the first of them are in `problems`.

    In strict mode MAX_PROBLEMS of them end the reading; in lenient mode they are left out.
    """

    format: ClassVar[Format]
    suffixes: ClassVar[tuple[str, ...]]  # of file names, without the dot
    signature: ClassVar[re.Pattern[bytes] | None] = None  # how a file begins; CSV is what matches no signature
    is_text: ClassVar[bool] = False  # read from UTF-8, whatever the upload's encoding

    def __init__(self, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
        """Read `path`, an uncompressed file; new files are made in `folder`."""
        self.path, self.options, self.limits, self.folder = path, options, limits, folder
        self.description: dict[str, Any] = {}  # how the file is written, as the dataset's `source` shows it
        self.notices: list[Notice] = []  # what was decided about the file; part of the upload's answer
        self.problems: list[Problem] = []
        self.rejected = 0
        self.set_asides: dict[str, str] = {}  # columns that are ignored unless the request says otherwise, and why
        self.names: Sequence[str] = ()  # the columns; more may be found while reading, which raises ReadAgain

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "format" in cls.__dict__:
            READERS[cls.format] = cls

    @abstractmethod
    def plans(self) -> list[ColumnPlan]:
        """Propose a plan for each column, from a sample of the file."""

    @abstractmethod
    def batches(self) -> Batches:
        """Yield the rows: texts or, under a typed plan, values; null where missing.

        Raises TableRefused, TableUnreadable, TooLarge, ReadAgain.
        """

    def add_notice(
        self,
        code: str,
        message: str,
        *,
        column: str | None = None,
        evidence: str | None = None,
        option: str | None = None,
    ) -> None:
        """Say once what was decided about the file."""
        notice = Notice(code=code, message=message, column=column, evidence=evidence, option=option)
        if notice not in self.notices:
            self.notices.append(notice)

    def set_aside(self, name: str, why: str) -> None:
        """Ignore a column that names its rows, unless the request gives it a kind."""
        if name in self.options.kinds:
            return
        self.set_asides[name] = why
        message = f"The column {name!r} is ignored: it is {why}."
        self.add_notice("column_set_aside", message, column=name, option=f"kinds.{name}=categorical")

    def locate(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return the problems with their lines in the file, where the format has lines."""
        return list(problems)

    def check_width(self, columns: int) -> None:
        """Raise TooLarge where there are more columns than the limit."""
        if columns > self.limits.columns:
            expected = f"at most {self.limits.columns}"
            raise TooLarge("The table has more columns than the limit.", received=columns, expected=expected)

    def check_length(self, rows: int) -> None:
        """Raise TooLarge where there are more rows than the limit."""
        if rows > self.limits.rows:
            received, expected = f"at least {rows} rows", f"at most {self.limits.rows}"
            raise TooLarge("The table has more rows than the limit.", received=received, expected=expected)

    def refuse_if_strict(self, least: int = MAX_PROBLEMS) -> None:
        """Raise TableRefused for a strict upload with at least this many bad records."""
        if not self.options.lenient and self.rejected >= least:
            raise refuse(self.locate(self.problems), self.rejected)


def open_reader(path: Path, options: UploadOptions, limits: Limits, folder: Path) -> TableReader:
    """Open an uploaded file: unpacked, its format recognised, text transcoded to UTF-8.

    New files are made in `folder`. Raises TableUnreadable, TableRefused, TooLarge, UnsupportedMedia.
    """
    path, compression = source_file.unpack(path, folder, limits)
    head = source_file.read_head(path)
    matching = (reader for reader in READERS.values() if reader.signature and reader.signature.match(head))
    reader = READERS[options.format] if options.format else next(matching, READERS["csv"])
    encoding = notice = None
    if reader.is_text:
        source_file.refuse_foreign_format(head)
        text = utf8.to_utf8(path, options.encoding, folder, limits)
        path, encoding, notice = text.path, text.encoding, text.notice
        if encoding == "utf-8":
            notice = utf8.note_damage(head)
    opened = reader(path, options, limits, folder)
    if notice is not None:
        opened.notices.insert(0, notice)
    opened.description = {
        "format": reader.format,
        "compression": compression,
        "encoding": encoding,
        "options": options.model_dump(mode="json", exclude_defaults=True),
        **opened.description,
    }
    return opened


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
