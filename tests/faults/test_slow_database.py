"""A worker far from its database, or cut off from it: a run's history has no gaps, and nothing hangs."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url, select, text

from fitserve import db
from fitserve.errors import Unavailable
from fitserve.tables import Epoch
from tests.faults.checker import AcknowledgedRun, check_runs
from tests.faults.cluster import Cluster

pytestmark = pytest.mark.xdist_group("faults")


@contextmanager
def slow_address(url: str, delay: float, frozen: threading.Event | None = None) -> Iterator[str]:
    """Yield another URL of a PostgreSQL on a Unix socket: bytes take `delay` seconds each way.

    While `frozen` is set, what is sent is acknowledged and lost, as by a broken middlebox.
    """
    parsed = make_url(url)
    target = Path(str(parsed.query["host"])) / f".s.PGSQL.{parsed.port or 5432}"
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        pieces: queue.Queue[tuple[float, bytes]] = queue.Queue()

        def deliver() -> None:
            with suppress(OSError):
                while True:
                    due, data = pieces.get()
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not data:
                        break
                    if frozen is None or not frozen.is_set():
                        sink.sendall(data)
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=deliver, daemon=True).start()
        with suppress(OSError):
            while data := source.recv(65_536):
                pieces.put((time.monotonic() + delay, data))
        pieces.put((time.monotonic() + delay, b""))

    def serve() -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(str(target))
                threading.Thread(target=pump, args=(here, there), daemon=True).start()
                threading.Thread(target=pump, args=(there, here), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    query = {name: value for name, value in parsed.query.items() if name != "host"}
    near = parsed.set(host="127.0.0.1", port=listener.getsockname()[1], query=query)
    try:
        yield near.render_as_string(hide_password=False)
    finally:
        listener.close()


def killed_beside_a_slow_database(home: Path, url: str, delay: float, epochs: int, lease: str) -> None:
    """Kill a worker that has fallen behind its trainer, and let another one finish the run."""
    with slow_address(url, delay) as slow, Cluster(home, url, environment={"FITSERVE_LEASE_SECONDS": lease}) as cluster:
        worker = cluster.start("worker", FITSERVE_DATABASE_URL=slow)
        cluster.start("reaper")
        run_id = cluster.submit(seed=5, epochs=epochs, seconds=0.002, checkpoint_every=50)
        cluster.wait_epoch(run_id, 200, 60)
        worker.kill()
        cluster.start("worker", FITSERVE_DATABASE_URL=slow)
        run = cluster.wait_over(run_id, 120)
        lost = cluster.lost_leases(run_id)  # the killed worker's, and any that a pausing machine cost
        assert (run.state, run.attempt, run.spent_attempts) == ("succeeded", 1 + lost, lost), run.error
        assert lost >= 1
        with db.reading(cluster.engine) as session:
            numbers = session.scalars(select(Epoch.epoch).where(Epoch.run_id == run_id).order_by(Epoch.epoch)).all()
        assert numbers == list(range(1, epochs + 1))
        verdict = check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 5, epochs)])
        assert verdict.ok, f"{verdict}\n{cluster.tail()}"


def test_a_worker_killed_beside_a_slow_database_leaves_no_gap(tmp_path: Path, postgres_url: str) -> None:
    killed_beside_a_slow_database(tmp_path / "home", postgres_url, 0.02, epochs=800, lease="4")


@pytest.mark.long
def test_a_worker_killed_beside_a_database_200_ms_away_leaves_no_gap(tmp_path: Path, postgres_url: str) -> None:
    killed_beside_a_slow_database(tmp_path / "home", postgres_url, 0.1, epochs=2500, lease="8")


def test_a_connection_without_an_answer_is_closed(postgres_url: str) -> None:
    frozen = threading.Event()
    with slow_address(postgres_url, 0.0, frozen) as url:
        engine = db.make_engine(url, answer_seconds=0.5)
        with db.reading(engine) as session:
            assert session.scalar(text("SELECT 1")) == 1
        frozen.set()
        with pytest.raises(Unavailable), db.reading(engine) as session:
            session.scalar(text("SELECT 1"))
        frozen.clear()
        with db.reading(engine) as session:  # the lost connection is not used again
            assert session.scalar(text("SELECT 2")) == 2
        engine.dispose()


def test_a_worker_cut_off_hands_its_run_over_and_works_again(tmp_path: Path, postgres_url: str) -> None:
    """Its connections stay open and silent: only its own clock tells it that the lease is over."""
    frozen = threading.Event()
    with slow_address(postgres_url, 0.0, frozen) as url, Cluster(tmp_path / "home", postgres_url) as cluster:
        worker = cluster.start("worker", FITSERVE_DATABASE_URL=url)
        cluster.start("reaper")
        run_id = cluster.submit(seed=5, epochs=60, seconds=0.05)
        cluster.wait_epoch(run_id, 5, 60)
        frozen.set()
        other = cluster.start("worker")
        run = cluster.wait_over(run_id, 120)
        assert (run.state, run.attempt) == ("succeeded", 1 + cluster.lost_leases(run_id)), run.error
        assert run.attempt >= 2, run.error
        other.kill()
        frozen.clear()
        assert worker.alive
        next_id = cluster.submit(seed=6, epochs=3)
        assert cluster.wait_over(next_id, 120).state == "succeeded"
        verdict = check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 5, 60)])
        assert verdict.ok, f"{verdict}\n{cluster.tail()}"
