"""Where a dataset is imported from, in requests and in a dataset's `source`."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.ids import NAME_PATTERN
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.one_kind import OneKind

WAIT = (
    "False: answer 202 with a run of kind `import`, which workers carry out, many objects side by side. True: answer "
    "once the table is there. Left out: a run for many objects or a large size (`FITSERVE_IMPORT_RUN_PARTS`, "
    "`FITSERVE_IMPORT_RUN_BYTES`)"
)
CONNECTION_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class SqlSource(DataModel):
    """The rows of a query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: str = Field(pattern=CONNECTION_NAME, description="A database that the operator has named")
    query: str = Field(min_length=1, max_length=100_000, description="One SELECT; add ORDER BY for a fixed order")


class ObjectSource(DataModel):
    """An object in object storage, or all parts that match a pattern."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: str = Field(pattern=CONNECTION_NAME, description="A bucket or folder that the operator has named")
    path: str = Field(
        min_length=1, max_length=1_024, description="Below the connection's folder; a pattern such as 2026/*.parquet"
    )


class HttpsSource(DataModel):
    """A file at an address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(min_length=1, max_length=2_048, description="Shown to whoever reads the dataset")
    connection: str | None = Field(
        None, pattern=CONNECTION_NAME, description="Whose headers, such as Authorization, are sent with the request"
    )


class DeltaSource(DataModel):
    """A Delta table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: str = Field(pattern=CONNECTION_NAME, description="A bucket or folder that the operator has named")
    path: str = Field(min_length=1, max_length=1_024, description="The table's folder, below the connection's")
    version: int | None = Field(None, ge=0, le=2**53, description="The newest if omitted")


class Source(OneKind):
    """One source of data, by its kind."""

    what = "A source"

    sql: SqlSource | None = None
    https: HttpsSource | None = None
    s3: ObjectSource | None = None
    gs: ObjectSource | None = None
    az: ObjectSource | None = None
    delta: DeltaSource | None = None


class ImportRequest(DataModel):
    """Import a table from its source. Changed content under an existing name becomes its next version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    source: Source
    options: UploadOptions = Field(default_factory=UploadOptions, description="How to read it, as of an upload")
    wait: bool | None = Field(None, description=WAIT)


class ConnectionInfo(DataModel):
    """A connection that a source can name; its address and its password stay with the operator."""

    name: str
    kind: str = Field(description="The scheme of its address, such as postgresql or s3")
    sources: list[str] = Field(description="The kinds of sources that can name it")
    writable: bool = Field(False, description="Whether batch predictions can be written through it")
