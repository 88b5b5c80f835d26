"""`python -m services.control`: the control API and the dashboard."""

from __future__ import annotations

import sys

import uvicorn

from fitserve import logs, tracing
from fitserve.settings import Settings
from services.control.app import create_app
from services.shell.serving import Server


def main() -> int:
    settings = Settings()
    logs.configure("api", settings.log_level)
    tracing.configure(settings.otlp_endpoint, "api")
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
    )
    server = Server(config)
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
