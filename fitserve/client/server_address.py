"""The server's addresses and our key: from arguments, the environment, or the home of a server on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from fitserve import __version__
from fitserve.errors import BadInput

FIRST_KEY = "first-key"  # written by `fitserve up` at its first start, with mode 0600


@dataclass(slots=True)
class Address:
    """The API's and the prediction service's base URLs, without a trailing slash."""

    base_url: str
    api_key: str | None = field(repr=False)
    predict_url: str | None = None  # learned from the API when it is first needed

    @classmethod
    def find(cls, base_url: str | None, api_key: str | None, predict_url: str | None) -> Address:
        """Take what is None from FITSERVE_URL, FITSERVE_API_KEY, FITSERVE_PREDICT_URL.

        Without FITSERVE_URL, the server is on this machine at FITSERVE_PORT (8000). The key file of a server's home
        (FITSERVE_HOME, else ./fitserve-data) is used only for a server on this machine: it must not travel.
        """
        url = base_url or os.environ.get("FITSERVE_URL") or f"http://127.0.0.1:{os.environ.get('FITSERVE_PORT', 8000)}"
        url = _checked(url, "FITSERVE_URL")
        key = api_key or os.environ.get("FITSERVE_API_KEY") or None
        if key is None and is_this_machine(url):
            key = key_of_home()
        predict = predict_url or os.environ.get("FITSERVE_PREDICT_URL")
        return cls(url, key.strip() if key else None, _checked(predict, "FITSERVE_PREDICT_URL") if predict else None)

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        headers = {"User-Agent": f"fitserve-python/{__version__}", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def base(self, service: Literal["control", "predict"]) -> str:
        """Return a service's base URL."""
        return self.base_url if service == "control" else self.predict_url or self.guessed_predict_url()

    def guessed_predict_url(self) -> str:
        """Return the API's host with FITSERVE_PREDICT_PORT (8501)."""
        parts = urlsplit(self.base_url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return urlunsplit((parts.scheme, f"{host}:{os.environ.get('FITSERVE_PREDICT_PORT', 8501)}", "", "", ""))


def _checked(url: str, name: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise BadInput(f"This is not a server's address: {url}", received=url, expected=f"{name}=http://host:port")
    return url.rstrip("/")


def is_this_machine(url: str) -> bool:
    """Return whether a URL names a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def key_of_home() -> str | None:
    """Return the first key of the server whose home is here, if we may read it."""
    path = Path(os.environ.get("FITSERVE_HOME") or "fitserve-data") / FIRST_KEY
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
