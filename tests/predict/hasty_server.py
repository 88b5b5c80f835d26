"""A mutant: the prediction service whose fast lane never looks whether a connection is idle."""

from __future__ import annotations

from fitserve import logs
from fitserve.settings import Settings
from services.predict.app import create_app
from services.predict.server.fast_lane import FastLaneProtocol
from services.predict.server.uvicorn_server import listen, make_server

if __name__ == "__main__":
    settings = Settings()
    logs.configure("hasty", settings.log_level)
    FastLaneProtocol._is_idle = lambda self: True  # type: ignore[method-assign]
    make_server(create_app(settings), settings).run(sockets=[listen(settings)])
