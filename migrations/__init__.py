"""The database's schema, step by step. `upgrade(url)` brings a database to the newest step."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from fitserve import db


def config(url: str) -> Config:
    """Alembic's configuration for a database; there is no alembic.ini to keep."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["url"] = url
    return made


def upgrade(url: str, revision: str = "head") -> None:
    """Applies every step up to `revision`."""
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Takes steps back down to `revision` (`base`: all of them)."""
    command.downgrade(config(url), revision)


def pending(url: str) -> bool:
    """Whether a database is not at the newest step."""
    engine = db.make_engine(url)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    return current != ScriptDirectory.from_config(config(url)).get_current_head()
