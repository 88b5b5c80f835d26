"""Where the predictions of a whole dataset are written, in requests and in a run's resolved spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from fitserve.data_model import DataModel
from fitserve.wire.one_kind import OneKind
from fitserve.wire.sources import CONNECTION_NAME

TABLE_NAME = r"^[^\W\d]\w{0,62}(\.[^\W\d]\w{0,62})?$"
IfExists = Annotated[
    Literal["fail", "append", "replace"],
    Field(description="Where something is there already: fail; append to it; replace it, in one step"),
]


class SqlDestination(DataModel):
    """A database table. It is created if it does not exist."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: str = Field(pattern=CONNECTION_NAME, description="A writable database that the operator has named")
    table: str = Field(pattern=TABLE_NAME, description="The table's name, such as scores or analytics.scores")
    if_exists: IfExists = "fail"


class ObjectDestination(DataModel):
    """A folder in object storage, which receives one Parquet object per part and a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: str = Field(pattern=CONNECTION_NAME, description="A writable bucket or folder, named by the operator")
    path: str = Field(min_length=1, max_length=900, description="The folder, below the connection's")
    if_exists: IfExists = "fail"


class Destination(OneKind):
    """One destination of predictions, by its kind."""

    what = "A destination"

    sql: SqlDestination | None = None
    s3: ObjectDestination | None = None
    gs: ObjectDestination | None = None
    az: ObjectDestination | None = None
