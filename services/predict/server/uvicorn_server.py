"""uvicorn with the fast lane, on a socket that several processes can share."""

from __future__ import annotations

import socket

from fastapi import FastAPI

from fitserve.settings import Settings
from services.predict.server.fast_lane import protocol_class
from services.shell.app import Server, make_server


def make_data_plane_server(app: FastAPI, settings: Settings) -> Server:
    """Return the server of one process; without TLS its HTTP protocol is the fast lane."""
    protocol = protocol_class(app.state.service) if settings.tls_certificate is None else "httptools"
    return make_server(
        app.state.front,
        settings,
        port=settings.predict_port,
        http=protocol,
        ws="none",
        lifespan="on",
        headers=[("X-Content-Type-Options", "nosniff")],  # for the fast lane's answers as well
        proxy_headers=False,
        backlog=2048,
    )


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
