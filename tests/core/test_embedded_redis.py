"""The embedded broker is a real Redis whose queue survives it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis

from fitserve.embedded_redis import EmbeddedRedis
from fitserve.errors import Unavailable


def client(broker: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(broker.socket))


def test_its_queue_survives_a_kill(tmp_path: Path) -> None:
    broker = EmbeddedRedis(tmp_path).start()
    client(broker).rpush("queue", "a run")
    client(broker).wait(0, 0)
    broker.kill()
    with broker:
        assert client(broker).lpop("queue") == b"a run"
        assert client(broker).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


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
        broker.restart_if_dead()
        assert client(broker).ping()
