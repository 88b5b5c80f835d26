"""How a client finds its server and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fitserve.client.connection import Address
from fitserve.errors import BadInput


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("URL", "API_KEY", "PREDICT_URL", "HOME", "PORT", "PREDICT_PORT"):
        monkeypatch.delenv(f"FITSERVE_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_default_server_is_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = Address.find(None, None, None)
    assert (address.base_url, address.api_key, address.base("predict")) == (
        "http://127.0.0.1:8000",
        None,
        "http://127.0.0.1:8501",
    )
    (tmp_path / "fitserve-data").mkdir()
    (tmp_path / "fitserve-data" / "first-key").write_text("key_1.local\n")
    assert Address.find(None, None, None).api_key == "key_1.local"
    monkeypatch.setenv("FITSERVE_PORT", "9000")
    assert Address.find(None, None, None).base_url == "http://127.0.0.1:9000"


def test_the_key_of_this_machine_is_never_sent_to_another(tmp_path: Path) -> None:
    (tmp_path / "fitserve-data").mkdir()
    (tmp_path / "fitserve-data" / "first-key").write_text("key_1.local\n")
    assert Address.find("http://localhost:8000/", None, None).api_key == "key_1.local"
    assert Address.find("https://models.example", None, None).api_key is None


def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITSERVE_URL", "http://[::1]:1/")
    monkeypatch.setenv("FITSERVE_API_KEY", "key_1.environment")
    address = Address.find(None, None, None)
    assert (address.base_url, address.api_key, address.base("predict")) == (
        "http://[::1]:1",
        "key_1.environment",
        "http://[::1]:8501",
    )
    explicit = Address.find("https://models.example/fit/", "key_1.argument", "https://models.example/predict/")
    assert (explicit.base_url, explicit.api_key) == ("https://models.example/fit", "key_1.argument")
    assert explicit.base("predict") == "https://models.example/predict"


@pytest.mark.parametrize("url", ["models.example", "ftp://models.example", "http://"])
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="not a server's address"):
        Address.find(url, None, None)
