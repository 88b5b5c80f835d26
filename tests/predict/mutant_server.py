"""A mutant: the prediction service whose fast lane does not check whether a connection is idle.

Its explanations wait, in their thread, until the fast lane has answered a request that came after them. So the mutant's
fault shows every time, however busy the machine is.
"""

from __future__ import annotations

import threading
from typing import Any

from fitserve import logs
from fitserve.settings import Settings
from services.predict.app import create_app
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.server.fast_lane import FastLaneProtocol
from services.predict.server.http_server import listen, make_prediction_server

explain, respond = LoadedModel.explain, FastLaneProtocol.respond
overtaken = threading.Event()


def explain_when_overtaken(*arguments: Any) -> Any:
    overtaken.wait(20)
    return explain(*arguments)


def always_idle(self: FastLaneProtocol) -> bool:
    overtaken.clear()  # at each read: only a response after the explanation's request ends its wait
    return True


def respond_and_set(self: FastLaneProtocol, response: bytes) -> None:
    respond(self, response)
    overtaken.set()


if __name__ == "__main__":
    settings = Settings()
    logs.configure("mutant", settings.log_level)
    FastLaneProtocol._is_idle = always_idle  # type: ignore[method-assign]
    FastLaneProtocol.respond = respond_and_set  # type: ignore[method-assign]
    LoadedModel.explain = explain_when_overtaken  # type: ignore[method-assign]
    make_prediction_server(create_app(settings), settings).run(sockets=[listen(settings)])
