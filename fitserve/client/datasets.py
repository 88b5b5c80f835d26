"""Datasets: upload, list, look into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pydantic import Field

from fitserve.client import dataframes
from fitserve.client.connection import Handle, Resource, ask, ask_json, bind, gather, pages
from fitserve.client.downloads import save
from fitserve.client.effects import Call, Item, Listing, M, Operation, listing, operation
from fitserve.client.history import card
from fitserve.client.resumable import send as resumable_upload
from fitserve.client.upload_body import Progress, dataset_name, upload_of
from fitserve.dataset_facts import Kind
from fitserve.errors import BadInput
from fitserve.wire.datasets import Column, DatasetInfo, Profile, Relation, Relations, SampleInfo, UploadOptions

if TYPE_CHECKING:
    import pandas
    import polars

_PATH = "/api/v1/datasets"
UPLOAD_TIMEOUT = 600.0  # seconds without a byte: a large table is parsed before it is answered


class Dataset(DatasetInfo, Handle[M]):
    """One version of a dataset. `columns` is there once it was asked for by itself, or just uploaded."""

    columns: Sequence[Column] = Field(default=())

    @property
    def ref(self) -> str:
        """`name@version`, which a spec can name."""
        return f"{self.name}@{self.version}"

    @operation
    def refresh(self) -> Operation[Dataset[M]]:
        """Asks for it again, with its columns."""
        self._update((yield from ask_json(self._connection, "GET", f"{_PATH}/{self.id}")))
        return self

    @listing
    def iter_rows(self, limit: int | None = None) -> Listing[dict[str, Any]]:
        """Rows in the table's order, as mappings of column to value; None is missing."""
        yield from _rows(self, limit)

    @operation
    def to_pandas(self, limit: int | None = None) -> Operation[pandas.DataFrame]:
        """Its rows as a pandas frame. Raises ImportError where pandas is not installed."""
        return dataframes.to_pandas((yield from gather(_rows(self, limit))))

    @operation
    def to_polars(self, limit: int | None = None) -> Operation[polars.DataFrame]:
        """Its rows as a polars frame. Raises ImportError where polars is not installed."""
        return dataframes.to_polars((yield from gather(_rows(self, limit))))

    @operation
    def profile(self) -> Operation[Profile]:
        """Counts, quantiles, histograms, top values of every column."""
        return Profile.model_validate((yield from ask_json(self._connection, "GET", f"{_PATH}/{self.id}/profile")))

    @operation
    def relations(self, target: str) -> Operation[Sequence[Relation]]:
        """How each column relates to a target, the strongest first. Raises NotFound for an unknown column."""
        found = yield from ask_json(self._connection, "GET", f"{_PATH}/{self.id}/relations", {"target": target})
        return Relations.model_validate(found).items

    @operation
    def change(self, *, kinds: Mapping[str, Kind] | None = None, shared: bool | None = None) -> Operation[Dataset[M]]:
        """Corrects the kinds of columns, which makes a new version; or shares it with other owners."""
        body = {"kinds": dict(kinds) if kinds else None, "shared": shared}
        call = Call.with_json("PATCH", f"{_PATH}/{self.id}", {k: v for k, v in body.items() if v is not None})
        answer = yield from ask(self._connection, call)
        return bind(Dataset, answer.json(), self._connection)

    @operation
    def append(self, /, data: Any, *, progress: Progress | None = None, **options: Any) -> Operation[Dataset[M]]:
        """A new version with the rows of another table, which has the same columns; it names this one as its parent."""
        upload = upload_of(data, progress)
        path = f"{_PATH}/{self.id}/rows"
        query = _options(UploadOptions(**options))
        call = Call("POST", path, query, content=upload, timeout=UPLOAD_TIMEOUT, repeatable=False)
        answer = yield from ask(self._connection, call)
        return bind(Dataset, answer.json(), self._connection)

    @operation
    def download(self, path: str | PathLike[str], format: Literal["parquet", "csv"] = "parquet") -> Operation[Path]:
        """Writes the table as a file; Parquet is exact. `path` is a file, or a folder."""
        target = Path(path)
        if target.is_dir():
            target /= f"{self.name}-v{self.version}.{format}"
        call = Call("GET", f"{_PATH}/{self.id}/download", {"format": format}, timeout=UPLOAD_TIMEOUT)
        yield from save(self._connection, call, target)
        return target

    @operation
    def delete(self) -> Operation[None]:
        """Removes this version. Raises Conflict while runs rest on it."""
        yield from ask(self._connection, Call("DELETE", f"{_PATH}/{self.id}"))

    def __repr__(self) -> str:
        return f"<Dataset {self.ref}: {self.extent}>"

    @property
    def extent(self) -> str:
        """How large it is, in words."""
        return f"{self.rows:,} rows" + (f", {len(self.columns)} columns" if self.columns else "")

    def _repr_html_(self) -> str:
        kinds = {column.name: column.kind for column in self.columns}
        return card(f"Dataset {self.ref}", {"size": self.extent, **kinds})


class Datasets(Resource[M]):
    """`client.datasets`."""

    @operation
    def upload(
        self,
        /,
        data: Any,
        name: str | None = None,
        *,
        kinds: Mapping[str, Kind] | None = None,
        progress: Progress | None = None,
        resumable: bool = False,
        **options: Any,
    ) -> Operation[Dataset[M]]:
        """A new dataset, or a new version of one. The same content again is the same dataset.

        Args:
            data: a path; bytes; an open binary file; a pandas or polars frame; a pyarrow Table.
            name: left out, it is made from the file's name.
            kinds: corrects what the server infers, by column.
            progress: called with the bytes sent so far and the bytes in all.
            resumable: send it in pieces, and go on after a lost connection where it stopped.
            options: how to read it, as `fitserve.wire.datasets.UploadOptions`: delimiter, encoding, missing, lenient...

        Raises BadInput with the row and column of each problem, Malformed, TooLarge, StorageFull.
        """
        upload = upload_of(data, progress)
        if name is None and upload.stem is None:
            raise BadInput("The dataset needs a name.", fix='upload(data, name="admissions")')
        chosen = name or dataset_name(str(upload.stem))
        query = _options(UploadOptions(kinds=dict(kinds or {}), **options))
        if resumable:
            made = yield from resumable_upload(self._connection, upload, {**query, "name": chosen}, UPLOAD_TIMEOUT)
            return bind(Dataset, made, self._connection)
        call = Call(
            "PUT",
            f"{_PATH}/{quote(chosen, safe='')}",
            query,
            content=upload,
            timeout=UPLOAD_TIMEOUT,
            repeatable=upload.repeatable,
        )
        answer = yield from ask(self._connection, call)
        return bind(Dataset, answer.json(), self._connection)

    @operation
    def get(self, ref: str) -> Operation[Dataset[M]]:
        """A dataset by its name (its newest version), name@version, or id. Raises NotFound."""
        found = yield from ask_json(self._connection, "GET", f"{_PATH}/{quote(ref, safe='@')}")
        return bind(Dataset, found, self._connection)

    @listing
    def list(self, limit: int | None = None) -> Listing[Dataset[M]]:
        """Datasets, the newest first."""
        connection = self._connection
        yield from pages(connection, _PATH, {}, lambda item: bind(Dataset, item, connection), limit)

    @listing
    def samples(self) -> Listing[SampleInfo]:
        """The built-in datasets that can be had."""
        yield from pages(self._connection, f"{_PATH}/samples", {}, SampleInfo.model_validate)

    @operation
    def sample(
        self, sample: str, name: str | None = None, *, noise: float = 0, rows: int | None = None, seed: int = 0
    ) -> Operation[Dataset[M]]:
        """A built-in dataset: TensorFlow Playground's six (with `noise` from 0 to 50) and scikit-learn's tables."""
        body = {"sample": sample, "name": name, "noise": noise, "rows": rows, "seed": seed}
        answer = yield from ask(self._connection, Call.with_json("POST", f"{_PATH}/samples", body))
        return bind(Dataset, answer.json(), self._connection)


def _rows(dataset: Dataset[M], limit: int | None) -> Listing[dict[str, Any]]:
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        query = {"cursor": cursor, "limit": 1000 if left is None else min(left, 1000)}
        page = yield from ask_json(dataset._connection, "GET", f"{_PATH}/{dataset.id}/rows", query)
        names = page["columns"]
        for row in page["rows"]:
            yield Item(dict(zip(names, row, strict=True)))
        left = None if left is None else left - len(page["rows"])
        cursor = page.get("next_cursor")
        if not cursor:
            return


def _options(options: UploadOptions) -> dict[str, str]:
    """The options that are not the defaults, as a query."""
    given = options.model_dump(mode="json", exclude_defaults=True)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
