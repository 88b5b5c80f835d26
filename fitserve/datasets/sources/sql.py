"""A query's rows: one SELECT in a read-only transaction, streamed in Arrow batches to a file."""

from __future__ import annotations

from contextlib import AbstractContextManager

from fitserve.datasets.sources.arrow_file import ArrowFile
from fitserve.datasets.sources.connections import NamedConnection
from fitserve.datasets.sources.fetched import Fetched, Place, look_up
from fitserve.datasets.sources.query import QueryResult, checked_query, order_notice, query_refused
from fitserve.wire.sources import SqlSource


def fetch(source: SqlSource, connection: NamedConnection, place: Place) -> Fetched:
    """Run the query and write its rows to a file. Raises SourceRefused, SourceAway, TooLarge."""
    query = checked_query(source.query)
    path = place.folder / "rows.arrow"
    with _open(connection, query, place) as result:
        if not result.schema.names:
            raise query_refused("The query gives no columns.")
        with ArrowFile(path, result.schema, place.limits, place.raise_if_stopped) as file:
            file.write_all(result.batches)
        notices = [*result.notices, *order_notice(query)]
        return Fetched(path, file.sha256, path.stat().st_size, result.snapshot, notices)


def _open(connection: NamedConnection, query: str, place: Place) -> AbstractContextManager[QueryResult]:
    look_up(connection)
    # Their drivers are extras, and take long to import.
    if connection.scheme == "postgresql":
        from fitserve.datasets.sources import postgresql

        return postgresql.open_query(connection, query)
    from fitserve.datasets.sources import other_databases

    return other_databases.open_query(connection, query, place.folder, place.limits)
