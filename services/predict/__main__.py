"""`python -m services.predict`: the prediction service, in FITSERVE_PREDICT_PROCESSES processes."""

from __future__ import annotations

import os
import sys

from fitserve import logs, tracing
from fitserve.process_start import permanent_objects
from fitserve.settings import Settings
from services.predict.server.processes import NUMBER_VARIABLE, supervise


def main() -> int:
    settings = Settings()
    logs.configure("predict", settings.log_level)
    if settings.predict_processes > 1 and NUMBER_VARIABLE not in os.environ:
        return supervise(settings.predict_processes)
    tracing.configure(settings.otlp_endpoint, "predict")
    serve(settings)
    return 0


def serve(settings: Settings) -> None:
    """Run one process."""
    with permanent_objects():
        # Imported here, as it takes a second or more: a process that only supervises others does not need it.
        from services.http.auth import refuse_unprotected_address
        from services.predict.app import create_app
        from services.predict.server.http_server import listen, make_prediction_server

        refuse_unprotected_address(settings, settings.auth and _has_keys(settings))
        server = make_prediction_server(create_app(settings), settings)
    server.run(sockets=[listen(settings)])


def _has_keys(settings: Settings) -> bool:
    from fitserve import api_keys, db

    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.reading(engine) as session:
            return bool(api_keys.listing(session)) or settings.root_key is not None
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
