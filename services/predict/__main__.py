"""`python -m services.predict`: the prediction service, by core where FITSERVE_PREDICT_PROCESSES says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading

from fitserve import logs, tracing
from fitserve.embedded import die_with_parent
from fitserve.settings import Settings
from services.predict.server.multiprocess_metrics import FOLDER, MEMBER


def main() -> int:
    settings = Settings()
    logs.configure("predict", settings.log_level)
    if settings.predict_processes > 1 and MEMBER not in os.environ:
        return tend(settings.predict_processes)
    tracing.configure(settings.otlp_endpoint, "predict")
    serve(settings)
    return 0


def serve(settings: Settings) -> None:
    """One process. What it imports takes a second, which the process that only tends others need not pay."""
    from services.predict.app import create_app
    from services.predict.server.uvicorn_server import listen, make_data_plane_server
    from services.shell.auth import refuse_unprotected_address

    refuse_unprotected_address(settings, _has_keys(settings))
    make_data_plane_server(create_app(settings), settings).run(sockets=[listen(settings)])


def _has_keys(settings: Settings) -> bool:
    if not settings.auth:
        return False
    from fitserve import api_keys, db

    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.reading(engine) as session:
            return bool(api_keys.listing(session)) or settings.root_key is not None
    finally:
        engine.dispose()


def tend(count: int) -> int:
    """Runs `count` processes on one port, and starts one again that ends."""
    with tempfile.TemporaryDirectory(prefix="fitserve-predict-") as folder:
        return _tend(count, folder)


def _tend(count: int, folder: str) -> int:
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopping.set())

    def start(number: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, MEMBER: str(number), FOLDER: folder}
        return subprocess.Popen([sys.executable, "-m", "services.predict"], env=environment, preexec_fn=die_with_parent)

    members = [start(number) for number in range(count)]
    while not stopping.wait(0.5):
        for number, member in enumerate(members):
            if member.poll() is not None:
                members[number] = start(number)
    for member in members:
        member.terminate()
    for member in members:
        member.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
