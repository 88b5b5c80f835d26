"""The same app under uvicorn's own protocol class: what the fast lane is compared with."""

from __future__ import annotations

import uvicorn

from fitserve import logs
from fitserve.settings import Settings
from services.predict.app import create_app
from services.predict.server.uvicorn_server import listen, make_server

if __name__ == "__main__":
    settings = Settings()
    logs.configure("plain", settings.log_level)
    config = make_server(create_app(settings), settings).config
    config.http = "httptools"
    uvicorn.Server(config).run(sockets=[listen(settings)])
