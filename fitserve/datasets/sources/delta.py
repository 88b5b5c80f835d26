"""A version of a Delta table, read with deltalake; its files in the order of their names."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from fitserve.datasets.sources.arrow_file import ArrowFile
from fitserve.datasets.sources.connections import NamedConnection, SourceRefused
from fitserve.datasets.sources.fetched import Fetched, Place, SourceAway, Unchanged, look_up
from fitserve.datasets.sources.parts import TablePart, joined_rows, unify
from fitserve.errors import FitserveError, Problem, Unavailable
from fitserve.wire.sources import DeltaSource

POINTER = "/source/delta"
BATCH_ROWS = 65_536
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # terminal colours in messages
_REFUSED = (
    "not a delta table",
    "no delta table",
    "no files in log",
    "invalid table",
    "does not exist",
    "access denied",
    "deserialize",  # a damaged footer
)
_OF_THE_STORE = ("object store", "generic s3", "generic gcs", "generic microsoft", "timed out", "sending request")
# Names of options: fsspec's for S3, and deltalake's for the same.
_S3_OPTIONS = {
    "key": "aws_access_key_id",
    "secret": "aws_secret_access_key",
    "token": "aws_session_token",
    "endpoint_url": "aws_endpoint_url",
    "region_name": "aws_region",
}


def fetch(source: DeltaSource, connection: NamedConnection, place: Place) -> Fetched:
    """Read the table's rows to a file. Raises SourceRefused, SourceAway, TooLarge, Unchanged."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError
    except ImportError:
        raise Unavailable("Delta tables need a package: pip install 'fitserve[delta]'.") from None
    look_up(connection)
    address = connection.below(source.path, f"{POINTER}/path")
    address = urlsplit(address).path if connection.scheme == "file" else address
    try:
        table = DeltaTable(address, version=source.version, storage_options=_options(connection))
        snapshot = {"version": table.version(), "table": str(table.metadata().id)}
        if place.known == snapshot:
            raise Unchanged
        rows = table.to_pyarrow_dataset()
        fragments = sorted(rows.get_fragments(), key=lambda one: one.path)
        parts = [TablePart(one.path, rows.schema, partial(_batches, one, rows.schema)) for one in fragments]
        schema, _ = unify(parts or [TablePart("table", rows.schema, lambda: iter(()))])
        path = place.folder / "rows.arrow"
        with ArrowFile(path, schema, place.limits, place.raise_if_stopped) as file:
            file.write_all(joined_rows(parts, schema))
    except (FitserveError, Unchanged):
        raise
    except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
        detail = connection.redact(_COLOUR.sub("", str(error)).replace(address, source.path))
        lowered = detail.lower()
        # Deletion vectors and the like; no table; a file that is damaged, or of other types than the table says.
        kinds = (DeltaProtocolError, TableNotFoundError, FileNotFoundError, pa.ArrowException)
        of_the_log = "kernel error" in lowered and not any(word in lowered for word in _OF_THE_STORE)
        of_the_log |= "version" in lowered or any(word in lowered for word in _REFUSED)
        if of_the_log or isinstance(error, kinds):
            what = f"The Delta table cannot be read: {detail}"
            raise SourceRefused(what, problems=[Problem(what, POINTER, received=source.path[:120])]) from None
        raise SourceAway(f"The Delta table's store does not answer: {detail}") from None
    return Fetched(path, file.sha256, path.stat().st_size, snapshot)


def _batches(fragment: Any, schema: Any) -> Any:
    return fragment.to_batches(schema=schema, batch_size=BATCH_ROWS, use_threads=False)


def _options(connection: NamedConnection) -> dict[str, str]:
    stated = {**connection.options, **connection.options.get("client_kwargs", {})}
    options = {_S3_OPTIONS.get(name, name): str(value) for name, value in stated.items() if not isinstance(value, dict)}
    if options.get("aws_endpoint_url", "").startswith("http://"):
        options["aws_allow_http"] = "true"
    return options
