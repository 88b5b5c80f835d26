"""The loading cache: what is kept, what is dropped, what is loaded again."""

from __future__ import annotations

import pytest

from services.control.cache import LoadingCache


def test_the_least_recently_used_entries_are_dropped() -> None:
    loaded: list[str] = []
    cache: LoadingCache[str] = LoadingCache(2)

    def get(key: str) -> str:
        return cache.get(key, lambda: loaded.append(key) or key)  # type: ignore[func-returns-value]

    for key in ("a", "b", "a", "c", "a", "b"):
        assert get(key) == key
    assert loaded == ["a", "b", "c", "b"]
    cache.clear()
    get("b")
    assert loaded[-2:] == ["b", "b"]


def test_entries_are_dropped_by_size_but_never_the_newest() -> None:
    cache: LoadingCache[int] = LoadingCache(100, size=10)
    sizes = {"a": 4, "b": 5, "huge": 50, "c": 1}
    for key, size in sizes.items():
        cache.get(key, lambda size=size: size, size=lambda value: value)  # type: ignore[misc]
        assert cache.get(key, lambda: -1) == size
    assert cache.get("huge", lambda: -1) == -1  # dropped when c came
    assert cache.get("c", lambda: -1) == 1


def test_entries_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("services.control.cache.time.monotonic", lambda: now)
    cache: LoadingCache[int] = LoadingCache(1, seconds=2)
    cache.get("a", lambda: 1)
    now += 1.9
    assert cache.get("a", lambda: 2) == 1
    now += 0.2
    assert cache.get("a", lambda: 2) == 2


def test_a_failed_load_is_not_kept() -> None:
    cache: LoadingCache[int] = LoadingCache(1)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 3) == 3
