"""Alembic's environment: one transaction for each migration, in batch mode for SQLite."""

from __future__ import annotations

from alembic import context

from fitserve import db
from fitserve.settings import Settings
from fitserve.tables import Base

url = context.config.attributes.get("url") or Settings().resolved_database_url


def run() -> None:
    engine = db.make_engine(url, statement_seconds=None, answer_seconds=None)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            transaction_per_migration=True,
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    context.configure(url=url, target_metadata=Base.metadata, literal_binds=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run()
