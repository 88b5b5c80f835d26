"""uvicorn with the fast lane, on a socket that several processes can share."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from fitserve.settings import Settings
from services.predict.server.fast_lane import protocol_class
from services.shell.serving import Server


def make_server(app: FastAPI, settings: Settings) -> Server:
    """The server of one process."""
    plain = settings.tls_certificate is None
    config = uvicorn.Config(
        app.state.front,
        host=settings.host,
        port=settings.predict_port,
        loop="uvloop",
        http=protocol_class(app.state.service) if plain else "httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],  # on the fast lane's answers as well
        proxy_headers=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        backlog=2048,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
    )
    return Server(config)


def listen(settings: Settings) -> socket.socket:
    """The REST protocols' socket; with several processes the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.predict_processes > 1:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((settings.host, settings.predict_port))
    listening.set_inheritable(False)
    return listening
