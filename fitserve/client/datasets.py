"""Datasets: upload, list, inspect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pydantic import Field

from fitserve.client import dataframes, transfers
from fitserve.client.connection import Connection, Handle, Query, Resource
from fitserve.client.errors import error_of_problem
from fitserve.client.history import card
from fitserve.client.runs import Run
from fitserve.client.upload_body import Progress, dataset_name, upload_of
from fitserve.dataset_facts import Kind
from fitserve.errors import BadInput
from fitserve.wire.datasets import (
    Column,
    DatasetInfo,
    Profile,
    Relation,
    Relations,
    SampleInfo,
    StagedInfo,
    UploadOptions,
)
from fitserve.wire.sources import ConnectionInfo

if TYPE_CHECKING:
    import httpx2
    import pandas
    import polars

_PATH = "/api/v1/datasets"
UPLOAD_TIMEOUT = 600.0  # seconds without a byte: the server parses a large table before it answers
IMPORT_TIMEOUT = 3_600.0  # the server fetches and parses a large source before it answers
_ROWS = 1000  # rows in one page
_COLUMNS = 20  # columns named in one request


class Dataset(DatasetInfo, Handle):
    """One version of a dataset. `columns` is empty in lists, until `refresh()`.

    A column with many labels lists only the most frequent ones; `iter_columns` yields all of them.
    """

    columns: Sequence[Column] = Field(default=())

    @property
    def ref(self) -> str:
        """`name@version`, as a spec refers to it."""
        return f"{self.name}@{self.version}"

    @property
    def extent(self) -> str:
        """The number of rows and columns, in words."""
        return f"{self.rows:,} rows" + (f", {len(self.columns)} columns" if self.columns else "")

    def refresh(self) -> Dataset:
        """Request it again, with its columns, and update this object."""
        return self._update(self._connection.get(f"{_PATH}/{self.id}"))

    def iter_rows(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield rows in the table's order, as mappings of column to value; None is missing."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = _ROWS if left is None else min(left, _ROWS)
            page = self._connection.get(f"{_PATH}/{self.id}/rows", {"cursor": cursor, "limit": size})
            for row in page["rows"]:
                yield dict(zip(page["columns"], row, strict=True))
            left = None if left is None else left - len(page["rows"])
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def iter_columns(self, *names: str) -> Iterator[Column]:
        """Yield its columns, or those of these names, with all their labels. Raises NotFound for an unknown column."""
        source = f"{_PATH}/{self.id}/columns"
        for index in range(0, max(1, len(names)), _COLUMNS):
            query: Query = {"name": [*names[index : index + _COLUMNS]]}
            yield from self._connection.pages(source, Column.model_validate, query)

    def to_pandas(self, limit: int | None = None) -> pandas.DataFrame:
        """Return its rows as a pandas frame. Raises ImportError where pandas is not installed."""
        return dataframes.to_pandas(self.iter_rows(limit))

    def to_polars(self, limit: int | None = None) -> polars.DataFrame:
        """Return its rows as a polars frame. Raises ImportError where polars is not installed."""
        return dataframes.to_polars(self.iter_rows(limit))

    def profile(self) -> Profile:
        """Return counts, quantiles, histograms and top values of every column."""
        source = f"{_PATH}/{self.id}/profile"
        part = whole = Profile.model_validate(self._connection.get(source))
        columns = {**whole.columns}
        while part.next_cursor is not None:
            part = Profile.model_validate(self._connection.get(source, {"cursor": part.next_cursor}))
            columns |= part.columns
        return whole.model_copy(update={"columns": columns, "next_cursor": None})

    def relations(self, target: str) -> Sequence[Relation]:
        """Return how each column relates to a target, strongest first. Raises NotFound for an unknown column."""
        answer = self._connection.get(f"{_PATH}/{self.id}/relations", {"target": target})
        return Relations.model_validate(answer).items

    def change(self, *, kinds: Mapping[str, Kind] | None = None, shared: bool | None = None) -> Dataset:
        """Correct the kinds of columns, which makes a new version; or share it with other owners."""
        changes = {"kinds": dict(kinds) if kinds else None, "shared": shared}
        body = {name: value for name, value in changes.items() if value is not None}
        return self.bind(self._connection.send("PATCH", f"{_PATH}/{self.id}", json=body).json(), self._connection)

    def append(
        self, /, data: Any, *, batch: str | None = None, progress: Progress | None = None, **options: Any
    ) -> Dataset:
        """Make a new version with the rows of another table that has the same columns. Its parent is this version.

        A `batch` that was already appended is not appended again, such as in a retry: its version is returned. Batches
        are added to the newest version of this one's name.
        """
        upload = upload_of(data, progress)
        answer = self._connection.send(
            "POST",
            f"{_PATH}/{self.id if batch is None else quote(self.name, safe='')}/rows",
            query=_query(UploadOptions(**options)),
            headers={} if batch is None else {"Idempotency-Key": batch},
            content=upload,
            timeout=UPLOAD_TIMEOUT,
            repeatable=batch is not None and upload.repeatable,
        )
        return self.bind(answer.json(), self._connection)

    def stage(self, /, data: Any, *, batch: str | None = None, **options: Any) -> StagedInfo:
        """Stage a small batch of rows, to be appended together with others. A `batch` sent twice counts once."""
        upload = upload_of(data, None)
        answer = self._connection.send(
            "POST",
            self._batches,
            query=_query(UploadOptions(**options)),
            headers={} if batch is None else {"Idempotency-Key": batch},
            content=upload,
            repeatable=batch is not None and upload.repeatable,
        )
        return StagedInfo.model_validate(answer.json())

    def staged(self) -> StagedInfo:
        """Return how many rows and batches are waiting to be appended."""
        return StagedInfo.model_validate(self._connection.get(self._batches))

    def commit(self) -> Dataset:
        """Append all staged rows as one version and return it; return the newest version if nothing is staged."""
        answer = self._connection.send("POST", f"{self._batches}/commit", timeout=UPLOAD_TIMEOUT)
        return self.bind(answer.json(), self._connection)

    @property
    def _batches(self) -> str:
        return f"{_PATH}/{quote(self.name, safe='')}/batches"

    def reimport(self) -> Dataset:
        """Import its source again. Return the next version if the content has changed, else this one."""
        answer = self._connection.send("POST", f"{_PATH}/{self.id}/refresh", timeout=IMPORT_TIMEOUT)
        if answer.status_code == 202:
            return wait_for_import(Run.bind(answer.json(), self._connection), self._connection, None)
        return self.bind(answer.json(), self._connection)

    def download(self, path: str | PathLike[str], format: Literal["parquet", "csv"] = "parquet") -> Path:
        """Write the table to `path`, a file or a folder. Parquet is exact."""
        source, name = f"{_PATH}/{self.id}/download", f"{self.name}-v{self.version}.{format}"
        return transfers.download(
            self._connection, source, path, name, query={"format": format}, timeout=UPLOAD_TIMEOUT
        )

    def delete(self) -> None:
        """Delete this version. Raises Conflict while runs depend on it."""
        self._connection.send("DELETE", f"{_PATH}/{self.id}")

    def __repr__(self) -> str:
        return f"<Dataset {self.ref}: {self.extent}>"

    def _repr_html_(self) -> str:
        kinds = {column.name: column.kind for column in self.columns}
        return card(f"Dataset {self.ref}", {"size": self.extent, **kinds})


def wait_for_import(run: Run, connection: Connection, progress: Progress | None) -> Dataset:
    """Wait for an import to end and return its version. Raises the errors of an import in the API, and RunEnded."""
    if progress is not None:
        for event in run.events():
            if "bytes_of" in event.data:
                progress(event.data["bytes"], event.data["bytes_of"])
    run.wait(check=False)
    error = run.error or {}
    if run.state == "failed" and "type" in error:
        raise error_of_problem(int(error["status"]), {**error, "run": run.id})
    run.wait()
    return Dataset.bind(connection.get(f"{_PATH}/{(run.result or {})['dataset_id']}"), connection)


class Datasets(Resource):
    """`client.datasets`."""

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
    ) -> Dataset:
        """Create a dataset, or a new version of one. Uploading the same content again returns the same dataset.

        Args:
            data: a path; bytes; an open binary file; a pandas or polars frame; a pyarrow Table.
            name: left out, it is derived from the file's name.
            kinds: column kinds, where the server should not infer them.
            progress: called with the bytes sent so far and the total.
            resumable: send it in pieces, and resume after a lost connection.
            options: how to read it, as `fitserve.wire.datasets.UploadOptions`: delimiter, encoding, missing, lenient...

        Raises BadInput with the row and column of each problem, Malformed, TooLarge, StorageFull.
        """
        upload = upload_of(data, progress)
        if name is None and upload.stem is None:
            raise BadInput("The dataset needs a name.", fix='upload(data, name="admissions")')
        chosen = name or dataset_name(str(upload.stem))
        query = _query(UploadOptions(kinds=dict(kinds or {}), **options))
        if resumable:
            metadata = {**query, "name": chosen}
            value = transfers.upload_in_pieces(self._connection, upload, metadata, UPLOAD_TIMEOUT)
        else:
            value = self._connection.send(
                "PUT",
                f"{_PATH}/{quote(chosen, safe='')}",
                query=query,
                content=upload,
                timeout=UPLOAD_TIMEOUT,
                repeatable=upload.repeatable,
            ).json()
        return Dataset.bind(value, self._connection)

    def import_from(
        self,
        name: str,
        source: Mapping[str, Any],
        *,
        kinds: Mapping[str, Kind] | None = None,
        wait: bool | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Dataset:
        """Import a table from its source; changed content becomes the name's next version.

        Args:
            name: of the dataset.
            source: one of `fitserve.wire.sources.Source`, such as
                `{"sql": {"connection": "warehouse", "query": "SELECT ..."}}`.
            kinds: column kinds, where the server should not infer them.
            wait: False lets workers import it, in parts; True lets the API. Left out, large imports go to the workers.
                The call returns the finished dataset in either case; `queue_import` does not wait.
            progress: called with the bytes that workers have read so far, and the total.
            options: how to read it, as in `upload`.

        Raises BadInput with a pointer to what is refused, Unavailable if the source cannot be reached.
        """
        answer = self._import(name, source, kinds, wait, options)
        if answer.status_code == 202:
            return wait_for_import(Run.bind(answer.json(), self._connection), self._connection, progress)
        return Dataset.bind(answer.json(), self._connection)

    def queue_import(
        self, name: str, source: Mapping[str, Any], *, kinds: Mapping[str, Kind] | None = None, **options: Any
    ) -> Run:
        """Have workers import a table, as `import_from` does, and return the run without waiting for its end."""
        answer = self._import(name, source, kinds, False, options)
        return Run.bind(answer.json(), self._connection)

    def _import(
        self,
        name: str,
        source: Mapping[str, Any],
        kinds: Mapping[str, Kind] | None,
        wait: bool | None,
        options: Mapping[str, Any],
    ) -> httpx2.Response:
        stated = UploadOptions(kinds=dict(kinds or {}), **options).model_dump(mode="json", exclude_defaults=True)
        body = {"name": name, "source": dict(source), "options": stated} | ({} if wait is None else {"wait": wait})
        return self._connection.send("POST", _PATH, json=body, timeout=IMPORT_TIMEOUT)

    def connections(self) -> Sequence[ConnectionInfo]:
        """Return the connections that a source can name."""
        return [ConnectionInfo.model_validate(item) for item in self._connection.get("/api/v1/connections")["items"]]

    def get(self, ref: str) -> Dataset:
        """Return a dataset by its name (its newest version), name@version, or id. Raises NotFound."""
        return Dataset.bind(self._connection.get(f"{_PATH}/{quote(ref, safe='@')}"), self._connection)

    def samples(self) -> Iterator[SampleInfo]:
        """Yield the built-in datasets."""
        yield from self._connection.pages(f"{_PATH}/samples", SampleInfo.model_validate)

    def sample(
        self, sample: str, name: str | None = None, *, noise: float = 0, rows: int | None = None, seed: int = 0
    ) -> Dataset:
        """Create a built-in dataset: the Playground's six (`noise` from 0 to 50), scikit-learn's, or the Titanic's."""
        body = {"sample": sample, "name": name, "noise": noise, "rows": rows, "seed": seed}
        return Dataset.bind(self._connection.send("POST", f"{_PATH}/samples", json=body).json(), self._connection)

    def list(self, limit: int | None = None) -> Iterator[Dataset]:
        """Yield datasets, newest first."""
        connection = self._connection
        yield from connection.pages(_PATH, lambda item: Dataset.bind(item, connection), limit=limit)


def _query(options: UploadOptions) -> dict[str, str]:
    """Return the options that differ from their defaults."""
    changed = options.model_dump(mode="json", exclude_defaults=True)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in changed.items()}
