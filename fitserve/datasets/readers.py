"""The reader of each format, behind one protocol (`ingest.Reader`)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fitserve.datasets.column_types import Plan, propose
from fitserve.datasets.columnar_reader import ColumnarTable
from fitserve.datasets.csv_reader import BLOCK, MISSING, CsvReader, InvalidUtf8, LargerBlocks
from fitserve.datasets.dialect import Dialect, sniff
from fitserve.datasets.jsonl_reader import JsonLinesTable, lines_of_array
from fitserve.datasets.open_file import Source, first_invalid_utf8, guess_encoding, transcode
from fitserve.datasets.reader import Reader, Restart
from fitserve.errors import Problem
from fitserve.settings import MB, Limits
from fitserve.wire.datasets import UploadOptions

PEEKS = 8


def make_reader(
    source: Source, options: UploadOptions, limits: Limits, folder: Path
) -> tuple[Reader, dict[str, Any], list[Problem]]:
    """The reader, a description of the source, and what had to be mended in its header (lenient mode)."""
    described: dict[str, Any] = {
        "format": source.format,
        "compression": source.compression,
        "encoding": source.encoding,
        "options": options.model_dump(mode="json", exclude_defaults=True),
    }
    if source.format == "csv":
        reader = CsvTable(source, options, limits, folder, described)
        return reader, described, reader.notes
    if source.format == "jsonl":
        return JsonLinesTable(lines_of_array(source.path, folder / "lines"), options, limits), described, []
    return ColumnarTable(source, options, limits, described), described, []


class CsvTable:
    """A CSV file; a larger block or another encoding is taken when the file turns out to need it."""

    def __init__(
        self, source: Source, options: UploadOptions, limits: Limits, folder: Path, described: dict[str, Any]
    ) -> None:
        self.path, self.options, self.limits, self.folder = source.path, options, limits, folder
        self.described = described
        self.stated = source.encoding if source.path.name == "text" else options.encoding
        self.missing = list(MISSING if options.missing is None else ("", *options.missing))
        self.block = BLOCK
        self.problems: list[Problem] = []
        self.refused = 0
        self._sniff()

    def _sniff(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(MB)
        size = self.path.stat().st_size
        text = head.decode("utf-8", "replace")
        self.dialect, self.notes = sniff(text, self.options, self.limits, whole=len(head) == size)
        self.names = self.dialect.names
        self.described |= {
            "delimiter": self.dialect.delimiter,
            "header": self.dialect.header,
            "decimal": self.dialect.decimal,
        }

    def plans(self) -> list[Plan]:
        """From the beginning and from pieces of the rest of the file."""
        pieces = [piece for piece in self._pieces() if piece is not None]
        table = pa.concat_tables(pieces) if pieces else None
        plans = []
        for name in self.names:
            column = table.column(name).combine_chunks() if table is not None else pa.array([], pa.string())
            plan = propose(column, self.options.kinds.get(name), self.dialect.decimal, self.dialect.skip_space)
            plans.append(replace(plan, missing=tuple(self.missing)) if plan.spaced else plan)
        return plans

    def _pieces(self) -> Iterator[pa.Table | None]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            head = file.read(MB)
            yield self._parsed(head if len(head) == size else head[: head.rfind(b"\n") + 1], self.dialect)
            step = (size - MB) // PEEKS
            for at in range(PEEKS if step > 256 * 1024 else 0):
                file.seek(MB + at * step)
                data = file.read(128 * 1024)
                yield self._parsed(
                    data[data.find(b"\n") + 1 : data.rfind(b"\n") + 1], replace(self.dialect, header=False)
                )

    def _parsed(self, data: bytes, dialect: Dialect) -> pa.Table | None:
        """A piece's rows as text; what does not parse is left out: this is only a guess."""
        if not data:
            return None
        try:
            return pa.csv.read_csv(
                io.BytesIO(data.decode("utf-8", "replace").encode()),
                read_options=pa.csv.ReadOptions(
                    use_threads=False,
                    block_size=max(len(data) * 2, 1024),
                    column_names=list(self.names),
                    skip_rows_after_names=int(dialect.header),
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=dialect.delimiter,
                    quote_char=dialect.quote,
                    newlines_in_values=True,
                    invalid_row_handler=lambda _row: "skip",
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: pa.string() for name in self.names},
                    strings_can_be_null=True,
                    null_values=self.missing,
                ),
            )
        except pa.ArrowInvalid:
            return None

    def batches(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """As CsvReader, reading again from the start where nothing was given out yet."""
        given = 0
        while True:
            self.csv = CsvReader(self.path, self.dialect, self.missing, self.limits, self.options.lenient, self.block)
            self.csv.problems = self.problems
            done = 0
            try:
                for numbers, batch in self.csv.batches():
                    self.refused = self.csv.refused
                    done += 1
                    if done > given:
                        given += 1
                        yield numbers, batch
                self.refused = self.csv.refused
                return
            except LargerBlocks:
                if given:
                    raise Restart from None
                self.block *= 4
            except InvalidUtf8:
                self._another_encoding()
                if given:
                    raise Restart from None
            self.problems.clear()

    def _another_encoding(self) -> None:
        bad = first_invalid_utf8(self.path)
        encoding = guess_encoding(self.path, bad or 0)
        self.path = transcode(self.path, self.folder / "text", encoding, self.limits)
        self.described["encoding"] = encoding

    def locate(self, problems: list[Problem]) -> list[Problem]:
        """With the file's lines."""
        return self.csv.locate(problems)
