"""Where a client looks for its server and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fitserve.client.server_address import Address
from fitserve.errors import BadInput


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("URL", "API_KEY", "PREDICT_URL", "HOME", "PORT", "PREDICT_PORT"):
        monkeypatch.delenv(f"FITSERVE_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_it_looks_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = Address.find(None, None, None)
    assert (found.base_url, found.api_key, found.base("predict")) == (
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


def test_what_is_said_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITSERVE_URL", "http://[::1]:1/")
    monkeypatch.setenv("FITSERVE_API_KEY", "key_1.environment")
    found = Address.find(None, None, None)
    assert (found.base_url, found.api_key, found.base("predict")) == (
        "http://[::1]:1",
        "key_1.environment",
        "http://[::1]:8501",
    )
    said = Address.find("https://models.example/fit/", "key_1.said", "https://models.example/predict/")
    assert (said.base_url, said.api_key) == ("https://models.example/fit", "key_1.said")
    assert said.base("predict") == "https://models.example/predict"


@pytest.mark.parametrize("url", ["models.example", "ftp://models.example", "http://"])
def test_it_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(BadInput, match="no server's address"):
        Address.find(url, None, None)
