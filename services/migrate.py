"""`python -m services.migrate`: upgrade the database to the newest schema and prepare the blob store.

In production it runs as a job of its own, before the new release starts.
"""

from __future__ import annotations

import migrations
from fitserve import blobs, logs
from fitserve.settings import Settings


def main() -> None:
    settings = Settings()
    logs.configure("migrate", settings.log_level)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrations.upgrade(settings.resolved_database_url)
    blobs.open_store(settings.resolved_blob_url).prepare()
    print("The database is at the newest schema.")


if __name__ == "__main__":
    main()
