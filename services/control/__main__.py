"""`python -m services.control`: the control API and the dashboard."""

from __future__ import annotations

import sys

from fitserve.process_start import hide_unused_modules, permanent_objects


def main() -> int:
    hide_unused_modules()
    with permanent_objects():
        from services.http.memory import stay_small

        stay_small()
        from fitserve import logs, tracing
        from fitserve.settings import Settings
        from services.control.app import create_app
        from services.http.app import make_server

        settings = Settings()
        logs.configure("api", settings.log_level)
        tracing.configure(settings.otlp_endpoint, "api")
        server = make_server(create_app(settings), settings, port=settings.port)
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
