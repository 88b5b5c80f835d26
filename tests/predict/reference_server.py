"""The prediction service under uvicorn's own protocol class: what the fast lane is compared with."""

from __future__ import annotations

import uvicorn

from fitserve import logs
from fitserve.settings import Settings
from services.predict.app import create_app
from services.predict.server.http_server import listen, make_prediction_server

if __name__ == "__main__":
    settings = Settings()
    logs.configure("reference", settings.log_level)
    config = make_prediction_server(create_app(settings), settings).config
    config.http = "httptools"
    uvicorn.Server(config).run(sockets=[listen(settings)])
